//! The table of flows, read by the daemon: ended ones are removed, and people may look at the others.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use dataplane_ebpf::abi::{ANSWERED, FLOWS, Flow, FlowKey, PEER_FIN, PEER_RST, SEEN_FIN, SEEN_RST};
use dataplane_ebpf::datapath::edge::header::TCP;
use dataplane_ebpf::datapath::edge::life;
use serde::Serialize;
use tracing::debug;

use super::super::ebpf::table::Table;
use super::grow;
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
const PAUSE: Duration = Duration::from_secs(10);
/// How often it is asked whether to end.
const TICK: Duration = Duration::from_millis(100);

/// A thread that removes ended flows.
#[derive(Debug)]
pub(super) struct Sweeper {
    shared: Arc<Shared>,
    room: u32,
}

#[derive(Debug, Default)]
struct Shared {
    ended: AtomicBool,
    soon: AtomicBool,
    entries: AtomicU64,
    rounds: AtomicU64,
}

/// Where a flow is in its life, as far as its packets tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// TCP: the endpoint has not answered.
    Opening,
    /// TCP: it has.
    Established,
    /// TCP: one side has ended.
    Closing,
    /// TCP: both have, or one has reset.
    Closed,
    /// UDP: the endpoint has not answered.
    New,
    /// UDP: it has.
    Answered,
}

impl State {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::New => "new",
            Self::Answered => "answered",
        }
    }

    /// From the marks of one direction, or of both as seen from one.
    pub(super) fn of(protocol: u32, marks: u32) -> Self {
        let answered = marks & ANSWERED != 0;
        match (protocol == TCP, answered) {
            (true, _) if life::has_ended(marks) => Self::Closed,
            (true, _) if marks & (SEEN_FIN | PEER_FIN) != 0 => Self::Closing,
            (true, true) => Self::Established,
            (true, false) => Self::Opening,
            (false, true) => Self::Answered,
            (false, false) => Self::New,
        }
    }

    /// For how many seconds it is kept without a packet.
    const fn patience(self) -> u32 {
        match self {
            Self::Opening => OPENING,
            Self::Established => ESTABLISHED,
            Self::Closing => HALF_CLOSED,
            Self::Closed => ENDED,
            Self::New => DATAGRAM,
            Self::Answered => DATAGRAM_ANSWERED,
        }
    }
}

/// The table.
pub(super) fn open(home: &Path) -> Result<Table<FlowKey, Flow>, BackendError> {
    grow::open(FLOWS, &home.join(FLOWS))
}

/// Seconds of the clock that programs use.
pub(super) fn now() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| u32::try_from(time.tv_sec()).unwrap_or_default())
}

impl Sweeper {
    pub(super) fn start(table: Table<FlowKey, Flow>) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (own, room) = (Arc::clone(&shared), table.capacity());
        thread::Builder::new().name("sluice-flows".to_owned()).spawn(move || run(&table, &own))?;
        Ok(Self { shared, room })
    }

    /// How many entries there is room for.
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// Goes through the table soon: there is more in it than before.
    pub(super) fn look_soon(&self) {
        self.shared.soon.store(true, Ordering::Relaxed);
    }

    /// How often the table has been gone through, and how many entries there were the last time.
    pub(super) fn counted(&self) -> (u64, u64) {
        let rounds = self.shared.rounds.load(Ordering::Acquire);
        (rounds, self.entries())
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
        match sweep(table, now()) {
            Ok(entries) => {
                shared.entries.store(entries as u64, Ordering::Relaxed);
                shared.rounds.fetch_add(1, Ordering::Release);
            }
            Err(error) => debug!(error = &error as &dyn std::error::Error, "could not go through the flows"),
        }
        let mut waited = Duration::ZERO;
        while waited < PAUSE {
            if shared.ended.load(Ordering::Relaxed) {
                return;
            }
            thread::sleep(TICK);
            waited = if shared.soon.swap(false, Ordering::Relaxed) { PAUSE } else { waited + TICK };
        }
    }
}

/// Removes ended flows, and returns how many entries are left.
fn sweep(table: &Table<FlowKey, Flow>, now: u32) -> Result<usize, BackendError> {
    let mut left = 0;
    table.scan(|some| {
        let count = some.len();
        let mut gone = 0;
        for (key, flow) in some {
            // Few are worth a second look.
            if now.saturating_sub(flow.seen) <= ENDED {
                continue;
            }
            let other = table.get(&life::sibling(&key, &flow))?;
            if is_over(&key, &flow, other.as_ref(), now) && table.get(&key)? == Some(flow) {
                table.remove(&[key])?;
                gone += 1;
            }
        }
        left += count - gone;
        Ok(())
    })?;
    Ok(left)
}

/// Whether a flow has ended: both directions have been silent for long enough.
fn is_over(key: &FlowKey, flow: &Flow, other: Option<&Flow>, now: u32) -> bool {
    let marks = flow.marks | other.map_or(0, |other| turned(other.marks));
    let seen = other.map_or(flow.seen, |other| flow.seen.max(other.seen));
    // A clock read a moment later on another processor may be ahead of ours.
    now.saturating_sub(seen) > State::of(key.protocol, marks).patience()
}

/// What the marks of one direction say of the flow, as seen from the other: its own end is there the other's.
pub(super) fn turned(marks: u32) -> u32 {
    let turns = [
        (SEEN_FIN, PEER_FIN),
        (PEER_FIN, SEEN_FIN),
        (SEEN_RST, PEER_RST),
        (PEER_RST, SEEN_RST),
        (ANSWERED, ANSWERED),
    ];
    turns.into_iter().filter(|(from, _)| marks & from != 0).fold(0, |turned, (_, to)| turned | to)
}

