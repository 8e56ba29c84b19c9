//! What an operator's own tools make of `deploy/`: kustomize's and Helm's engines, and the filter of system calls that
//! containerd means by `RuntimeDefault`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::control_plane::part;
use crate::objects::documents;

/// Where `deploy/` is.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// Objects that belong together.
#[derive(Clone, Debug)]
pub struct Rendered(pub Vec<Value>);

impl Rendered {
    /// What `kubectl apply -k` would send.
    pub fn kustomize(folder: &Path) -> Result<Self> {
        Ok(Self(documents(&ask(&["kustomize", path(folder)?])?)?))
    }

    /// What `helm install` would send, with values that differ from the chart's own.
    pub fn chart(values: &Value) -> Result<Self> {
        let chart = folder().join("chart");
        let objects = documents(&ask(&["chart", path(&chart)?, &values.to_string()])?)?;
        Ok(Self(objects.into_iter().filter(|object| !object.is_null()).collect()))
    }

    /// The object of a kind and a name.
    pub fn object(&self, kind: &str, name: &str) -> Result<&Value> {
        let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
        self.0.iter().find(is_it).with_context(|| format!("there is no {kind} {name} in {:#?}", self.0))
    }

    /// What the DaemonSet has its pods be.
    pub fn pod(&self) -> Result<&Value> {
        Ok(&self.object("DaemonSet", "sluice")?["spec"]["template"]["spec"])
    }

    /// Where two sets of objects differ: the path of each field, and what either has there. A configuration file inside a
    /// ConfigMap is looked into: its comments and the order of its fields do not matter.
    pub fn differences(&self, other: &Self) -> Result<Vec<String>> {
        let mut found = Vec::new();
        compare("", &self.by_name()?, &other.by_name()?, &mut found);
        Ok(found)
    }

    fn by_name(&self) -> Result<Value> {
        let mut all = json!({});
        for object in &self.0 {
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            ensure!(all.get(&name).is_none(), "{name} is there twice");
            all[name] = opened(object)?;
        }
        Ok(all)
    }
}

/// The filter for a container with these capabilities.
pub fn runtime_default(capabilities: &BTreeSet<String>) -> Result<Value> {
    let names = capabilities.iter().map(String::as_str);
    Ok(serde_json::from_str(&ask(&std::iter::once("seccomp").chain(names).collect::<Vec<_>>())?)?)
}

fn opened(object: &Value) -> Result<Value> {
    let mut object = object.clone();
    if let Some(file) = object.pointer_mut("/data/config.conf") {
        *file = serde_norway::from_str(file.as_str().context("a file that is no text")?)?;
    }
    Ok(object)
}

fn compare(at: &str, one: &Value, other: &Value, found: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(ones), Value::Object(others)) => {
            for key in ones.keys().chain(others.keys()).collect::<BTreeSet<_>>() {
                compare(&format!("{at}/{key}"), &one[key], &other[key], found);
            }
        }
        (Value::Array(ones), Value::Array(others)) if ones.len() == others.len() => {
            for (index, (one, other)) in ones.iter().zip(others).enumerate() {
                compare(&format!("{at}/{index}"), one, other, found);
            }
        }
        _ if one == other => {}
        _ => found.push(format!("{at}: {one} and {other}")),
    }
}

fn ask(arguments: &[&str]) -> Result<String> {
    let output = Command::new(part("operators")?).args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
