//! `sluice drain`: endpoints that left while somebody is connected to them, by each layer, until the end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::client::Pace;
use lab::http::get;
use lab::manifest::{Service, Slice, State, file};
use lab::{Node, Pod, Protocol, wait};
use serde_json::{Value, json};

use crate::edge_devices::{Gate, NODE_PORT};
use crate::nftables::PODS;
use crate::stage::{PORT, Stage, V4, V6, WEB4};

/// How long anything may take to be seen; the daemon counts every ten seconds.
const PATIENCE: Duration = Duration::from_secs(40);
/// It forgets after half a minute without flows.
const LONG: Duration = Duration::from_secs(100);
const METRICS: &str = "127.0.0.1:10249";
const TCP: &str = "default/web:tcp";
const UDP: &str = "default/web:udp";

/// What is said, the exit code, and the complaint.
fn drain(node: &Node, more: &[&str]) -> Result<(Value, Option<i32>, String)> {
    let output = node.sluice(&[&["drain", "-o", "json"], more].concat())?;
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((serde_json::from_slice(&output.stdout).unwrap_or_default(), output.status.code(), complaint))
}

/// The row of an endpoint, if there is one.
fn row_of(said: &Value, service: &str, endpoint: SocketAddr) -> Option<Value> {
    let rows = said["endpoints"].as_array()?;
    rows.iter().find(|row| row["service"] == service && row["endpoint"] == endpoint.to_string()).cloned()
}

/// Waits until an endpoint has a row of which this is true.
#[track_caller]
fn wait_row(
    node: &Node,
    service: &str,
    endpoint: SocketAddr,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Value {
    wait::until(&format!("{what} of {service} at {endpoint}"), PATIENCE, || {
        let (said, code, complaint) = drain(node, &[])?;
        ensure!(code == Some(0), "{complaint}");
        let row = row_of(&said, service, endpoint).with_context(|| format!("{said:#}"))?;
        ensure!(is_it(&row), "{row:#}");
        Ok(row)
    })
    .unwrap()
}

/// Waits until no layer has flows of an endpoint.
#[track_caller]
fn wait_end(node: &Node, service: &str, endpoint: SocketAddr) {
    wait::until(&format!("the end of {service} at {endpoint}"), PATIENCE, || {
        let said = drain(node, &[])?.0;
        let row = row_of(&said, service, endpoint);
        ensure!(row.is_none_or(|row| row["state"] != "draining"), "{said:#}");
        Ok(())
    })
    .unwrap();
}

fn has_one(layer: &'static str) -> impl Fn(&Value) -> bool {
    move |row| row["flows"][layer]["flows"] == 1
}

fn metric(node: &Node, sample: &str) -> Result<f64> {
    let text = get(node.netns(), METRICS.parse()?, "/metrics")?.body;
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("no {sample}"))?.parse()?)
}

#[track_caller]
fn wait_metric(node: &Node, sample: &str, expected: f64) {
    wait::until(&format!("{sample} {expected}"), LONG, || {
        let found = metric(node, sample)?;
        ensure!((found - expected).abs() < 0.5, "{found}");
        Ok(())
    })
    .unwrap();
}

