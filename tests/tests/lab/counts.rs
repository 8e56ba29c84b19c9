//! How much Services and endpoints are used, as an operator is told: after each step the counts are those of the sockets that
//! there are.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::process::Process;
use lab::server::agent;
use lab::{Pod, http, wait};
use serde_json::{Value, json};

use crate::stage::{Stage, WEB4, pods};

const PATIENCE: Duration = Duration::from_secs(20);

/// A process that holds one socket.
struct Caller {
    process: Process,
    asked: usize,
}

impl Caller {
    fn open(pod: &Pod, kind: &str) -> Self {
        let mut command = pod.place().command(agent().expect("the agent is built"));
        command.arg("probe").stdin(Stdio::piped());
        let mut caller = Self { process: pod.place().start(command).expect("a process"), asked: 1 };
        caller.process.line(PATIENCE, |line| line == "ready").expect("a ready process");
        assert_eq!(caller.ask(&format!("open {kind}")), "ok");
        caller
    }

    fn connected(pod: &Pod, kind: &str, to: SocketAddr) -> Self {
        let mut caller = Self::open(pod, kind);
        assert_eq!(caller.ask(&format!("connect {to}")), "ok");
        caller
    }

    fn ask(&mut self, line: &str) -> String {
        self.process.tell(line).expect("it hears");
        let at = self.asked;
        self.asked += 1;
        self.process.out.wait(PATIENCE, |lines| lines.get(at).cloned()).expect("an answer")
    }
}

fn rows(stage: &Stage, verb: &str) -> Vec<Value> {
    let output = stage.node.sluice(&[verb, "-o", "json"]).expect("an answer");
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
    let ours = |row: &Value| row["name"] == "web" && row["family"] == "IPv4";
    rows.into_iter().filter(ours).collect()
}

/// Counts of one port of `web` over IPv4: connections, refused, open.
fn service(stage: &Stage, port: &str) -> [Value; 3] {
    let rows = rows(stage, "services");
    let row = rows.iter().find(|row| row["portName"] == port).expect("a port of web");
    ["connections", "refused", "open"].map(|field| row[field].clone())
}

fn open_by_state(stage: &Stage, state: &str) -> u64 {
    let rows = rows(stage, "backends");
    rows.iter()
        .filter(|row| row["state"] == state)
        .map(|row| row["open"].as_u64().expect("it is known"))
        .sum()
}

#[track_caller]
fn check(stage: &Stage, port: &str, [connections, refused, open]: [u64; 3]) {
    let expected = [json!(connections), json!(refused), json!(open)];
    wait::until("the counts", PATIENCE, || {
        let found = service(stage, port);
        ensure!(found == expected, "{port}: {found:?} in place of {expected:?}");
        Ok(())
    })
    .expect("they come to it");
}

/// The value of a metric for a port of `web`.
fn metric(stage: &Stage, name: &str, port: &str) -> Result<f64> {
    let reply = http::get(stage.node.netns(), ([127, 0, 0, 1], 10249).into(), "/metrics")?;
    let labels = format!("{{namespace=\"default\",service=\"web\",port=\"{port}\",layer=\"socket\"}} ");
    let value = reply.body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(&labels));
    Ok(value.map_or(Ok(-1.0), str::parse)?)
}

#[track_caller]
fn check_metrics(stage: &Stage, port: &str, expected: [f64; 3]) {
    let names = ["connections_total", "refused_total", "connections_open"];
    wait::until("the metrics", PATIENCE, || {
        let found: Vec<f64> = names
            .iter()
            .map(|name| metric(stage, &format!("sluice_service_{name}"), port))
            .collect::<Result<_>>()?;
        ensure!(found == expected, "{port}: {found:?} in place of {expected:?}");
        Ok(())
    })
    .expect("they come to it");
}

