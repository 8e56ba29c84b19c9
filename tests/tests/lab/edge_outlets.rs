//! Endpoints on another node that are not reached by a device of the layer: over a second network, or through a tunnel.

use std::net::IpAddr;

use lab::link::{End, batch, cable};
use lab::manifest::State;
use lab::{Node, Protocol};

use crate::town::{FAMILIES, Town, count, edge, node_port, seen, wait_seen};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The other way between the two nodes: what the device is called, and the first node's addresses there.
struct Other {
    device: &'static str,
    own: [IpAddr; 2],
}

impl Town {
    /// How the first node reaches the other one's pods, and that one the addresses of the first, from now on.
    fn lead_over(&self, other: &Other, gates: [(IpAddr, &str); 2]) {
        let [own4, own6] = other.own;
        for ((gate, pods), own) in gates.into_iter().zip(other.own) {
            let device = other.device;
            batch(
                self.node.netns(),
                &format!("route replace {pods} via {gate} dev {device} onlink src {own}\n"),
            )
            .unwrap();
        }
        let back =
            format!("route replace {own4}/32 dev {0}\nroute replace {own6}/128 dev {0}\n", other.device);
        batch(self.distant.netns(), &back).unwrap();
    }
}

const PODS: [&str; 2] = ["10.1.2.0/24", "fd00:1:2::/64"];

/// A cable of their own between both nodes.
fn second_network(town: &Town) -> Other {
    let (node, distant) = (town.node.netns(), town.distant.netns());
    cable(&End { netns: node, name: "storage" }, &End { netns: distant, name: "storage" }).unwrap();
    batch(node, "addr add 172.31.0.1/30 dev storage\naddr add fd77::1/64 dev storage nodad\n").unwrap();
    batch(distant, "addr add 172.31.0.2/30 dev storage\naddr add fd77::2/64 dev storage nodad\n").unwrap();
    let other = Other { device: "storage", own: ["172.31.0.1", "fd77::1"].map(|text| text.parse().unwrap()) };
    let gates = ["172.31.0.2", "fd77::2"].map(|text| text.parse().unwrap());
    town.lead_over(&other, [(gates[0], PODS[0]), (gates[1], PODS[1])]);
    other
}

/// As network plugins lay it: VXLAN (RFC 7348), an address out of the node's range of pods, and neighbours that are written down.
fn tunnel(town: &Town) -> Other {
    const MACS: [&str; 2] = ["02:00:00:00:0f:01", "02:00:00:00:0f:02"];
    const OWN: [[&str; 2]; 2] = [["10.1.1.0", "fd00:1:1::f"], ["10.1.2.0", "fd00:1:2::f"]];
    let ends = [&town.node, &town.distant];
    for (at, node) in ends.into_iter().enumerate() {
        let other: &Node = ends[1 - at];
        let [mac, theirs] = [MACS[at], MACS[1 - at]];
        let [[own4, own6], [their4, their6]] = [OWN[at], OWN[1 - at]];
        let lines = format!(
            "link add vxlan.1 address {mac} type vxlan id 1 dstport 8472 local {} remote {} nolearning\n\
             link set vxlan.1 mtu 1450 up\naddr add {own4}/32 dev vxlan.1\naddr add {own6}/128 dev vxlan.1 nodad\n\
             neigh replace {their4} lladdr {theirs} dev vxlan.1 nud permanent\n\
             neigh replace {their6} lladdr {theirs} dev vxlan.1 nud permanent\n",
            node.v4(),
            other.v4()
        );
        batch(node.netns(), &lines).unwrap();
    }
    let other = Other { device: "vxlan.1", own: OWN[0].map(|text| text.parse().unwrap()) };
    let gates = OWN[1].map(|text| text.parse().unwrap());
    town.lead_over(&other, [(gates[0], PODS[0]), (gates[1], PODS[1])]);
    other
}

/// The endpoint sees the address that netfilter's masquerading would have given, whoever masquerades.
fn check(lay: impl Fn(&Town) -> Other, hook: &str) {
    let town = Town::new();
    let other = lay(&town);
    let endpoints = [(&town.there, State::Ready)];
    let calls = || FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol)));
    let mut off = town.daemon(&town.node, &["--edge=off"]);
    town.put(&endpoints, |_| {});
    for (v6, protocol) in calls() {
        let expected = ("there", other.own[usize::from(v6)]);
        // By nftables.
        wait_seen(&town.asker, protocol, node_port(&town.node, v6), expected);
    }
    off.no_errors().unwrap();
    off.terminate().unwrap();
    let daemon = town.daemon(&town.node, &[&format!("--edge={hook}"), "--devices=wire"]);
    town.wait(&town.node, 1);
    for (v6, protocol) in calls() {
        let before = count(&town.node, "opened");
        let answer = town.asker.call(protocol, node_port(&town.node, v6)).unwrap();
        let expected = ("there".to_owned(), other.own[usize::from(v6)]);
        assert_eq!(seen(&answer), expected, "{protocol:?} {}", edge(&town.node));
        assert_eq!(answer.peer, node_port(&town.node, v6).to_string());
        assert_eq!(count(&town.node, "opened") - before, 1, "{}", edge(&town.node));
    }
    let with = edge(&town.node)["endpointDevices"].clone();
    assert!(with.as_array().unwrap().iter().any(|name| name == other.device), "{with}");
    daemon.no_errors().unwrap();
}

#[test]
fn over_a_second_network_they_see_its_own_address_and_their_answers_are_taken_there() {
    check(second_network, "tcx");
}

#[test]
fn through_a_tunnel_they_see_its_own_address_and_their_answers_are_taken_there() {
    check(tunnel, "tcx");
}

#[test]
fn by_filters_it_is_the_same() {
    check(tunnel, "tc");
}

/// The device becomes one of the layer, and is none any more: its programs change, and no connection is lost.
#[test]
fn conversations_outlive_that_a_second_network_becomes_an_outside_device() {
    use lab::client::{Load, Pace};

    let town = Town::new();
    second_network(&town);
    let daemon = town.daemon(&town.node, &[]);
    town.put(&[(&town.there, State::Ready)], |_| {});
    town.wait(&town.node, 1);
    let pace = Pace { keep: true, workers: 2, rate: 100.0, ..Pace::default() };
    let start =
        |v6| Load::start(&town.asker.place(), Protocol::Tcp, node_port(&town.node, v6), pace).unwrap();
    let loads = FAMILIES.map(start);
    let more = || loads.iter().for_each(|load| drop(load.more(30).unwrap()));
    more();
    let devices = || -> Vec<String> {
        let edge = edge(&town.node);
        edge["devices"].as_array().unwrap().iter().map(|device| device["device"].to_string()).collect()
    };
    assert!(!devices().concat().contains("storage"), "{:?}", devices());
    batch(town.node.netns(), "route add default via 172.31.0.2 dev storage metric 900\n").unwrap();
    lab::wait::until("the device is one of the layer", crate::town::PATIENCE, || {
        anyhow::ensure!(devices().concat().contains("storage"), "{:?}", devices());
        Ok(())
    })
    .unwrap();
    more();
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
    assert!(count(&town.node, "opened") > 0);
    daemon.no_errors().unwrap();
}
