//! Two tables side by side, and which of their differences are meant.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::table::{Key, Ranges, Row, Table};

/// One thing about which kube-proxy and the plan disagree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Difference {
    /// A destination; `None` where a side leaves it alone.
    Row { key: Key, kube_proxy: Option<Box<Row>>, plan: Option<Box<Row>> },
    /// Whether the other ports of an address are refused.
    ClusterIp { ip: IpAddr, kube_proxy: bool, plan: bool },
    /// Where flows to nobody vanish.
    Unallocated { kube_proxy: Ranges, plan: Ranges },
    /// How many endpoints a health check tells of; `None` where a side does not answer.
    Health { port: u16, kube_proxy: Option<u64>, plan: Option<u64> },
}

/// A difference that is meant.
pub(super) struct Decision {
    /// Heading of `docs/decisions/0009-quirks.md`.
    pub(super) title: &'static str,
    covers: fn(&Difference) -> bool,
}

/// All that are meant.
pub(super) const DECISIONS: [Decision; 1] = [
    // kube-proxy reads them into memory and writes them with its next full pass, of which the first may be too early.
    Decision {
        title: "ServiceCIDRs count at once",
        covers: |difference| match difference {
            Difference::Unallocated { kube_proxy, plan: _ } => kube_proxy.pieces().is_empty(),
            Difference::Row { .. } | Difference::ClusterIp { .. } | Difference::Health { .. } => false,
        },
    },
];

/// What is not meant.
pub(super) fn not_meant(all: Vec<Difference>) -> Vec<Difference> {
    all.into_iter().filter(|one| !DECISIONS.iter().any(|decision| (decision.covers)(one))).collect()
}

/// Everything about which two tables disagree.
pub(super) fn differences(kube_proxy: &Table, plan: &Table) -> Vec<Difference> {
    let mut all = rows(kube_proxy, plan);
    all.extend(cluster_ips(kube_proxy, plan));
    if kube_proxy.unallocated != plan.unallocated {
        let (kube_proxy, plan) = (kube_proxy.unallocated.clone(), plan.unallocated.clone());
        all.push(Difference::Unallocated { kube_proxy, plan });
    }
    all
}

fn rows(kube_proxy: &Table, plan: &Table) -> Vec<Difference> {
    let keys: BTreeSet<_> = kube_proxy.rows.keys().chain(plan.rows.keys()).collect();
    let pairs = keys.into_iter().map(|key| (key, kube_proxy.rows.get(key), plan.rows.get(key)));
    let different = pairs.filter(|(_, kube_proxy, plan)| kube_proxy != plan);
    different
        .map(|(key, kube_proxy, plan)| Difference::Row {
            key: key.clone(),
            kube_proxy: kube_proxy.cloned().map(Box::new),
            plan: plan.cloned().map(Box::new),
        })
        .collect()
}

fn cluster_ips(kube_proxy: &Table, plan: &Table) -> Vec<Difference> {
    let different = kube_proxy.cluster_ips.symmetric_difference(&plan.cluster_ips);
    let in_plan = |ip: &IpAddr| plan.cluster_ips.contains(ip);
    different
        .map(|ip| Difference::ClusterIp { ip: *ip, kube_proxy: !in_plan(ip), plan: in_plan(ip) })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |count: &Option<u64>| count.map_or("no answer".to_owned(), |count| count.to_string());
        match self {
            Self::Row { key, kube_proxy, plan } => {
                write!(f, "{key}")?;
                let sides = parts(kube_proxy.as_deref()).into_iter().zip(parts(plan.as_deref()));
                let mut different = sides.filter(|(kube_proxy, plan)| kube_proxy != plan);
                different.try_for_each(|(kube_proxy, plan)| both(f, &kube_proxy, &plan))
            }
            Self::ClusterIp { ip, kube_proxy, plan } => {
                write!(f, "whether other ports of {ip} are refused")?;
                both(f, &kube_proxy.to_string(), &plan.to_string())
            }
            Self::Unallocated { kube_proxy, plan } => {
                write!(f, "addresses that nobody has")?;
                both(f, &kube_proxy.to_string(), &plan.to_string())
            }
            Self::Health { port, kube_proxy, plan } => {
                write!(f, "local endpoints told at {port}")?;
                both(f, &count(kube_proxy), &count(plan))
            }
        }
    }
}

fn both(f: &mut fmt::Formatter<'_>, kube_proxy: &str, plan: &str) -> fmt::Result {
    write!(f, "\n    kube-proxy: {kube_proxy}\n    plan:       {plan}")
}

/// A row in pieces, so that only those are shown that differ.
fn parts(row: Option<&Row>) -> [String; 4] {
    let Some(Row { pod, node, outside, sources }) = row else {
        return ["pod", "node", "outside", "sources"].map(|part| format!("{part}: left alone"));
    };
    let sources = sources.as_ref().map_or("all".to_owned(), ToString::to_string);
    [
        format!("pod: {pod}"),
        format!("node: {node}"),
        format!("outside: {outside}"),
        format!("sources: {sources}"),
    ]
}