#[test]
fn connections_are_counted_from_connect_to_close_through_restart_and_growth() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b"]);
    let small = ["--slots-capacity", "64", "--services-capacity", "64"];
    let mut daemon = stage.node.daemon(stage.settings().with(&small)).unwrap();
    stage.web(&pods(&backends));
    check(&stage, "tcp", [0, 0, 0]);
    let mut callers: Vec<Caller> = (0..6).map(|_| Caller::connected(&stage.client, "tcp4", WEB4)).collect();
    check(&stage, "tcp", [6, 0, 6]);
    assert_eq!(open_by_state(&stage, "active"), 6);
    callers.truncate(4);
    check(&stage, "tcp", [6, 0, 4]);
    let top = stage.node.sluice(&["top", "-n1", "--interval=0.2", "-o", "json"]).unwrap();
    let page: Value = serde_json::from_slice(&top.stdout).unwrap();
    let [row] = &page["services"].as_array().unwrap()[..] else {
        panic!("one line, one service port: {page}")
    };
    let found = ["name", "portName", "family", "connections", "open", "draining", "newPerSecond"]
        .map(|field| row[field].clone());
    let expected = [json!("web"), json!("tcp"), json!("IPv4"), json!(6), json!(4), json!(0), json!(0.0)];
    assert_eq!(found, expected);
    check_metrics(&stage, "tcp", [6.0, 0.0, 4.0]);

    // Nobody sees the ends of sockets but the programs.
    daemon.kill9().unwrap();
    callers.truncate(3);
    callers.push(Caller::connected(&stage.client, "tcp4", WEB4));
    check(&stage, "tcp", [7, 0, 4]);
    daemon.restart().unwrap();
    check(&stage, "tcp", [7, 0, 4]);
    check_metrics(&stage, "tcp", [7.0, 0.0, 4.0]);

    stage.manifests.put("crowd.yaml", crate::grow::crowd(200)).unwrap();
    stage.node.wait_endpoints("default", "crowd", 200).unwrap();
    callers.push(Caller::connected(&stage.client, "tcp4", WEB4));
    callers.truncate(4);
    check(&stage, "tcp", [8, 0, 4]);
    check_metrics(&stage, "tcp", [8.0, 0.0, 4.0]);
    callers.clear();
    check(&stage, "tcp", [8, 0, 0]);
}

#[test]
fn an_endpoint_that_has_left_is_shown_until_its_last_socket_is_closed() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    let callers = [(); 2].map(|()| Caller::connected(&stage.client, "tcp4", WEB4));
    check(&stage, "tcp", [2, 0, 2]);
    stage.manifests.put("web.yaml", crate::stage::web(&[], &[])).unwrap();
    stage.node.wait_verdict("default", "web", "reject").unwrap();
    assert_eq!((open_by_state(&stage, "left"), open_by_state(&stage, "active")), (2, 0));
    let top = stage.node.sluice(&["top", "-n2", "--interval=0.2", "--sort=draining"]).unwrap();
    let text = String::from_utf8(top.stdout).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("default")).collect();
    assert!(
        lines.len() == 2 && lines.iter().all(|line| line.ends_with("2     2")),
        "open and draining: {text}"
    );
    let mut refused = Caller::open(&stage.client, "tcp4");
    assert_eq!(refused.ask(&format!("connect {WEB4}")), "ECONNREFUSED");
    check(&stage, "tcp", [2, 1, 2]);
    check_metrics(&stage, "tcp", [2.0, 1.0, 2.0]);
    drop(callers);
    check(&stage, "tcp", [2, 1, 0]);
    assert_eq!(rows(&stage, "backends"), [] as [Value; 0]);
}

#[test]
fn a_datagram_socket_counts_for_whom_it_sends_to_and_is_connected_to() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    let mut caller = Caller::open(&stage.client, "udp4");
    for _ in 0..3 {
        assert_eq!(caller.ask(&format!("send {WEB4}")), "ok");
    }
    check(&stage, "udp", [1, 0, 1]);
    let mut other = Caller::connected(&stage.client, "udp4", WEB4);
    check(&stage, "udp", [2, 0, 2]);
    let elsewhere = backends[0].pod.at(9);
    assert_eq!(other.ask(&format!("connect {elsewhere}")), "ok");
    check(&stage, "udp", [2, 0, 1]);
    drop(caller);
    check(&stage, "udp", [2, 0, 0]);
}
