//! Every address of a service from outside: balancers', external ones and nodes', who is let in, and who comes back to whom.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use lab::Protocol;
use lab::link::batch;
use lab::manifest::State;
use serde_json::{Value, json};

use crate::town::{FAMILIES, SILENCE, Town, count, edge, node_port, own, seen, wait_seen};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
/// Addresses of a load balancer, and external ones.
const BALANCED: [&str; 2] = ["203.0.113.9", "2001:db8::9"];
const EXTERNAL: [&str; 2] = ["203.0.113.7", "2001:db8::7"];

impl Town {
    /// The wire leads to the first node what is for these addresses.
    fn lead(&self, addresses: &[&str]) {
        let (v4, v6) = (self.node.v4(), self.node.v6());
        let way = |address: &&str| {
            let via = if address.contains(':') { v6.to_string() } else { v4.to_string() };
            format!("route add {address} via {via} dev n1\n")
        };
        batch(self.stage.lab.wire().netns(), &addresses.iter().map(way).collect::<String>()).unwrap();
    }

    /// All addresses of `web`, of one family.
    fn addresses(&self, v6: bool) -> [SocketAddr; 3] {
        let at = |addresses: [&str; 2]| SocketAddr::new(addresses[usize::from(v6)].parse().unwrap(), 80);
        [at(BALANCED), at(EXTERNAL), node_port(&self.node, v6)]
    }
}

/// A load balancer's service with external addresses.
fn balanced(service: &mut Value) {
    service["spec"]["type"] = json!("LoadBalancer");
    service["spec"]["externalIPs"] = json!(EXTERNAL);
    service["status"]["loadBalancer"]["ingress"] = BALANCED.map(|ip| json!({ "ip": ip })).into();
}

#[test]
fn balancers_and_external_addresses_are_served_like_the_nodes_own() {
    let town = Town::new();
    town.lead(&[BALANCED, EXTERNAL].concat());
    let daemon = town.daemon(&town.node, &[]);
    for (pod, source) in [(&town.here, &town.asker), (&town.there, &town.node)] {
        town.put(&[(pod, State::Ready)], balanced);
        town.wait(&town.node, 1);
        for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
            for to in town.addresses(v6) {
                wait_seen(&town.asker, protocol, to, (pod.name(), own(source, v6)));
                let before = count(&town.node, "opened");
                let answer = town.asker.call(protocol, to).unwrap();
                assert_eq!(seen(&answer), (pod.name().to_owned(), own(source, v6)), "{protocol:?} {to}");
                assert_eq!(answer.peer, to.to_string());
                assert_eq!(count(&town.node, "opened") - before, 1, "{to}: {}", edge(&town.node));
            }
        }
    }
    daemon.no_errors().unwrap();
}

#[test]
fn a_client_with_affinity_has_one_endpoint_by_all_addresses_of_a_service_port() {
    let town = Town::new();
    town.lead(&[BALANCED, EXTERNAL].concat());
    let more = town.stage.backends(&["a", "b"]);
    let mut daemon = town.daemon(&town.node, &[]);
    let endpoints = [&town.here, &town.there, &more[0].pod, &more[1].pod].map(|pod| (pod, State::Ready));
    let names = |v6, protocol| -> BTreeSet<String> {
        let asked = town.addresses(v6).into_iter().flat_map(|to| (0..4).map(move |_| to));
        asked.map(|to| seen(&town.asker.call(protocol, to).unwrap()).0).collect()
    };
    town.put(&endpoints, balanced);
    town.wait(&town.node, 4);
    assert!(names(false, Protocol::Tcp).len() > 1, "without it they are spread");
    town.put(&endpoints, |service| {
        balanced(service);
        service["spec"]["sessionAffinity"] = json!("ClientIP");
        service["spec"]["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 60 } });
    });
    town.node.wait_affinity("default", "web", Some(60)).unwrap();
    let all = || FAMILIES.map(|v6| BOTH.map(|protocol| names(v6, protocol)));
    let before = all();
    assert!(before.as_flattened().iter().all(|names| names.len() == 1), "{before:?}");
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    assert_eq!(all(), before, "the next daemon knows it, too");
    daemon.no_errors().unwrap();
}

#[test]
fn who_is_not_let_in_by_a_balancers_address_is_dropped_and_counted() {
    let town = Town::new();
    town.lead(&BALANCED);
    let stranger = town.asker.pod("stranger").unwrap();
    let daemon = town.daemon(&town.node, &[]);
    let ranges = FAMILIES.map(|v6| format!("{}/{}", own(&town.asker, v6), if v6 { 128 } else { 32 }));
    town.put(&[(&town.here, State::Ready)], |service| {
        balanced(service);
        service["spec"]["loadBalancerSourceRanges"] = json!(ranges);
    });
    town.wait(&town.node, 1);
    for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
        let [balanced, _, node] = town.addresses(v6);
        wait_seen(&town.asker, protocol, balanced, ("here", own(&town.asker, v6)));
        let before = count(&town.node, "sourceRefused");
        let answer = stranger.call_within(protocol, balanced, SILENCE).unwrap();
        assert_eq!(answer.error, "timeout", "{protocol:?} {balanced}");
        assert!(count(&town.node, "sourceRefused") > before, "{}", edge(&town.node));
        assert!(stranger.call(protocol, node).unwrap().ok, "the node's port is open to all");
    }
    daemon.no_errors().unwrap();
}

#[test]
fn a_pod_elsewhere_that_is_its_own_endpoint_hears_from_itself_by_way_of_the_node() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &[]);
    town.web(&[&town.there]);
    for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
        let (to, before) = (node_port(&town.node, v6), count(&town.node, "opened"));
        let answer = town.there.call(protocol, to).unwrap();
        assert_eq!(seen(&answer), ("there".to_owned(), own(&town.node, v6)), "{protocol:?}");
        assert_eq!(answer.peer, to.to_string());
        assert_eq!(count(&town.node, "opened") - before, 1, "{}", edge(&town.node));
    }
    daemon.no_errors().unwrap();
}

/// The node has another address, which is not among those that answer at node ports.
#[test]
fn node_ports_answer_at_the_addresses_that_were_named_and_at_no_others() {
    let town = Town::new();
    town.lead(&["192.0.2.1", "2001:db8::1"]);
    batch(town.node.netns(), "addr add 192.0.2.1/32 dev wire\naddr add 2001:db8::1/128 dev wire nodad\n")
        .unwrap();
    let named = format!("--nodeport-addresses={}/32,{}/128", town.node.v4(), town.node.v6());
    let daemon = town.daemon(&town.node, &[&named]);
    town.web(&[&town.here]);
    for (v6, other) in FAMILIES.into_iter().zip(["192.0.2.1:30080", "[2001:db8::1]:30080"]) {
        for protocol in BOTH {
            wait_seen(&town.asker, protocol, node_port(&town.node, v6), ("here", own(&town.asker, v6)));
        }
        let before = count(&town.node, "opened");
        let answer = town.asker.call(Protocol::Tcp, other.parse().unwrap()).unwrap();
        assert_eq!(answer.error, "ECONNREFUSED", "{other}");
        let answer = town.asker.call(Protocol::UdpConnected, other.parse().unwrap()).unwrap();
        assert_eq!(answer.error, "ECONNREFUSED", "{other}");
        assert_eq!(count(&town.node, "opened"), before, "{}", edge(&town.node));
    }
    daemon.no_errors().unwrap();
}
