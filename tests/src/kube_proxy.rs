//! The real kube-proxy in its nftables mode, on a node of its own.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control_plane::part;
use crate::http;
use crate::process::Process;
use crate::topology::Node;
use crate::wait;

/// Where it tells its metrics.
const METRICS: &str = "127.0.0.1:10249";
/// When it has last finished, in seconds since 1970; one line a family.
const FINISHED: &str = "kubeproxy_sync_proxy_rules_last_timestamp_seconds";
/// When it has last been asked to begin, likewise.
const ASKED: &str = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds";
/// How long it may take to come up, or to follow, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running kube-proxy. It is killed on drop; its tables stay in the node's namespace.
#[derive(Debug)]
pub struct KubeProxy {
    node: Node,
    process: Process,
    config: PathBuf,
}

impl KubeProxy {
    /// Starts it on a node that has no daemon. `configuration` is laid over what it needs to live in a namespace. The
    /// API server must know a Node of this name before.
    pub fn start(node: &Node, kubeconfig: &str, configuration: &Value) -> Result<Self> {
        let door = node.folder().join("kube-proxy.kubeconfig");
        std::fs::write(&door, kubeconfig)?;
        let mut whole = basis(node.name(), &door.display().to_string());
        lay_over(&mut whole, configuration);
        let config = node.folder().join("kube-proxy.json");
        std::fs::write(&config, format!("{whole:#}"))?;
        let place = node.place();
        let mut command = place.command(part("kube-proxy")?);
        command.arg(format!("--config={}", config.display()));
        Ok(Self { node: node.clone(), process: place.start(command)?, config })
    }

    /// The node it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.err.to_string()
    }

    /// The KubeProxyConfiguration it was started with.
    pub fn config(&self) -> &PathBuf {
        &self.config
    }

    /// Fails if it has ended.
    pub fn alive(&mut self) -> Result<()> {
        ensure!(self.process.is_running(), "kube-proxy has ended:\n{}", self.process.err);
        Ok(())
    }

    /// Waits until it has done all that it was asked to do so far, and says when it was ready, in seconds since 1970.
    /// It does not know of changes that it has not heard of yet: whoever made one asks again.
    pub fn settled(&mut self) -> Result<f64> {
        wait::until("kube-proxy to finish", PATIENCE, || {
            self.alive()?;
            // Asking costs it time.
            std::thread::sleep(Duration::from_millis(50));
            let metrics = self.metrics()?;
            let (asked, finished) = (times(&metrics, ASKED), times(&metrics, FINISHED));
            ensure!(!finished.is_empty() && finished.len() == asked.len(), "it has not finished once");
            let is_done = finished.iter().zip(&asked).all(|(finished, asked)| finished >= asked);
            ensure!(is_done, "asked at {asked:?}, finished at {finished:?}");
            Ok(finished.into_iter().fold(0.0, f64::max))
        })
    }

    /// When it has last finished, in seconds since 1970.
    pub fn finished(&self) -> Result<f64> {
        let last = times(&self.metrics()?, FINISHED).into_iter().fold(0.0, f64::max);
        ensure!(last > 0.0, "it has not finished once");
        Ok(last)
    }

    /// Its table of one family, `ip` or `ip6`, as `nft` tells it in JSON.
    pub fn table(&self, family: &str) -> Result<Value> {
        let mut nft = self.node.place().command("nft");
        nft.args(["-j", "list", "table", family, "kube-proxy"]);
        let output = nft.output().context("could not run nft (package nftables)")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "nft could not list table {family} kube-proxy: {complaint}");
        serde_json::from_slice(&output.stdout).context("nft did not answer with JSON")
    }

    /// What a GET at an address of the node is answered: the status, and the body.
    pub fn get(&self, server: &str, path: &str) -> Result<(u16, String)> {
        let http::Reply { status, headers: _, body } = http::get(self.node.netns(), server.parse()?, path)?;
        Ok((status, body))
    }

    fn metrics(&self) -> Result<String> {
        Ok(self.get(METRICS, "/metrics")?.1)
    }
}

/// What it needs to live in a namespace of its own, and to be quick.
fn basis(name: &str, kubeconfig: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "hostnameOverride": name,
        "clientConnection": { "kubeconfig": kubeconfig },
        // Cannot be set inside a namespace.
        "conntrack": { "maxPerCore": 0, "min": 0 },
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": METRICS,
    })
}

fn lay_over(whole: &mut Value, piece: &Value) {
    for (key, value) in piece.as_object().into_iter().flatten() {
        whole[key.as_str()] = value.clone();
    }
}

/// The values of a metric, in the order of its labels: the metrics are told sorted.
fn times(metrics: &str, name: &str) -> Vec<f64> {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_of_two_families_is_two_values_in_the_order_of_the_families() {
        let text = format!(
            "# {FINISHED}\n{FINISHED}{{ip_family=\"IPv4\"}} 1.5e+09\n{FINISHED}{{ip_family=\"IPv6\"}} 2\nother 3\n"
        );
        assert_eq!(times(&text, FINISHED), [1.5e9, 2.0]);
    }

    #[test]
    fn a_configuration_is_laid_over_field_by_field() {
        let mut whole = basis("n1", "/k");
        lay_over(&mut whole, &json!({ "clusterCIDR": "10.0.0.0/8", "mode": "iptables" }));
        assert_eq!((&whole["clusterCIDR"], &whole["mode"]), (&json!("10.0.0.0/8"), &json!("iptables")));
        assert_eq!(whole["hostnameOverride"], "n1");
    }
}
