//! What `sluice plan -o json` says.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// The parts of the document that packets can tell.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Plan {
    /// One entry for each port of each Service in each family.
    pub services: Vec<ServicePort>,
    /// Ranges of ClusterIPs.
    #[serde(rename = "serviceCIDRs", deserialize_with = "ranges")]
    pub service_cidrs: Vec<IpNet>,
}

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Where it answers.
    pub addresses: Vec<Address>,
    /// Present if a client comes back to its endpoint.
    #[serde(default)]
    pub session_affinity: Option<serde_json::Value>,
}

/// One address of a port.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// `ClusterIP`, `NodePort`, `ExternalIP` or `LoadBalancer`.
    pub kind: String,
    /// The address.
    pub ip: IpAddr,
    /// The port there.
    pub port: u16,
    /// The only sources that are let in; all if empty.
    #[serde(deserialize_with = "ranges")]
    pub source_ranges: Vec<IpNet>,
    /// What becomes of new flows.
    pub from: From,
}

/// What becomes of new flows, by where they come from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct From {
    /// From a pod.
    pub pod: Action,
    /// From the node itself.
    pub node: Action,
    /// From anywhere else.
    pub outside: Action,
}

/// What becomes of a new flow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "action", rename_all = "lowercase")]
pub enum Action {
    /// It goes to one of these.
    Forward {
        /// All that it may go to.
        endpoints: Vec<SocketAddr>,
        /// When its source becomes an address of the node.
        masquerade: Masquerade,
    },
    /// It is told that nobody is there.
    Reject,
    /// It vanishes.
    Drop,
    /// It is left alone.
    Pass,
}

/// When a forwarded flow gets an address of the node as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masquerade {
    /// Always.
    Always,
    /// When an endpoint reaches itself.
    Hairpin,
}

fn ranges<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
}
