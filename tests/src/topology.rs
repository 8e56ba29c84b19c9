//! Nodes, the wire between them, and pods behind them.
//!
//! ```text
//!   pod 10.1.1.2 --- node 1 (10.0.0.1) --- wire (10.0.0.254) --- node 2 (10.0.0.2) --- pod 10.1.2.2
//!       fd00:1:1::2         fd00::1              fd00::fe               fd00::2            fd00:1:2::2
//! ```
//!
//! Every place is a network namespace, every line a virtual cable, and all of it only routes: what happens to service
//! addresses is nobody's business but the daemon's. No namespace has a way out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};

use crate::cgroup::Cgroup;
use crate::link::{End, batch, cable};
use crate::netns::Netns;
use crate::process::Place;
use crate::sandbox::Sandbox;

/// A small network with everything that is in it.
#[derive(Debug)]
pub struct Lab {
    wire: Wire,
    sandbox: Sandbox,
}

/// What connects nodes: a namespace that forwards. Nodes get numbers in the order in which they come.
#[derive(Clone, Debug)]
pub struct Wire {
    netns: Netns,
    next: Arc<AtomicU8>,
}

/// One node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Node(Arc<NodeParts>);

#[derive(Debug)]
struct NodeParts {
    name: String,
    number: u8,
    netns: Netns,
    cgroup: Arc<Cgroup>,
    sandbox: Sandbox,
    next_pod: AtomicU8,
}

/// One pod: an address of each family on one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    node: Node,
    netns: Netns,
    number: u8,
}

impl Lab {
    /// A lab of its own.
    pub fn new() -> Result<Self> {
        Self::on(&Wire::new()?)
    }

    /// A lab whose nodes hang on a wire that is there already.
    pub fn on(wire: &Wire) -> Result<Self> {
        Ok(Self { wire: wire.clone(), sandbox: Sandbox::enter()? })
    }

    /// What its nodes hang on.
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Adds a node.
    pub fn node(&self, name: &str) -> Result<Node> {
        Node::new(name, &self.wire).with_context(|| format!("could not make node {name}"))
    }

    /// A folder for whatever the caller likes; seen by all processes of this lab.
    pub fn folder(&self) -> &Path {
        self.sandbox.folder()
    }
}

impl Wire {
    /// The wire's own IPv4 address.
    pub const V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
    /// The wire's own IPv6 address.
    pub const V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0xfe);

    /// A wire without nodes.
    pub fn new() -> Result<Self> {
        let netns = Netns::new()?;
        batch(&netns, &format!("addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n", Self::V4, Self::V6))?;
        Ok(Self { netns, next: Arc::new(AtomicU8::new(1)) })
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    fn attach(&self, number: u8, netns: &Netns) -> Result<()> {
        let port = format!("n{number}");
        cable(&End { netns: &self.netns, name: &port }, &End { netns, name: "wire" })?;
        let (v4, v6) = node_addresses(number);
        let gate4 = Self::V4;
        batch(
            &self.netns,
            &format!(
                "addr add {GATE} dev {port} nodad\nroute add {v4} dev {port}\n\
                 route add 10.1.{number}.0/24 via {v4} dev {port}\n\
                 route add {v6} dev {port}\nroute add fd00:1:{number:x}::/64 via {v6} dev {port}\n"
            ),
        )?;
        batch(
            netns,
            &format!(
                "addr add {v4}/32 dev wire\nroute add {gate4} dev wire src {v4}\nroute add default via {gate4} src {v4}\n\
                 addr add {v6}/128 dev wire nodad\nroute add ::/0 via fe80::1 dev wire src {v6}\n"
            ),
        )
    }
}

/// The forwarding end of every cable. A host answers for an IPv4 address of any of its links, but for an IPv6 address
/// only on the link that has it.
const GATE: &str = "fe80::1/64";

fn node_addresses(number: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 0, 0, number), Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number.into()))
}

impl Node {
    fn new(name: &str, wire: &Wire) -> Result<Self> {
        let number = wire.next.fetch_add(1, Ordering::Relaxed);
        let netns = Netns::new()?;
        wire.attach(number, &netns)?;
        Ok(Self(Arc::new(NodeParts {
            name: name.to_owned(),
            number,
            netns,
            cgroup: Arc::new(Cgroup::new()?),
            sandbox: Sandbox::enter()?,
            next_pod: AtomicU8::new(2),
        })))
    }

    /// Adds a pod.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        let number = self.0.next_pod.fetch_add(1, Ordering::Relaxed);
        let pod = Pod { name: name.to_owned(), node: self.clone(), netns: Netns::new()?, number };
        pod.connect().with_context(|| format!("could not connect pod {name}"))?;
        Ok(pod)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.0.netns
    }

    /// Its address on the wire.
    pub fn v4(&self) -> Ipv4Addr {
        node_addresses(self.0.number).0
    }

    /// Its IPv6 address on the wire.
    pub fn v6(&self) -> Ipv6Addr {
        node_addresses(self.0.number).1
    }

    /// The control group of all its processes.
    pub fn cgroup(&self) -> &Arc<Cgroup> {
        &self.0.cgroup
    }

    /// A folder of its own.
    pub fn folder(&self) -> &Path {
        self.0.sandbox.folder()
    }

    /// Where its daemon pins.
    pub fn pin_dir(&self) -> &Path {
        self.0.sandbox.pins()
    }

    /// Where its daemon answers.
    pub fn socket(&self) -> PathBuf {
        self.folder().join("sluice.sock")
    }

    /// Where processes of the node itself run.
    pub fn place(&self) -> Place {
        Place::within(&self.0.netns, &self.0.cgroup)
    }
}

impl Pod {
    fn connect(&self) -> Result<()> {
        let (port, node) = (format!("p{}", self.number), self.node.netns());
        cable(&End { netns: node, name: &port }, &End { netns: &self.netns, name: "eth0" })?;
        let (v4, v6, gate) = (self.v4(), self.v6(), self.node.v4());
        batch(
            node,
            &format!(
                "addr add {GATE} dev {port} nodad\nroute add {v4} dev {port} src {gate}\n\
                 route add {v6} dev {port} src {gate6}\n",
                gate6 = self.node.v6()
            ),
        )?;
        batch(
            &self.netns,
            &format!(
                "addr add {v4}/32 dev eth0\nroute add {gate} dev eth0\nroute add default via {gate} dev eth0\n\
                 addr add {v6}/128 dev eth0 nodad\nroute add ::/0 via fe80::1 dev eth0\n"
            ),
        )
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The node it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 1, self.node.0.number, self.number)
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfd00, 1, self.node.0.number.into(), 0, 0, 0, 0, self.number.into())
    }

    /// Its IPv4 address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4()), port)
    }

    /// Its IPv6 address with a port.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6()), port)
    }

    /// Where its processes run.
    pub fn place(&self) -> Place {
        Place::within(&self.netns, &self.node.0.cgroup)
    }
}
