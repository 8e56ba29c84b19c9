//! Two nodes, each with an edge layer of its own: a caller comes to either, and the endpoint is on the second.

use lab::manifest::State;
use lab::{Daemon, Protocol};
use serde_json::json;

use crate::town::{FAMILIES, SILENCE, Town, count, edge, node_port, own, seen, wait_seen};

const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// The second node alone has an endpoint, and its daemon knows that, too.
fn town(policy: &str) -> (Town, [Daemon; 2]) {
    let town = Town::new();
    let daemons = [town.daemon(&town.node, &[]), town.daemon(&town.distant, &[])];
    town.put(&[(&town.there, State::Ready)], |service| {
        service["spec"]["externalTrafficPolicy"] = json!(policy);
    });
    for node in [&town.node, &town.distant] {
        town.wait(node, 1);
    }
    for v6 in FAMILIES {
        let client = own(&town.asker, v6);
        wait_seen(&town.asker, Protocol::Tcp, node_port(&town.distant, v6), ("there", client));
    }
    (town, daemons)
}

#[test]
fn under_cluster_the_endpoint_sees_the_first_node_and_at_its_own_node_the_client() {
    let (town, daemons) = town("Cluster");
    for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
        for (node, source) in [(&town.node, &town.node), (&town.distant, &town.asker)] {
            let before = count(node, "opened");
            let answer = town.asker.call(protocol, node_port(node, v6)).unwrap();
            assert_eq!(
                seen(&answer),
                ("there".to_owned(), own(source, v6)),
                "{protocol:?} at {}",
                node.name()
            );
            assert_eq!(answer.peer, node_port(node, v6).to_string());
            assert_eq!(count(node, "opened") - before, 1, "{}", edge(node));
        }
    }
    daemons.iter().for_each(|daemon| daemon.no_errors().unwrap());
}

#[test]
fn under_local_the_first_node_drops_and_the_second_serves_with_the_clients_address() {
    let (town, daemons) = town("Local");
    for (v6, protocol) in FAMILIES.into_iter().flat_map(|v6| BOTH.map(|protocol| (v6, protocol))) {
        let before = count(&town.node, "noLocalEndpoint");
        let answer = town.asker.call_within(protocol, node_port(&town.node, v6), SILENCE).unwrap();
        assert_eq!(answer.error, "timeout", "{protocol:?}: {answer:?}");
        assert!(count(&town.node, "noLocalEndpoint") > before, "{}", edge(&town.node));
        let before = count(&town.distant, "opened");
        let answer = town.asker.call(protocol, node_port(&town.distant, v6)).unwrap();
        assert_eq!(seen(&answer), ("there".to_owned(), own(&town.asker, v6)), "{protocol:?}");
        assert_eq!(count(&town.distant, "opened") - before, 1, "{}", edge(&town.distant));
    }
    assert_eq!(count(&town.node, "opened"), 0, "{}", edge(&town.node));
    daemons.iter().for_each(|daemon| daemon.no_errors().unwrap());
}
