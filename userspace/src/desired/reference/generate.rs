//! Clusters out of very few names and addresses, so that they meet.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::desired::{Context, FamilyContext, NodePorts, Pods};
use crate::model::{
    Conditions, Endpoint, External, Family, Hints, Place, Policy, Protocol, Service, ServiceName,
    ServicePort, Slice, SlicePort,
};

/// Names of Services, all in namespace `default`.
pub(super) const SERVICES: [&str; 3] = ["api", "dns", "web"];
/// Names of slices, all in namespace `default`.
pub(super) const SLICES: [&str; 4] = ["s1", "s2", "s3", "s4"];

type Port = (&'static str, Protocol, u16);

/// Ports of Services and of slices.
const PORTS: [Port; 5] = [
    ("", Protocol::Tcp, 81),
    ("dns", Protocol::Tcp, 53),
    ("dns", Protocol::Udp, 53),
    ("http", Protocol::Tcp, 80),
    ("http", Protocol::Sctp, 80),
];

const CLUSTER_IPS: [(&str, &str); 3] =
    [("10.96.0.1", "fd96::1"), ("10.96.0.2", "fd96::2"), ("10.96.0.3", "fd96::3")];
const EXTERNAL_IPS: [&str; 5] = ["10.8.0.1", "10.9.0.1", "10.96.0.1", "fd08::1", "fd09::1"];
const LOAD_BALANCERS: [&str; 5] = ["10.9.0.1", "10.9.0.2", "10.96.0.1", "fd09::1", "fd09::2"];
/// The first and the third hold the nodes' first addresses.
const RANGES: [&str; 6] =
    ["10.0.0.0/30", "10.9.0.2/32", "fd00::/126", "172.16.0.0/30", "172.16.0.1/32", "fd17::/127"];
/// Addresses inside and outside of those ranges, on their edges, and of load balancers.
pub(super) const CLIENTS: [&str; 16] = [
    "10.0.0.0",
    "10.0.0.3",
    "10.0.0.4",
    "10.8.0.1",
    "10.9.0.1",
    "10.9.0.2",
    "172.16.0.0",
    "172.16.0.3",
    "172.16.0.4",
    "fd00::",
    "fd00::3",
    "fd00::4",
    "fd09::1",
    "fd09::2",
    "fd17::1",
    "fd17::2",
];

/// A Service of one of the [`SERVICES`].
pub(super) fn some_service() -> impl Strategy<Value = Service> {
    let identity = (select(&SERVICES[..]), some_date(), some_addresses(), some_ports());
    let rest = (some_policy(), some_policy(), 0_u32..3, prop::option::weighted(0.6, some_external()));
    (identity, rest).prop_map(
        |((name, created, addresses, ports), (internal, outside, affinity, external))| {
            let mut external = external;
            if let Some(external) = external.as_mut().filter(|_| outside == Policy::Cluster) {
                external.health_check_port = None;
            }
            Service {
                name: ServiceName::new("default", name),
                created,
                addresses,
                ports,
                internal_policy: internal,
                external_policy: outside,
                affinity: NonZeroU32::new(affinity * 5),
                external: external.map(Box::new),
            }
        },
    )
}

fn some_date() -> impl Strategy<Value = Option<i64>> {
    select(&[None, Some(1), Some(2)][..])
}

fn some_policy() -> impl Strategy<Value = Policy> {
    select(&[Policy::Cluster, Policy::Local][..])
}

fn some_addresses() -> impl Strategy<Value = Box<[IpAddr]>> {
    (select(&CLUSTER_IPS[..]), 0_u8..4).prop_map(|((v4, v6), families)| match families {
        0 => ips(&[v4]),
        1 => ips(&[v6]),
        2 => ips(&[v4, v6]),
        _ => ips(&[v6, v4]),
    })
}

fn some_ports() -> impl Strategy<Value = Box<[ServicePort]>> {
    (subsequence(&PORTS[..], 1..4), any::<u8>()).prop_map(|(ports, with_node_port)| {
        let port = |(at, (name, protocol, port)): (usize, Port)| ServicePort {
            name: name.into(),
            protocol,
            port: number(port),
            node_port: NonZeroU16::new(30_000 + port).filter(|_| with_node_port >> at & 0b1001 == 0b1001),
        };
        ports.into_iter().enumerate().map(port).collect()
    })
}

fn some_external() -> impl Strategy<Value = External> {
    let addresses = (
        subsequence(&EXTERNAL_IPS[..], 0..3),
        subsequence(&LOAD_BALANCERS[..], 0..4),
        subsequence(&LOAD_BALANCERS[..], 0..2),
    );
    let ranges = (subsequence(&RANGES[..], 0..4), select(&["", "", "", "", "0.0.0.0/0", "::/0"][..]));
    (addresses, ranges, any::<bool>()).prop_map(
        |((external_ips, load_balancer, proxied), (ranges, zero), health)| {
            let all = ranges.iter().chain([&zero]).filter(|range| !range.is_empty());
            let mut source_ranges: Vec<_> = all.map(|range| range.parse().unwrap()).collect();
            source_ranges.sort_unstable();
            External {
                external_ips: ips(&external_ips),
                load_balancer: ips(&load_balancer),
                proxied: ips(&proxied),
                source_ranges: source_ranges.into(),
                health_check_port: NonZeroU16::new(32_000).filter(|_| health),
            }
        },
    )
}

/// Up to four slices, each of one of the [`SERVICES`].
pub(super) fn some_slice() -> impl Strategy<Value = Slice> {
    let name = (select(&SLICES[..]), select(&SERVICES[..]));
    let ports = (subsequence(&PORTS[..], 1..5), vec(select(&PORTS[..]), 0..2), any::<u8>());
    (name, ports, some_family(), some_endpoints()).prop_map(|((name, service), ports, family, endpoints)| {
        Slice {
            name: name.into(),
            service: ServiceName::new("default", service),
            ports: slice_ports(ports).into(),
            endpoints: endpoints.iter().map(|one| one.of_family(family)).collect(),
            triggered: None,
        }
    })
}

/// Some ports, and perhaps one of them at another number too.
fn slice_ports((first, second, numbers): (Vec<Port>, Vec<Port>, u8)) -> Box<[SlicePort]> {
    let port = |(at, (name, protocol, port)): (usize, Port)| SlicePort {
        name: name.into(),
        protocol,
        port: number(8000 + port + u16::from(numbers >> at & 1)),
    };
    first.into_iter().chain(second).enumerate().map(port).collect()
}

/// Slices of different names that belong to a Service, nearly all of them.
pub(super) fn slices_of(service: &'static str) -> impl Strategy<Value = Vec<Slice>> {
    let own = prop::bool::weighted(0.9);
    vec((some_slice(), own), 0..SLICES.len()).prop_map(move |slices| {
        let named = slices.into_iter().zip(SLICES).map(|((slice, own), name)| {
            let service = if own { ServiceName::new("default", service) } else { slice.service };
            Slice { name: name.into(), service, ..slice }
        });
        named.collect()
    })
}

fn some_family() -> impl Strategy<Value = Family> {
    select(&[Family::V4, Family::V4, Family::V6][..])
}

/// An endpoint before its family is known.
#[derive(Clone, Debug)]
struct Draft {
    number: u8,
    conditions: u8,
    node: Option<&'static str>,
    zone_hints: Vec<&'static str>,
    node_hints: Vec<&'static str>,
}

impl Draft {
    fn of_family(&self, family: Family) -> Endpoint {
        let Self { number, conditions, node, zone_hints, node_hints } = self;
        let address = match family {
            Family::V4 => IpAddr::from([10, 1, 0, *number]),
            Family::V6 => IpAddr::from([0xfd01, 0, 0, 0, 0, 0, 0, u16::from(*number)]),
        };
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        let hints = Hints { zones: names(zone_hints), nodes: names(node_hints) };
        let conditions = Conditions::new(conditions & 1 != 0, conditions & 2 != 0, conditions & 4 != 0);
        let hints = (hints != Hints::default()).then_some(hints);
        Endpoint::new(address, conditions, Place { node: node.map(Arc::from), hints })
    }
}

/// All of them hinted, or some, or none; some ready, or none.
fn some_endpoints() -> impl Strategy<Value = Vec<Draft>> {
    let mode = || select(&[0_u8, 1, 2, 2, 2, 2][..]);
    let modes = (mode(), mode(), select(&[0b111_u8, 0b111, 0b110][..]));
    (modes, vec((some_draft(), any::<bool>(), any::<bool>()), 0..5)).prop_map(
        |((zones, nodes, mask), drafts)| {
            let finish = |(mut draft, zone, node): (Draft, bool, bool)| {
                if !is_hinted(zones, zone) {
                    draft.zone_hints.clear();
                }
                if !is_hinted(nodes, node) {
                    draft.node_hints.clear();
                }
                draft.conditions &= mask;
                draft
            };
            drafts.into_iter().map(finish).collect()
        },
    )
}

fn is_hinted(mode: u8, this_one: bool) -> bool {
    mode == 2 || (mode == 1 && this_one)
}

fn some_draft() -> impl Strategy<Value = Draft> {
    let node = select(&[None, Some("n1"), Some("n1"), Some("n2"), Some("")][..]);
    let hints = (subsequence(&["a", "b"][..], 1..3), subsequence(&["n1", "n2"][..], 1..3));
    let conditions = select(&[0_u8, 1, 2, 3, 3, 3, 4, 5, 6, 6, 7][..]);
    (1_u8..5, conditions, node, hints).prop_map(|(number, conditions, node, (zone_hints, node_hints))| {
        Draft { number, conditions, node, zone_hints, node_hints }
    })
}

/// One of the nodes, seen through some settings.
pub(super) fn some_context() -> impl Strategy<Value = Context> {
    let node = select(&["n1", "n1", "n1", "n2", "n3", ""][..]);
    let zone = select(&[None, Some("a"), Some("a"), Some("b"), Some("c"), Some("")][..]);
    let families = (some_family_context("10.0.0.1"), some_family_context("fd00::1"));
    (node, zone, any::<bool>(), any::<bool>(), families).prop_map(
        |(node, zone, masquerade_all, external_ips, (v4, v6))| Context {
            node: node.into(),
            zone: zone.map(Arc::from),
            masquerade_all,
            external_ips,
            v4,
            v6,
        },
    )
}

fn some_family_context(primary: &'static str) -> impl Strategy<Value = FamilyContext> {
    let elsewhere = if primary.contains(':') { "fd00::9" } else { "10.0.0.9" };
    (select(vec![None, Some(primary), Some(primary), Some(elsewhere)]), 0_u8..4).prop_map(
        |(primary, pods)| {
            let primary: Option<IpAddr> = primary.map(|address| address.parse().unwrap());
            let pods = match pods {
                0 => None,
                1 => Some(Pods::Interface("cni0".into())),
                2 => Some(Pods::InterfacePrefix("veth".into())),
                _ => primary.map(|address| Pods::Within(address.into())),
            };
            FamilyContext { pods, primary, node_ports: NodePorts::All }
        },
    )
}

fn ips(all: &[&str]) -> Box<[IpAddr]> {
    all.iter().map(|address| address.parse().unwrap()).collect()
}

fn number(port: u16) -> NonZeroU16 {
    NonZeroU16::new(port).unwrap()
}
