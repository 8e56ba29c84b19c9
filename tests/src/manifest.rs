//! Manifests: how they are written down, and the folder in which they lie.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

/// A folder of manifests. Files change as careful people change them: written beside, then renamed.
#[derive(Clone, Debug)]
pub struct Manifests {
    folder: PathBuf,
}

impl Manifests {
    /// A folder, made if it is missing.
    pub fn at(folder: impl Into<PathBuf>) -> Result<Self> {
        let folder = folder.into();
        std::fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts a file there, or replaces it.
    pub fn put(&self, name: &str, text: impl ToString) -> Result<()> {
        let draft = self.folder.join(format!(".{name}.draft"));
        std::fs::write(&draft, text.to_string())
            .with_context(|| format!("could not write {}", draft.display()))?;
        std::fs::rename(&draft, self.folder.join(name)).with_context(|| format!("could not put {name}"))
    }

    /// Takes a file away.
    pub fn remove(&self, name: &str) -> Result<()> {
        std::fs::remove_file(self.folder.join(name)).with_context(|| format!("could not remove {name}"))
    }
}

/// A Service, written down.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    addresses: Vec<IpAddr>,
    ports: Vec<Value>,
    more: Map<String, Value>,
}

impl Service {
    /// In namespace `default`, with these cluster addresses.
    pub fn new(name: &str, addresses: &[IpAddr]) -> Self {
        Self { name: name.to_owned(), addresses: addresses.to_vec(), ports: Vec::new(), more: Map::new() }
    }

    /// Adds a port; an empty name is no name.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        let mut value = json!({ "protocol": protocol, "port": port });
        if !name.is_empty() {
            value["name"] = json!(name);
        }
        self.ports.push(value);
        self
    }

    /// Sets a field of the `spec`.
    #[must_use]
    pub fn set(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }

    /// Only endpoints of the client's own node.
    #[must_use]
    pub fn local(self) -> Self {
        self.set("internalTrafficPolicy", "Local")
    }

    /// A client comes back to its endpoint within so many seconds.
    #[must_use]
    pub fn sticky(self, seconds: u32) -> Self {
        self.set("sessionAffinity", "ClientIP")
            .set("sessionAffinityConfig", json!({ "clientIP": { "timeoutSeconds": seconds } }))
    }

    /// The object.
    pub fn object(&self) -> Value {
        let families: Vec<_> =
            self.addresses.iter().map(|ip| if ip.is_ipv4() { "IPv4" } else { "IPv6" }).collect();
        let mut object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name, "namespace": "default" },
            "spec": {
                "clusterIP": self.addresses.first(),
                "clusterIPs": self.addresses,
                "ipFamilies": families,
                "ipFamilyPolicy": if families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
                "ports": self.ports,
            },
        });
        self.more.iter().for_each(|(field, value)| object["spec"][field] = value.clone());
        object
    }
}

/// An EndpointSlice, written down.
#[derive(Clone, Debug)]
pub struct Slice {
    name: String,
    service: String,
    ports: Vec<Value>,
    endpoints: Vec<Value>,
    is_v6: bool,
}

/// What a slice says of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes new connections.
    Ready,
    /// Does not.
    NotReady,
    /// Ends, and still answers.
    Draining,
}

impl Slice {
    /// An IPv4 slice of a Service in namespace `default`.
    pub fn v4(name: &str, service: &str) -> Self {
        let (name, service) = (name.to_owned(), service.to_owned());
        Self { name, service, ports: Vec::new(), endpoints: Vec::new(), is_v6: false }
    }

    /// An IPv6 slice.
    pub fn v6(name: &str, service: &str) -> Self {
        Self { is_v6: true, ..Self::v4(name, service) }
    }

    /// Adds a port; an empty name is the name of the unnamed port.
    #[must_use]
    pub fn port(mut self, name: &str, protocol: &str, port: u16) -> Self {
        self.ports.push(json!({ "name": name, "protocol": protocol, "port": port }));
        self
    }

    /// Adds a ready endpoint.
    #[must_use]
    pub fn ready(self, address: impl Into<IpAddr>) -> Self {
        self.endpoint(address, State::Ready)
    }

    /// Adds an endpoint.
    #[must_use]
    pub fn endpoint(mut self, address: impl Into<IpAddr>, state: State) -> Self {
        let (ready, serving, terminating) = match state {
            State::Ready => (true, true, false),
            State::NotReady => (false, false, false),
            State::Draining => (false, true, true),
        };
        let conditions = json!({ "ready": ready, "serving": serving, "terminating": terminating });
        self.endpoints.push(json!({ "addresses": [address.into()], "conditions": conditions }));
        self
    }

    /// Says more of the last endpoint.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        if let Some(last) = self.endpoints.last_mut() {
            last[field] = value.into();
        }
        self
    }

    /// The last endpoint runs on this node.
    #[must_use]
    pub fn on(self, node: &str) -> Self {
        self.with("nodeName", node)
    }

    /// The last endpoint is meant for these zones.
    #[must_use]
    pub fn for_zones(self, zones: &[&str]) -> Self {
        self.with("hints", json!({ "forZones": named(zones) }))
    }

    /// The last endpoint is meant for these nodes.
    #[must_use]
    pub fn for_nodes(self, nodes: &[&str]) -> Self {
        self.with("hints", json!({ "forNodes": named(nodes) }))
    }

    /// The object.
    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.name,
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": self.service },
            },
            "addressType": if self.is_v6 { "IPv6" } else { "IPv4" },
            "ports": self.ports,
            "endpoints": self.endpoints,
        })
    }
}

fn named(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "name": name })).collect()
}

/// A Node in a zone.
pub fn node(name: &str, zone: &str) -> Value {
    let labels = json!({ "topology.kubernetes.io/zone": zone });
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": labels } })
}

/// Several objects as one file of several documents.
pub fn file(objects: &[Value]) -> String {
    let documents = objects.iter().map(|object| serde_norway::to_string(object).unwrap_or_default());
    documents.collect::<Vec<_>>().join("---\n")
}
