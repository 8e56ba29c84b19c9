//! Under which addresses a service port answers, and whom it lets in.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::endpoints::Asked;
use crate::desired::Frontend;
use crate::model::{External, Family};

/// What an address is to its Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    ClusterIp,
    NodePort,
    ExternalIp,
    LoadBalancer,
}

impl Kind {
    pub(super) fn of(frontend: Frontend) -> Self {
        match frontend {
            Frontend::ClusterIp(_) => Self::ClusterIp,
            Frontend::NodePort(_) => Self::NodePort,
            Frontend::ExternalIp(_) => Self::ExternalIp,
            Frontend::LoadBalancer(_) => Self::LoadBalancer,
        }
    }
}

/// It has a node port, or an address besides the ClusterIP. External IPs count even where they are not served.
pub(super) fn is_externally_accessible(asked: Asked<'_>) -> bool {
    asked.port.node_port.is_some()
        || !of_family(asked.family, &external(asked).load_balancer).is_empty()
        || !of_family(asked.family, &external(asked).external_ips).is_empty()
}

/// All its addresses. One that is asked for twice is the ClusterIP before all, and the load balancer's before it is an
/// external IP.
pub(super) fn frontends(asked: Asked<'_>) -> Vec<Frontend> {
    let at = |ip| SocketAddr::new(ip, asked.port.port.get());
    let mut by_address = BTreeMap::new();
    if asked.context.external_ips {
        for ip in of_family(asked.family, &external(asked).external_ips) {
            by_address.insert(ip, Frontend::ExternalIp(at(ip)));
        }
    }
    for ip in of_family(asked.family, &external(asked).load_balancer) {
        by_address.insert(ip, Frontend::LoadBalancer(at(ip)));
    }
    for ip in of_family(asked.family, &asked.service.addresses) {
        by_address.insert(ip, Frontend::ClusterIp(at(ip)));
    }
    let node_port = asked.port.node_port.map(Frontend::NodePort);
    let mut all: Vec<Frontend> = by_address.into_values().chain(node_port).collect();
    all.sort_unstable();
    all
}

/// Whether a source may come to an address at all. Only load balancers' addresses are guarded.
pub(super) fn admits(asked: Asked<'_>, kind: Kind, source: IpAddr) -> bool {
    match kind {
        Kind::LoadBalancer => {
            let ranges = ranges(asked);
            is_unguarded(&ranges)
                || is_within(&ranges, source)
                || is_own_address_on_the_node(asked, &ranges, source)
        }
        Kind::ClusterIp | Kind::NodePort | Kind::ExternalIp => true,
    }
}

/// Ranges of the other family do not count.
fn ranges(asked: Asked<'_>) -> Vec<IpNet> {
    let ranges = external(asked).source_ranges.into_iter();
    ranges.filter(|range| Family::of(range.addr()) == asked.family).collect()
}

/// No range of this family, or one that holds all addresses.
fn is_unguarded(ranges: &[IpNet]) -> bool {
    ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0)
}

fn is_within(ranges: &[IpNet], source: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&source))
}

/// Where a range holds the node, sources that bear one of the load balancer's addresses may come too.
fn is_own_address_on_the_node(asked: Asked<'_>, ranges: &[IpNet], source: IpAddr) -> bool {
    let node = asked.context.family(asked.family).primary;
    let own = of_family(asked.family, &external(asked).load_balancer);
    node.is_some_and(|node| is_within(ranges, node)) && own.contains(&source)
}

fn external(asked: Asked<'_>) -> External {
    asked.service.external.as_deref().cloned().unwrap_or_default()
}

fn of_family(family: Family, addresses: &[IpAddr]) -> Vec<IpAddr> {
    addresses.iter().copied().filter(|address| Family::of(*address) == family).collect()
}
