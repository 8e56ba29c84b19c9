//! Services and their endpoint lists.

use super::{Endpoint, abi};

abi! {
    /// What a client names: one address, port and protocol of a service; or a node port, which answers at whichever
    /// address the node has.
    pub struct ServiceKey: 20 {
        /// IPv6 address, or IPv4 as IPv4-mapped; network order. All zero for a node port.
        pub address: [u8; 16],
        /// Port, network order.
        pub port: [u8; 2],
        /// IP protocol number (6 TCP, 17 UDP).
        pub protocol: u8,
        /// Zero; for a node port what [`super::NODE_ADDRESSES`] says of the addresses where it answers.
        pub node: u8,
    }
}

abi! {
    /// Which service port answers at an address. Written once and never changed: a hash map replaces a value by a new
    /// element, and a reader that has passed the place of the new one meets neither.
    pub struct Service: 8 {
        /// Id of the service port; all its addresses share it.
        pub id: u32,
        /// [`INSIDE`] or [`OUTSIDE`]: which lists of the service port count.
        pub side: u32,
    }
}

/// The ClusterIP.
pub const INSIDE: u32 = 0;
/// An address for callers from outside the cluster, that callers on this node name as well.
pub const OUTSIDE: u32 = 1;

abi! {
    /// Which list, and how long it is. Written and read as one.
    pub struct Extent: 8 {
        /// Generation of the list; zero: there is none.
        pub generation: u32,
        /// Its length. Zero: connections are refused.
        pub slots: u32,
    }
}

abi! {
    /// Where the endpoint lists of a service port stand: one for each way to come, though several ways may lead to the
    /// same list. Writing this value, in place, is the one commit point of a change: the list of a generation is
    /// complete before the generation is named here, and goes only afterwards.
    ///
    /// Each eight bytes that name a list are written and read as one. A reader may get the timeout of the write before:
    /// for one flow affinity then begins, ends or lasts as it did before that write, within a list that is complete all
    /// the same.
    pub struct State: 32 {
        /// Which list is valid for callers of the ClusterIP.
        pub generation: u32,
        /// Length of that list. Zero: connections are refused.
        pub slots: u32,
        /// For how many seconds after its last new flow a client gets the same endpoint. Zero: each flow is spread.
        pub timeout: u32,
        /// Always zero.
        pub zero: u32,
        /// The list for pods that name another address.
        pub pod: Extent,
        /// The list for processes in the node's own network namespace that do.
        pub node: Extent,
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

impl Extent {
    /// No list.
    pub const NONE: Self = Self { generation: 0, slots: 0 };
}

impl State {
    /// No list.
    pub const NONE: Self =
        Self { generation: 0, slots: 0, timeout: 0, zero: 0, pod: Extent::NONE, node: Extent::NONE };

    /// The list for callers of the ClusterIP.
    #[inline(always)]
    pub const fn inside(&self) -> Extent {
        Extent { generation: self.generation, slots: self.slots }
    }
}

impl ServiceKey {
    /// The key under which a service answers at `endpoint` for an IP protocol.
    #[inline(always)]
    pub const fn new(endpoint: &Endpoint, protocol: u8) -> Self {
        Self { address: endpoint.address, port: endpoint.port, protocol, node: 0 }
    }

    /// The key of a node port at addresses of which [`super::NODE_ADDRESSES`] says `node`.
    #[inline(always)]
    pub const fn node_port(port: [u8; 2], protocol: u8, node: u8) -> Self {
        Self { address: [0; 16], port, protocol, node }
    }
}
