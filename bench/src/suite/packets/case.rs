//! What is measured, and of whom.

use std::time::Duration;

use super::subject::{EDGE, EDGE_STACK, EDGE_XDP, GROWTH, RIVAL_OF_FEW, ROUTE};
use super::target::Policy;
use crate::rival;
use crate::suite::nftables;

/// Who forwards for a node of the usual size.
const USUAL: [&str; 7] = [ROUTE, RIVAL_OF_FEW, rival::NAME, nftables::NAME, EDGE, EDGE_XDP, EDGE_STACK];
/// Whose figures matter with real connections, and in a short run.
const BRIEF: [&str; 5] = [ROUTE, rival::NAME, nftables::NAME, EDGE, EDGE_XDP];
/// Who has room for more flows than the kernel tracks.
const WIDE: [&str; 3] = [ROUTE, EDGE, EDGE_XDP];

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount {
    pub(super) rounds: u32,
    /// Other services of the usual size.
    pub(super) others: u32,
    /// Who shows what more services cost, and how many.
    pub(super) growth: &'static [(&'static str, u32)],
    /// Frames of one turn over known flows.
    frames: u32,
    /// Of one turn in which every frame is a flow of its own.
    fresh: u32,
    /// Flows of the widest case, if there is one.
    wide: Option<u32>,
    /// Of one turn of connections.
    time: Duration,
    usual: &'static [&'static str],
}

/// What is sent in one turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// So many frames over flows that have been answered before.
    Known { flows: u32, frames: u32 },
    /// One frame of each flow, and no flow was there before.
    Fresh { flows: u32 },
    /// Connections of real sockets, one after the other, for a while.
    Connections(Duration),
}

/// One row of figures for each subject that takes part.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) load: Load,
    subjects: Vec<&'static str>,
}

impl Amount {
    pub(super) fn of(quick: bool) -> Self {
        if quick {
            let (frames, fresh, time) = (50_000, 20_000, Duration::from_millis(100));
            let (growth, usual) = (&GROWTH[..2], &BRIEF[..]);
            return Self { rounds: 3, others: 1_000, growth, frames, fresh, wide: None, time, usual };
        }
        let (frames, fresh, time) = (200_000, 100_000, Duration::from_millis(250));
        let (growth, usual) = (&GROWTH[..], &USUAL[..]);
        Self { rounds: 11, others: 5_000, growth, frames, fresh, wide: Some(500_000), time, usual }
    }

    /// Every case. `room` is how many flows the kernel tracks.
    pub(super) fn cases(&self, room: u32) -> Vec<Case> {
        let fresh = self.fresh.min(room / 2);
        let few = Load::Known { flows: 64, frames: self.frames };
        let more = Load::Known { flows: 20_000.min(fresh), frames: self.frames };
        let both = |policy| {
            [("established", few), ("established 20k", more), ("new", Load::Fresh { flows: fresh })]
                .map(|(name, load)| self.case(policy, name, load, self.usual))
        };
        let mut cases: Vec<Case> = Policy::ALL.into_iter().flat_map(both).collect();
        if let Some(flows) = self.wide {
            // Each of them once.
            let load = Load::Known { flows, frames: flows };
            cases.push(self.case(Policy::Cluster, "established 500k", load, &WIDE));
        }
        let connections = |policy| self.case(policy, "connections", Load::Connections(self.time), &BRIEF);
        cases.extend(Policy::ALL.map(connections));
        cases
    }

    /// Who shows what more services cost takes part in the two that matter, where the source changes, too.
    fn case(&self, policy: Policy, name: &str, load: Load, subjects: &[&'static str]) -> Case {
        let grows = policy == Policy::Cluster && (name == "established" || name == "new");
        let growth = self.growth.iter().filter(|_| grows).map(|(name, _)| *name);
        let subjects = subjects.iter().copied().chain(growth).collect();
        Case { name: format!("{} {name}", policy.word()), policy, load, subjects }
    }
}

impl Case {
    /// Whether somebody takes part.
    pub(super) fn takes(&self, subject: &str) -> bool {
        self.subjects.contains(&subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_table_of_flows_is_never_filled() {
        for case in Amount::of(false).cases(10_000) {
            match case.load {
                Load::Known { flows, frames: _ } | Load::Fresh { flows } => {
                    let tracked = case.takes(rival::NAME);
                    assert!(flows <= 5_000 || !tracked, "{}", case.name);
                }
                Load::Connections(_) => {}
            }
        }
    }

    #[test]
    fn whoever_is_compared_with_takes_part_in_every_case() {
        for case in [true, false].into_iter().flat_map(|quick| Amount::of(quick).cases(262_144)) {
            assert!(case.takes(ROUTE) && case.takes(EDGE), "{}", case.name);
        }
    }

    #[test]
    fn a_short_run_leaves_out_what_takes_long() {
        let of = |quick| Amount::of(quick).cases(262_144);
        let anywhere = |quick, name| of(quick).iter().any(|case| case.takes(name));
        for name in ["edge-50k", EDGE_STACK, RIVAL_OF_FEW] {
            assert!(anywhere(false, name) && !anywhere(true, name), "{name}");
        }
        assert!(of(false).iter().any(|case| case.name == "cluster established 500k"));
        assert!(of(true).iter().all(|case| !case.name.ends_with("500k")));
    }
}
