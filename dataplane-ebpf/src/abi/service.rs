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
    ///
    /// The first eight bytes are written and read as one. A reader may get the timeout of the write before: for one flow
    /// affinity then begins, ends or lasts as it did before that write, within a list that is complete all the same.
    pub struct State: 16 {
        /// Which list of the service port is valid.
        pub generation: u32,
        /// Length of that list. Zero: connections are refused.
        pub slots: u32,
        /// For how many seconds after its last new flow a client gets the same endpoint. Zero: each flow is spread.
        pub timeout: u32,
        /// Always zero.
        pub zero: u32,
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
        /// Id of the backend, or [`DROP`].
        pub backend: u32,
    }
}

/// In a place of a list: whoever draws it is to be dropped. No endpoint has this id. A service port whose flows are
/// dropped has a list of this one place, so that it comes and goes as every other list does.
pub const DROP: u32 = 0;

impl State {
    /// No list.
    pub const NONE: Self = Self { generation: 0, slots: 0, timeout: 0, zero: 0 };
}

impl ServiceKey {
    /// The key under which a service answers at `endpoint` for an IP protocol.
    #[inline(always)]
    pub const fn new(endpoint: &Endpoint, protocol: u8) -> Self {
        Self { address: endpoint.address, port: endpoint.port, protocol, zero: 0 }
    }
}
