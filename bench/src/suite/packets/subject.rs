//! Who forwards: plain routing, the rival, the daemon.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use lab::{Daemon, Lab, Node, Settings, wait};
use serde_json::json;

use super::case::Load;
use super::pair;
use super::rig::{Rig, Turn};
use super::target::{self, Policy, Target};
use crate::cluster::Cluster;
use crate::rival::{self, Rival};
use crate::shapes::{self, Format};
use crate::suite::edge::{self, Hook};
use crate::suite::{nftables, retire};

/// Routing, and nothing else.
pub(super) const ROUTE: &str = "route";
/// The rival beside very few other services.
pub(super) const RIVAL_OF_FEW: &str = "kube-proxy-nftables-1";
/// The daemon's programs on the node's devices, with the next hop at once.
pub(super) const EDGE: &str = "edge";
/// The same, already in the driver for packets of known flows.
pub(super) const EDGE_XDP: &str = "edge-xdp";
/// The first again, through the host's stack.
pub(super) const EDGE_STACK: &str = "edge-stack";
/// The first again, beside so many other services.
pub(super) const GROWTH: [(&str, u32); 3] = [(GROWN_FROM, FEW), ("edge-1k", 1_000), ("edge-50k", 50_000)];
/// Whom the others of these are compared with.
pub(super) const GROWN_FROM: &str = "edge-1";
/// Very few other services.
pub(super) const FEW: u32 = 1;
/// How long a daemon may take for very many.
const PATIENCE: Duration = Duration::from_secs(120);

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
    pub(super) fn nftables(lab: &Lab, object: &[u8], others: u32) -> Result<Option<Self>> {
        let node = lab.node("packets-nftables")?;
        if !nftables::is_known(&node)? {
            return Ok(None);
        }
        let target = Target(3);
        let daemon = start(&node, target, others, nftables::settings)?;
        let rig = Rig::new(&node, object)?;
        Ok(Some(Self { name: nftables::NAME, rig, target: Some(target), daemon: Some(daemon) }))
    }

    /// A node with the daemon and its edge layer; `None` where the daemon has no such thing.
    pub(super) fn edge(lab: &Lab, object: &[u8], name: &'static str, others: u32) -> Result<Option<Self>> {
        let (hook, forwarding) = match name {
            EDGE_XDP => (Hook::Xdp, "redirect"),
            EDGE_STACK => (Hook::Tcx, "stack"),
            _ => (Hook::Tcx, "redirect"),
        };
        let node = lab.node(name)?;
        if !edge::is_known(&node, hook, name)? {
            return Ok(None);
        }
        // They share no API server, and may share a Service's address.
        let target = Target(4);
        let rig = Rig::new(&node, object)?;
        let settings = |folder: &Path| edge::settings(folder, &node, hook, forwarding);
        let daemon = start(&node, target, others, settings)?;
        let rig = rig.beside(edge::flows(&node)?);
        Ok(Some(Self { name, rig, target: Some(target), daemon: Some(daemon) }))
    }

    /// Its name in rows.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Forwards what is sent in one turn.
    pub(super) fn turn(&mut self, policy: Policy, load: Load) -> Result<Turn> {
        let to: SocketAddrV4 = match (self.target, load) {
            (Some(target), Load::Known { .. } | Load::Fresh { .. }) => target.address(policy),
            (Some(target), Load::Connections(_)) => target.connected(policy),
            (None, Load::Known { .. } | Load::Fresh { .. }) => target::endpoint(),
            (None, Load::Connections(_)) => pair::SERVER,
        };
        self.rig.turn(to, load)
    }

    /// Ends what still runs.
    pub(super) fn retire(self) -> Result<()> {
        self.daemon.map_or(Ok(()), retire)
    }
}

fn start(
    node: &Node,
    target: Target,
    others: u32,
    settings: impl FnOnce(&Path) -> Settings,
) -> Result<Daemon> {
    let folder = node.folder().join("manifests");
    shapes::fill(&folder, others, Format::Json)?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": target.objects(node.name()) });
    std::fs::write(folder.join("target.json"), list.to_string())?;
    let daemon = node.daemon_unsynced(settings(&folder))?;
    wait::until("the daemon to have all services", PATIENCE, || daemon.wait_synced())?;
    Ok(daemon)
}
