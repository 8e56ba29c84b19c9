//! Ports for health checks: what kube-proxy answers there, and what the plan says of them.

use anyhow::{Context, Result, ensure};
use lab::kube_proxy::KubeProxy;
use serde_json::Value;

use super::compare::Difference;
use super::plan::Plan;
use super::viewpoint::Viewpoint;

/// Ports of the scenario whose Services have one family, and whether that is IPv4: there each answer is the only one.
const PORTS: [(u16, bool); 3] = [(32100, true), (32101, false), (32105, true)];

/// Where the answers and the plan differ.
pub(super) fn differences(rival: &KubeProxy, view: &Viewpoint, plan: &Plan) -> Result<Vec<Difference>> {
    let mut all = Vec::new();
    for (port, is_v4) in PORTS {
        let planned =
            plan.health_checks.iter().find(|check| check.port == port).map(|check| check.local_endpoints);
        let answered = answer(rival, view, port, is_v4)?;
        if answered != planned {
            all.push(Difference::Health { port, kube_proxy: answered, plan: planned });
        }
    }
    Ok(all)
}

/// What is answered at the first of the node's addresses that answers.
fn answer(rival: &KubeProxy, view: &Viewpoint, port: u16, is_v4: bool) -> Result<Option<u64>> {
    let servers = view.of_family(is_v4).map(|ip| std::net::SocketAddr::new(ip, port).to_string());
    let Some((status, body)) = servers.into_iter().find_map(|server| rival.get(&server, "/any/path").ok())
    else {
        return Ok(None);
    };
    let body: Value = serde_json::from_str(&body).with_context(|| body.clone())?;
    let count = body["localEndpoints"].as_u64().with_context(|| format!("no count in {body}"))?;
    ensure!(status == if count > 0 { 200 } else { 503 }, "{count} endpoints, but status {status}: {body}");
    Ok(Some(count))
}
