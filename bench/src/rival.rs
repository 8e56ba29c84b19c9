//! kube-proxy in its nftables mode, on a node of its own.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::kube_proxy::KubeProxy;
use lab::{Node, wait};
use serde_json::json;

use crate::cluster::Cluster;
use crate::memory;

/// What it is called in rows.
pub(crate) const NAME: &str = "kube-proxy-nftables";
/// How long it may take for ten thousand services on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running kube-proxy.
pub(crate) struct Rival {
    proxy: KubeProxy,
    started: SystemTime,
}

impl Rival {
    /// Starts it on a node that has no daemon.
    pub(crate) fn start(node: Node, cluster: &Cluster) -> Result<Self> {
        cluster.announce(&node)?;
        // Pods are not masqueraded: the cheapest path it has.
        let configuration = json!({ "clusterCIDR": "10.1.0.0/16,fd00:1::/32" });
        let started = SystemTime::now();
        let proxy = KubeProxy::start(&node, &cluster.kubeconfig(), &configuration)?;
        Ok(Self { proxy, started })
    }

    /// The node it is on.
    pub(crate) fn node(&self) -> &Node {
        self.proxy.node()
    }

    /// Waits until it has programmed so many service addresses, and says how many seconds after its start that was.
    pub(crate) fn synced(&mut self, services: u32) -> Result<f64> {
        wait::until("kube-proxy to finish", PATIENCE, || {
            self.proxy.alive()?;
            // Asking costs it time.
            std::thread::sleep(Duration::from_millis(100));
            let finished = self.proxy.finished()?;
            let known = self.addresses()?;
            ensure!(known >= services as usize, "it knows {known} of {services} addresses");
            Ok(finished - self.started.duration_since(UNIX_EPOCH)?.as_secs_f64())
        })
    }

    /// Peak resident memory, in MB.
    pub(crate) fn peak(&self) -> Result<f64> {
        memory::peak(self.proxy.pid())
    }

    /// Service addresses in its nftables map.
    fn addresses(&self) -> Result<usize> {
        let mut nft = self.node().place().command("nft");
        nft.args(["list", "map", "ip", "kube-proxy", "service-ips"]);
        let output = nft.output().context("could not run nft (package nftables)")?;
        Ok(String::from_utf8_lossy(&output.stdout).matches(" . tcp . 80 :").count())
    }
}
