//! What stands on the stage: two nodes, pods, servers, clients in a pod and outside, one daemon, and a copy of the manifests.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::kernel::{Address, Kernel};
use super::summary::Summary;
use crate::agent::Progress;
use crate::manifest::{Slice, State};
use crate::{Daemon, Lab, Load, Manifests, Node, Pace, Pod, Ports, Protocol, Server, Settings};

/// Where the servers listen.
const TCP: u16 = 8080;
const UDP: u16 = 5353;
/// Where `web` answers at the node.
const NODE_PORT: u16 = 30_080;

/// How long a server goes on with what it has after SIGTERM.
const GRACE: Duration = Duration::from_secs(3);

/// No load lasts longer, whatever happens.
const LIMIT: Duration = Duration::from_secs(55);

/// A pod with its server.
pub(super) struct Backend {
    pub(super) pod: Pod,
    pub(super) server: Server,
    pub(super) state: State,
}

/// A stream of requests, and what of its failures is right.
pub(super) struct Stream {
    pub(super) name: &'static str,
    load: Load,
    /// Refusals while its service had no endpoints.
    pub(super) expected: u64,
}

/// Everything.
pub(super) struct Scene {
    pub(super) backends: Vec<Backend>,
    pub(super) streams: Vec<Stream>,
    pub(super) changes: Vec<f64>,
    pub(super) daemon: Daemon,
    manifests: Manifests,
    kernel: Kernel,
    nodes: [Node; 2],
    _lab: Lab,
}

/// The services of `examples/demo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Web,
    Dns,
    Reports,
}

impl Service {
    fn address(self) -> Address {
        let (text, protocol) = match self {
            Self::Web => ([10, 96, 0, 10, 80], 6),
            Self::Dns => ([10, 96, 0, 53, 53], 17),
            Self::Reports => ([10, 96, 0, 20, 0], 6),
        };
        let [a, b, c, d, port] = text;
        let port = if self == Self::Reports { 9000 } else { u16::from(port) };
        Address { at: SocketAddr::from(([a, b, c, d], port)), protocol }
    }

    const fn file(self) -> &'static str {
        match self {
            Self::Web => "web-endpoints.yaml",
            Self::Dns => "dns-endpoints.yaml",
            Self::Reports => "reports-endpoints.yaml",
        }
    }
}

impl Scene {
    /// Sets the stage and starts the clients.
    pub(super) fn set(manifests: &Path) -> Result<Self> {
        let lab = Lab::new()?;
        let nodes = [lab.node("node-1")?, lab.node("node-2")?];
        let [first, _] = &nodes;
        let outside = lab.node("outside")?;
        let client = first.pod("client")?;
        let mut backends = Vec::new();
        for name in ["a", "b"] {
            backends.push(backend(first, name)?);
        }
        let manifests = copy(manifests, &first.folder().join("manifests"))?;
        manifests.put("node.yaml", this_node(first))?;
        let settings = Settings::folder(manifests.folder()).with(&["--dataplane=auto", "--edge=auto"]);
        let daemon = first.daemon(settings)?;
        let kernel = Kernel::open(first.pin_dir())?;
        let streams = streams(&client, &outside, first)?;
        Ok(Self { backends, streams, changes: Vec::new(), daemon, manifests, kernel, nodes, _lab: lab })
    }

    /// Starts a pod with a server on one of the nodes; it is in no service yet.
    pub(super) fn add(&mut self, name: &str, node: usize) -> Result<()> {
        let node = self.nodes.get(node).context("there are two nodes")?;
        self.backends.push(backend(node, name)?);
        Ok(())
    }

    /// Writes who stands behind `web` and `dns` to their manifests, and measures until the kernel has it.
    pub(super) fn publish(&mut self) -> Result<()> {
        let [web4, web6] = [Slice::v4("web-v4", "web"), Slice::v6("web-v6", "web")];
        let mut slices = [
            web4.port("http", "TCP", TCP),
            web6.port("http", "TCP", TCP),
            Slice::v4("dns-v4", "dns").port("dns", "UDP", UDP),
        ];
        for Backend { pod, server: _, state } in &self.backends {
            let [web4, web6, dns] = slices;
            slices = [
                web4.endpoint(pod.v4(), *state),
                web6.endpoint(pod.v6(), *state),
                dns.endpoint(pod.v4(), *state),
            ];
        }
        let ready = self.backends.iter().filter(|backend| backend.state == State::Ready).count();
        let [web4, web6, dns] = slices;
        let web = crate::manifest::file(&[web4.object(), web6.object()]);
        self.edit(Service::Web, &web, ready)?;
        self.edit(Service::Dns, &crate::manifest::file(&[dns.object()]), ready)
    }