/// Says something on a connection ten times a second.
struct Talk {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    fn on(stream: &TcpStream) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (own, mut stream) = (Arc::clone(&is_over), stream.try_clone().unwrap());
        let mut answers = BufReader::new(stream.try_clone().unwrap());
        let thread = thread::spawn(move || {
            while !own.load(Ordering::Relaxed) {
                stream.write_all(b"hello\n").unwrap();
                answers.read_line(&mut String::new()).unwrap();
                thread::sleep(Duration::from_millis(100));
            }
        });
        Self { is_over, thread: Some(thread) }
    }

    fn end(mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// `web` with node ports, an endpoint that takes new flows and one that ends.
fn put(gate: &Gate, ready: &Pod, draining: &Pod) {
    let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
    let mut service = plain.set("type", "NodePort").object();
    for port in 0..2 {
        service["spec"]["ports"][port]["nodePort"] = json!(NODE_PORT);
    }
    let slice = |empty: Slice, ip: &dyn Fn(&Pod) -> IpAddr| {
        let slice = empty.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
        let slice = slice.ready(ip(ready)).on(ready.node().name());
        slice.endpoint(ip(draining), State::Draining).on(draining.node().name()).object()
    };
    let v4 = slice(Slice::v4("web-4", "web"), &|pod| pod.v4().into());
    let v6 = slice(Slice::v6("web-6", "web"), &|pod| pod.v6().into());
    gate.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
}

/// Waits until the edge layer serves. Not by datagrams: their flows would stay for a while.
#[track_caller]
fn wait_source(gate: &Gate, to: SocketAddr) {
    wait::until("the edge layer", PATIENCE, || {
        let answer = gate.asker.call(Protocol::Tcp, to)?;
        ensure!(answer.source.starts_with(&format!("{}:", gate.asker.v4())), "{answer:?}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_connection_from_outside_is_counted_at_the_edge_until_it_ends() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let _daemon = gate.daemon(&["--edge=tcx", "--forwarding=redirect"]);
    gate.web(&[&gate.here]);
    let [to, _] = gate.node_ports();
    wait_source(&gate, to);
    let stream = gate.asker.netns().run(|| Ok(TcpStream::connect(to)?)).unwrap();
    assert_eq!(drain(node, &[]).unwrap().0["endpoints"], json!([]), "nobody has left");
    put(&gate, &gate.there, &gate.here);
    let here = gate.here.at(PORT);
    let row = wait_row(node, TCP, here, "a flow", has_one("edge"));
    assert_eq!((&row["why"], &row["state"]), (&json!("terminatingServing"), &json!("draining")), "{row:#}");
    assert!(row["agoSeconds"].as_u64().unwrap() < 60, "{row:#}");
    assert!(row["leftAt"].as_str().unwrap().ends_with('Z'), "{row:#}");
    assert_eq!(row["flows"]["edge"]["oldestSeconds"], Value::Null, "nobody knows: {row:#}");
    assert_eq!(row["flows"]["nftables"]["flows"], 0, "{row:#}");

    wait_row(node, TCP, here, "a still flow", |row| row["flows"]["edge"]["moving"] == 0);
    let talk = Talk::on(&stream);
    wait_row(node, TCP, here, "a flow that moves", |row| row["flows"]["edge"]["moving"] == 1);
    talk.end();
    let is_still = |row: &Value| row["flows"]["edge"]["idleSeconds"].as_u64() > Some(2);
    let row = wait_row(node, TCP, here, "a flow that is idle", is_still);
    assert_eq!(row["flows"]["edge"]["moving"], 0, "{row:#}");

    wait_metric(node, "sluice_draining_flows{layer=\"edge\"}", 1.0);
    wait_metric(node, "sluice_draining_endpoints", 1.0);
    let named = format!(
        "sluice_draining_endpoint_flows{{service=\"{TCP}\",protocol=\"TCP\",endpoint=\"{here}\",layer=\"edge\"}}"
    );
    wait_metric(node, &named, 1.0);
    assert_eq!(node.status().unwrap()["daemon"]["draining"], json!({ "endpoints": 1, "flows": 1 }));
    let (said, code, complaint) = drain(node, &["default/web", "--wait=1"]).unwrap();
    assert_eq!(code, Some(1), "{complaint}");
    assert!(complaint.contains("after 1 s one endpoint still drains"), "{complaint}");
    assert!(row_of(&said, TCP, here).is_some(), "who still drains is printed: {said:#}");

    drop(stream);
    let (_, code, complaint) = drain(node, &["default/web", "--wait=60"]).unwrap();
    assert_eq!(code, Some(0), "{complaint}");
    wait_end(node, TCP, here);
    // Two protocols, two families.
    wait_metric(node, "sluice_drained_endpoints_total", 4.0);
    wait_metric(node, "sluice_draining_endpoints", 0.0);
    assert_eq!(drain(node, &[]).unwrap().0["endpoints"], json!([]));
}

#[test]
fn what_the_edge_layer_sends_through_the_stack_is_counted_once() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let _daemon = gate.daemon(&["--edge=tcx", "--forwarding=stack"]);
    gate.web(&[&gate.here]);
    let [to, _] = gate.node_ports();
    wait_source(&gate, to);
    let stream = gate.asker.netns().run(|| Ok(TcpStream::connect(to)?)).unwrap();
    let direct = gate.here.at(PORT);
    put(&gate, &gate.there, &gate.here);
    let row = wait_row(node, TCP, direct, "a flow", has_one("edge"));
    assert_eq!(
        (&row["flows"]["direct"]["flows"], &row["flows"]["nftables"]["flows"]),
        (&json!(0), &json!(0))
    );
    // Whoever names the endpoint is seen, and is not of the Service.
    let named = gate.asker.netns().run(|| Ok(TcpStream::connect(direct)?)).unwrap();
    wait_row(node, TCP, direct, "a flow straight there", has_one("direct"));
    drop((stream, named));
}

#[test]
fn translated_flows_are_counted_in_conntrack_also_when_their_service_is_gone_and_the_daemon_is_another() {
    let stage = Stage::new();
    let (a, b) = (stage.backend("a"), stage.backend("b"));
    let node = &stage.node;
    let mut daemon = node.daemon(stage.settings().with(&["--dataplane=nftables", PODS])).unwrap();
    stage.web(&[&a.pod]);
    let stream = stage.client.netns().run(|| Ok(TcpStream::connect(WEB4)?)).unwrap();
    stage.web_with(&[&b.pod], &[&a.pod]);
    let at = a.pod.at(PORT);
    let row = wait_row(node, TCP, at, "a flow", has_one("nftables"));
    assert_eq!((&row["why"], &row["flows"]["direct"]["flows"]), (&json!("terminatingServing"), &json!(0)));
    assert!(row["flows"]["nftables"]["idleSeconds"].as_u64().unwrap() < 60, "{row:#}");
    assert_eq!(row["flows"]["socket"]["flows"], 0, "there is no socket layer: {row:#}");
    assert_eq!(row["flows"]["edge"]["flows"], 0, "nor an edge: {row:#}");
    let talk = Talk::on(&stream);
    wait_row(node, TCP, at, "a flow that moves", |row| row["flows"]["nftables"]["moving"] == 1);
    talk.end();
    wait_row(node, TCP, at, "a still flow", |row| row["flows"]["nftables"]["moving"] == 0);
    wait_metric(node, "sluice_draining_flows{layer=\"nftables\"}", 1.0);

    daemon.kill9().unwrap();
    let row = wait_row(node, TCP, at, "a flow without a daemon", has_one("nftables"));
    assert_eq!((&row["why"], &row["leftAt"]), (&Value::Null, &Value::Null), "{row:#}");
    assert_eq!(
        (&row["whyUnknown"], &row["leftUnknown"]),
        (&json!("no daemon answers"), &json!("no daemon answers"))
    );
    assert!(drain(node, &[]).unwrap().0["noDaemon"].as_str().unwrap().contains("has ended"));
    daemon.restart().unwrap();
    let row = wait_row(node, TCP, at, "a flow of before", |row| row["why"] == "terminatingServing");
    assert_eq!((&row["leftAt"], &row["leftUnknown"]), (&Value::Null, &json!("before this daemon began")));

    stage.manifests.remove("web.yaml").unwrap();
    let is_gone = |row: &Value| row["isNow"] == "serviceGone" && has_one("nftables")(row);
    wait_row(node, TCP, at, "a flow of a Service that is gone", is_gone);
    let (_, code, _) = drain(node, &["default/web", "--wait=1"]).unwrap();
    assert_eq!(code, Some(1));
    drop(stream);
    wait_end(node, TCP, at);
}

#[test]
fn datagrams_keep_an_endpoint_that_serves_and_none_that_has_gone() {
    let stage = Stage::new();
    let (a, b) = (stage.backend("a"), stage.backend("b"));
    let node = &stage.node;
    let _daemon = node.daemon(stage.settings().with(&["--dataplane=nftables", PODS])).unwrap();
    stage.web(&[&a.pod]);
    let socket = stage
        .client
        .netns()
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect(WEB4)?;
            socket.send(b"hello")?;
            socket.recv(&mut [0; 512])?;
            Ok(socket)
        })
        .unwrap();
    stage.web_with(&[&b.pod], &[&a.pod]);
    let row = wait_row(node, UDP, a.pod.at(PORT), "a flow", has_one("nftables"));
    assert_eq!(row["protocol"], "UDP", "{row:#}");
    stage.web(&[&b.pod]);
    // The daemon removes what would go on to nobody.
    wait_end(node, UDP, a.pod.at(PORT));
    drop(socket);
}

#[test]
fn a_connection_of_the_socket_layer_is_counted_at_the_socket_with_a_daemon_and_without() {
    let stage = Stage::of_ebpf();
    let (a, b) = (stage.backend("a"), stage.backend("b"));
    let node = &stage.node;
    let mut daemon = stage.daemon();
    stage.web(&[&a.pod]);
    let pace = Pace { keep: true, workers: 2, rate: 10.0, ..Pace::default() };
    let load = stage.client.load(Protocol::Tcp, WEB4, pace).unwrap();
    load.more(4).unwrap();
    stage.web(&[&b.pod]);
    let at = a.pod.at(PORT);
    let row = wait_row(node, TCP, at, "two flows", |row| row["flows"]["direct"]["flows"] == 2);
    assert_eq!((&row["why"], &row["state"]), (&json!("gone"), &json!("draining")), "{row:#}");
    assert_eq!((&row["flows"]["socket"]["flows"], &row["flows"]["direct"]["moving"]), (&json!(2), &json!(2)));
    assert_eq!((&row["flows"]["edge"]["flows"], &row["flows"]["nftables"]["flows"]), (&json!(0), &json!(0)));
    assert_eq!(row["flows"]["socket"]["moving"], Value::Null, "nobody knows: {row:#}");
    let (_, code, complaint) = drain(node, &["default/web", "--wait=1"]).unwrap();
    assert_eq!(code, Some(1), "{complaint}");
    wait_metric(node, "sluice_draining_flows{layer=\"socket\"}", 2.0);

    daemon.kill9().unwrap();
    let row = wait_row(node, TCP, at, "sockets without a daemon", |row| row["flows"]["socket"]["flows"] == 2);
    assert_eq!((&row["why"], &row["leftUnknown"]), (&Value::Null, &json!("no daemon answers")), "{row:#}");
    daemon.restart().unwrap();
    let row =
        wait_row(node, TCP, at, "sockets of before", |row| row["leftUnknown"] == "before this daemon began");
    assert_eq!(row["flows"]["socket"]["flows"], 2, "{row:#}");
    load.stop().unwrap();
    let (_, code, complaint) = drain(node, &["default/web", "--wait=60"]).unwrap();
    assert_eq!(code, Some(0), "{complaint}");
    wait_end(node, TCP, at);
}

#[test]
fn a_service_that_nobody_knows_has_not_drained() {
    let stage = Stage::new();
    let _daemon = stage.daemon();
    for more in [&["default/nobody"][..], &["default/nobody", "--wait=5"]] {
        let (_, code, complaint) = drain(&stage.node, more).unwrap();
        assert_eq!(code, Some(1), "{complaint}");
        assert!(complaint.contains("no Service default/nobody is programmed here"), "{complaint}");
    }
    let text = stage.node.sluice(&["drain", "--wait"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&text.stdout), "nothing drains\n");
}
