//! Counts, and what is kept of each flow so that two looks can be compared. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::SocketAddr;
use std::time::Duration;

use crate::backend::conntrack::Track;
use crate::backend::edge::State;
use crate::drain::{Layer, Tally};

/// So many flows are kept; of more it is not known how many move.
const MOST: usize = 65_536;

/// Flows of everybody, in one table.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    counts: BTreeMap<(usize, Layer), Count>,
    flows: BTreeMap<(usize, Layer, u64), Mark>,
    /// There were more than are kept.
    is_full: bool,
    through: BTreeSet<Through>,
}

/// How a flow looks behind a table's translation: protocol, source and endpoint.
pub(super) type Through = (u8, SocketAddr, SocketAddr);

/// What is known of all flows of one endpoint.
#[derive(Debug)]
struct Count {
    flows: u64,
    shortest_idle: Option<u32>,
    longest_life: Option<u64>,
}

/// What is known of one flow, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Since its last packet.
    pub(super) idle: Option<u32>,
    /// Since it began.
    pub(super) began: Option<u64>,
}

/// What tells that a flow has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// In the edge layer's table.
    Edge {
        /// The second of its last packet.
        seen_at: u32,
        /// Where it is in its life.
        state: State,
    },
    /// In connection tracking.
    Tracked(Track),
}

impl Tallies {
    /// Notes how a flow looks to those behind this table.
    pub(super) fn note_through(&mut self, flow: Through) {
        if self.through.len() < MOST {
            self.through.insert(flow);
        } else {
            self.is_full = true;
        }
    }

    /// Whether a flow that looks so is one of this table's.
    pub(super) fn goes_through(&self, flow: &Through) -> bool {
        self.through.contains(flow)
    }

    /// Whether there were more flows than are kept.
    pub(super) const fn is_full(&self) -> bool {
        self.is_full
    }

    /// Takes a flow; `key` tells it from the others. One that comes twice counts once, unless there are very many.
    pub(super) fn add(&mut self, place: usize, layer: Layer, key: &impl Hash, mark: Mark, seen: Seen) {
        if self.flows.len() < MOST {
            let mut hasher = DefaultHasher::new();
            key.hash(&mut hasher);
            if self.flows.insert((place, layer, hasher.finish()), mark).is_some() {
                return;
            }
        } else {
            self.is_full = true;
        }
        match self.counts.get_mut(&(place, layer)) {
            Some(count) => {
                count.flows += 1;
                count.shortest_idle = both(count.shortest_idle, seen.idle, u32::min);
                count.longest_life = both(count.longest_life, seen.began, u64::max);
            }
            None => {
                let count = Count { flows: 1, shortest_idle: seen.idle, longest_life: seen.began };
                self.counts.insert((place, layer), count);
            }
        }
    }

    /// What this table tells of one endpoint. With an earlier look, the time between the two, and the time that both took
    /// together, also how many flows move.
    pub(super) fn tally(
        &self,
        place: usize,
        layer: Layer,
        earlier: Option<(&Self, Duration, Duration)>,
    ) -> Tally {
        let Some(Count { flows, shortest_idle, longest_life }) = self.counts.get(&(place, layer)) else {
            return Tally { moving: earlier.map(|_| 0), ..Tally::of(0) };
        };
        Tally {
            flows: Some(*flows),
            unknown: None,
            moving: earlier.and_then(|earlier| self.moving(place, layer, earlier)),
            idle_seconds: *shortest_idle,
            oldest_seconds: *longest_life,
        }
    }

    /// A flow that is new has moved.
    fn moving(
        &self,
        place: usize,
        layer: Layer,
        (earlier, pause, all): (&Self, Duration, Duration),
    ) -> Option<u64> {
        let own = self.flows.range((place, layer, u64::MIN)..=(place, layer, u64::MAX));
        let moved = own.filter(|(key, mark)| {
            earlier.flows.get(*key).is_none_or(|before| mark.has_moved(before, pause, all))
        });
        (!self.is_full && !earlier.is_full).then(|| moved.count() as u64)
    }
}

