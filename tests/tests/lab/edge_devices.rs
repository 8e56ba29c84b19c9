//! The edge layer comes and goes: with its flags, and with what is left behind.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::manifest::{Service, Slice, file};
use lab::{Daemon, Node, Pod, Protocol, Server, wait};
use serde_json::{Value, json};

use crate::nftables::{PODS, nft};
use crate::stage::{PORT, Stage, V4, V6};

/// Where the Service `web` answers besides its ClusterIPs.
pub(crate) const NODE_PORT: u16 = 30_080;
/// How long programs, whose pins have gone, may take to go too.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node, an endpoint on it, another one on another node, and a third node that asks.
pub(crate) struct Gate {
    pub(crate) stage: Stage,
    pub(crate) asker: Node,
    pub(crate) here: Pod,
    pub(crate) there: Pod,
    _servers: [Server; 2],
}

impl Gate {
    pub(crate) fn new() -> Self {
        let stage = Stage::of_ebpf();
        let (distant, asker) = (stage.lab.node("n2").unwrap(), stage.lab.node("n3").unwrap());
        let (here, there) = (stage.node.pod("here").unwrap(), distant.pod("there").unwrap());
        let servers = [here.serve(PORT).unwrap(), there.serve(PORT).unwrap()];
        Self { stage, asker, here, there, _servers: servers }
    }

    /// A daemon that knows its Node, with more flags.
    pub(crate) fn daemon(&self, more: &[&str]) -> Daemon {
        let node = &self.stage.node;
        let addresses = [IpAddr::from(node.v4()), node.v6().into()]
            .map(|address| json!({ "type": "InternalIP", "address": address }));
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
            "status": { "addresses": addresses },
        });
        self.stage.manifests.put("node.yaml", object).unwrap();
        node.daemon(self.stage.settings().with(&[&[PODS], more].concat())).unwrap()
    }

    /// `web` with node ports for TCP and UDP, and these endpoints.
    pub(crate) fn web(&self, pods: &[&Pod]) {
        let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
        let mut service = plain.set("type", "NodePort").object();
        for port in 0..2 {
            service["spec"]["ports"][port]["nodePort"] = json!(NODE_PORT);
        }
        let slice = |empty: Slice, ip: &dyn Fn(&Pod) -> IpAddr| {
            let slice = empty.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
            pods.iter().fold(slice, |slice, pod| slice.ready(ip(pod)).on(pod.node().name())).object()
        };
        let v4 = slice(Slice::v4("web-4", "web"), &|pod| pod.v4().into());
        let v6 = slice(Slice::v6("web-6", "web"), &|pod| pod.v6().into());
        self.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
        self.stage.node.wait_endpoints("default", "web", 4 * pods.len() as u32).unwrap();
    }

    /// The node's port, by both families.
    pub(crate) fn node_ports(&self) -> [SocketAddr; 2] {
        let node = &self.stage.node;
        [(node.v4(), NODE_PORT).into(), (node.v6(), NODE_PORT).into()]
    }

    /// Waits until the endpoint here sees this node when the third one asks: the client's own if the edge layer serves, for
    /// the packet filter masquerades.
    pub(crate) fn wait_source(&self, node: &Node) {
        let sources = [IpAddr::from(node.v4()), node.v6().into()];
        for (to, expected) in self.node_ports().into_iter().zip(sources) {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                let asked = || self.source(protocol, to, expected);
                wait::until(&format!("{expected} as the source over {protocol:?}"), PATIENCE, asked).unwrap();
            }
        }
    }

    fn source(&self, protocol: Protocol, to: SocketAddr, expected: IpAddr) -> Result<()> {
        let answer = self.asker.call(protocol, to)?;
        ensure!(answer.ok, "{answer:?}");
        let source: SocketAddr = answer.source.parse()?;
        ensure!(source.ip() == expected, "{answer:?}");
        Ok(())
    }

    /// The edge layer's part of the status.
    pub(crate) fn edge(&self) -> Value {
        self.stage.node.status().unwrap()["kernel"]["edge"].clone()
    }

    /// Whether the edge layer has pins of any version.
    fn has_pins(&self) -> bool {
        let names = std::fs::read_dir(self.stage.node.pin_dir()).into_iter().flatten().flatten();
        names.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("edge"))
    }
}

const ON: [&str; 2] = ["--edge=tcx", "--forwarding=redirect"];

