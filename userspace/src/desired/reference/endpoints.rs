//! Which endpoints a service port has, and which of them are in its lists.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::addresses::is_externally_accessible;
use crate::desired::Context;
use crate::model::{Endpoint, Family, Policy, Service, ServicePort, Slice};

/// One port of one Service in one family, and one way to merge what its slices say.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) service: &'a Service,
    pub(super) port: &'a ServicePort,
    pub(super) family: Family,
    pub(super) context: &'a Context,
    pub(super) endpoints: &'a [Seen],
}

/// What one slice says of one endpoint of one port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Seen {
    pub(super) address: SocketAddr,
    ready: bool,
    serving: bool,
    terminating: bool,
    node: Option<String>,
    zone_hints: BTreeSet<String>,
    node_hints: BTreeSet<String>,
}

/// How topology narrows the cluster's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    SameNode,
    SameZone,
    None,
}

/// All that the slices say of a service port. A port is matched by name and protocol; its number is the slice's.
pub(super) fn seen(service: &Service, port: &ServicePort, family: Family, slices: &[Slice]) -> Vec<Seen> {
    let mut all = Vec::new();
    for slice in slices.iter().filter(|slice| slice.service == service.name) {
        for slice_port in slice.ports.iter() {
            if (&slice_port.name, slice_port.protocol) != (&port.name, port.protocol) {
                continue;
            }
            for endpoint in &slice.endpoints {
                if Family::of(endpoint.address) == family {
                    all.push(Seen::of(endpoint, slice_port.port.get()));
                }
            }
        }
    }
    all
}

/// Every permitted way to have each "ip:port" once: one that does not terminate beats one that does, and between two
/// alike in that either may be taken.
pub(super) fn merges(all: &[Seen]) -> Vec<Vec<Seen>> {
    let addresses: BTreeSet<SocketAddr> = all.iter().map(|one| one.address).collect();
    let mut merges = vec![Vec::new()];
    for address in addresses {
        let choices = choices(all, address);
        let extend = |merge: &Vec<Seen>| {
            let merge = merge.clone();
            choices.iter().map(move |one| [merge.clone(), vec![one.clone()]].concat()).collect::<Vec<_>>()
        };
        merges = merges.iter().flat_map(extend).collect();
    }
    merges
}

/// How many [`merges`] there are.
pub(super) fn count_merges(all: &[Seen]) -> usize {
    let addresses: BTreeSet<SocketAddr> = all.iter().map(|one| one.address).collect();
    addresses.into_iter().map(|address| choices(all, address).len()).product()
}

fn choices(all: &[Seen], address: SocketAddr) -> BTreeSet<Seen> {
    let here = all.iter().filter(|one| one.address == address);
    let staying: BTreeSet<Seen> = here.clone().filter(|one| !one.terminating).cloned().collect();
    if staying.is_empty() { here.cloned().collect() } else { staying }
}

impl Seen {
    fn of(endpoint: &Endpoint, port: u16) -> Self {
        let Endpoint { address, conditions, place: _ } = endpoint;
        let (node, hints) = (endpoint.node(), endpoint.hints());
        let (zones, nodes) = match hints {
            Some(hints) => (&*hints.zones, &*hints.nodes),
            None => (&[][..], &[][..]),
        };
        Self {
            address: SocketAddr::new(*address, port),
            ready: conditions.ready(),
            serving: conditions.serving(),
            terminating: conditions.terminating(),
            node: node.map(ToString::to_string),
            zone_hints: zones.iter().map(ToString::to_string).collect(),
            node_hints: nodes.iter().map(ToString::to_string).collect(),
        }
    }

    fn is_serving_and_terminating(&self) -> bool {
        self.serving && self.terminating
    }
}

/// The policy for the ClusterIP is not `Local`, or there are addresses for outside: traffic from inside to them may
/// need every endpoint.
fn uses_cluster_endpoints(asked: Asked<'_>) -> bool {
    asked.service.internal_policy != Policy::Local || is_externally_accessible(asked)
}

/// One of the policies is `Local`, the external one only if there is anything for it to apply to.
fn uses_local_endpoints(asked: Asked<'_>) -> bool {
    asked.service.internal_policy == Policy::Local
        || (asked.service.external_policy == Policy::Local && is_externally_accessible(asked))
}

