//! The daemon ends, by whatever way, and starts again; traffic does not notice.

use lab::daemon::{BackendRow, ServiceRow};
use lab::{Daemon, Load, Pace, Protocol};

use crate::stage::{Stage, WEB4, WEB6, pods};

fn loads(stage: &Stage) -> Vec<Load> {
    let pace = Pace { rate: 300.0, ..Pace::default() };
    let cases = [(Protocol::Tcp, WEB4), (Protocol::Udp, WEB6)];
    cases.into_iter().map(|(protocol, to)| stage.client.load(protocol, to, pace).unwrap()).collect()
}

fn kernel(stage: &Stage) -> (Vec<ServiceRow>, Vec<BackendRow>) {
    (stage.node.services().unwrap(), stage.node.backends().unwrap())
}

fn check(end: impl Fn(&mut Daemon), times: u32) {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c"]);
    let mut daemon = stage.daemon();
    stage.web(&pods(&backends));
    let before = kernel(&stage);
    let loads = loads(&stage);
    for _ in 0..times {
        loads.iter().for_each(|load| drop(load.more(30).unwrap()));
        end(&mut daemon);
        assert_eq!(kernel(&stage), before, "what is in the kernel stays without a daemon");
        loads.iter().for_each(|load| drop(load.more(30).unwrap()));
        daemon.restart().unwrap();
        assert_eq!(kernel(&stage), before, "the next daemon adopts it: same ids, same generations");
        daemon.no_errors().unwrap();
    }
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
}

#[test]
fn kill_9_and_restart_under_load_lose_nothing() {
    check(|daemon| daemon.kill9().unwrap(), 3);
}

#[test]
fn sigterm_leaves_traffic_working() {
    let end = |daemon: &mut Daemon| {
        let status = daemon.terminate().unwrap();
        assert!(status.success(), "{status}");
    };
    check(end, 1);
}

#[test]
fn changes_made_while_no_daemon_ran_are_caught_up() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let mut daemon = stage.daemon();
    stage.web(&pods(&backends));
    daemon.kill9().unwrap();
    let text = crate::stage::web(&[&backends[1].pod], &[]);
    stage.manifests.put("web.yaml", text).unwrap();
    daemon.restart().unwrap();
    stage.node.wait_endpoints("default", "web", 4).unwrap();
    let answers = stage.client.calls(Protocol::Tcp, WEB4, 20).unwrap();
    assert!(answers.iter().all(|answer| answer.name == "b"), "{answers:?}");
}

/// A crash may come anywhere in a change.
#[test]
fn kill_9_in_the_middle_of_changes_leaves_no_half_list() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c"]);
    let all = pods(&backends);
    let mut daemon = stage.daemon();
    stage.web(&all);
    let loads = loads(&stage);
    for round in 0..6 {
        for ready in [&all[..1], &all[1..], &all[..]] {
            stage.manifests.put("web.yaml", crate::stage::web(ready, &[])).unwrap();
        }
        loads[0].more(1 + round).unwrap();
        daemon.kill9().unwrap();
        daemon.restart().unwrap();
        stage.web(&all);
    }
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
}

#[test]
fn status_says_whether_a_daemon_runs() {
    let stage = Stage::of_ebpf();
    let mut daemon = stage.daemon();
    stage.web(&[]);
    let status = stage.node.status().unwrap();
    assert_eq!(status["daemon"]["running"], true);
    assert_eq!(status["daemon"]["synced"], true);
    assert_eq!(status["daemon"]["pid"], daemon.pid());
    let hooks = status["kernel"]["hooks"].as_array().unwrap();
    assert_eq!(hooks.iter().filter(|hook| hook["attached"] == true).count(), 9, "{hooks:?}");
    daemon.kill9().unwrap();
    let output = stage.node.sluice(&["status", "-o", "json"]).unwrap();
    assert_eq!(output.status.code(), Some(3));
    let status = stage.node.status().unwrap();
    assert_ne!(status["daemon"]["running"], true);
    let hooks = status["kernel"]["hooks"].as_array().unwrap();
    assert_eq!(hooks.iter().filter(|hook| hook["attached"] == true).count(), 9, "{hooks:?}");
}
