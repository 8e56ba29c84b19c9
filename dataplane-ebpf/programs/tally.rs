//! Counts that any CPU may raise: hash maps with an entry for what has been used, and atomic additions.

use core::arch::asm;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::HashMap;
use dataplane_ebpf::abi::Traffic;
use dataplane_ebpf::datapath::Deed;

/// `BPF_F_NO_PREALLOC`: an entry costs memory only while it exists, so generous capacities are cheap.
pub(crate) const ON_DEMAND: usize = 1;

/// Counts what became of a new flow.
///
/// # Safety
///
/// `place` is valid, and a multiple of eight.
#[inline(always)]
pub(crate) unsafe fn traffic(place: *mut Traffic, deed: Deed) {
    // SAFETY: as the caller says; each field is eight bytes.
    unsafe {
        match deed {
            Deed::Opened => add(addr_of_mut!((*place).opened), 1),
            Deed::Refused => add(addr_of_mut!((*place).refused), 1),
            Deed::Left => add(addr_of_mut!((*place).left), 1),
        }
    }
}

/// The entry of a map of counts, made if it is missing; `None`: there is no room.
#[inline(always)]
pub(crate) fn entry<V>(
    map: &HashMap<u32, V, 1, ON_DEMAND>,
    key: u32,
    fresh: impl FnOnce() -> V,
) -> Option<*mut V> {
    if let Some(place) = map.get_ptr_mut(key) {
        return Some(place);
    }
    // Another CPU may have made it meanwhile; that one is as good.
    let _ = map.insert(key, fresh(), BPF_NOEXIST.into());
    map.get_ptr_mut(key)
}

/// Adds, whoever else adds at this moment. To add the highest number is to take one away.
///
/// # Safety
///
/// `place` is valid, and a multiple of eight.
#[inline(always)]
pub(crate) unsafe fn add(place: *mut u64, number: u64) {
    // The library has no atomic addition for this target, for want of compare-and-swap in its oldest version.
    // SAFETY: one instruction (BPF_ATOMIC | BPF_ADD), which touches nothing but the eight bytes that the caller vouches for.
    unsafe { asm!("lock *(u64 *)({place} + 0) += {number}", place = in(reg) place, number = in(reg) number) };
}
