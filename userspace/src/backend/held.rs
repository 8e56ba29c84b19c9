//! What a dataplane has in the kernel for one address and one kind of callers.

use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::ebpf::Verdict;
use crate::model::ServicePortName;

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose address it is.
    pub port: ServicePortName,
    /// What becomes of new flows.
    pub verdict: Verdict,
    /// Who gets them, sorted.
    pub endpoints: Vec<SocketAddr>,
    /// For how many seconds a client gets the same endpoint.
    pub affinity: Option<NonZeroU32>,
    /// How the packet filter masquerades, by the name of its chain; nothing where it does not, and at sockets.
    pub masquerade: Option<&'static str>,
}
