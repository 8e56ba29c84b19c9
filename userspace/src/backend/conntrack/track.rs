//! How far a tracked flow has come: its state, its timer, its counters, as far as the kernel tells.
//!
//! Attribute numbers are those of include/uapi/linux/netfilter/nfnetlink_conntrack.h, states those of nf_conntrack_tcp.h.

use std::time::Duration;

use netlink_packet_core::{parse_u8, parse_u32_be, parse_u64_be};

use super::entry::{ID, find};
use super::timeouts::Timeouts;
use crate::model::Protocol;

const STATUS: u16 = 3;
const PROTOCOL_STATE: u16 = 4;
const TIMEOUT: u16 = 7;
const COUNTERS: [u16; 2] = [9, 10];
const TIMESTAMP: u16 = 20;
/// In the state of a protocol, and in that of TCP.
const OF_TCP: u16 = 1;
const TCP_STATE: u16 = 1;
/// In counters.
const PACKETS: u16 = 1;
/// In timestamps.
const START: u16 = 1;
/// In the status: packets went both ways, for a while.
const ASSURED: u32 = 1 << 2;

const TIME_WAIT: u8 = 7;
const CLOSE: u8 = 8;

/// What is told of one flow at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Tells it from one between the same ends before it.
    pub id: u32,
    /// When it began, in nanoseconds since 1970 (`nf_conntrack_timestamp`).
    pub began: Option<u64>,
    /// Packets of both directions (`nf_conntrack_acct`).
    packets: Option<u64>,
    /// Seconds until it is forgotten, unless another packet comes.
    left: Option<u32>,
    /// TCP's.
    state: Option<u8>,
    is_assured: bool,
}

impl Track {
    pub(super) fn read(attributes: &[u8]) -> Self {
        let number = |kind| parse_u32_be(find(attributes, kind)?).ok();
        let long = |outer, inner| parse_u64_be(find(find(attributes, outer)?, inner)?).ok();
        let packets = COUNTERS.map(|counter| long(counter, PACKETS));
        let tcp = find(attributes, PROTOCOL_STATE).and_then(|state| find(find(state, OF_TCP)?, TCP_STATE));
        Self {
            id: number(ID).unwrap_or_default(),
            began: long(TIMESTAMP, START),
            packets: packets.into_iter().sum(),
            left: number(TIMEOUT),
            state: tcp.and_then(|state| parse_u8(state).ok()),
            is_assured: number(STATUS).is_some_and(|status| status & ASSURED != 0),
        }
    }

    /// Whether both sides have ended it, or one has reset it, and only the kernel's timer keeps it.
    pub fn has_ended(&self) -> bool {
        self.state.is_some_and(|state| state == TIME_WAIT || state == CLOSE)
    }

    /// Seconds since its last packet: what the packet set the timer to, less what is left of it. Unknown where more than one
    /// setting may have been the one.
    pub fn idle(&self, protocol: u8, timeouts: &Timeouts) -> Option<u32> {
        let left = self.left?;
        let full = if protocol == Protocol::Tcp.number() {
            let full = (*timeouts.tcp.get(usize::from(self.state?))?)?;
            let shorter = timeouts.tcp_retransmitted?.max(timeouts.tcp_unacknowledged?);
            if full > shorter && left <= shorter {
                return None;
            }
            full
        } else if protocol == Protocol::Udp.number() {
            if self.is_assured { timeouts.udp_stream? } else { timeouts.udp? }
        } else {
            return None;
        };
        full.checked_sub(left)
    }

