//! The traffic table: what becomes of a new flow, by the address it is for and the place it comes from.

use super::port::{Action, List, Masquerade, Routes};
use crate::model::Policy;

/// What is known of the lists of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lists {
    /// The cluster's list has somebody.
    pub cluster: bool,
    /// This node's list has somebody.
    pub local: bool,
    /// Somebody in the cluster could serve.
    pub reachable: bool,
}

/// How sources are told and masqueraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    /// Whether traffic from pods can be told from other traffic.
    pub pods_known: bool,
    /// Whether the node's own traffic looks like a pod's, because its address is in their range.
    pub node_is_pod: bool,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
}

/// To the ClusterIP. Everybody gets the same list. Whoever is no pod is masqueraded, so that replies come back this
/// way; where pods cannot be told from others, nobody is.
pub fn internal(policy: Policy, lists: Lists, sources: Sources) -> Routes {
    let list = match policy {
        Policy::Cluster => List::Cluster,
        Policy::Local => List::Local,
    };
    let Sources { pods_known, node_is_pod, masquerade_all } = sources;
    let always_if = |yes: bool| if yes { Masquerade::Always } else { Masquerade::Hairpin };
    let pod = to(list, always_if(masquerade_all), lists);
    let outside = to(list, always_if(pods_known || masquerade_all), lists);
    Routes { pod, node: if node_is_pod { pod } else { outside }, outside }
}

/// To any other address. With the policy `Local`, traffic from inside is meant to behave as if it had gone out to
/// the load balancer and come back, so it may reach every endpoint; traffic from outside keeps its source address,
/// and so may reach endpoints on this node only.
pub fn external(policy: Policy, lists: Lists, sources: Sources) -> Routes {
    let everywhere = to(List::Cluster, Masquerade::Always, lists);
    match policy {
        Policy::Cluster => Routes { pod: everywhere, node: everywhere, outside: everywhere },
        Policy::Local => {
            let outside = to(List::Local, Masquerade::Hairpin, lists);
            let pod =
                if sources.pods_known { to(List::Cluster, Masquerade::Hairpin, lists) } else { outside };
            Routes { pod, node: if sources.node_is_pod { pod } else { everywhere }, outside }
        }
    }
}

/// Forwarded if the list has anybody. Else refused if nobody serves anywhere, and dropped if others do: then the
/// client, or the load balancer's next attempt, should come to them.
fn to(list: List, masquerade: Masquerade, lists: Lists) -> Action {
    let Lists { cluster, local, reachable } = lists;
    let filled = match list {
        List::Cluster => cluster,
        List::Local => local,
    };
    match (filled, list, reachable) {
        (true, List::Cluster | List::Local, _) => Action::Forward(list, masquerade),
        (false, List::Local, true) => Action::Drop,
        (false, List::Local, false) | (false, List::Cluster, _) => Action::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Lists = Lists { cluster: true, local: true, reachable: true };
    const REMOTE: Lists = Lists { cluster: true, local: false, reachable: true };
    const NOBODY: Lists = Lists { cluster: false, local: false, reachable: false };

    #[test]
    fn to_a_cluster_ip_everybody_but_pods_is_masqueraded() {
        check(internal(Policy::Cluster, BOTH, known()), "cluster cluster! cluster!");
        check(internal(Policy::Local, BOTH, known()), "local local! local!");
    }

    #[test]
    fn where_pods_are_not_known_nobody_is_masqueraded_to_a_cluster_ip() {
        check(internal(Policy::Cluster, BOTH, unknown()), "cluster cluster cluster");
    }

    #[test]
    fn a_node_within_the_range_of_pods_looks_like_one() {
        let sources = Sources { node_is_pod: true, ..known() };
        check(internal(Policy::Cluster, BOTH, sources), "cluster cluster cluster!");
        check(external(Policy::Local, BOTH, sources), "cluster cluster local");
        check(external(Policy::Cluster, BOTH, sources), "cluster! cluster! cluster!");
    }

    #[test]
    fn masquerade_all_means_pods_too() {
        for sources in [known(), unknown()] {
            let sources = Sources { masquerade_all: true, ..sources };
            check(internal(Policy::Cluster, BOTH, sources), "cluster! cluster! cluster!");
            check(
                external(Policy::Local, BOTH, Sources { pods_known: true, ..sources }),
                "cluster cluster! local",
            );
        }
    }

    #[test]
    fn to_other_addresses_everybody_is_masqueraded() {
        for sources in [known(), unknown()] {
            check(external(Policy::Cluster, BOTH, sources), "cluster! cluster! cluster!");
        }
    }

    #[test]
    fn with_a_local_policy_traffic_from_inside_takes_the_short_way() {
        check(external(Policy::Local, BOTH, known()), "cluster cluster! local");
        check(external(Policy::Local, BOTH, unknown()), "local cluster! local");
    }

    #[test]
    fn where_only_others_serve_local_traffic_is_dropped() {
        check(internal(Policy::Local, REMOTE, known()), "drop drop drop");
        check(external(Policy::Local, REMOTE, known()), "cluster cluster! drop");
        check(external(Policy::Local, REMOTE, unknown()), "drop cluster! drop");
    }

    #[test]
    fn where_nobody_serves_everybody_is_refused() {
        for policy in [Policy::Cluster, Policy::Local] {
            check(internal(policy, NOBODY, known()), "reject reject reject");
            check(external(policy, NOBODY, known()), "reject reject reject");
        }
    }

    fn known() -> Sources {
        Sources { pods_known: true, node_is_pod: false, masquerade_all: false }
    }

    fn unknown() -> Sources {
        Sources { pods_known: false, node_is_pod: false, masquerade_all: false }
    }

    /// For pod, node and outside; an exclamation mark means that the source is masqueraded.
    fn check(Routes { pod, node, outside }: Routes, words: &str) {
        let word = |action: Action| match action {
            Action::Forward(List::Cluster, Masquerade::Always) => "cluster!",
            Action::Forward(List::Cluster, Masquerade::Hairpin) => "cluster",
            Action::Forward(List::Local, Masquerade::Always) => "local!",
            Action::Forward(List::Local, Masquerade::Hairpin) => "local",
            Action::Reject => "reject",
            Action::Drop => "drop",
        };
        assert_eq!([pod, node, outside].map(word).join(" "), words);
    }
}
