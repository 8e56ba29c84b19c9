//! The road: from a client outside, over a node that forwards, to a place that is all endpoints.
//!
//! ```text
//!   near (198.18.0.0/15) --- node --- far (10.2.0.0/24)
//! ```

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use lab::link::batch;
use lab::{Node, Pod};
use nix::net::if_::if_nametoindex;

use super::offload;

/// What the link of a place is called inside.
pub(super) const LINK: &str = "eth0";
/// Ethernet address of the client.
pub(super) const CLIENT: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Of the node, where the client is.
pub(super) const NODE_NEAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Of the node, where the endpoints are.
const NODE_FAR: [u8; 6] = [2, 0, 0, 0, 0, 3];
/// Of the endpoints.
const ENDPOINTS: [u8; 6] = [2, 0, 0, 0, 0, 4];
/// Where flows come from: what the generator uses is within.
const NEAR: &str = "198.18.0.0/15";
/// Where endpoints are.
const FAR: &str = "10.2.0.0/24";

/// An endpoint's address.
pub(super) fn endpoint(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 2, 0, number + 1)
}

/// A node between two places.
pub(super) struct Road {
    node: Node,
    near: Pod,
    far: Pod,
    link: u32,
}

impl Road {
    /// Lays it.
    pub(super) fn lay(node: &Node) -> Result<Self> {
        let (near, far) = (node.pod("near")?, node.pod("far")?);
        connect(&near, CLIENT, NODE_NEAR, NEAR)?;
        connect(&far, ENDPOINTS, NODE_FAR, FAR)?;
        node.netns().run(trust_checksums)?;
        let link = near.netns().run(|| Ok(if_nametoindex(LINK)?))?;
        Ok(Self { node: node.clone(), near, far, link })
    }

    /// The node between.
    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    /// Where flows come from.
    pub(super) fn near(&self) -> &Pod {
        &self.near
    }

    /// Where they go.
    pub(super) fn far(&self) -> &Pod {
        &self.far
    }

    /// The number of the client's link.
    pub(super) fn link(&self) -> u32 {
        self.link
    }
}

/// Neighbours know each other for good: nobody asks while time is taken.
pub(super) fn connect(place: &Pod, own: [u8; 6], node: [u8; 6], behind: &str) -> Result<()> {
    let (port, address) = (port(place), place.v4());
    let (gate, own, node) = (place.node().v4(), text(own), text(node));
    batch(
        place.node().netns(),
        &format!(
            "link set dev {port} address {node}\nneigh replace {address} lladdr {own} dev {port} nud permanent\n\
             route add {behind} via {address} dev {port} src {gate}\n"
        ),
    )?;
    batch(
        place.netns(),
        &format!(
            "link set dev {LINK} address {own}\nneigh replace {gate} lladdr {node} dev {LINK} nud permanent\n"
        ),
    )?;
    // Frames that come from a program and not from the stack are lost on a cable whose other end has no receive queue,
    // and a cable makes one for this.
    place.node().netns().run(|| offload::receive(&port))
}

/// The lab names a node's end of a cable after the pod's number, which is the end of the pod's address.
fn port(place: &Pod) -> String {
    let [.., number] = place.v4().octets();
    format!("p{number}")
}

fn text(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// A network card has looked at the checksums of what comes in; here nobody has.
fn trust_checksums() -> Result<()> {
    std::fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0")
        .context("could not set nf_conntrack_checksum")
}
