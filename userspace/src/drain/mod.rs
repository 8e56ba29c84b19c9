//! Who left the list of new flows of a service port, when, why, and which flows it still has.
//!
//! Pure: the loop tells what has changed and what time it is; somebody else counts flows. Nothing here is guessed: what a
//! layer cannot tell stays unknown, and who left before the daemon began has no time.

#![forbid(unsafe_code)]

pub mod flows;
pub mod memory;
mod why;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::desired::Frontend;
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

pub use self::flows::{Flows, Layer, State, Tally};
pub use self::memory::{Memory, Numbers};
pub use self::why::{Reasons, Why};

/// A point in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the daemon's start, on a clock that nobody sets.
    pub run: Duration,
    /// Since 1970, for people.
    pub wall: Duration,
}

/// Whose flows are to be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The service port.
    pub port: ServicePortName,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Where its clients asked.
    pub asked: Arc<Asked>,
}

/// Where a service port answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Addresses.
    pub addresses: BTreeSet<SocketAddr>,
    /// The port at the node's own addresses.
    pub node_port: Option<u16>,
}

/// What the daemon says when it is asked who left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Told {
    /// Who left and is remembered, sorted by service port and endpoint.
    pub left: Vec<Left>,
    /// How many more had to be forgotten while they may have had flows, for want of room.
    pub forgotten: u64,
}

/// One endpoint that left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Left {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of its port.
    pub port_name: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Addresses at which the service port answered.
    pub addresses: BTreeSet<SocketAddr>,
    /// Its node port.
    pub node_port: Option<u16>,
    /// Why it left.
    pub why: Why,
    /// What it is now.
    pub is_now: Why,
    /// When, in seconds since 1970; absent if that was before the daemon began.
    pub left_at: Option<u64>,
    /// How long ago, in seconds.
    pub ago_seconds: Option<u64>,
}

impl Asked {
    /// What is said of a service port's addresses.
    pub fn of(frontends: &[Frontend]) -> Self {
        let node_port = |frontend: &Frontend| match frontend {
            Frontend::NodePort(port) => Some(port.get()),
            Frontend::ClusterIp(_) | Frontend::ExternalIp(_) | Frontend::LoadBalancer(_) => None,
        };
        Self {
            addresses: frontends.iter().filter_map(|frontend| frontend.address()).collect(),
            node_port: frontends.iter().find_map(node_port),
        }
    }

    /// Whether a client that asked there asked for this service port. That the address of a node port is the node's own is
    /// not looked at: what was translated there was.
    pub fn holds(&self, address: &SocketAddr) -> bool {
        self.addresses.contains(address) || self.node_port == Some(address.port())
    }
}

impl Left {
    /// Whose flows these are; nothing if the text makes no sense.
    pub fn subject(&self) -> Option<Subject> {
        let port = ServicePortName {
            service: ServiceName::new(self.namespace.as_str(), self.name.as_str()),
            port: self.port_name.as_str().into(),
            protocol: self.protocol.parse::<Protocol>().ok()?,
            family: Family::of(self.endpoint.ip()),
        };
        let asked = Asked { addresses: self.addresses.clone(), node_port: self.node_port };
        Some(Subject { port, endpoint: self.endpoint, asked: Arc::new(asked) })
    }
}
