//! The edge layer: callers from outside, served by programs on the node's outside devices.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use lab::agent::Answer;
use lab::client::{Load, Pace};
use lab::link::batch;
use lab::manifest::{Service, Slice, file};
use lab::{Daemon, Node, Pod, Protocol, wait};
use serde_json::{Value, json};

use crate::nftables::{PATIENCE, PODS};
use crate::stage::{PORT, Stage, V4, V6};

const NODE_PORT: u16 = 30_080;
/// The node's outside devices, whatever they are called.
const EDGE: [&str; 2] = ["--edge=tcx", "--forwarding=redirect"];

/// A node with the edge layer, endpoints there and on another node, and a third node that asks.
struct Outside {
    stage: Stage,
    _distant: Node,
    asker: Node,
    here: Pod,
    there: Pod,
    _servers: Vec<lab::Server>,
}

impl Outside {
    fn new() -> Self {
        let stage = Stage::of_ebpf();
        let (distant, asker) = (stage.lab.node("n2").unwrap(), stage.lab.node("n3").unwrap());
        let (here, there) = (stage.node.pod("here").unwrap(), distant.pod("there").unwrap());
        let servers = vec![here.serve(PORT).unwrap(), there.serve(PORT).unwrap()];
        Self { stage, _distant: distant, asker, here, there, _servers: servers }
    }

    fn daemon(&self, more: &[&str]) -> Daemon {
        let node_object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": "n1" },
            "status": { "addresses": [
                { "type": "InternalIP", "address": self.stage.node.v4() },
                { "type": "InternalIP", "address": self.stage.node.v6() },
            ] },
        });
        self.stage.manifests.put("node.yaml", node_object).unwrap();
        let arguments = [&[PODS][..], &EDGE, more].concat();
        self.stage.node.daemon(self.stage.settings().with(&arguments)).unwrap()
    }

    /// A Service with node ports for TCP and UDP, an endpoint on each node, and everything that is said of it.
    fn web(&self, more: impl Fn(Service) -> Service) {
        self.put(more);
        self.stage.node.wait_endpoints("default", "web", 8).unwrap();
    }

    fn service(&self, more: impl Fn(Service) -> Service) -> Value {
        let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
        let mut service = more(plain.set("type", "NodePort")).object();
        for port in 0..2 {
            service["spec"]["ports"][port]["nodePort"] = json!(NODE_PORT);
        }
        service
    }

    fn put(&self, more: impl Fn(Service) -> Service) {
        let service = self.service(more);
        let slice = |slice: Slice, v6: bool| {
            let ip = |pod: &Pod| if v6 { pod.v6().into() } else { std::net::IpAddr::from(pod.v4()) };
            let slice = slice.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
            slice.ready(ip(&self.here)).on("n1").ready(ip(&self.there)).on("n2").object()
        };
        let slices = [slice(Slice::v4("web-4", "web"), false), slice(Slice::v6("web-6", "web"), true)];
        let [v4, v6] = slices;
        self.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
    }

    /// Only this endpoint is listed, and the kernel has that.
    fn only(&self, pod: &Pod) {
        let node = if pod.name() == "here" { "n1" } else { "n2" };
        let slice = |slice: Slice, ip: std::net::IpAddr| {
            slice.port("tcp", "TCP", PORT).port("udp", "UDP", PORT).ready(ip).on(node).object()
        };
        let slices = [
            slice(Slice::v4("web-4", "web"), pod.v4().into()),
            slice(Slice::v6("web-6", "web"), pod.v6().into()),
        ];
        let [v4, v6] = slices;
        self.stage.manifests.put("web.yaml", file(&[self.service(|service| service), v4, v6])).unwrap();
        self.stage.node.wait_endpoints("default", "web", 4).unwrap();
    }

    /// The node's port, by both families.
    fn node_ports(&self) -> [std::net::SocketAddr; 2] {
        let node = &self.stage.node;
        [(node.v4(), NODE_PORT).into(), (node.v6(), NODE_PORT).into()]
    }

    fn edge(&self) -> Value {
        self.stage.node.status().unwrap()["kernel"]["edge"].clone()
    }

    fn count(&self, counter: &str) -> u64 {
        let edge = self.edge();
        edge["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {edge:#}"))
    }
}

/// A load from the node that asks.
fn load(asker: &Node, protocol: Protocol, to: std::net::SocketAddr, pace: Pace) -> Result<Load> {
    Load::start(&asker.place(), protocol, to, pace)
}

/// What the servers see when somebody asks often: name and source.
fn seen(ask: impl Fn() -> Result<Answer>) -> BTreeSet<(String, String)> {
    let pair = |answer: Answer| {
        assert!(answer.ok, "{answer:?}");
        let source: std::net::SocketAddr = answer.source.parse().unwrap();
        (answer.name, source.ip().to_string())
    };
    (0..24).map(|_| pair(ask().unwrap())).collect()
}

fn set(pairs: &[(&str, String)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(name, source)| ((*name).to_owned(), source.clone())).collect()
}

