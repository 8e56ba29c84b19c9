//! What the maps should hold for one service port. Pure.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use dataplane_ebpf::abi::{
    Address, DROP_FLOW, FORWARD, Frontend, FrontendKey, MASQUERADE, POD_RULES, SourceKey,
};
use dataplane_ebpf::datapath::edge::header::Version;
use dataplane_ebpf::datapath::edge::open::unspecified;
use ipnet::IpNet;

use crate::desired::{self, Action, List, Masquerade, ServicePort};
use crate::model::{Family, ServicePortName};

/// What one service port needs here; nothing if it has no address for callers from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// Its lists, where flows are forwarded to one.
    pub(super) lists: [Option<Listed>; 2],
    /// Its addresses; the list's numbers are filled in when it has some.
    pub(super) frontends: Vec<(FrontendKey, Rules)>,
    /// The only sources that are let in at addresses of a load balancer.
    pub(super) sources: Vec<IpNet>,
}

/// One list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// Who gets new flows, sorted.
    pub(super) listed: Vec<Server>,
    /// Who keeps those it has.
    pub(super) kept: Vec<Server>,
    /// Seconds of session affinity; zero: none.
    pub(super) timeout: u32,
}

/// An endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) here: bool,
}

/// What becomes of new flows to an address, as the maps say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    outside: Option<List>,
    pod: Option<List>,
    rules: u32,
    filtered: bool,
}

impl Rules {
    /// With the numbers of lists and sources.
    pub(super) fn numbered(self, lists: [u32; 2], sources: u32, service: u32) -> Frontend {
        let number =
            |list: Option<List>| list.and_then(|list| lists.get(place(list)).copied()).unwrap_or_default();
        Frontend {
            outside: number(self.outside),
            pod: number(self.pod),
            sources: if self.filtered { sources } else { 0 },
            rules: self.rules,
            service,
        }
    }
}

impl Image {
    /// Endpoints on this node, once for each time that they are in a list.
    pub(super) fn here(&self) -> impl Iterator<Item = IpAddr> {
        let servers = self.lists.iter().flatten().flat_map(|list| list.listed.iter().chain(&list.kept));
        servers.filter(|server| server.here).map(|server| server.address.ip())
    }
}

/// Place of a list among those of a service port.
pub(super) const fn place(list: List) -> usize {
    match list {
        List::Cluster => 0,
        List::Local => 1,
    }
}

/// What a service port needs. The ClusterIP is no address for outside: whoever calls it from there is served by the packet
/// filter. SCTP is, too.
pub(super) fn image(name: &ServicePortName, port: &ServicePort) -> Image {
    let protocol = u32::from(name.protocol.number());
    let outside = |frontend: &&desired::Frontend| !matches!(frontend, desired::Frontend::ClusterIp(_));
    let mut frontends: Vec<_> = port
        .frontends
        .iter()
        .filter(outside)
        .map(|frontend| (key(name.family, protocol, *frontend), rules(port, *frontend)))
        .collect();
    if frontends.is_empty() || !is_known(protocol) {
        return Image::default();
    }
    frontends.sort_unstable_by_key(|(key, _)| *key);
    let lists = [List::Cluster, List::Local].map(|list| listed(port, list));
    Image { lists, frontends, sources: port.sources.iter().flatten().copied().collect() }
}

fn is_known(protocol: u32) -> bool {
    use dataplane_ebpf::datapath::edge::header::{TCP, UDP};
    protocol == TCP || protocol == UDP
}

fn listed(port: &ServicePort, list: List) -> Option<Listed> {
    let leads_there = |action: Action| matches!(action, Action::Forward(to, _) if to == list);
    if ![port.external.outside, port.external.pod].into_iter().any(leads_there) {
        return None;
    }
    let server =
        |endpoint: &desired::Endpoint| Server { address: endpoint.address(), here: endpoint.uses.here };
    let chosen = |wanted: bool| {
        let endpoints = port.endpoints.iter().filter(|endpoint| endpoint.uses.is_in(list) == wanted);
        endpoints.map(server).collect()
    };
    let timeout = port.affinity.map_or(0, std::num::NonZero::get);
    Some(Listed { listed: chosen(true), kept: chosen(false), timeout })
}

fn rules(port: &ServicePort, frontend: desired::Frontend) -> Rules {
    let (outside, outside_list) = bits(port.external.outside);
    let (pod, pod_list) = bits(port.external.pod);
    let filtered = matches!(frontend, desired::Frontend::LoadBalancer(_)) && port.sources.is_some();
    Rules { outside: outside_list, pod: pod_list, rules: outside | (pod << POD_RULES), filtered }
}

/// Refusing is left to the packet filter, which can answer.
fn bits(action: Action) -> (u32, Option<List>) {
    match action {
        Action::Forward(list, Masquerade::Always) => (FORWARD | MASQUERADE, Some(list)),
        Action::Forward(list, Masquerade::Hairpin) => (FORWARD, Some(list)),
        Action::Drop => (DROP_FLOW, None),
        Action::Reject => (0, None),
    }
}

fn key(family: Family, protocol: u32, frontend: desired::Frontend) -> FrontendKey {
    match frontend {
        desired::Frontend::NodePort(port) => {
            let version = match family {
                Family::V4 => Version::V4,
                Family::V6 => Version::V6,
            };
            FrontendKey { address: unspecified(version), port: network(port.get()), protocol }
        }
        desired::Frontend::ClusterIp(at)
        | desired::Frontend::ExternalIp(at)
        | desired::Frontend::LoadBalancer(at) => {
            FrontendKey { address: address(at.ip()), port: network(at.port()), protocol }
        }
    }
}

/// A port as the maps hold it.
pub(super) fn network(port: u16) -> u32 {
    u32::from(port.to_be())
}

/// An address as the maps hold it.
pub(super) fn address(ip: IpAddr) -> Address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    words(octets)
}

fn words(octets: [u8; 16]) -> Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

/// And back.
pub(super) fn ip(address: &Address) -> IpAddr {
    let mut octets = [0; 16];
    for (place, word) in octets.chunks_exact_mut(4).zip(address) {
        place.copy_from_slice(&word.to_ne_bytes());
    }
    std::net::Ipv6Addr::from(octets).to_canonical()
}

/// A range of sources as the trie wants it: all bits of the number count, and those of IPv4 come behind 96 others.
pub(super) fn source(sources: u32, range: &IpNet) -> SourceKey {
    let before = match range {
        IpNet::V4(_) => 32 + 96,
        IpNet::V6(_) => 32,
    };
    SourceKey { bits: before + u32::from(range.prefix_len()), sources, address: address(range.network()) }
}

/// A range as an address and the mask of its bits; all zero if there is none.
pub(super) fn range(range: Option<&IpNet>) -> (Address, Address) {
    let Some(range) = range else { return ([0; 4], [0; 4]) };
    let mask = match range {
        IpNet::V4(v4) => u128::MAX << 32 | u128::from(u32::from(v4.netmask())),
        IpNet::V6(v6) => u128::from(v6.netmask()),
    };
    (address(range.network()), words(mask.to_be_bytes()))
}
