//! `sluice explain`: what becomes of a flow, why, and whether the kernel agrees. The daemon has the reasons; what the kernel has
//! is read from the kernel, and the edge's program is tried.

mod gather;
mod judge;
mod text;

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::{Answer, Output, Show, present};
use crate::backend::dataplane::Running;
use crate::explain::{Answering, Caller, Question};

/// How often a difference is looked at again before it is an alarm, and after how long: a change may be under way.
const AGAIN: (u32, Duration) = (3, Duration::from_millis(300));

/// Everything there is to tell.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    source: String,
    target: String,
    caller: Caller,
    why_caller: String,
    /// Whether the caller is on this node; absent if that cannot be told.
    is_here: Option<bool>,
    /// Why there are no reasons; absent when the daemon has given them.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_daemon: Option<String>,
    addresses: Vec<Explained>,
    notes: Vec<String>,
}

/// One address.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explained {
    address: SocketAddr,
    protocol: String,
    /// What the daemon computes; absent without one.
    computed: Option<Answering>,
    served_by: Layer,
    why_served_by: String,
    kernel: Kernel,
    /// Why the endpoint sees whom.
    masquerade: String,
    /// Where the kernel is not as computed.
    alarms: Vec<String>,
}

/// Who serves a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Layer {
    Socket,
    Edge,
    Nftables,
    Nobody,
}

impl Layer {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket layer",
            Self::Edge => "edge layer",
            Self::Nftables => "nftables",
            Self::Nobody => "nobody here",
        }
    }
}

/// What the kernel has for an address.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Kernel {
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Running>,
    socket: Found,
    nftables: Found,
    edge: Edge,
    /// Flows that this client has at the edge.
    flows: Vec<Flow>,
    /// The endpoint that the edge remembers for this client, and seconds since its last new flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    remembered: Option<(SocketAddr, u32)>,
}

/// What a dataplane has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Found {
    /// Why it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<String>,
    has: Option<Has>,
}

/// An address in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Has {
    service: String,
    verdict: &'static str,
    endpoints: Vec<SocketAddr>,
    affinity_seconds: Option<u32>,
    masquerade: Option<&'static str>,
}

/// What the edge's program did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Edge {
    /// Why it was not tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    untried: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<u32>,
    outcomes: Vec<Tried>,
}

/// What became of some first packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Tried {
    /// `forward`, `drop`, or `left` to nftables.
    verdict: &'static str,
    endpoint: Option<SocketAddr>,
    /// Whom the endpoint sees, where it is this node.
    source: Option<IpAddr>,
    packets: u32,
}

/// A flow that the edge serves already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Flow {
    client: SocketAddr,
    endpoint: SocketAddr,
    state: &'static str,
}

/// Prints it. False if the kernel is not as computed.
pub fn run(question: &Question, socket: &Path, pin_dir: &Path, output: Output) -> anyhow::Result<bool> {
    let show = Show { output, watch: None };
    let explanation = present(&show, || {
        let mut explanation = gather::explain(question, socket, pin_dir)?;
        for _ in 0..AGAIN.0 {
            if explanation.is_well() {
                break;
            }
            std::thread::sleep(AGAIN.1);
            explanation = gather::explain(question, socket, pin_dir)?;
        }
        Ok(explanation)
    })?;
    Ok(explanation.is_well())
}

impl Explanation {
    fn is_well(&self) -> bool {
        self.addresses.iter().all(|one| one.alarms.is_empty())
    }
}

impl Answer for Explanation {
    fn text(&self, wide: bool) -> String {
        text::text(self, wide)
    }
}
