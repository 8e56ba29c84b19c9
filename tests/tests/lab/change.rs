//! Endpoints come and go.

use std::time::Duration;

use lab::{Load, Pace, Pod, Ports, Protocol};

use crate::stage::{PORT, Stage, WEB4, WEB6, pods};

/// One load for each way of asking.
fn loads(stage: &Stage) -> Vec<Load> {
    let pace = Pace { rate: 200.0, ..Pace::default() };
    let kept = Pace { keep: true, workers: 1, ..pace };
    let cases = [
        (Protocol::Tcp, WEB4, pace),
        (Protocol::Http, WEB6, pace),
        (Protocol::Udp, WEB4, kept),
        (Protocol::UdpConnected, WEB6, pace),
    ];
    cases.into_iter().map(|(protocol, to, pace)| stage.client.load(protocol, to, pace).unwrap()).collect()
}

fn more(loads: &[Load], requests: u64) {
    for load in loads {
        load.more(requests).unwrap();
    }
}

fn all_went_well(loads: Vec<Load>) {
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
        assert!(end.requests >= 100, "{end:?}");
    }
}

#[test]
fn endpoints_come_and_go_under_load_without_a_failure() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let all = pods(&backends);
    let daemon = stage.daemon();
    stage.web(&all[..1]);
    let loads = loads(&stage);
    more(&loads, 20);
    for ready in [&all[..2], &all[..4], &all[1..3], &all[3..], &all[..1], &all[..], &all[2..]] {
        stage.web(ready);
        more(&loads, 20);
    }
    all_went_well(loads);
    daemon.no_errors().unwrap();
}

#[test]
fn all_endpoints_are_rolled_under_load_without_a_failure() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    let ports = Ports { tcp: vec![PORT], udp: vec![PORT], grace: Duration::from_secs(1) };
    let start = |name: String| {
        let pod = stage.node.pod(&name).unwrap();
        let server = pod.serve_on(&ports).unwrap();
        (pod, server)
    };
    let mut serving: Vec<_> = (0..2).map(|number| start(format!("old-{number}"))).collect();
    stage.web(&serving.iter().map(|(pod, _)| pod).collect::<Vec<_>>());
    let loads = loads(&stage);
    more(&loads, 20);
    for number in 0..2 {
        serving.push(start(format!("new-{number}")));
        let (old, mut server) = serving.remove(0);
        let ready: Vec<&Pod> = serving.iter().map(|(pod, _)| pod).collect();
        stage.web_with(&ready, &[&old]);
        stage.web(&ready);
        // The rule of a good rollout: first out of the list, then a moment for calls in flight, then the signal.
        more(&loads, 20);
        server.terminate().unwrap();
        more(&loads, 20);
        server.ended(Duration::from_secs(10)).unwrap();
    }
    all_went_well(loads);
    daemon.no_errors().unwrap();
}

#[test]
fn a_connection_outlives_the_endpoints_place_in_the_list() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let _daemon = stage.daemon();
    stage.web(&[&backends[0].pod]);
    let pace = Pace { keep: true, workers: 1, ..Pace::default() };
    let load = stage.client.load(Protocol::Tcp, WEB4, pace).unwrap();
    load.more(20).unwrap();
    stage.web(&[&backends[1].pod]);
    load.more(50).unwrap();
    let end = load.stop().unwrap();
    assert_eq!((end.failed, end.spread.contains_key("b")), (0, false), "{end:?}");
    assert_eq!(stage.client.call(Protocol::Tcp, WEB4).unwrap().name, "b");
}

#[test]
fn without_an_endpoint_a_connection_is_refused_at_once() {
    let stage = Stage::of_ebpf();
    let _daemon = stage.daemon();
    stage.web(&[]);
    for to in [WEB4, WEB6] {
        let answer = stage.client.call(Protocol::Tcp, to).unwrap();
        assert_eq!(answer.error, "ECONNREFUSED", "{to}");
        assert!(answer.micros < 500_000, "at once, not after {} µs", answer.micros);
    }
}

#[test]
fn a_service_scales_to_zero_and_back() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    let call = || stage.client.call(Protocol::Tcp, WEB4).unwrap();
    stage.web(&[&backend.pod]);
    assert!(call().ok);
    stage.web(&[]);
    assert_eq!(call().error, "ECONNREFUSED");
    stage.web(&[&backend.pod]);
    assert!(call().ok);
    stage.manifests.remove("web.yaml").unwrap();
    stage.node.wait_gone("default", "web").unwrap();
    let gone = call();
    assert!(!gone.ok && gone.error != "ECONNREFUSED", "no longer ours: {gone:?}");
}

#[test]
fn endpoints_that_end_but_serve_are_used_when_nothing_else_is_left() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let (a, b) = (&backends[0].pod, &backends[1].pod);
    let _daemon = stage.daemon();
    stage.web_with(&[a], &[b]);
    let answers = stage.client.calls(Protocol::Tcp, WEB4, 40).unwrap();
    assert!(answers.iter().all(|answer| answer.name == "a"), "b ends: {answers:?}");
    stage.web_with(&[], &[b]);
    let answers = stage.client.calls(Protocol::Tcp, WEB6, 10).unwrap();
    assert!(answers.iter().all(|answer| answer.name == "b"), "nothing else is left: {answers:?}");
}