#[test]
fn cleanup_takes_the_programs_off_the_devices_and_removes_their_pins() {
    let gate = Gate::new();
    let mut daemon = gate.daemon(&ON);
    gate.web(&[&gate.here]);
    gate.wait_source(&gate.asker);
    daemon.terminate().unwrap();
    gate.wait_source(&gate.asker);
    assert!(gate.has_pins(), "without a daemon it still serves");

    let output = gate.stage.node.sluice(&["cleanup"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!gate.stage.node.pin_dir().exists(), "no pin is left");
    for to in gate.node_ports() {
        wait::until("the end of translation", PATIENCE, || {
            let answer = gate.asker.call(Protocol::Tcp, to)?;
            ensure!(!answer.ok, "{answer:?}");
            Ok(())
        })
        .unwrap();
    }
    daemon.restart().unwrap();
    gate.wait_source(&gate.asker);
    daemon.no_errors().unwrap();
}

#[test]
fn a_daemon_without_the_edge_layer_removes_what_one_with_it_had_left() {
    let gate = Gate::new();
    let mut first = gate.daemon(&ON);
    gate.web(&[&gate.here]);
    gate.wait_source(&gate.asker);
    first.kill9().unwrap();
    assert!(gate.has_pins());

    let mut second = gate.daemon(&[]);
    assert!(!gate.has_pins(), "nothing of it is left");
    assert_eq!(gate.edge(), Value::Null);
    gate.wait_source(&gate.stage.node);
    second.no_errors().unwrap();
    second.terminate().unwrap();

    let third = gate.daemon(&ON);
    gate.wait_source(&gate.asker);
    third.no_errors().unwrap();
}

#[test]
fn ports_that_cannot_be_are_refused_by_name() {
    let gate = Gate::new();
    let settings =
        gate.stage.settings().with(&["--edge=tcx", "--snat-ports=30000-20000", "--forwarding=somehow"]);
    let mut daemon = gate.stage.node.daemon_unsynced(settings).unwrap();
    let (code, text) = daemon.gives_up().unwrap();
    assert_eq!(code, Some(2), "{text}");
    for word in ["--snat-ports", "30000-20000 holds no ports", "--forwarding", "somehow"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}

#[test]
fn a_device_that_is_not_there_is_a_problem_and_the_others_serve() {
    let gate = Gate::new();
    let daemon = gate.daemon(&[&ON[..], &["--devices=wir*,nowhere"]].concat());
    gate.web(&[&gate.here]);
    let said = gate.stage.node.wait_problem("edge layer", "--devices").unwrap();
    assert!(said.contains("nowhere"), "{said}");
    daemon.wait_log(&["no device is called nowhere"]).unwrap();
    gate.wait_source(&gate.asker);
    daemon.no_errors().unwrap();
}

#[test]
fn without_any_device_that_is_said_and_nftables_serves() {
    let gate = Gate::new();
    let daemon = gate.daemon(&[&ON[..], &["--devices=nowhere"]].concat());
    gate.web(&[&gate.here]);
    gate.wait_source(&gate.stage.node);
    let status = gate.stage.node.status().unwrap();
    assert!(status["problems"].to_string().contains("it is on no device"), "{status:#}");
    daemon.no_errors().unwrap();
}

/// What a network plugin commonly has: pods bear the node's address outside the cluster.
const PLUGIN: &str =
    "add table ip plugin; add chain ip plugin post { type nat hook postrouting priority 100; };
    add rule ip plugin post ip saddr 10.1.0.0/16 ip daddr != 10.1.0.0/16 masquerade";

/// And one that lets through only what connection tracking knows (a policy engine's usual first rules).
const POLICY: &str = "add chain ip plugin forward { type filter hook forward priority 0; };
    add rule ip plugin forward ct state established,related accept;
    add rule ip plugin forward ct state invalid drop";

/// Clients are served by the layer, from an endpoint here, and know who answers.
#[track_caller]
fn check_served(gate: &Gate, forwarding: &str) {
    gate.web(&[&gate.here]);
    gate.wait_source(&gate.asker);
    let [to, _] = gate.node_ports();
    for protocol in [Protocol::Tcp, Protocol::Http, Protocol::Udp] {
        let answer = gate.asker.call(protocol, to).unwrap();
        assert!(answer.ok, "{protocol:?} {answer:?} {}", gate.edge());
    }
    assert_eq!(gate.edge()["forwarding"], forwarding);
}

/// Connection tracking has not seen the question: in the stack an answer would be a new flow, and would be masqueraded.
#[test]
fn answers_of_endpoints_here_go_past_a_plugins_masquerading() {
    let gate = Gate::new();
    nft(&gate.stage.node, &[PLUGIN]);
    let daemon = gate.daemon(&["--edge=tcx"]);
    check_served(&gate, "redirect");
    assert_eq!(gate.edge()["endpointDevices"].as_array().map(Vec::len), Some(1), "{}", gate.edge());
    gate.web(&[]);
    let taken_off = || {
        let edge = gate.edge();
        ensure!(edge["endpointDevices"].is_null(), "{edge}");
        Ok(())
    };
    wait::until("no program on endpoints' devices", PATIENCE, taken_off).unwrap();
    daemon.no_errors().unwrap();
}

#[test]
fn where_others_filter_packets_go_through_the_stack_in_both_directions() {
    let gate = Gate::new();
    nft(&gate.stage.node, &[PLUGIN]);
    nft(&gate.stage.node, &[POLICY]);
    let daemon = gate.daemon(&["--edge=tcx"]);
    daemon.wait_log(&["ip plugin"]).unwrap();
    check_served(&gate, "stack");
    daemon.no_errors().unwrap();
}
