//! Which of the node's addresses accept NodePorts, and how pods are told from others.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::desired::{Context, Detector, NodePortAddress, Pods, Settings};
use crate::model::{Family, Node};

const RANGES: [&str; 7] =
    ["10.0.0.0/24", "10.0.0.1/32", "127.0.0.0/8", "0.0.0.0/0", "fd00::/126", "::1/128", "::/0"];
const OWN: [&str; 5] = ["10.0.0.1", "10.0.0.2", "192.0.2.1", "fd00::1", "fd00::2"];
const PROBES: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", "10.0.1.1", "192.0.2.1", "127.0.0.1", "fd00::1", "fd00::5", "::1"];

proptest! {
    #[test]
    fn node_ports_are_served_where_the_list_says(settings in some_settings(), node in maybe_a_node()) {
        let context = Context::of(&settings, &"n1".into(), node.as_ref());
        for probe in PROBES.map(|address| address.parse::<IpAddr>().unwrap()) {
            let found = context.family(Family::of(probe)).node_ports.accepts(probe);
            prop_assert_eq!(found, accepts(&settings, node.as_ref(), probe), "{}", probe);
        }
    }

    #[test]
    fn pods_are_told_as_the_detector_says(settings in some_settings(), node in maybe_a_node()) {
        let context = Context::of(&settings, &"n1".into(), node.as_ref());
        for family in [Family::V4, Family::V6] {
            prop_assert_eq!(&context.family(family).pods, &pods(&settings, node.as_ref(), family));
            prop_assert_eq!(context.family(family).primary, primary(&settings, node.as_ref(), family));
        }
    }
}

/// Loopback never; else everywhere if the list has nothing for the family, or everything.
fn accepts(settings: &Settings, node: Option<&Node>, address: IpAddr) -> bool {
    let family = Family::of(address);
    let ranges: Vec<IpNet> = settings
        .node_port_addresses
        .iter()
        .flat_map(|entry| ranges(*entry, primary(settings, node, family)))
        .filter(|range| Family::of(range.addr()) == family)
        .collect();
    let everywhere = ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0);
    !address.is_loopback() && (everywhere || ranges.iter().any(|range| range.contains(&address)))
}

/// In both families.
fn ranges(entry: NodePortAddress, primary: Option<IpAddr>) -> Vec<IpNet> {
    let all = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap()).to_vec();
    match entry {
        NodePortAddress::Primary => {
            primary.into_iter().filter(|own| !own.is_loopback()).map(IpNet::from).collect()
        }
        NodePortAddress::Localhost => all(["127.0.0.0/8", "::1/128"]),
        NodePortAddress::All => all(["0.0.0.0/0", "::/0"]),
        NodePortAddress::Cidr(range) => vec![range],
    }
}

/// A stated address goes before the node's own.
fn primary(settings: &Settings, node: Option<&Node>, family: Family) -> Option<IpAddr> {
    let own = node.map(|node| node.addresses.to_vec()).unwrap_or_default();
    settings.bind_address.into_iter().chain(own).find(|address| Family::of(*address) == family)
}

fn pods(settings: &Settings, node: Option<&Node>, family: Family) -> Option<Pods> {
    match &settings.detector {
        Detector::ClusterCidr { v4, v6 } => {
            let both = [v4.map(IpNet::from), v6.map(IpNet::from)];
            first_of_family(&both.into_iter().flatten().collect::<Vec<_>>(), family)
        }
        Detector::NodeCidr => first_of_family(node.map_or(&[], |node| &node.pod_cidrs), family),
        Detector::BridgeInterface(name) => Some(Pods::Interface(name.clone())),
        Detector::InterfaceNamePrefix(prefix) => Some(Pods::InterfacePrefix(prefix.clone())),
    }
}

fn first_of_family(ranges: &[IpNet], family: Family) -> Option<Pods> {
    ranges.iter().find(|range| Family::of(range.addr()) == family).map(|range| Pods::Within(*range))
}

fn some_settings() -> impl Strategy<Value = Settings> {
    let bind = select(&[None, None, Some("10.0.0.2"), Some("fd00::2")][..]);
    (some_detector(), vec(some_entry(), 0..4), bind, any::<bool>()).prop_map(
        |(detector, node_port_addresses, bind, external_ips)| Settings {
            detector,
            masquerade_all: false,
            node_port_addresses,
            external_ips,
            bind_address: bind.map(|address| address.parse().unwrap()),
        },
    )
}

fn some_entry() -> impl Strategy<Value = NodePortAddress> {
    prop_oneof![
        2 => Just(NodePortAddress::Primary),
        1 => Just(NodePortAddress::Localhost),
        1 => Just(NodePortAddress::All),
        6 => select(&RANGES[..]).prop_map(|range| NodePortAddress::Cidr(range.parse().unwrap())),
    ]
}

fn some_detector() -> impl Strategy<Value = Detector> {
    let name = || Arc::<str>::from("cni0");
    (0_u8..4, any::<bool>(), any::<bool>()).prop_map(move |(mode, v4, v6)| match mode {
        0 => Detector::ClusterCidr {
            v4: v4.then(|| "10.1.0.0/16".parse().unwrap()),
            v6: v6.then(|| "fd01::/16".parse().unwrap()),
        },
        1 => Detector::BridgeInterface(name()),
        2 => Detector::InterfaceNamePrefix(name()),
        _ => Detector::NodeCidr,
    })
}

fn maybe_a_node() -> impl Strategy<Value = Option<Node>> {
    proptest::option::of(some_node())
}

fn some_node() -> impl Strategy<Value = Node> {
    let cidrs = subsequence(&["10.1.0.0/24", "fd01::/64", "10.2.0.0/24", "fd02::/64"][..], 0..4);
    (subsequence(&OWN[..], 0..4).prop_shuffle(), cidrs.prop_shuffle()).prop_map(|(addresses, cidrs)| Node {
        name: "n1".into(),
        zone: None,
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        pod_cidrs: cidrs.iter().map(|range| range.parse().unwrap()).collect(),
        leaving: false,
    })
}
