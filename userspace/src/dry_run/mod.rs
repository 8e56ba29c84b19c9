//! `sluice plan`: what this node would do, and why. A dry run: it reads objects once, computes, prints, and touches
//! nothing.

#[cfg(test)]
mod contract;
pub mod document;
pub mod draw;
#[cfg(test)]
mod stories;
mod text;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::Context as _;
use ipnet::IpNet;

use self::document::Document;
use self::draw::View;
use crate::desired::{Context, Desired, ServicePort, Settings};
use crate::inspect::{Answer, Output, Show, present};
use crate::model::{Change, Cluster, Node, Origin, ServicePortName};
use crate::settings::Effective;
use crate::{run, source};

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Name of the node.
    pub node: String,
    /// What the source shows.
    pub origin: Origin,
    /// Its addresses, in place of the Node's; empty: the Node's.
    pub addresses: Vec<IpAddr>,
    /// The operator's decisions.
    pub settings: Settings,
    /// Whether to say why.
    pub explain: bool,
}

/// The plan that follows from a listing of all objects.
pub fn plan(question: &Question, objects: Vec<Change>) -> Document {
    let (cluster, desired) = compute(question, objects);
    draw(question, &cluster, &desired)
}

/// What a dataplane would be told.
#[derive(Clone, Debug)]
pub struct Orders {
    /// What does not belong to a Service.
    pub context: Context,
    /// Ranges that cluster addresses are given out from.
    pub cluster_ranges: BTreeSet<IpNet>,
    /// Every service port.
    pub ports: Vec<(ServicePortName, ServicePort)>,
}

/// What a dataplane would be told after a listing of all objects.
pub fn orders(question: &Question, objects: Vec<Change>) -> Orders {
    let (cluster, desired) = compute(question, objects);
    let ports = desired
        .services()
        .flat_map(|(name, outcome)| outcome.ports.iter().map(|(id, port)| (id.of(name), port.clone())));
    Orders {
        ports: ports.collect(),
        context: desired.context().clone(),
        cluster_ranges: cluster.service_cidrs(),
    }
}

fn compute(question: &Question, objects: Vec<Change>) -> (Cluster, Desired) {
    let mut cluster = Cluster::of_node(question.node.as_str(), question.origin);
    objects.into_iter().for_each(|change| cluster.take(change));
    let mut desired = Desired::new(context(question, &cluster));
    let all = cluster.dirty();
    desired.update(&cluster, all);
    (cluster, desired)
}

fn context(question: &Question, cluster: &Cluster) -> Context {
    Context::of(&question.settings, cluster.own_name(), node(question, cluster).as_ref())
}

fn draw(question: &Question, cluster: &Cluster, desired: &Desired) -> Document {
    let node = node(question, cluster);
    let mut document =
        draw::document(&View { cluster, desired, node: node.as_ref(), explain: question.explain });
    document.problems.extend(desired.context().problems(&question.settings));
    document.problems.sort_unstable();
    document
}

/// Our Node; with other addresses, or with nothing but these, where the question names some.
fn node(question: &Question, cluster: &Cluster) -> Option<Node> {
    let Question { node, origin: _, addresses, settings: _, explain: _ } = question;
    let known = cluster.node().cloned();
    if addresses.is_empty() {
        return known;
    }
    let mut named: Vec<IpAddr> = Vec::new();
    for address in addresses.iter().map(IpAddr::to_canonical) {
        if !named.contains(&address) {
            named.push(address);
        }
    }
    let known = known.unwrap_or_else(|| Node { name: node.as_str().into(), ..Node::default() });
    Some(Node { addresses: named.into(), ..known })
}

/// Everything the API server knows just now.
pub async fn fetch(effective: &Effective) -> anyhow::Result<Vec<Change>> {
    let config = run::client_config(effective).await?;
    let server = config.cluster_url.clone();
    let client = run::connect(config)?;
    let listing = source::watch::once(client, &effective.node).await;
    listing.with_context(|| format!("could not read the objects of the API server {server}"))
}

impl Answer for &Document {
    fn text(&self, wide: bool) -> String {
        text::text(self, wide)
    }
}

/// Prints a plan. True if there is nothing wrong in it.
pub fn show(document: &Document, output: Output) -> anyhow::Result<bool> {
    present(&Show { output, watch: None }, || Ok(document))?;
    Ok(document.problems.is_empty())
}