#[test]
fn node_ports_lead_to_endpoints_here_with_the_clients_address_and_to_others_with_the_nodes() {
    let outside = Outside::new();
    let daemon = outside.daemon(&[]);
    outside.web(|service| service);
    let [v4, v6] = outside.node_ports();
    let (node, asker) = (&outside.stage.node, &outside.asker);
    let four = set(&[("here", asker.v4().to_string()), ("there", node.v4().to_string())]);
    let six = set(&[("here", asker.v6().to_string()), ("there", node.v6().to_string())]);
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let before = outside.count("opened");
        assert_eq!(seen(|| asker.call(protocol, v4)), four, "{protocol:?}");
        assert_eq!(seen(|| asker.call(protocol, v6)), six, "{protocol:?}");
        assert_eq!(
            outside.count("opened") - before,
            48,
            "each call was a flow of the edge layer: {}",
            outside.edge()
        );
    }
    daemon.no_errors().unwrap();
}

#[test]
fn connections_outlive_their_endpoints_place_in_the_list_and_every_restart() {
    let outside = Outside::new();
    let mut daemon = outside.daemon(&[]);
    outside.web(|service| service);
    let kept = Pace { keep: true, workers: 6, rate: 200.0, ..Pace::default() };
    let loads: Vec<_> = outside
        .node_ports()
        .into_iter()
        .map(|to| load(&outside.asker, Protocol::Tcp, to, kept).unwrap())
        .collect();
    loads.iter().for_each(|load| drop(load.more(40).unwrap()));
    for round in 0..2 {
        daemon.kill9().unwrap();
        loads.iter().for_each(|load| drop(load.more(40).unwrap()));
        daemon.restart().unwrap();
        loads.iter().for_each(|load| drop(load.more(40).unwrap()));
        // Only the one here is listed now; then only the other.
        outside.only(if round == 0 { &outside.here } else { &outside.there });
        loads.iter().for_each(|load| drop(load.more(80).unwrap()));
    }
    let mut spread = BTreeSet::new();
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
        spread.extend(end.spread.into_keys());
    }
    assert_eq!(spread.len(), 2, "connections to both went on");
    daemon.no_errors().unwrap();
}

#[test]
fn new_connections_are_served_whatever_becomes_of_the_daemon() {
    let outside = Outside::new();
    let mut daemon = outside.daemon(&[]);
    outside.web(|service| service);
    let [v4, v6] = outside.node_ports();
    let fresh = Pace { rate: 200.0, ..Pace::default() };
    let loads = [v4, v6].map(|to| load(&outside.asker, Protocol::Tcp, to, fresh).unwrap());
    loads.iter().for_each(|load| drop(load.more(40).unwrap()));
    for _ in 0..3 {
        daemon.kill9().unwrap();
        loads.iter().for_each(|load| drop(load.more(60).unwrap()));
        daemon.restart().unwrap();
        loads.iter().for_each(|load| drop(load.more(60).unwrap()));
    }
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!((end.failed, end.spread.len()), (0, 2), "{end:?}");
    }
    assert!(outside.count("opened") > 300, "the edge layer served them: {}", outside.edge());
    daemon.no_errors().unwrap();
}

#[test]
fn a_datagram_flow_stays_while_its_endpoint_serves_and_moves_when_that_has_gone() {
    let outside = Outside::new();
    let daemon = outside.daemon(&[]);
    outside.web(|service| service);
    let [v4, _] = outside.node_ports();
    let kept = Pace { keep: true, workers: 1, rate: 50.0, ..Pace::default() };
    let load = load(&outside.asker, Protocol::Udp, v4, kept).unwrap();
    let first = load.more(10).unwrap();
    let had = first.spread.keys().next().unwrap().clone();
    assert_eq!(first.spread.len(), 1);
    let other = if had == "here" { &outside.there } else { &outside.here };
    outside.only(other);
    let moved = wait::until("the flow to move", PATIENCE, || {
        let progress = load.progress();
        ensure!(progress.spread.contains_key(other.name()), "{progress:?}");
        Ok(progress)
    });
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{moved:?} {end:?}");
    assert!(outside.count("moved") >= 1, "{}", outside.edge());
    daemon.no_errors().unwrap();
}

#[test]
fn devices_are_followed_as_they_come_and_go() {
    let outside = Outside::new();
    let daemon = outside.daemon(&["--devices=late*"]);
    outside.web(|service| service);
    let names = || -> Vec<String> {
        let devices = outside.edge()["devices"].as_array().unwrap().clone();
        let name = |device: &Value| format!("{} {}", device["device"].as_str().unwrap(), device["attached"]);
        devices.iter().map(name).collect()
    };
    assert!(names().is_empty(), "{:?}", names());
    let netns = outside.stage.node.netns();
    batch(netns, "link add late0 type veth peer name early0\nlink set late0 up\n").unwrap();
    let becomes = |expected: &[&str]| {
        wait::until("the devices to be followed", PATIENCE, || {
            ensure!(names() == expected, "{:?}", names());
            Ok(())
        })
        .unwrap();
    };
    becomes(&["late0 true"]);
    batch(netns, "link set late0 down\nlink set late0 name later1\nlink set later1 up\n").unwrap();
    becomes(&["later1 true"]);
    batch(netns, "link set later1 down\nlink set later1 name other\nlink set other up\n").unwrap();
    becomes(&[]);
    batch(netns, "link del other\n").unwrap();
    daemon.no_errors().unwrap();
}

