//! A ClusterIP answers.

use std::net::SocketAddr;

use lab::Protocol;
use lab::agent::Progress;

use crate::stage::{Stage, WEB4, WEB6, pods};

#[test]
fn a_service_answers_by_all_protocols_and_families_and_is_the_peer() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    for to in [WEB4, WEB6] {
        for protocol in Protocol::ALL {
            let answer = stage.client.call(protocol, to).unwrap();
            assert!(answer.ok, "{protocol:?} {to}: {answer:?}");
            assert_eq!((answer.name.as_str(), answer.peer), ("a", to.to_string()), "{protocol:?}");
            let client = if to.is_ipv4() { stage.client.at(0) } else { stage.client.at6(0) };
            let source: SocketAddr = answer.source.parse().unwrap();
            assert_eq!(source.ip(), client.ip(), "the server sees the client itself");
        }
    }
    daemon.no_errors().unwrap();
}

#[test]
fn an_ipv6_socket_reaches_an_ipv4_service_by_its_mapped_address() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    let to = SocketAddr::new("::ffff:10.96.0.10".parse().unwrap(), 80);
    for protocol in Protocol::ALL {
        let answer = stage.client.call(protocol, to).unwrap();
        assert!(answer.ok, "{protocol:?}: {answer:?}");
        assert_eq!(answer.peer, to.to_string(), "{protocol:?}");
    }
}

#[test]
fn a_process_of_the_node_itself_and_the_endpoint_itself_are_served() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    assert!(stage.node.call(Protocol::Tcp, WEB4).unwrap().ok);
    assert!(stage.node.call(Protocol::Udp, WEB6).unwrap().ok);
    assert_eq!(backend.pod.call(Protocol::Tcp, WEB4).unwrap().name, "a");
}

#[test]
fn other_addresses_are_left_alone_and_other_ports_refused() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, backend.pod.at(8080)).unwrap().ok);
    let other = stage.client.call(Protocol::Tcp, SocketAddr::new(WEB4.ip(), 81)).unwrap();
    assert!(!other.ok && other.error == "ECONNREFUSED", "{other:?}");
}

#[test]
fn without_the_floor_other_ports_are_left_alone() {
    let stage = Stage::of_ebpf();
    let backend = stage.backend("a");
    let _daemon = stage.node.daemon(stage.settings().with(&["--nftables=drain-only"])).unwrap();
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    let other = stage.client.call(Protocol::Tcp, SocketAddr::new(WEB4.ip(), 81)).unwrap();
    assert!(!other.ok && other.error != "ECONNREFUSED", "{other:?}");
}

/// Connections for the test of the spread.
const DRAWS: u32 = 3000;
/// Chi-square with three degrees of freedom exceeds this once in a million runs.
const BOUND: f64 = 30.66;

#[test]
fn the_choice_is_spread_evenly() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    for (protocol, to) in [(Protocol::Tcp, WEB4), (Protocol::Udp, WEB6)] {
        let mut counts = Progress::default();
        stage.client.calls(protocol, to, DRAWS).unwrap().iter().for_each(|answer| counts.count(answer));
        assert_eq!(counts.failed, 0, "{counts:?}");
        assert_eq!(counts.spread.len(), 4, "{counts:?}");
        let expected = f64::from(DRAWS) / 4.0;
        let chi: f64 =
            counts.spread.values().map(|count| (*count as f64 - expected).powi(2) / expected).sum();
        assert!(chi < BOUND, "chi-square {chi:.1} of {counts:?}");
    }
}