    /// Whether packets came between two looks. Between the end of the first and the beginning of the second was `pause`; the
    /// two together took `all`. Never true of a flow that was still; a packet early in the pause may go unseen where packets are
    /// not counted.
    pub fn has_moved(&self, before: &Self, pause: Duration, all: Duration) -> bool {
        let counted = matches!((self.packets, before.packets), (Some(now), Some(then)) if now != then);
        // A timer that nobody set runs down as time goes, to within a second on either side.
        let is_set = match (self.left, before.left) {
            (Some(now), Some(then)) => {
                let ran = i64::from(then) - i64::from(now);
                ran < pause.as_secs() as i64 || ran > all.as_secs() as i64 + 2
            }
            (Some(_), None) | (None, Some(_)) => true,
            (None, None) => false,
        };
        counted || is_set || self.state != before.state
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _, NLA_F_NESTED};

    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const ESTABLISHED: u8 = 3;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let nla = DefaultNla::new(kind, value.to_vec());
        let all = [nla];
        let mut bytes = vec![0; (&all[..]).buffer_len()];
        (&all[..]).emit(&mut bytes);
        bytes
    }

    fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
        attribute(kind | NLA_F_NESTED, value)
    }

    fn kernel() -> Timeouts {
        Timeouts {
            tcp: [0, 120, 60, 432_000, 120, 60, 30, 120, 10].map(Some),
            tcp_retransmitted: Some(300),
            tcp_unacknowledged: Some(300),
            udp: Some(30),
            udp_stream: Some(120),
        }
    }

    fn tcp(state: u8, left: u32) -> Track {
        Track { left: Some(left), state: Some(state), ..Track::default() }
    }

    #[test]
    fn everything_is_read_where_the_kernel_tells_it() {
        let state = nested(PROTOCOL_STATE, &nested(OF_TCP, &attribute(TCP_STATE, &[ESTABLISHED])));
        let counted = |kind, packets: u64| nested(kind, &attribute(PACKETS, &packets.to_be_bytes()));
        let bytes = [
            attribute(STATUS, &0x18e_u32.to_be_bytes()),
            state,
            attribute(TIMEOUT, &431_990_u32.to_be_bytes()),
            counted(COUNTERS[0], 3),
            counted(COUNTERS[1], 4),
            attribute(ID, &9_u32.to_be_bytes()),
            nested(TIMESTAMP, &attribute(START, &77_u64.to_be_bytes())),
        ]
        .concat();
        let expected = Track {
            id: 9,
            began: Some(77),
            packets: Some(7),
            left: Some(431_990),
            state: Some(ESTABLISHED),
            is_assured: true,
        };
        assert_eq!(Track::read(&bytes), expected);
        assert_eq!(Track::read(&[]), Track::default());
    }

    #[test]
    fn what_only_waits_to_be_forgotten_has_ended() {
        let ended: Vec<u8> = (0..10).filter(|state| tcp(*state, 1).has_ended()).collect();
        assert_eq!(ended, [TIME_WAIT, CLOSE]);
        assert!(!Track::default().has_ended(), "who has no state");
    }

    #[test]
    fn idle_is_what_has_run_off_the_timer() {
        assert_eq!(tcp(ESTABLISHED, 431_990).idle(TCP, &kernel()), Some(10));
        assert_eq!(tcp(ESTABLISHED, 301).idle(TCP, &kernel()), Some(431_699));
        assert_eq!(tcp(4, 100).idle(TCP, &kernel()), Some(20));
        let udp = Track { left: Some(20), ..Track::default() };
        assert_eq!(udp.idle(UDP, &kernel()), Some(10));
        assert_eq!(Track { is_assured: true, ..udp }.idle(UDP, &kernel()), Some(100));
    }

    #[test]
    fn idle_is_unknown_where_the_timer_may_have_been_set_to_something_else() {
        assert_eq!(tcp(ESTABLISHED, 300).idle(TCP, &kernel()), None, "not acknowledged, perhaps");
        assert_eq!(tcp(ESTABLISHED, 500_000).idle(TCP, &kernel()), None, "more than there is");
        assert_eq!(tcp(ESTABLISHED, 10).idle(TCP, &Timeouts::default()), None);
        assert_eq!(tcp(ESTABLISHED, 10).idle(132, &kernel()), None, "SCTP");
        assert_eq!(Track::default().idle(UDP, &kernel()), None, "no timer");
    }

    /// A pause of 1.1 seconds, and 1.2 from the first to the last reading.
    fn moved(before: Track, after: Track) -> bool {
        after.has_moved(&before, Duration::from_millis(1100), Duration::from_millis(1200))
    }

    #[test]
    fn a_timer_that_did_not_run_down_was_set() {
        let at = |left| tcp(ESTABLISHED, left);
        assert!(moved(at(100), at(100)) && moved(at(100), at(431_999)));
        assert!(!moved(at(100), at(99)) && !moved(at(100), at(98)));
        assert!(moved(at(431_999), at(300)), "not acknowledged");
        assert!(moved(at(119), Track { state: Some(4), ..at(118) }), "another state");
    }

    #[test]
    fn counted_packets_tell_it_exactly() {
        let at = |left, packets| Track { packets: Some(packets), ..tcp(ESTABLISHED, left) };
        assert!(moved(at(100, 5), at(99, 6)));
        assert!(!moved(at(100, 5), at(99, 5)));
    }
}
