//! What the longer tests of the edge layer stand on: three nodes, an endpoint on each of the first two, and a third node that
//! asks.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::Answer;
use lab::manifest::{Service, Slice, State, file};
use lab::{Daemon, Node, Pod, Protocol, Server, wait};
use serde_json::{Value, json};

use crate::nftables::PODS;
use crate::stage::{PORT, Stage, V4, V6};

/// Where `web` answers on nodes, over TCP and UDP.
pub(crate) const NODE_PORT: u16 = 30_080;
/// How long anything may take that happens at once. Generous: other tests run beside this one.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// How long nobody answers before that is taken for silence.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// Asks for the edge layer, past the host's stack.
pub(crate) const ON: [&str; 2] = ["--edge=tcx", "--forwarding=redirect"];

pub(crate) struct Town {
    pub(crate) stage: Stage,
    /// The first node, whose edge layer is looked at.
    pub(crate) node: Node,
    pub(crate) distant: Node,
    pub(crate) asker: Node,
    pub(crate) here: Pod,
    pub(crate) there: Pod,
    _servers: Vec<Server>,
}

/// Families, by whether it is the sixth.
pub(crate) const FAMILIES: [bool; 2] = [false, true];

impl Town {
    pub(crate) fn new() -> Self {
        let stage = Stage::of_ebpf();
        let (distant, asker) = (stage.lab.node("n2").unwrap(), stage.lab.node("n3").unwrap());
        let (here, there) = (stage.node.pod("here").unwrap(), distant.pod("there").unwrap());
        let servers = vec![here.serve(PORT).unwrap(), there.serve(PORT).unwrap()];
        let node = stage.node.clone();
        Self { stage, node, distant, asker, here, there, _servers: servers }
    }

    /// A daemon on a node that it knows by its object, with the edge layer and more flags. Past the host's stack, if they say
    /// nothing else.
    pub(crate) fn daemon(&self, node: &Node, more: &[&str]) -> Daemon {
        let addresses = [IpAddr::from(node.v4()), node.v6().into()]
            .map(|address| json!({ "type": "InternalIP", "address": address }));
        let object = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
            "status": { "addresses": addresses },
        });
        self.stage.manifests.put(&format!("node-{}.yaml", node.name()), object).unwrap();
        let is_said = |default: &&str| {
            let (name, _) = default.split_once('=').unwrap_or((default, ""));
            more.iter().any(|flag| flag.split_once('=').is_some_and(|(given, _)| given == name))
        };
        let on: Vec<_> = ON.into_iter().filter(|default| !is_said(default)).collect();
        node.daemon(self.stage.settings().with(&[&[PODS], &on[..], more].concat())).unwrap()
    }

    /// `web` with node ports, these endpoints, and whatever else is said of it. Does not wait.
    pub(crate) fn put(&self, endpoints: &[(&Pod, State)], more: impl FnOnce(&mut Value)) {
        let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
        let mut service = plain.set("type", "NodePort").object();
        for port in 0..2 {
            service["spec"]["ports"][port]["nodePort"] = json!(NODE_PORT);
        }
        more(&mut service);
        let slice = |empty: Slice, v6: bool| {
            let slice = empty.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
            let add = |slice: Slice, (pod, state): &(&Pod, State)| {
                slice.endpoint(ip(pod, v6), *state).on(pod.node().name())
            };
            endpoints.iter().fold(slice, add).object()
        };
        let slices = [slice(Slice::v4("web-4", "web"), false), slice(Slice::v6("web-6", "web"), true)];
        let [v4, v6] = slices;
        self.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
    }

    /// `web` with these endpoints, all ready, once the first node's kernel has them.
    pub(crate) fn web(&self, pods: &[&Pod]) {
        let ready: Vec<_> = pods.iter().map(|pod| (*pod, State::Ready)).collect();
        self.put(&ready, |_| {});
        self.wait(&self.node, pods.len());
    }

    /// Waits until so many endpoints get new flows.
    pub(crate) fn wait(&self, node: &Node, endpoints: usize) {
        node.wait_endpoints("default", "web", u32::try_from(4 * endpoints).unwrap()).unwrap();
    }
}

/// A pod's address.
pub(crate) fn ip(pod: &Pod, v6: bool) -> IpAddr {
    if v6 { pod.v6().into() } else { pod.v4().into() }
}

/// A node's address.
pub(crate) fn own(node: &Node, v6: bool) -> IpAddr {
    if v6 { node.v6().into() } else { node.v4().into() }
}

/// A node's port.
pub(crate) fn node_port(node: &Node, v6: bool) -> SocketAddr {
    (own(node, v6), NODE_PORT).into()
}

/// The edge layer's part of a node's status.
pub(crate) fn edge(node: &Node) -> Value {
    node.status().unwrap()["kernel"]["edge"].clone()
}

/// What a node's edge layer has counted.
pub(crate) fn count(node: &Node, counter: &str) -> u64 {
    let edge = edge(node);
    edge["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {edge:#}"))
}

/// Who answered, and whom it saw.
pub(crate) fn seen(answer: &Answer) -> (String, IpAddr) {
    assert!(answer.ok, "{answer:?}");
    let source: SocketAddr = answer.source.parse().unwrap();
    (answer.name.clone(), source.ip())
}

/// Waits until a call is answered by this server, who sees this source.
pub(crate) fn wait_seen(from: &Node, protocol: Protocol, to: SocketAddr, expected: (&str, IpAddr)) {
    let asked = || -> Result<()> {
        let answer = from.call_within(protocol, to, SILENCE)?;
        ensure!(answer.ok && seen(&answer) == (expected.0.to_owned(), expected.1), "{answer:?}");
        Ok(())
    };
    wait::until(&format!("{expected:?} at {to} over {protocol:?}"), PATIENCE, asked).unwrap();
}
