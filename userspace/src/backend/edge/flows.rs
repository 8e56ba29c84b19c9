//! The table of flows, read by the daemon: ended ones are removed, and people may look at the others.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use aya::maps::MapData;
use dataplane_ebpf::abi::{ANSWERED, FLOWS, Flow, FlowKey, PEER_FIN, REPLY, SEEN_FIN};
use dataplane_ebpf::datapath::edge::header::TCP;
use dataplane_ebpf::datapath::edge::life;
use tracing::debug;

use super::super::ebpf::table::Table;
use crate::backend::BackendError;

/// How long after a flow's last packet it is removed, in seconds. As the kernel's connection tracking does it
/// (nf_conntrack_*_timeout_*), but that a connection which says nothing for six hours is taken for dead, not after five days.
const ENDED: u32 = 10;
const HALF_CLOSED: u32 = 3600;
const OPENING: u32 = 60;
const ESTABLISHED: u32 = 6 * 3600;
const DATAGRAM: u32 = 30;
const DATAGRAM_ANSWERED: u32 = 180;

/// How often the table is gone through.
const PAUSE: Duration = Duration::from_secs(5);
/// How often it is asked whether to end.
const TICK: Duration = Duration::from_millis(100);

/// A thread that removes ended flows.
#[derive(Debug)]
pub(super) struct Sweeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    entries: AtomicU64,
}

/// The table.
pub(super) fn open(home: &Path) -> Result<Table<FlowKey, Flow>, BackendError> {
    let failed = |error| BackendError::Map { deed: "open", map: FLOWS, source: io::Error::other(error) };
    Table::new(FLOWS, MapData::from_pin(home.join(FLOWS)).map_err(failed)?)
}

/// Seconds of the clock that programs use.
pub(super) fn now() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| u32::try_from(time.tv_sec()).unwrap_or_default())
}

impl Sweeper {
    pub(super) fn start(table: Table<FlowKey, Flow>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        thread::Builder::new().name("sluice-flows".to_owned()).spawn(move || run(&table, &own))?;
        Ok(Self { shared })
    }

    /// Entries that were there the last time, two for each flow.
    pub(super) fn entries(&self) -> u64 {
        self.shared.entries.load(Ordering::Relaxed)
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

fn run(table: &Table<FlowKey, Flow>, shared: &Shared) {
    loop {
        let mut waited = Duration::ZERO;
        while waited < PAUSE {
            if shared.ended.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(TICK);
            waited += TICK;
        }
        match sweep(table, now()) {
            Ok(entries) => shared.entries.store(entries as u64, Ordering::Relaxed),
            Err(error) => debug!(error = &error as &dyn std::error::Error, "could not go through the flows"),
        }
    }
}

/// Removes ended flows, and returns how many entries are left.
fn sweep(table: &Table<FlowKey, Flow>, now: u32) -> Result<usize, BackendError> {
    let all = table.dump()?;
    let over = over(&all, now);
    table.remove(&over)?;
    Ok(all.len() - over.len())
}

/// Entries of flows that have ended: both directions have been silent for long enough. `all` is sorted.
fn over(all: &[(FlowKey, Flow)], now: u32) -> Vec<FlowKey> {
    let find = |key: &FlowKey| {
        let at = all.binary_search_by(|(other, _)| other.cmp(key)).ok()?;
        all.get(at).map(|(_, flow)| flow)
    };
    let ended = |(key, flow): &&(FlowKey, Flow)| {
        let other = find(&life::sibling(key, flow));
        let marks = flow.marks | other.map_or(0, |other| other.marks & !REPLY);
        let seen = other.map_or(flow.seen, |other| later(flow.seen, other.seen));
        // A clock read a moment later on another processor may be ahead of ours.
        now.saturating_sub(seen) > patience(key.protocol, marks)
    };
    all.iter().filter(ended).map(|(key, _)| *key).collect()
}

fn later(a: u32, b: u32) -> u32 {
    a.max(b)
}

fn patience(protocol: u32, marks: u32) -> u32 {
    let answered = marks & ANSWERED != 0;
    match (protocol == TCP, answered) {
        (true, _) if life::has_ended(marks) => ENDED,
        (true, _) if marks & (SEEN_FIN | PEER_FIN) != 0 => HALF_CLOSED,
        (true, true) => ESTABLISHED,
        (true, false) => OPENING,
        (false, true) => DATAGRAM_ANSWERED,
        (false, false) => DATAGRAM,
    }
}
