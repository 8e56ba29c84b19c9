//! `sluice plan`: what this node would do, and why. A dry run: it reads objects once, computes, prints, and touches
//! nothing.

#[cfg(test)]
mod contract;
pub mod document;
pub mod draw;
#[cfg(test)]
mod stories;
mod text;

use std::net::IpAddr;

use anyhow::Context as _;
use kube::Client;

use self::document::Document;
use self::draw::View;
use crate::desired::{Context, Desired, Settings};
use crate::inspect::{Output, print, print_json, print_yaml};
use crate::model::{Applied, Change, Cluster, Kind, Node, ObjectRef, Parsed};
use crate::settings::Effective;
use crate::{run, source};

/// What to plan for.
#[derive(Clone, Debug)]
pub struct Question {
    /// Name of the node.
    pub node: String,
    /// Its addresses, in place of the Node's; empty: the Node's.
    pub addresses: Vec<IpAddr>,
    /// The operator's decisions.
    pub settings: Settings,
    /// Whether to say why.
    pub explain: bool,
}

/// The plan that follows from a listing of all objects.
pub fn plan(question: &Question, objects: Vec<Change>) -> Document {
    let Question { node, addresses, settings, explain } = question;
    let mut cluster = Cluster::of_node(node.as_str());
    objects.into_iter().for_each(|change| cluster.take(change));
    if !addresses.is_empty() {
        cluster.take(readdressed(&cluster, addresses));
    }
    let context = Context::of(settings, cluster.own_name(), cluster.node());
    let mut desired = Desired::new(context);
    let all = cluster.dirty();
    desired.update(&cluster, all);
    draw::document(&View { cluster: &cluster, desired: &desired, explain: *explain })
}

/// Everything the API server knows just now.
pub async fn fetch(effective: &Effective) -> anyhow::Result<Vec<Change>> {
    let config = run::client_config(effective).await?;
    let server = config.cluster_url.clone();
    let client = Client::try_from(config)?;
    let listing = source::watch::once(client, &effective.node).await;
    listing.with_context(|| format!("could not read the objects of the API server {server}"))
}

/// The Node with other addresses, or with nothing but these.
fn readdressed(cluster: &Cluster, addresses: &[IpAddr]) -> Change {
    let name = cluster.own_name().clone();
    let known = cluster.node().cloned().unwrap_or_else(|| Node { name: name.clone(), ..Node::default() });
    let value = Parsed::Keep(Node { addresses: addresses.into(), ..known });
    Change::Node(Applied { object: ObjectRef::new(Kind::Node, "", name), value, problems: Vec::new() })
}

/// Prints a plan. True if there is nothing wrong in it.
pub fn show(document: &Document, output: Output) -> anyhow::Result<bool> {
    match output {
        Output::Json => print_json(document)?,
        Output::Yaml => print_yaml(document)?,
        Output::Table => print(&text::text(document)),
    }
    Ok(document.problems.is_empty())
}
