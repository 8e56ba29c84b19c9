//! The plan as a document: the contract of `docs/plan.md`. Pure.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::desired::{self, Action, List};
use crate::model::Problem;

/// Everything this node would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    /// Name of the node.
    pub node: String,
    /// Service ports, sorted by namespace, name, port name, protocol and family.
    pub services: Vec<ServicePort>,
    /// What load balancers are told, sorted by namespace, name and family.
    pub health_checks: Vec<HealthCheck>,
    /// Ranges of ClusterIPs, sorted: flows to an address in them that is no Service's are dropped.
    #[serde(rename = "serviceCIDRs")]
    pub service_cidrs: Vec<String>,
    /// What is wrong, sorted.
    pub problems: Vec<Problem>,
}

/// One service port in one family.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePort {
    /// Its namespace.
    pub namespace: String,
    /// Name of the Service.
    pub name: String,
    /// Name of the port; empty for an unnamed one.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// Where it answers, sorted by kind, address and port.
    pub addresses: Vec<Address>,
    /// Present if a client gets the same endpoint each time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_affinity: Option<Affinity>,
    /// Present if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explain: Option<Explain>,
}

/// How long a client gets the same endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Affinity {
    /// Seconds after its last new flow.
    pub timeout_seconds: u32,
}

/// Kinds of addresses, in the order of the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// The ClusterIP.
    ClusterIP,
    /// An address of the node.
    NodePort,
    /// One of `spec.externalIPs`.
    ExternalIP,
    /// An ingress address of the load balancer.
    LoadBalancer,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// What it is.
    pub kind: Kind,
    /// The address.
    pub ip: IpAddr,
    /// The port.
    pub port: u16,
    /// Sources that are let in; empty: all.
    pub source_ranges: Vec<String>,
    /// What becomes of a new flow, by its source.
    pub from: From,
}

/// One entry for each class of sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct From {
    /// A pod.
    pub pod: Flow,
    /// An address of this node.
    pub node: Flow,
    /// Anything else.
    pub outside: Flow,
}

/// What can become of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Word {
    /// It goes to one of the endpoints.
    Forward,
    /// It is answered as unreachable.
    Reject,
    /// It vanishes.
    Drop,
    /// It is left alone: the address is somebody else's business.
    Pass,
}

/// When the source of a flow becomes an address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masquerade {
    /// Only if the chosen endpoint is the source itself.
    Hairpin,
    /// Always.
    Always,
}

/// What becomes of a new flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Flow {
    /// Its fate.
    pub action: Word,
    /// To whom, sorted; only where it is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<Vec<String>>,
    /// When its source becomes an address of this node; only where it is forwarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<Masquerade>,
    /// The list it is forwarded to, for whoever explains.
    #[serde(skip)]
    pub list: Option<List>,
}

/// What a load balancer is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The family that is asked about; only for a Service of both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<&'static str>,
    /// Where it asks.
    pub port: u16,
    /// Distinct addresses of ready endpoints on this node.
    pub local_endpoints: usize,
}

/// Why the endpoints are the ones they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explain {
    /// How each list came about.
    pub lists: Vec<ExplainList>,
    /// Endpoints that are not used.
    pub unused: Vec<ExplainUnused>,
    /// What else an operator may want to know.
    pub notes: Vec<String>,
}

/// How a list came about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainList {
    /// `cluster` or `local`.
    pub list: &'static str,
    /// The rule, in words.
    pub rule: String,
}

/// An endpoint that is not used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainUnused {
    /// Where it listens.
    pub endpoint: String,
    /// The slice that names it.
    pub slice: String,
    /// The list that it is not in; absent: in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub list: Option<&'static str>,
    /// Why, in words.
    pub reason: String,
}

impl Flow {
    /// From what is decided; `endpoints` are those of the list that is decided for.
    pub(super) fn of(action: Action, endpoints: impl Iterator<Item = SocketAddr>) -> Self {
        let plain = |action| Self { action, endpoints: None, masquerade: None, list: None };
        match action {
            Action::Reject => plain(Word::Reject),
            Action::Drop => plain(Word::Drop),
            Action::Forward(list, masquerade) => Self {
                list: Some(list),
                action: Word::Forward,
                endpoints: Some(endpoints.map(|one| one.to_string()).collect()),
                masquerade: Some(match masquerade {
                    desired::Masquerade::Hairpin => Masquerade::Hairpin,
                    desired::Masquerade::Always => Masquerade::Always,
                }),
            },
        }
    }

    /// It is none of our business.
    pub(super) fn pass() -> Self {
        Self { action: Word::Pass, endpoints: None, masquerade: None, list: None }
    }
}
