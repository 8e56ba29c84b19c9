//! Service ports that this node cannot serve though others can.

#![forbid(unsafe_code)]

use super::{Action, Desired, Frontend};
use crate::model::Family;

/// How many service ports, of each family (IPv4, IPv6), have a Local policy that finds no usable endpoint here while there are some
/// elsewhere. Where nobody serves at all, that is no matter of the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unreached {
    /// By `internalTrafficPolicy`.
    pub internal: [usize; 2],
    /// By `externalTrafficPolicy`.
    pub external: [usize; 2],
}

impl Desired {
    /// Counts them.
    pub fn unreached(&self) -> Unreached {
        let mut all = Unreached::default();
        for (id, port) in self.services().flat_map(|(_, outcome)| &outcome.ports) {
            let place = match id.family {
                Family::V4 => 0,
                Family::V6 => 1,
            };
            let has =
                |wanted: bool| port.frontends.iter().any(|at| matches!(at, Frontend::ClusterIp(_)) == wanted);
            let is_dropped = |action| usize::from(action == Action::Drop);
            if has(true) {
                all.internal[place] += is_dropped(port.internal.outside);
            }
            if has(false) {
                all.external[place] += is_dropped(port.external.outside);
            }
        }
        all
    }
}
