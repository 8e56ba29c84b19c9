//! Who forwards: plain routing, the rival, the daemon.

use std::net::SocketAddrV4;
use std::path::Path;

use anyhow::Result;
use lab::{Daemon, Lab, Node, Settings};
use serde_json::json;

use super::rig::{Load, Rig, Turn};
use super::target::{self, Policy, Target};
use crate::cluster::Cluster;
use crate::rival::{self, Rival};
use crate::shapes::{self, Format};
use crate::suite::{edge, nftables, retire};

/// Routing, and nothing else.
pub(super) const ROUTE: &str = "route";
/// The rival beside very few other services.
const RIVAL_OF_FEW: &str = "kube-proxy-nftables-1";
/// The daemon's programs on the node's devices, with the next hop at once.
const EDGE: &str = "edge";
/// The same before the host's stack has seen a frame.
const EDGE_XDP: &str = "edge-xdp";
/// The same through the host's stack.
const EDGE_STACK: &str = "edge-stack";
/// Other services beside those that are sent to.
pub(super) const FEW: u32 = 1;
/// The same, for who is compared.
pub(super) const MANY: u32 = 5_000;

/// Somebody who forwards, on a node of its own.
pub(super) struct Subject {
    name: &'static str,
    rig: Rig,
    /// The Services; `None` sends to an endpoint.
    target: Option<Target>,
    daemon: Option<Daemon>,
}

impl Subject {
    /// A node with routes and no rules at all.
    pub(super) fn route(lab: &Lab, object: &[u8]) -> Result<Self> {
        let rig = Rig::new(&lab.node("packets-route")?, object)?;
        Ok(Self { name: ROUTE, rig, target: None, daemon: None })
    }

    /// A node that a kube-proxy has programmed for so many other services. It is gone afterwards and its rules stay,
    /// so that the next one's services do not reach it.
    pub(super) fn kube_proxy(lab: &Lab, cluster: &mut Cluster, object: &[u8], others: u32) -> Result<Self> {
        let (name, target) = match others {
            FEW => (RIVAL_OF_FEW, Target(1)),
            _ => (rival::NAME, Target(2)),
        };
        let node = lab.node(name)?;
        cluster.fill(others)?;
        cluster.apply(&target.objects(node.name()))?;
        eprintln!("starting kube-proxy on {others} services");
        Rival::start(node.clone(), cluster)?.synced(others)?;
        Ok(Self { name, rig: Rig::new(&node, object)?, target: Some(target), daemon: None })
    }

    /// A node with the daemon, whose dataplane is made of nftables; `None` where the daemon has no such dataplane.
    pub(super) fn nftables(lab: &Lab, object: &[u8]) -> Result<Option<Self>> {
        let node = lab.node("packets-nftables")?;
        if !nftables::is_known(&node)? {
            return Ok(None);
        }
        let target = Target(3);
        let daemon = start(&node, target, nftables::settings)?;
        let rig = Rig::new(&node, object)?;
        Ok(Some(Self { name: nftables::NAME, rig, target: Some(target), daemon: Some(daemon) }))
    }

    /// A node with the daemon and its edge layer; `None` where the daemon has no such thing.
    pub(super) fn edge(lab: &Lab, object: &[u8], how: [&'static str; 2]) -> Result<Option<Self>> {
        let (name, target) = match how {
            ["redirect", "off"] => (EDGE, Target(4)),
            ["redirect", _] => (EDGE_XDP, Target(6)),
            _ => (EDGE_STACK, Target(5)),
        };
        let node = lab.node(name)?;
        if !edge::is_known(&node)? {
            return Ok(None);
        }
        let rig = Rig::new(&node, object)?;
        let settings = |folder: &Path| edge::settings(folder, &node, how);
        let daemon = start(&node, target, settings)?;
        let rig = rig.beside(edge::flows(&node)?);
        Ok(Some(Self { name, rig, target: Some(target), daemon: Some(daemon) }))
    }

    /// Its name in rows.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Forwards what is sent in one turn.
    pub(super) fn turn(&mut self, policy: Policy, load: Load) -> Result<Turn> {
        let to: SocketAddrV4 = self.target.map_or_else(target::endpoint, |target| target.address(policy));
        self.rig.turn(to, load)
    }

    /// Ends what still runs.
    pub(super) fn retire(self) -> Result<()> {
        self.daemon.map_or(Ok(()), retire)
    }
}

fn start(node: &Node, target: Target, settings: impl FnOnce(&Path) -> Settings) -> Result<Daemon> {
    let folder = node.folder().join("manifests");
    shapes::fill(&folder, MANY, Format::Json)?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": target.objects(node.name()) });
    std::fs::write(folder.join("target.json"), list.to_string())?;
    node.daemon(settings(&folder))
}