#[test]
fn who_asks_where_nobody_listens_is_told_at_once() {
    let outside = Outside::new();
    let _daemon = outside.daemon(&[]);
    let deaf = |name: &str, pod: &Pod, node: &str, port: u16| {
        let last = port - 30_000;
        let addresses =
            [format!("10.96.0.{last}").parse().unwrap(), format!("fd00:96::{last}").parse().unwrap()];
        let plain = Service::new(name, &addresses).port("udp", "UDP", 80);
        let mut service = plain.set("type", "NodePort").object();
        service["spec"]["ports"][0]["nodePort"] = json!(port);
        let four =
            Slice::v4(&format!("{name}-4"), name).port("udp", "UDP", 9).ready(pod.v4()).on(node).object();
        let six =
            Slice::v6(&format!("{name}-6"), name).port("udp", "UDP", 9).ready(pod.v6()).on(node).object();
        outside.stage.manifests.put(&format!("{name}.yaml"), file(&[service, four, six])).unwrap();
        outside.stage.node.wait_endpoints("default", name, 2).unwrap();
    };
    let node = &outside.stage.node;
    for (name, pod, on, port) in
        [("near", &outside.here, "n1", 30_081), ("far", &outside.there, "n2", 30_082)]
    {
        deaf(name, pod, on, port);
        for to in [std::net::SocketAddr::from((node.v4(), port)), (node.v6(), port).into()] {
            let before = outside.count("errors");
            let answer = outside.asker.call(Protocol::UdpConnected, to).unwrap();
            assert_eq!(answer.error, "ECONNREFUSED", "{name} {to}: {}", outside.edge());
            assert_eq!(outside.count("errors") - before, 1, "{}", outside.edge());
        }
    }
}

/// The way to an endpoint here is narrower than the client knows, and small packets have gone it already.
#[test]
fn who_sends_too_much_for_a_way_that_is_known_is_told_how_much_fits() {
    let outside = Outside::new();
    let daemon = outside.daemon(&[]);
    outside.web(|service| service);
    outside.only(&outside.here);
    let [.., number] = outside.here.v4().octets();
    batch(outside.stage.node.netns(), &format!("link set p{number} mtu 1300\n")).unwrap();
    for to in outside.node_ports() {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let ask = || -> Result<()> {
            let socket = std::net::UdpSocket::bind(any)?;
            socket.connect(to)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            let mut answer = [0; 2048];
            for _ in 0..2 {
                socket.send(b"small\n")?;
                socket.recv(&mut answer)?;
            }
            wait::until("the sender to be told", PATIENCE, || {
                let sent = socket.send(&[b'x'; 1400]);
                let told = sent.is_err_and(|error| error.raw_os_error() == Some(nix::libc::EMSGSIZE));
                ensure!(told, "it may still send as much as it likes");
                Ok(())
            })?;
            socket.send(b"small\n")?;
            socket.recv(&mut answer)?;
            Ok(())
        };
        outside.asker.netns().run(ask).unwrap();
    }
    daemon.no_errors().unwrap();
}

#[test]
fn flows_from_outside_are_counted_for_their_service_port() {
    let outside = Outside::new();
    let mut daemon = outside.daemon(&[]);
    outside.web(|service| service);
    let counts = || {
        let output = outside.stage.node.sluice(&["services", "-o", "json"]).unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let row = rows.into_iter().find(|row| row["portName"] == "tcp" && row["family"] == "IPv4").unwrap();
        ["connections", "refused", "dropped", "open"].map(|field| row[field].as_u64().unwrap())
    };
    assert_eq!(counts(), [0, 0, 0, 0]);
    let [v4, _] = outside.node_ports();
    for _ in 0..3 {
        assert!(outside.asker.call(Protocol::Tcp, v4).unwrap().ok);
    }
    let [connections, refused, dropped, open] = counts();
    assert_eq!([connections, refused, dropped], [3, 0, 0]);
    assert!(open <= 3, "{open}: both ends have closed, or are about to");
    daemon.kill9().unwrap();
    assert!(outside.asker.call(Protocol::Tcp, v4).unwrap().ok);
    assert_eq!(counts()[0], 4, "without a daemon, too");
    daemon.restart().unwrap();
    assert_eq!(counts()[0], 4);
    let load =
        load(&outside.asker, Protocol::Tcp, v4, Pace { keep: true, workers: 2, ..Pace::default() }).unwrap();
    load.more(10).unwrap();
    let [connections, _, _, open] = counts();
    assert_eq!(connections, 6);
    assert!(open >= 2, "{open}");
    load.stop().unwrap();
}
