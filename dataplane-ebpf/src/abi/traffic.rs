//! How much service ports and endpoints are used: raised once for each new connection, never for a packet.
//!
//! These maps outlive a set of tables, so they are keyed by numbers that a bigger set keeps, and have entries only for what
//! has been used from this node. The programs make the entries; the daemon removes those of numbers that nobody has.

use super::{Backend, DATAGRAM_PEERS, abi};

abi! {
    /// What became of new connections to one service port.
    pub struct Traffic: 24 {
        /// Connections, and flows of datagrams, that got an endpoint.
        pub opened: u64,
        /// Refused: there is no endpoint.
        pub refused: u64,
        /// Left alone, for a packet filter to drop: there are endpoints, but not for callers here.
        pub left: u64,
    }
}

abi! {
    /// How much one endpoint of one service port is used. It stays when the endpoint goes, for as long as sockets have it.
    pub struct Uses: 40 {
        /// How many connections and flows of datagrams it ever got.
        pub opened: u64,
        /// How many sockets have it now. Whoever reads takes a number below zero, which is none, for zero.
        pub open: u64,
        /// Which endpoint this is.
        pub backend: Backend,
    }
}

abi! {
    /// For which endpoints a socket counts (BPF socket storage). A map of its own beside what sockets remember: it begins
    /// anew together with [`Uses`], so nothing is ever taken from a count that it was not added to.
    pub struct Holds: 36 {
        /// Id of the endpoint it is connected to; zero: none.
        pub connected: u32,
        /// Those that it sends to without connecting, each in the place of its [`super::Peer`]; zero: none.
        pub datagrams: [u32; DATAGRAM_PEERS],
    }
}

impl Traffic {
    /// Nothing yet.
    pub const NONE: Self = Self { opened: 0, refused: 0, left: 0 };
}

impl Uses {
    /// Nothing yet.
    #[inline(always)]
    pub const fn none(backend: Backend) -> Self {
        Self { opened: 0, open: 0, backend }
    }

    /// How many sockets have it.
    pub const fn open(&self) -> u64 {
        if self.open > i64::MAX as u64 { 0 } else { self.open }
    }
}

impl Holds {
    /// None.
    pub const NONE: Self = Self { connected: 0, datagrams: [0; DATAGRAM_PEERS] };
}
