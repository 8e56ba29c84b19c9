//! What the entries of a service port mean, for lists. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use dataplane_ebpf::abi::{Backend, DROP, Endpoint, ServiceKey};

use super::image::Entries;

/// What a service port with its entries does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Addresses that answer.
    pub addresses: Vec<SocketAddr>,
    /// What becomes of new flows.
    pub verdict: Verdict,
    /// Endpoints that get new flows.
    pub active: Vec<SocketAddr>,
    /// Endpoints that only keep the flows they have.
    pub kept: Vec<SocketAddr>,
    /// For how many seconds after its last new flow a client gets the same endpoint.
    pub affinity: Option<NonZeroU32>,
}

/// What becomes of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They go to an endpoint.
    Forward,
    /// They are refused.
    Reject,
    /// They are left untranslated, for a packet filter to drop.
    Drop,
}

impl Verdict {
    /// As people and programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Reads the entries of a service port.
pub fn describe(entries: &Entries) -> Summary {
    let listed: BTreeSet<u32> = entries
        .slots
        .iter()
        .filter(|(key, _)| key.generation == entries.state.generation)
        .map(|(_, slot)| slot.backend)
        .collect();
    let (active, kept): (Vec<_>, Vec<_>) = entries.backends.iter().partition(|(id, _)| listed.contains(id));
    Summary {
        addresses: entries.services.iter().map(|(key, _)| address_of(key)).collect(),
        verdict: verdict(entries.state.slots, &listed),
        active: addresses(active),
        kept: addresses(kept),
        affinity: NonZeroU32::new(entries.state.timeout),
    }
}

fn verdict(slots: u32, listed: &BTreeSet<u32>) -> Verdict {
    match slots {
        0 => Verdict::Reject,
        1 if listed.contains(&DROP) => Verdict::Drop,
        1.. => Verdict::Forward,
    }
}

fn addresses(backends: Vec<&(u32, Backend)>) -> Vec<SocketAddr> {
    backends.into_iter().map(|(_, backend)| backend.endpoint.into()).collect()
}

fn address_of(key: &ServiceKey) -> SocketAddr {
    Endpoint { address: key.address, port: key.port }.into()
}
