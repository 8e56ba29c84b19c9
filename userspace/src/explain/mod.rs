//! What becomes of a flow from somewhere to a Service, and why, as far as objects and settings tell. Pure.

pub mod question;
pub mod reasons;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::question::{Question, Source, Target};
pub use self::reasons::reasons;
pub use crate::desired::Caller;
use crate::dry_run::document::{Kind, Masquerade, Word};

/// What the daemon says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reasons {
    /// The node.
    pub node: String,
    /// Which kind of caller the source is.
    pub caller: Caller,
    /// Why.
    pub why_caller: String,
    /// Whether it is on this node; absent if that cannot be told.
    pub is_here: Option<bool>,
    /// Addresses that were asked for and that a Service has.
    pub answers: Vec<Answering>,
    /// What becomes of the flow where no Service has the address, and other remarks.
    pub notes: Vec<String>,
}

/// One address of one service port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answering {
    /// `namespace/name:port`.
    pub service: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// What kind of address it is.
    pub kind: Kind,
    /// The address.
    pub address: SocketAddr,
    /// Sources that are let in; empty: all.
    pub source_ranges: Vec<String>,
    /// Whether the source is let in; absent if only its kind is known.
    pub admitted: Option<bool>,
    /// What becomes of a new flow that is let in.
    pub action: Word,
    /// The list of endpoints, and which rule made it; only where it is forwarded.
    pub list: Option<Listed>,
    /// Everybody who could serve, and why they do or do not.
    pub candidates: Vec<Candidate>,
    /// When the source becomes an address of the node.
    pub masquerade: Option<Masquerade>,
    /// Why.
    pub why_masquerade: Option<String>,
    /// Seconds for which a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// A list of endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// `cluster` or `local`.
    pub list: String,
    /// How it came about.
    pub rule: String,
}

/// An endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Where it listens.
    pub endpoint: String,
    /// Whether it gets flows like this one.
    pub used: bool,
    /// Why.
    pub why: String,
}

impl Answering {
    /// Who gets flows like this one.
    pub fn endpoints(&self) -> impl Iterator<Item = SocketAddr> {
        self.candidates.iter().filter(|one| one.used).filter_map(|one| one.endpoint.parse().ok())
    }
}
