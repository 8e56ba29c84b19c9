//! Reads a KubeProxyConfiguration. Unknown and duplicate fields cost a warning each; a value that does not fit, an error.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::duration::Duration;
use super::fields::{self, Field, Zero};
use super::node::Node;
use super::value::{self, Kind, NO_DURATION, NO_INT, Value};

/// What the file calls itself.
pub const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
/// What the file calls its content.
pub const KIND: &str = "KubeProxyConfiguration";

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// The fields that are set, by path.
    pub values: BTreeMap<&'static str, Value>,
    /// One sentence for each field that is unknown or written twice.
    pub warnings: Vec<String>,
}

/// Reads a file; errors and warnings begin with its name.
pub fn decode(name: &str, bytes: &[u8]) -> Result<Decoded, Vec<String>> {
    let (root, more) = document(bytes).map_err(|why| vec![format!("{name}: {why}")])?;
    let Node::Map(root) = root else {
        // Not what it says: it may be a key or a token that was taken for the configuration.
        return Err(vec![format!("{name}: must be a {KIND}, but is {}", root.kind())]);
    };
    let strange = headed_otherwise(name, &root);
    if !strange.is_empty() {
        return Err(strange);
    }
    let mut reading = Reading { name, decoded: Decoded::default(), wrong: Vec::new() };
    if more {
        reading.warn("holds more than one document; only the first is read");
    }
    reading.section("", &root);
    let Reading { name: _, decoded, wrong } = reading;
    if wrong.is_empty() { Ok(decoded) } else { Err(wrong) }
}

/// The first document, and whether there are more.
fn document(bytes: &[u8]) -> Result<(Node, bool), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| format!("is not text: {error}"))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut documents = serde_norway::Deserializer::from_str(text);
    let Some(first) = documents.next() else { return Ok((Node::Null, false)) };
    let root = Node::deserialize(first).map_err(|error| format!("could not be read: {error}"))?;
    Ok((root, documents.next().is_some()))
}

/// Complaints about apiVersion and kind.
fn headed_otherwise(name: &str, root: &[(String, Node)]) -> Vec<String> {
    let last = |key: &str| root.iter().rev().find(|(found, _)| found == key).map(|(_, node)| node);
    let wrong = |(key, wanted): (&str, &str)| match last(key) {
        Some(Node::Text(text)) if text == wanted => None,
        None | Some(Node::Null) => Some(format!("{name}: {key}: Required value: must be {wanted:?}")),
        Some(Node::Text(text)) if text == "ConfigMap" => Some(format!(
            "{name}: {key}: Invalid value: {text:?}: give the text of its key config.conf, not the ConfigMap"
        )),
        Some(text @ Node::Text(_)) => {
            Some(format!("{name}: {key}: Unsupported value: {text}: supported values: {wanted:?}"))
        }
        Some(other) => Some(format!("{name}: {key}: must be {wanted:?}, but is {}", other.kind())),
    };
    [("apiVersion", API_VERSION), ("kind", KIND)].into_iter().filter_map(wrong).collect()
}

struct Reading<'a> {
    name: &'a str,
    decoded: Decoded,
    wrong: Vec<String>,
}

