//! Roads of the edge layer: questions that come by one device while answers leave by another, and roads that change under
//! load.

use lab::Protocol;
use lab::link::{End, batch, cable};
use lab::manifest::State;
use lab::{Node, Pod};
use serde_json::json;

use crate::town::{FAMILIES, Town, count, edge, node_port, own, seen};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

impl Town {
    /// A second cable from the first node to the wire, by which it reaches the one who asks.
    fn lay_side(&self) {
        let wire = self.stage.lab.wire().netns();
        let node = self.node.netns();
        cable(&End { netns: wire, name: "s1" }, &End { netns: node, name: "side" }).unwrap();
        batch(wire, "addr add fe80::1/64 dev s1 nodad\n").unwrap();
        let (v4, v6) = (self.asker.v4(), self.asker.v6());
        let (own4, own6) = (self.node.v4(), self.node.v6());
        let ways = format!(
            "route add {v4} via 10.0.0.254 dev side onlink src {own4}\nroute add {v6} via fe80::1 dev side src {own6}\n"
        );
        batch(node, &ways).unwrap();
    }

    /// `web` with this policy and one endpoint, once that is in force.
    fn only(&self, pod: &Pod, policy: &str) {
        self.put(&[(pod, State::Ready)], |service| service["spec"]["externalTrafficPolicy"] = json!(policy));
        self.wait(&self.node, 1);
    }
}

/// Packets that a device of a node has sent.
fn sent(node: &Node, device: &str) -> u64 {
    let table = node.netns().run(|| Ok(std::fs::read_to_string("/proc/thread-self/net/dev")?)).unwrap();
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{device}:")));
    let words = line.unwrap_or_else(|| panic!("no {device} in {table}")).split_whitespace();
    words.map(|word| word.parse().unwrap()).nth(9).unwrap()
}

#[test]
fn answers_that_leave_by_another_device_of_the_layer_are_translated_there() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire,side"]);
    for (pod, source) in [(&town.here, &town.asker), (&town.there, &town.node)] {
        town.only(pod, "Cluster");
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            let to = node_port(&town.node, v6);
            let before = (count(&town.node, "opened"), sent(&town.node, "side"));
            let answer = town.asker.call(protocol, to).unwrap();
            assert_eq!(seen(&answer), (pod.name().to_owned(), own(source, v6)), "{protocol:?}");
            assert_eq!(answer.peer, to.to_string());
            assert_eq!(count(&town.node, "opened") - before.0, 1, "{}", edge(&town.node));
            assert!(sent(&town.node, "side") > before.1, "the answer took the other way");
        }
    }
    daemon.no_errors().unwrap();
}

/// Where no program sees the answers, nobody would translate them.
#[test]
fn flows_whose_answers_would_leave_by_a_device_of_others_are_left_and_served() {
    let town = Town::new();
    town.lay_side();
    let daemon = town.daemon(&town.node, &["--devices=wire"]);
    // nftables masquerades under the one policy.
    for (policy, source) in [("Local", &town.asker), ("Cluster", &town.node)] {
        town.only(&town.here, policy);
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            let to = node_port(&town.node, v6);
            let before = count(&town.node, "left");
            let answer = town.asker.call(protocol, to).unwrap();
            assert_eq!(
                seen(&answer),
                ("here".to_owned(), own(source, v6)),
                "{policy} {protocol:?} {}",
                edge(&town.node)
            );
            assert_eq!(answer.peer, to.to_string());
            assert!(count(&town.node, "left") > before, "{}", edge(&town.node));
        }
    }
    assert_eq!(count(&town.node, "opened"), 0, "{}", edge(&town.node));
    daemon.no_errors().unwrap();
}