/// The cluster's list: ready endpoints that fit the topology, else all that terminate and serve.
pub(super) fn cluster_list(asked: Asked<'_>) -> Vec<SocketAddr> {
    if !uses_cluster_endpoints(asked) {
        return Vec::new();
    }
    let mode = topology(asked);
    let ready = addresses(asked, |one| one.ready && fits(asked, one, mode));
    if ready.is_empty() { addresses(asked, Seen::is_serving_and_terminating) } else { ready }
}

/// This node's list: its ready endpoints, else those on it that terminate and serve. Topology never matters.
pub(super) fn local_list(asked: Asked<'_>) -> Vec<SocketAddr> {
    if !uses_local_endpoints(asked) {
        return Vec::new();
    }
    let ready = addresses(asked, |one| is_local(asked, one) && one.ready);
    if ready.is_empty() {
        addresses(asked, |one| is_local(asked, one) && one.is_serving_and_terminating())
    } else {
        ready
    }
}

/// Whether a usable endpoint exists anywhere.
pub(super) fn is_anybody_usable(asked: Asked<'_>) -> bool {
    asked.endpoints.iter().any(|one| one.ready || one.is_serving_and_terminating())
}

/// Endpoints on this node. A node without a name has none.
pub(super) fn on_this_node(asked: Asked<'_>) -> Vec<SocketAddr> {
    addresses(asked, |one| is_local(asked, one))
}

/// Endpoints whose flows go on: those that get new ones, and those that are ready or answer.
pub(super) fn with_flows(asked: Asked<'_>) -> Vec<SocketAddr> {
    let (cluster, local) = (cluster_list(asked), local_list(asked));
    let listed = |one: &Seen| cluster.contains(&one.address) || local.contains(&one.address);
    addresses(asked, |one| one.ready || one.serving || listed(one))
}

/// What a load balancer's health check counts for this port.
pub(super) fn ready_on_this_node(asked: Asked<'_>) -> BTreeSet<IpAddr> {
    addresses(asked, |one| is_local(asked, one) && one.ready).iter().map(SocketAddr::ip).collect()
}

fn is_local(asked: Asked<'_>, one: &Seen) -> bool {
    !asked.context.node.is_empty() && one.node.as_deref() == Some(&*asked.context.node)
}

fn topology(asked: Asked<'_>) -> Topology {
    if hinted_for_this_node(asked) {
        Topology::SameNode
    } else if hinted_for_this_zone(asked) {
        Topology::SameZone
    } else {
        Topology::None
    }
}

/// Every ready endpoint has a node hint, and one of them names this node.
fn hinted_for_this_node(asked: Asked<'_>) -> bool {
    let mut ready = asked.endpoints.iter().filter(|one| one.ready);
    let all_hinted = ready.clone().all(|one| !one.node_hints.is_empty());
    all_hinted && ready.any(|one| one.node_hints.contains(&*asked.context.node))
}

/// Every ready endpoint has a zone hint, and one of them names this node's zone, which is known and not empty.
fn hinted_for_this_zone(asked: Asked<'_>) -> bool {
    let Some(zone) = asked.context.zone.as_deref().filter(|zone| !zone.is_empty()) else { return false };
    let mut ready = asked.endpoints.iter().filter(|one| one.ready);
    let all_hinted = ready.clone().all(|one| !one.zone_hints.is_empty());
    all_hinted && ready.any(|one| one.zone_hints.contains(zone))
}

fn fits(asked: Asked<'_>, one: &Seen, mode: Topology) -> bool {
    match mode {
        Topology::SameNode => one.node_hints.contains(&*asked.context.node),
        Topology::SameZone => asked.context.zone.as_deref().is_some_and(|zone| one.zone_hints.contains(zone)),
        Topology::None => true,
    }
}

/// Sorted.
fn addresses(asked: Asked<'_>, keep: impl Fn(&Seen) -> bool) -> Vec<SocketAddr> {
    let kept: BTreeSet<SocketAddr> =
        asked.endpoints.iter().filter(|one| keep(one)).map(|one| one.address).collect();
    kept.into_iter().collect()
}
