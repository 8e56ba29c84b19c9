//! A story as it is written down: its orders. The format is told in `userspace/tests/stories/README.md`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::objects::documents;

/// One file.
#[derive(Clone, Debug)]
pub struct Story {
    /// Name of the file without its ending.
    pub name: String,
    /// What happens, in order.
    pub orders: Vec<Order>,
}

/// What happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// The node is this one, and has these addresses in place of its Node object's.
    Node(String, Vec<IpAddr>),
    /// This is the KubeProxyConfiguration.
    Config(Value),
    /// These objects are there.
    Apply(Vec<Value>),
    /// This object, told by kind and names, is gone.
    Delete(Value),
    /// The plan is looked at.
    Expect,
}

/// Begins every line that is an order.
const MARK: &str = ">>> ";

impl Story {
    /// All stories of the project, by name.
    pub fn all() -> Result<Vec<Self>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../userspace/tests/stories");
        let entries = std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))?;
        let mut files: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        files.retain(|file| file.extension().is_some_and(|ending| ending == "txt"));
        files.sort_unstable();
        files.iter().map(|file| Self::read(file).with_context(|| file.display().to_string())).collect()
    }

    fn read(file: &Path) -> Result<Self> {
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(file)?;
        let orders = text.split(&format!("\n{MARK}")).skip(1).map(order).collect::<Result<_>>()?;
        Ok(Self { name, orders })
    }
}

/// A line, and its content below.
fn order(text: &str) -> Result<Order> {
    let (line, body) = text.split_once('\n').unwrap_or((text, ""));
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["node", name, addresses @ ..] => {
            let addresses = addresses.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
            Ok(Order::Node((*name).to_owned(), addresses))
        }
        ["config"] => Ok(Order::Config(serde_norway::from_str(body)?)),
        ["apply"] => {
            Ok(Order::Apply(documents(body)?.into_iter().filter(|one| !one.is_null()).map(placed).collect()))
        }
        ["delete", kind, name] => Ok(Order::Delete(reference(kind, name)?)),
        ["expect" | "explain"] => Ok(Order::Expect),
        _ => bail!("no such order: {line}"),
    }
}

/// An object without a namespace is in `default`, if its kind has namespaces.
fn placed(mut object: Value) -> Value {
    let has_namespace = matches!(object["kind"].as_str(), Some("Service" | "EndpointSlice"));
    if has_namespace && object["metadata"]["namespace"].is_null() {
        object["metadata"]["namespace"] = json!("default");
    }
    object
}

fn reference(kind: &str, name: &str) -> Result<Value> {
    let version = match kind {
        "Service" | "Node" => "v1",
        "EndpointSlice" => "discovery.k8s.io/v1",
        "ServiceCIDR" => "networking.k8s.io/v1",
        _ => bail!("no such kind: {kind}"),
    };
    let metadata = match name.split_once('/') {
        Some((namespace, name)) => json!({ "name": name, "namespace": namespace }),
        None => json!({ "name": name }),
    };
    Ok(json!({ "apiVersion": version, "kind": kind, "metadata": metadata }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_is_read_and_expects_something() {
        let all = Story::all().unwrap();
        assert!(all.len() > 50, "{}", all.len());
        for story in all {
            assert!(story.orders.contains(&Order::Expect), "{}", story.name);
        }
    }

    #[test]
    fn an_order_takes_the_lines_below_it() {
        assert_eq!(
            order("node n2 10.0.0.1").unwrap(),
            Order::Node("n2".to_owned(), vec![[10, 0, 0, 1].into()])
        );
        let expected = json!({ "kind": "Service", "metadata": { "name": "web", "namespace": "default" } });
        let read = order("apply\nkind: Service\nmetadata: {name: web}\n").unwrap();
        assert_eq!(read, Order::Apply(vec![expected]));
    }
}
