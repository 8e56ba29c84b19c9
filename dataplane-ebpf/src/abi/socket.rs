//! What a socket remembers (BPF socket storage).
//!
//! Socket storage lives and dies with its socket, so nothing here is ever swept or evicted by others. Every hook that
//! touches it runs under the socket's lock (`BPF_CGROUP_RUN_SA_PROG_LOCK`, or a caller that holds it), so plain reads
//! and writes are enough.
//!
//! A daemon takes these maps over from another layout version if their sizes are the same: so whoever changes what they
//! mean changes a size or a map's name too.

use super::{Endpoint, abi};

/// How many service addresses one unconnected socket talks to before the oldest is forgotten.
pub const DATAGRAM_PEERS: usize = 8;

abi! {
    /// A translation that is in force: what the application named and what it got.
    pub struct Peer: 40 {
        /// The service's address, as the application knows it.
        pub service: Endpoint,
        /// The endpoint chosen for it.
        pub backend: Endpoint,
        /// Id of that endpoint.
        pub backend_id: u32,
    }
}

abi! {
    /// The translations of a socket that sends datagrams without connecting. Each lasts, so that a protocol with
    /// state above UDP (QUIC, DTLS, TFTP) keeps its server.
    pub struct Datagrams: 328 {
        /// Place that is written next; the oldest one once all are in use.
        pub next: u32,
        /// Always zero.
        pub zero: u32,
        /// Translations; an unused place is all zero.
        pub peers: [Peer; DATAGRAM_PEERS],
    }
}

impl Peer {
    /// An unused place.
    pub const NONE: Self = Self {
        service: Endpoint { address: [0; 16], port: [0; 2] },
        backend: Endpoint { address: [0; 16], port: [0; 2] },
        backend_id: 0,
    };
}

impl Datagrams {
    /// Nothing remembered.
    pub const NONE: Self = Self { next: 0, zero: 0, peers: [Peer::NONE; DATAGRAM_PEERS] };
}