    /// Gives `reports` its one endpoint, or none.
    pub(super) fn publish_reports(&mut self, on: bool) -> Result<()> {
        let slice = Slice::v4("reports-v4", "reports").port("", "TCP", TCP);
        let first = self.backends.first().map(|backend| backend.pod.v4());
        let slice = first.into_iter().filter(|_| on).fold(slice, |slice, address| slice.ready(address));
        self.edit(Service::Reports, &crate::manifest::file(&[slice.object()]), usize::from(on))
    }

    fn edit(&mut self, service: Service, text: &str, endpoints: usize) -> Result<()> {
        let address = service.address();
        let before = self.kernel.state(address).filter(|old| old.slots as usize != endpoints);
        let start = Instant::now();
        self.manifests.put(service.file(), text)?;
        self.kernel.changed(address, before, endpoints)?;
        if before.is_some() {
            self.changes.push(start.elapsed().as_secs_f64() * 1e3);
        }
        Ok(())
    }

    /// How a stream is doing.
    pub(super) fn progress(&self) -> Vec<(&'static str, Progress)> {
        self.streams.iter().map(|stream| (stream.name, stream.load.progress())).collect()
    }

    /// Ends everything and counts.
    pub(super) fn end(self, started: Instant) -> Result<Summary> {
        let Self { streams, changes, daemon, backends, .. } = self;
        let mut total = Summary::default();
        for Stream { name, load, expected } in streams {
            let progress = load.stop().with_context(|| format!("the clients of {name}"))?;
            total.add(&progress, expected);
        }
        total.add_changes(changes);
        total.seconds = started.elapsed().as_secs_f64();
        drop((daemon, backends));
        Ok(total)
    }
}

/// The Node that the daemon is on: its address is where node ports answer.
fn this_node(node: &Node) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
        "status": { "addresses": [{ "type": "InternalIP", "address": node.v4() }, { "type": "InternalIP", "address": node.v6() }] },
    })
}

fn backend(node: &Node, name: &str) -> Result<Backend> {
    let pod = node.pod(name)?;
    let server = pod.serve_on(&Ports { tcp: vec![TCP], udp: vec![UDP], grace: GRACE })?;
    Ok(Backend { pod, server, state: State::Ready })
}

/// Copies the manifests, so that the given ones stay as they are. Slices go to files of their own, which are edited.
fn copy(from: &Path, to: &Path) -> Result<Manifests> {
    let manifests = Manifests::at(to)?;
    let folder = std::fs::read_dir(from).with_context(|| format!("could not read {}", from.display()))?;
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for entry in folder {
        let path = entry?.path();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let name = name.trim_end_matches("-service").trim_end_matches("-endpoints").to_owned();
        for document in text.split("\n---\n") {
            let kind = if document.contains("kind: EndpointSlice") { "endpoints" } else { "service" };
            let file = files.entry(format!("{name}-{kind}.yaml")).or_default();
            *file += &format!("---\n{document}\n");
        }
    }
    for (name, text) in files {
        manifests.put(&name, text)?;
    }
    Ok(manifests)
}

/// The clients: every protocol, both families; in a pod, and outside.
fn streams(client: &Pod, outside: &Node, node: &Node) -> Result<Vec<Stream>> {
    let web6: SocketAddr = "[fd00:10:96::10]:80".parse()?;
    let (web, dns, reports) =
        (Service::Web.address().at, Service::Dns.address().at, Service::Reports.address().at);
    let plan = [
        ("http web", Protocol::Http, web, 400.0),
        ("tcp6 web", Protocol::Tcp, web6, 200.0),
        ("udp  dns", Protocol::Udp, dns, 200.0),
        ("udpc dns", Protocol::UdpConnected, dns, 100.0),
        ("tcp  reports", Protocol::Tcp, reports, 100.0),
    ];
    let start = |(name, protocol, to, rate)| {
        let pace = Pace { limit: LIMIT, rate, workers: 2, keep: false };
        Ok(Stream { name, load: client.load(protocol, to, pace)?, expected: 0 })
    };
    let pace = Pace { limit: LIMIT, rate: 100.0, workers: 2, keep: false };
    let from_outside = |(name, to)| {
        let load = Load::start(&outside.place(), Protocol::Http, to, pace)?;
        Ok(Stream { name, load, expected: 0 })
    };
    let at_node = [
        ("http node port", SocketAddr::from((node.v4(), NODE_PORT))),
        ("http6 node port", (node.v6(), NODE_PORT).into()),
    ];
    plan.into_iter().map(start).chain(at_node.into_iter().map(from_outside)).collect()
}
