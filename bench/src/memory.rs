//! What a process needed at its worst, and what a collection in this one takes.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

use anyhow::{Context, Result};

/// Peak resident memory, in MB of a million bytes.
pub(crate) fn peak(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("no VmHWM in {path}"))? * 1024.0 / 1e6)
}

/// What is alive on the heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Heap {
    /// Bytes that were asked for.
    pub(crate) bytes: isize,
    /// Bytes that the C library takes to give them.
    pub(crate) taken: isize,
    /// Allocations.
    pub(crate) blocks: isize,
}

/// Does something, and says how much more is alive afterwards. It must not free what was there before, and no
/// other thread may allocate meanwhile.
pub(crate) fn growth<T>(deed: impl FnOnce() -> T) -> (T, Heap) {
    for counter in [&BYTES, &TAKEN, &BLOCKS] {
        counter.store(0, Relaxed);
    }
    COUNTS.store(true, Relaxed);
    let made = deed();
    COUNTS.store(false, Relaxed);
    let [bytes, taken, blocks] = [&BYTES, &TAKEN, &BLOCKS].map(|counter| counter.load(Relaxed));
    (made, Heap { bytes, taken, blocks })
}

/// The system's allocator, with a tally while somebody asks for one: what is timed pays for one load and a
/// branch.
struct Tally;

#[global_allocator]
static ALLOCATOR: Tally = Tally;
static COUNTS: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicIsize = AtomicIsize::new(0);
static TAKEN: AtomicIsize = AtomicIsize::new(0);
static BLOCKS: AtomicIsize = AtomicIsize::new(0);

/// Notes that so many blocks of this size came (1) or went (-1).
fn note(size: usize, blocks: isize) {
    if COUNTS.load(Relaxed) {
        BYTES.fetch_add(size as isize * blocks, Relaxed);
        TAKEN.fetch_add(taken(size) as isize * blocks, Relaxed);
        BLOCKS.fetch_add(blocks, Relaxed);
    }
}

/// glibc on 64 bits: a word before each block, sizes in steps of sixteen, at least thirty-two.
fn taken(size: usize) -> usize {
    (size + 8).next_multiple_of(16).max(32)
}

// SAFETY: every call goes to the system's allocator as it came, and the tally itself allocates nothing.
unsafe impl GlobalAlloc for Tally {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 1);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`, which is the same one.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note(layout.size(), -1);
        // SAFETY: `block` came from `System` with this layout, because all blocks do.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(layout.size(), -1);
        note(size, 1);
        // SAFETY: `block` came from `System` with this layout, because all blocks do.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_takes_a_little_more_than_is_asked_for() {
        for (size, whole) in [(1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (192, 208)] {
            assert_eq!(taken(size), whole, "{size}");
        }
    }
}
