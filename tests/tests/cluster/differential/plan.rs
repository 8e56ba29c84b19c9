//! What `sluice plan` says, from its JSON.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use lab::Node;
use lab::process::program;
use serde::Deserialize;

use super::table::{Deed, Key, Masquerade, Ranges, Row, Table};
use super::viewpoint::Viewpoint;

/// The parts of the contract that are compared.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    services: Vec<Service>,
    pub(super) health_checks: Vec<HealthCheck>,
    #[serde(rename = "serviceCIDRs")]
    service_cidrs: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    protocol: String,
    addresses: Vec<Address>,
    #[serde(default)]
    session_affinity: Option<Affinity>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Affinity {
    timeout_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Address {
    kind: String,
    ip: IpAddr,
    port: u16,
    #[serde(default)]
    source_ranges: Vec<String>,
    from: From,
}

#[derive(Clone, Debug, Deserialize)]
struct From {
    pod: Action,
    node: Action,
    outside: Action,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
enum Action {
    Forward { endpoints: Vec<SocketAddr>, masquerade: When },
    Reject,
    Drop,
    Pass,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum When {
    Always,
    Hairpin,
}

/// One port that tells a load balancer how many endpoints are here.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct HealthCheck {
    pub(super) port: u16,
    pub(super) local_endpoints: u64,
}

/// Asks on a node, for that node, with the configuration of its kube-proxy.
pub(super) fn document(node: &Node, kubeconfig: &Path, config: &Path) -> Result<Vec<u8>> {
    let mut command = node.place().command(program("SLUICE_BIN", "sluice")?);
    command.arg("plan").arg("--kubeconfig").arg(kubeconfig).args(["--node", node.name()]);
    command.arg("--config").arg(config).args(["-o", "json"]);
    let output = command.output().context("could not run sluice")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sluice plan failed: {complaint}");
    Ok(output.stdout)
}

impl Plan {
    pub(super) fn read(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json).context("sluice plan did not keep its contract")
    }

    /// What it plans for a node.
    pub(super) fn table(&self, view: &Viewpoint) -> Result<Table> {
        let mut table = Table {
            unallocated: Ranges::parse(self.service_cidrs.iter().map(String::as_str))?,
            ..Table::default()
        };
        for service in &self.services {
            for address in &service.addresses {
                add(&mut table, service, address, view)?;
            }
        }
        Ok(table)
    }
}

fn add(table: &mut Table, service: &Service, address: &Address, view: &Viewpoint) -> Result<()> {
    if address.kind == "ClusterIP" {
        table.cluster_ips.insert(address.ip);
    }
    let key = Key { ip: address.ip, protocol: service.protocol.to_lowercase(), port: address.port };
    let row = row(service, address, view)?;
    if !row.is_idle() {
        let before = table.rows.insert(key.clone(), row);
        ensure!(before.is_none(), "{key} is planned twice");
    }
    Ok(())
}

fn row(service: &Service, address: &Address, view: &Viewpoint) -> Result<Row> {
    let affinity = service.session_affinity.map(|affinity| affinity.timeout_seconds);
    let deed = |action: &Action| deed(action, affinity, view);
    let From { pod, node, outside } = &address.from;
    let ranges = Ranges::parse(address.source_ranges.iter().map(String::as_str))?;
    let sources = (!address.source_ranges.is_empty()).then_some(ranges);
    Ok(Row { pod: deed(pod), node: deed(node), outside: deed(outside), sources })
}

fn deed(action: &Action, affinity: Option<u64>, view: &Viewpoint) -> Deed {
    match action {
        Action::Pass => Deed::Pass,
        Action::Reject => Deed::Reject,
        Action::Drop => Deed::Drop,
        Action::Forward { endpoints, masquerade } => {
            let here = || endpoints.iter().copied().filter(|endpoint| view.is_here(endpoint.ip())).collect();
            let masquerade = match masquerade {
                When::Always => Masquerade::Always,
                When::Hairpin => Masquerade::Hairpin(here()),
            };
            Deed::Forward { endpoints: endpoints.iter().copied().collect(), masquerade, affinity }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_contract_is_read() {
        let plan = Plan::read(include_bytes!("contract.json")).unwrap();
        let [service] = plan.services.as_slice() else { panic!("{plan:#?}") };
        let Action::Forward { endpoints, masquerade: When::Hairpin } = &service.addresses[0].from.pod else {
            panic!("{plan:#?}")
        };
        assert_eq!(endpoints.len(), 2);
        assert_eq!(plan.health_checks[0].local_endpoints, 2);
    }
}
