//! Services and their endpoint lists.

use super::{Endpoint, abi};

abi! {
    /// What a client names: one address, port and protocol of a service.
    pub struct ServiceKey: 20 {
        /// IPv6 address, or IPv4 as IPv4-mapped; network order.
        pub address: [u8; 16],
        /// Port, network order.
        pub port: [u8; 2],
        /// IP protocol number (6 TCP, 17 UDP).
        pub protocol: u8,
        /// Always zero.
        pub zero: u8,
    }
}

abi! {
    /// Which service port answers at an address. Written once and never changed: a hash map replaces a value by a new
    /// element, and a reader that has passed the place of the new one meets neither.
    pub struct Service: 4 {
        /// Id of the service port; several addresses of one service port share it.
        pub id: u32,
    }
}

abi! {
    /// Where the endpoint list of a service port stands. Writing this value, in place, is the one commit point of a
    /// change: the list of a generation is complete before the generation is named here, and goes only afterwards.
    pub struct State: 8 {
        /// Which list of the service port is valid.
        pub generation: u32,
        /// Length of that list. Zero: connections are refused.
        pub slots: u32,
    }
}

abi! {
    /// One place in one generation of one endpoint list.
    pub struct SlotKey: 12 {
        /// Id of the service port.
        pub service: u32,
        /// Generation of the list.
        pub generation: u32,
        /// Place, from zero.
        pub index: u32,
    }
}

abi! {
    /// The endpoint in that place.
    pub struct Slot: 4 {
        /// Id of the backend.
        pub backend: u32,
    }
}

impl ServiceKey {
    /// The key under which a service answers at `endpoint` for an IP protocol.
    #[inline(always)]
    pub const fn new(endpoint: &Endpoint, protocol: u8) -> Self {
        Self { address: endpoint.address, port: endpoint.port, protocol, zero: 0 }
    }
}