impl Reading<'_> {
    fn warn(&mut self, what: &str) {
        self.decoded.warnings.push(format!("{}: {what}", self.name));
    }

    fn wrong(&mut self, path: &str, node: &Node, why: &str) {
        self.wrong.push(format!("{}: {path}: Invalid value: {node}: {why}", self.name));
    }

    /// Reads fields below a path. Of a key that is written twice, the last one counts.
    fn section(&mut self, above: &str, entries: &[(String, Node)]) {
        for (path, node) in self.single(above, entries) {
            if let Some(field) = fields::find(&path) {
                let value =
                    self.value(field, node).filter(|value| field.zero == Zero::Counts || !value.is_zero());
                self.decoded.values.extend(value.map(|value| (field.path, value)));
            } else if fields::is_section(&path) {
                self.subsection(&path, node);
            } else if !["apiVersion", "kind"].contains(&path.as_str()) {
                self.warn(&format!("unknown field {path:?} is ignored"));
            }
        }
    }

    fn subsection(&mut self, path: &str, node: &Node) {
        match node {
            Node::Map(entries) => self.section(path, entries),
            Node::Null => {}
            Node::Bool(_) | Node::Int(_) | Node::Float(_) | Node::Text(_) | Node::List(_) => {
                self.wrong(path, node, "must be a section with fields");
            }
        }
    }

    fn single<'n>(&mut self, above: &str, entries: &'n [(String, Node)]) -> Vec<(String, &'n Node)> {
        let mut seen = BTreeSet::new();
        let mut kept: Vec<(String, &Node)> = Vec::new();
        for (key, node) in entries.iter().rev() {
            let path = below(above, key);
            if seen.insert(key) {
                kept.push((path, node));
            } else {
                self.warn(&format!("duplicate field {path:?}: the last one counts"));
            }
        }
        kept.reverse();
        kept
    }

    /// `None` for null, and for what does not fit.
    fn value(&mut self, field: &Field, node: &Node) -> Option<Value> {
        let path = field.path;
        if *node == Node::Null {
            return None;
        }
        let read = match field.kind {
            Kind::Gates => return self.gates(path, node),
            Kind::Modules => return self.modules(path, node),
            Kind::List => return self.list(path, node),
            Kind::Bool => bool(node).map(Value::Bool).ok_or("must be true or false"),
            Kind::Int => int(node).map(Value::Int).ok_or(NO_INT),
            Kind::Float => float(node).ok_or("must be a number"),
            // Whether a text is an address is for the validation to say, in kube-proxy's words.
            Kind::Text | Kind::Ip | Kind::IpPort => text(node).map(Value::Text).ok_or("must be a text"),
            Kind::Duration => duration(node).ok_or(NO_DURATION),
            Kind::Nanos => nanos(node).or_else(|| duration(node)).ok_or(NO_DURATION),
            Kind::Quantity => quantity(node).ok_or("must be a quantity such as 64Ki"),
        };
        read.map_err(|why| self.wrong(path, node, why)).ok()
    }

    fn list(&mut self, path: &str, node: &Node) -> Option<Value> {
        let Node::List(items) = node else {
            self.wrong(path, node, "must be a list of texts");
            return None;
        };
        for (at, item) in items.iter().enumerate().filter(|(_, item)| text(item).is_none()) {
            self.wrong(&format!("{path}[{at}]"), item, "must be a text");
        }
        Some(Value::List(items.iter().filter_map(text).collect()))
    }

    fn gates(&mut self, path: &str, node: &Node) -> Option<Value> {
        let Node::Map(entries) = node else {
            self.wrong(path, node, "must be a mapping from gates to true or false");
            return None;
        };
        let mut gates = BTreeMap::new();
        for (below, node) in self.single(path, entries) {
            let Some(on) = bool(node) else {
                self.wrong(&below, node, "must be true or false");
                continue;
            };
            gates.insert(below.trim_start_matches(path).trim_start_matches('.').to_owned(), on);
        }
        Some(Value::Gates(gates))
    }

    fn modules(&mut self, path: &str, node: &Node) -> Option<Value> {
        let Node::List(items) = node else {
            self.wrong(path, node, "must be a list of patterns with their verbosity");
            return None;
        };
        let read = items.iter().enumerate().map(|(at, item)| self.module(&format!("{path}[{at}]"), item));
        Some(Value::Modules(read.collect::<Vec<_>>().into_iter().flatten().collect()))
    }

    fn module(&mut self, path: &str, node: &Node) -> Option<(String, i32)> {
        let Node::Map(entries) = node else {
            self.wrong(path, node, "must have filePattern and verbosity");
            return None;
        };
        let (mut pattern, mut level) = (Some(String::new()), Some(0));
        for (below, node) in self.single(path, entries) {
            match below.trim_start_matches(path) {
                ".filePattern" => {
                    pattern = text(node).or_else(|| self.refuse(&below, node, "must be a text"))
                }
                ".verbosity" => level = int(node).or_else(|| self.refuse(&below, node, NO_INT)),
                _ => self.warn(&format!("unknown field {below:?} is ignored")),
            }
        }
        pattern.zip(level)
    }

    fn refuse<T>(&mut self, path: &str, node: &Node, why: &str) -> Option<T> {
        self.wrong(path, node, why);
        None
    }
}

/// A key with a dot in it must not pass for a path.
fn below(above: &str, key: &str) -> String {
    match (above.is_empty(), key.contains('.')) {
        (_, true) => format!("{above}[{key:?}]"),
        (true, false) => key.to_owned(),
        (false, false) => format!("{above}.{key}"),
    }
}

fn text(node: &Node) -> Option<String> {
    if let Node::Text(text) = node { Some(text.clone()) } else { None }
}

/// kube-proxy reads YAML 1.1, in which these words are true and false.
fn bool(node: &Node) -> Option<bool> {
    match node {
        Node::Bool(on) => Some(*on),
        Node::Text(text) => match text.as_str() {
            "y" | "Y" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Some(true),
            "n" | "N" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => Some(false),
            _ => None,
        },
        Node::Null | Node::Int(_) | Node::Float(_) | Node::List(_) | Node::Map(_) => None,
    }
}

fn int(node: &Node) -> Option<i32> {
    match node {
        Node::Int(number) => i32::try_from(*number).ok(),
        // A conversion would cut what does not fit, and lose what does not count.
        Node::Float(number) => Some(*number as i32).filter(|whole| f64::from(*whole) == *number),
        Node::Null | Node::Bool(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => None,
    }
}

fn float(node: &Node) -> Option<Value> {
    match node {
        Node::Int(number) => Some(Value::Float(*number as f32)),
        Node::Float(number) => Some(*number as f32).filter(|number| number.is_finite()).map(Value::Float),
        Node::Null | Node::Bool(_) | Node::Text(_) | Node::List(_) | Node::Map(_) => None,
    }
}

fn duration(node: &Node) -> Option<Value> {
    text(node).and_then(|text| Duration::parse(&text)).map(Value::Duration)
}

fn nanos(node: &Node) -> Option<Value> {
    let Node::Int(number) = node else { return None };
    i64::try_from(*number).ok().map(|nanos| Value::Duration(Duration(nanos)))
}

fn quantity(node: &Node) -> Option<Value> {
    match node {
        Node::Int(number) => Some(Value::Text(number.to_string())),
        Node::Text(text) => value::quantity(text).ok(),
        Node::Null | Node::Bool(_) | Node::Float(_) | Node::List(_) | Node::Map(_) => None,
    }
}

#[cfg(test)]
mod tests;
