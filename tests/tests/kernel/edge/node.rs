//! A node's tables for the edge: a service of every sort, for both protocols and families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dataplane_ebpf::abi::{
    Address, COVERED, DROP_FLOW, EdgeDevice, FORWARD, Frontend, FrontendKey, ListState, MASQUERADE, Member,
    NODE_PORTS, NOT_LISTED, OWN, POD_RULES, REDIRECT, ServerKey, Side, SlotKey, SourceKey, TRUSTS_STACK,
    Target,
};
use dataplane_ebpf::datapath::edge::header::Version;
use dataplane_ebpf::datapath::edge::open::unspecified;
use dataplane_ebpf::host_edge::EdgeTables;

use super::rig::HOP;

/// Networks by what is in them.
pub(crate) const CLIENTS: u8 = 3;
pub(crate) const SERVICES: u8 = 4;
pub(crate) const NODE: u8 = 5;
/// Pods on this node and on others.
pub(crate) const HERE: u8 = 1;
pub(crate) const THERE: u8 = 2;

/// What masqueraded flows bear: one port, so that chance has no say.
pub(crate) const PORT: u16 = 50_000;
/// The lists of a family, by what they are for; a number for each family.
const ANY: u32 = 1;
const LOCAL: u32 = 2;
const STICKY: u32 = 3;

pub(crate) fn ip(v6: bool, network: u8, number: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, network.into(), 0, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(10, network, 0, number).into()
    }
}

fn address(v6: bool, network: u8, number: u8) -> Address {
    let octets = match ip(v6, network, number) {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    words(octets)
}

fn words(octets: [u8; 16]) -> Address {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_ne_bytes)
}

fn list(v6: bool, which: u32) -> u32 {
    which * 2 + u32::from(v6)
}

/// The tables. `redirect`: packets go to the next hop at once.
pub(crate) fn tables(redirect: bool) -> EdgeTables {
    let mut tables = EdgeTables::default();
    let (own_v4, own_v6) = (address(false, NODE, 1), address(true, NODE, 1));
    tables.devices.insert(HOP.device, EdgeDevice { flags: COVERED, own_v4, own_v6 });
    for v6 in [false, true] {
        tables.own.insert(address(v6, NODE, 1), NODE_PORTS);
        tables.own.insert(address(v6, NODE, 2), OWN);
        tables.backed.insert(address(v6, HERE, 1));
        // The network of pods here.
        let mask = if v6 { u128::MAX << 96 } else { u128::MAX << 16 };
        tables.sides[usize::from(v6)] = Side {
            pods: address(v6, HERE, 0),
            pods_mask: words(mask.to_be_bytes()),
            first_port: PORT.into(),
            ports: 1,
            forwarding: if redirect { REDIRECT } else { 0 } | TRUSTS_STACK,
        };
        frontends(&mut tables, v6);
        // All but the last: two clients.
        let bits = 32 + 127;
        tables.sources.insert(SourceKey { bits, sources: 5, address: address(v6, CLIENTS, 2) });
    }
    relist(&mut tables, 1, 3);
    tables
}

fn frontends(tables: &mut EdgeTables, v6: bool) {
    let both = FORWARD | MASQUERADE;
    let all = |which, rules: u32| Frontend {
        outside: list(v6, which),
        pod: list(v6, which),
        sources: 0,
        rules: rules | rules << POD_RULES,
        service: 1,
    };
    let services = [
        all(ANY, both),
        all(LOCAL, FORWARD),
        all(STICKY, both),
        Frontend { sources: 5, ..all(ANY, both) },
        Frontend { rules: DROP_FLOW | both << POD_RULES, ..all(ANY, 0) },
        all(ANY, 0),
        Frontend { pod: 0, ..all(ANY, both) },
    ];
    let version = if v6 { Version::V6 } else { Version::V4 };
    for protocol in [6, 17] {
        for (number, frontend) in (1..).zip(services) {
            let key = FrontendKey { address: address(v6, SERVICES, number), port: port(80), protocol };
            tables.frontends.insert(key, frontend);
        }
        let key = FrontendKey { address: unspecified(version), port: port(80), protocol };
        tables.frontends.insert(key, all(ANY, both));
    }
}

/// Other lists: so many of those here and of those there get new flows; the next one of each keeps what it has.
pub(crate) fn relist(tables: &mut EdgeTables, generation: u32, count: u8) {
    tables.lists.clear();
    tables.targets.clear();
    tables.servers.clear();
    for v6 in [false, true] {
        for which in [ANY, LOCAL, STICKY] {
            let networks: &[u8] = if which == LOCAL { &[HERE] } else { &[HERE, THERE] };
            let number = list(v6, which);
            let mut slots = 0;
            for network in networks {
                for endpoint in 1..=count {
                    let here = u32::from(*network == HERE);
                    let target = Target { address: address(v6, *network, endpoint), port: port(8080), here };
                    tables.targets.insert(SlotKey { service: number, generation, index: slots }, target);
                    tables.servers.insert(server(number, &target), Member { index: slots });
                    slots += 1;
                }
                let kept = Target { address: address(v6, *network, count + 1), port: port(8080), here: 0 };
                tables.servers.insert(server(number, &kept), Member { index: NOT_LISTED });
            }
            let timeout = if which == STICKY { 100_000 } else { 0 };
            tables.lists.insert(number, ListState { generation, slots, timeout, service: number });
        }
    }
}

fn server(list: u32, target: &Target) -> ServerKey {
    ServerKey { list, port: target.port, address: target.address }
}

fn port(port: u16) -> u32 {
    u32::from(port.to_be())
}