#[cfg(test)]
mod tests {
    use dataplane_ebpf::abi::{MASQUERADED, NO_EPOCH};
    use dataplane_ebpf::datapath::edge::header::{UDP, pair};

    use super::*;

    const NOW: u32 = 100_000;

    /// Both directions of a flow; what the kernel writes down for the one it tells the other.
    fn flow(protocol: u32, forth: u32, back: u32, seen: [u32; 2]) -> [(FlowKey, Flow); 2] {
        let key = FlowKey { source: [1; 4], target: [2; 4], ports: pair(10, 20), protocol };
        let flow = Flow {
            source: [3; 4],
            target: [4; 4],
            ports: pair(30, 40),
            marks: MASQUERADED | forth,
            list: 1,
            generation: 1,
            seen: seen[0],
            service: 1,
            device: 0,
            addresses: [0; 3],
            epoch: NO_EPOCH,
        };
        let reply = life::reply(&key, &flow);
        [
            (key, flow),
            (life::sibling(&key, &flow), Flow { marks: reply.marks | back, seen: seen[1], ..reply }),
        ]
    }

    /// Keys of ended flows.
    fn over(all: &[(FlowKey, Flow)], now: u32) -> Vec<FlowKey> {
        let find = |key: &FlowKey| all.iter().find(|(other, _)| other == key).map(|(_, flow)| flow);
        let ended = |(key, flow): &&(FlowKey, Flow)| is_over(key, flow, find(&life::sibling(key, flow)), now);
        all.iter().filter(ended).map(|(key, _)| *key).collect()
    }

    fn sorted(entries: &[(FlowKey, Flow)]) -> Vec<(FlowKey, Flow)> {
        let mut all = entries.to_vec();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// A flow with these marks is there for as many seconds, whichever direction was heard last, and then both entries go.
    #[track_caller]
    fn check(protocol: u32, [forth, back]: [u32; 2], state: State, patience: u32) {
        for [a, b] in [[0, 0], [0, 77], [77, 0]] {
            let at = |idle: u32| sorted(&flow(protocol, forth, back, [NOW - idle - a, NOW - idle - b]));
            assert_eq!(over(&at(patience), NOW), [], "{state:?} after {patience} s");
            assert_eq!(over(&at(patience + 1), NOW).len(), 2, "{state:?} after {patience} s and one");
        }
        assert_eq!(State::of(protocol, forth | turned(back)), state);
        assert_eq!(State::of(protocol, back | turned(forth)), state, "as seen from the endpoint");
    }

    #[test]
    fn a_flow_is_kept_as_long_as_its_state_deserves() {
        check(TCP, [0, 0], State::Opening, 60);
        check(TCP, [ANSWERED, ANSWERED], State::Established, 6 * 3600);
        check(UDP, [0, 0], State::New, 30);
        check(UDP, [ANSWERED, ANSWERED], State::Answered, 180);
    }

    #[test]
    fn a_connection_that_one_side_has_ended_goes_on() {
        check(TCP, [ANSWERED | SEEN_FIN, ANSWERED | PEER_FIN], State::Closing, 3600);
        check(TCP, [ANSWERED | PEER_FIN, ANSWERED | SEEN_FIN], State::Closing, 3600);
    }

    #[test]
    fn a_connection_that_both_have_ended_or_one_has_reset_goes_soon() {
        let both = SEEN_FIN | PEER_FIN;
        check(TCP, [ANSWERED | both, ANSWERED | both], State::Closed, 10);
        check(TCP, [ANSWERED | SEEN_RST, ANSWERED | PEER_RST], State::Closed, 10);
        check(TCP, [PEER_RST, SEEN_RST], State::Closed, 10);
    }

    #[test]
    fn what_only_one_direction_knows_counts_for_both() {
        // Two processors that write at once may lose a mark.
        check(TCP, [ANSWERED, 0], State::Established, 6 * 3600);
        check(TCP, [ANSWERED, ANSWERED | SEEN_FIN], State::Closing, 3600);
        check(TCP, [ANSWERED | SEEN_FIN, ANSWERED | SEEN_FIN], State::Closed, 10);
        check(TCP, [0, SEEN_RST], State::Closed, 10);
        check(UDP, [0, ANSWERED], State::Answered, 180);
    }

    #[test]
    fn half_a_pair_goes_by_what_it_knows_itself() {
        let all = flow(TCP, ANSWERED, ANSWERED, [NOW - 6 * 3600, NOW]);
        for half in all {
            let of_age = |seen| [(half.0, Flow { seen, ..half.1 })];
            assert_eq!(over(&of_age(NOW - 6 * 3600), NOW), []);
            assert_eq!(over(&of_age(NOW - 6 * 3600 - 1), NOW), [half.0]);
        }
    }

    #[test]
    fn a_time_ahead_of_ours_is_now() {
        assert_eq!(over(&sorted(&flow(UDP, 0, 0, [NOW + 1, NOW + 1])), NOW), []);
    }

    #[test]
    fn other_flows_stay() {
        let [forth, back] = flow(TCP, ANSWERED, ANSWERED, [NOW, NOW]);
        let old = (FlowKey { protocol: UDP, ..forth.0 }, Flow { seen: 1, marks: 0, ..forth.1 });
        assert_eq!(over(&sorted(&[forth, back, old]), NOW), [old.0]);
    }
}
