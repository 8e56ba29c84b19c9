//! What the entries of a service port mean, for lists. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use dataplane_ebpf::abi::{Backend, DROP, Endpoint, Extent, ServiceKey};

use super::image::{Entries, in_force};

/// What a service port with its entries does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Addresses that answer; a node port as `*:30080`.
    pub addresses: Vec<String>,
    /// What becomes of new flows. Forwarding to one address counts more than dropping, and that more than refusing at
    /// another.
    pub verdict: Verdict,
    /// Endpoints that get new flows, by whichever address.
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
    let lists = in_force(&entries.state);
    let is_in_force = |generation| lists.iter().any(|extent| extent.generation == generation);
    let listed: BTreeSet<u32> = entries
        .slots
        .iter()
        .filter(|(key, _)| is_in_force(key.generation))
        .map(|(_, slot)| slot.backend)
        .collect();
    let (active, kept): (Vec<_>, Vec<_>) = entries.backends.iter().partition(|(id, _)| listed.contains(id));
    Summary {
        addresses: entries.services.iter().map(|(key, _)| address_of(key)).collect(),
        verdict: verdict(&lists, &listed),
        active: addresses(active),
        kept: addresses(kept),
        affinity: NonZeroU32::new(entries.state.timeout),
    }
}

fn verdict(lists: &[Extent], listed: &BTreeSet<u32>) -> Verdict {
    if listed.iter().any(|backend| *backend != DROP) {
        return Verdict::Forward;
    }
    if lists.iter().any(|extent| extent.slots != 0) { Verdict::Drop } else { Verdict::Reject }
}

fn addresses(backends: Vec<&(u32, Backend)>) -> Vec<SocketAddr> {
    backends.into_iter().map(|(_, backend)| backend.endpoint.into()).collect()
}

fn address_of(key: &ServiceKey) -> String {
    let ServiceKey { address, port, protocol: _, node } = *key;
    match node {
        0 => SocketAddr::from(Endpoint { address, port }).to_string(),
        _ => format!("*:{}", u16::from_be_bytes(port)),
    }
}
