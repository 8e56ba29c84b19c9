//! Datagrams: a socket keeps its server.

use lab::{Pace, Protocol, wait};

use crate::stage::{Stage, WEB4, WEB6, names, pods};

#[test]
fn a_socket_that_is_not_connected_keeps_its_endpoint() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    for to in [WEB4, WEB6] {
        let answers = stage.client.talk(Protocol::Udp, to, 100).unwrap();
        assert_eq!(names(&answers).len(), 1, "one endpoint for one socket");
        assert!(answers.iter().all(|answer| answer.peer == to.to_string()));
    }
    let answers = stage.client.calls(Protocol::Udp, WEB4, 100).unwrap();
    assert_eq!(names(&answers).len(), 4, "new sockets spread");
}

#[test]
fn it_stays_while_endpoints_come_and_while_its_own_drains_and_moves_when_that_goes() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let (a, b) = (&backends[0].pod, &backends[1].pod);
    let _daemon = stage.daemon();
    stage.web(&[a]);
    let pace = Pace { keep: true, workers: 1, ..Pace::default() };
    let load = stage.client.load(Protocol::Udp, WEB4, pace).unwrap();
    load.more(20).unwrap();
    stage.web(&[a, b]);
    load.more(50).unwrap();
    stage.web_with(&[b], &[a]);
    let before = load.more(50).unwrap();
    assert_eq!(before.spread.keys().collect::<Vec<_>>(), ["a"], "a serves, so the socket stays");
    stage.web(&[b]);
    wait::until("the socket to move", std::time::Duration::from_secs(10), || {
        anyhow::ensure!(load.progress().spread.contains_key("b"), "{:?}", load.progress());
        Ok(())
    })
    .unwrap();
    let moved = load.progress().spread["a"];
    load.more(50).unwrap();
    let end = load.stop().unwrap();
    assert_eq!((end.failed, end.spread["a"]), (0, moved), "{end:?}");
}

#[test]
fn without_an_endpoint_a_datagram_is_refused_at_the_call() {
    let stage = Stage::of_ebpf();
    let _daemon = stage.daemon();
    stage.web(&[]);
    for to in [WEB4, WEB6] {
        for protocol in [Protocol::Udp, Protocol::UdpConnected] {
            let answer = stage.client.call(protocol, to).unwrap();
            assert_eq!(answer.error, "ECONNREFUSED", "{protocol:?} {to}");
            assert!(answer.micros < 500_000, "at once, not after {} µs", answer.micros);
        }
    }
}