impl Mark {
    fn has_moved(&self, before: &Self, pause: Duration, all: Duration) -> bool {
        match (self, before) {
            (Self::Tracked(now), Self::Tracked(then)) => now.has_moved(then, pause, all),
            (Self::Edge { .. }, Self::Edge { .. })
            | (Self::Tracked(_), Self::Edge { .. })
            | (Self::Edge { .. }, Self::Tracked(_)) => self != before,
        }
    }
}

/// Known of all only if it is known of each.
fn both<T>(one: Option<T>, other: Option<T>, which: fn(T, T) -> T) -> Option<T> {
    Some(which(one?, other?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(1100);
    const KNOWN: Seen = Seen { idle: Some(5), began: Some(50) };

    fn edge(seen_at: u32) -> Mark {
        Mark::Edge { seen_at, state: State::Established }
    }

    fn of(flows: &[(u32, Mark, Seen)]) -> Tallies {
        let mut tallies = Tallies::default();
        flows.iter().for_each(|(key, mark, seen)| tallies.add(0, Layer::Edge, key, *mark, *seen));
        tallies
    }

    #[test]
    fn what_is_not_known_of_each_is_not_known_of_all() {
        let tally = |seen: &[Seen]| {
            let flows: Vec<_> = (0..).zip(seen).map(|(key, seen)| (key, edge(0), *seen)).collect();
            let Tally { flows, idle_seconds, oldest_seconds, .. } = of(&flows).tally(0, Layer::Edge, None);
            (flows, idle_seconds, oldest_seconds)
        };
        let other = Seen { idle: Some(3), began: Some(20) };
        assert_eq!(tally(&[KNOWN, other]), (Some(2), Some(3), Some(50)));
        assert_eq!(tally(&[KNOWN, Seen { idle: None, began: None }, other]), (Some(3), None, None));
        assert_eq!(tally(&[]), (Some(0), None, None));
    }

    #[test]
    fn a_flow_that_comes_twice_counts_once() {
        let tallies = of(&[(1, edge(0), KNOWN), (1, edge(0), KNOWN), (2, edge(0), KNOWN)]);
        assert_eq!(tallies.tally(0, Layer::Edge, None).flows, Some(2));
        assert_eq!(tallies.tally(0, Layer::Direct, None).flows, Some(0));
        assert_eq!(tallies.tally(1, Layer::Edge, None).flows, Some(0));
    }

    #[test]
    fn who_had_a_packet_since_the_earlier_look_has_moved() {
        let moving =
            |before: &Tallies, now: &Tallies| now.tally(0, Layer::Edge, Some((before, PAUSE, PAUSE))).moving;
        let one = |seen_at| of(&[(1, edge(seen_at), KNOWN)]);
        assert_eq!((moving(&one(5), &one(6)), moving(&one(5), &one(5))), (Some(1), Some(0)));
        let closing = of(&[(1, Mark::Edge { seen_at: 5, state: State::Closing }, KNOWN)]);
        assert_eq!(moving(&one(5), &closing), Some(1));
        let new = of(&[(1, edge(5), KNOWN), (2, edge(5), KNOWN)]);
        assert_eq!(moving(&one(5), &new), Some(1), "a new one");
        assert_eq!(moving(&one(5), &Tallies::default()), Some(0), "it has ended");
        assert_eq!(new.tally(0, Layer::Edge, None).moving, None, "one look tells nothing");
    }

    #[test]
    fn very_many_are_counted_and_not_compared() {
        let mut tallies = Tallies::default();
        for key in 0..70_000_u32 {
            tallies.add(0, Layer::Edge, &key, edge(0), KNOWN);
        }
        assert_eq!(tallies.flows.len(), MOST);
        let tally = tallies.tally(0, Layer::Edge, Some((&Tallies::default(), PAUSE, PAUSE)));
        assert_eq!((tally.flows, tally.moving), (Some(70_000), None));
    }
}
