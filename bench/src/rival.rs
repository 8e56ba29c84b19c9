//! kube-proxy in its nftables mode, on a node of its own.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::process::Process;
use lab::{Node, wait};
use serde_json::json;

use crate::cluster::Cluster;
use crate::memory;

/// What it is called in rows.
pub(crate) const NAME: &str = "kube-proxy-nftables";
/// Where it tells its metrics.
const METRICS: &str = "127.0.0.1:10249";
/// When it has last finished, in seconds since 1970; one line a family.
const FINISHED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
/// How long it may take for ten thousand services on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running kube-proxy.
pub(crate) struct Rival {
    node: Node,
    process: Process,
    started: SystemTime,
}

impl Rival {
    /// Starts it on a node that has no daemon.
    pub(crate) fn start(node: Node, cluster: &Cluster) -> Result<Self> {
        cluster.announce(&node)?;
        let kubeconfig = node.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, cluster.kubeconfig())?;
        let config = node.folder().join("kube-proxy.json");
        std::fs::write(&config, configuration(node.name(), &kubeconfig).to_string())?;
        let parts = std::env::var_os("SLUICE_PARTS").context("SLUICE_PARTS is not set")?;
        let place = node.place();
        let mut command = place.command(Path::new(&parts).join("kube-proxy"));
        command.arg(format!("--config={}", config.display()));
        let started = SystemTime::now();
        let process = place.start(command)?;
        Ok(Self { node, process, started })
    }

    /// The node it is on.
    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Waits until it has programmed so many service addresses, and says how many seconds after its start that was.
    pub(crate) fn synced(&mut self, services: u32) -> Result<f64> {
        wait::until("kube-proxy to finish", PATIENCE, || {
            ensure!(self.process.is_running(), "kube-proxy has ended:\n{}", self.process.err);
            // Asking costs it time.
            std::thread::sleep(Duration::from_millis(100));
            let finished = self.finished()?;
            let known = self.addresses()?;
            ensure!(known >= services as usize, "it knows {known} of {services} addresses");
            Ok(finished - self.started.duration_since(UNIX_EPOCH)?.as_secs_f64())
        })
    }

    /// Peak resident memory, in MB.
    pub(crate) fn peak(&self) -> Result<f64> {
        memory::peak(self.process.pid().as_raw())
    }

    fn finished(&self) -> Result<f64> {
        let metrics = self.node.netns().run(|| get(METRICS, "/metrics"))?;
        let lines = metrics.lines().filter(|line| line.starts_with(FINISHED));
        let times = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let last = times.fold(0.0, f64::max);
        ensure!(last > 0.0, "it has not finished once");
        Ok(last)
    }

    /// Service addresses in its nftables map.
    fn addresses(&self) -> Result<usize> {
        let mut nft = self.node.place().command("nft");
        nft.args(["list", "map", "ip", "kube-proxy", "service-ips"]);
        let output = nft.output().context("could not run nft (package nftables)")?;
        Ok(String::from_utf8_lossy(&output.stdout).matches(" . tcp . 80 :").count())
    }
}

fn configuration(name: &str, kubeconfig: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": name,
        // Pods are not masqueraded: the cheapest path it has.
        "clusterCIDR": "10.1.0.0/16,fd00:1::/32",
        "clientConnection": { "kubeconfig": kubeconfig },
        // Cannot be set inside a namespace.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": METRICS,
    })
}

fn get(server: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(server).with_context(|| format!("could not reach {server}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
