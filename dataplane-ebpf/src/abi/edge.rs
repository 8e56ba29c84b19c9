//! What the programs at the edge and the daemon agree on: addresses for callers from outside, and flows.
//!
//! These maps are filled anew by every daemon, beside those in force, and taken over with the programs; only flows,
//! affinity and counts outlive it.

use super::abi;

/// An address as a packet bears it, word by word: IPv6, or IPv4 as IPv4-mapped. Each word is as the machine loads it, so
/// that its bytes are in network order. Words, because programs compare and copy whole ones.
pub type Address = [u32; 4];

/// Version of every layout in this file that outlives a daemon, and of the meaning of the maps. It is part of the pin directory's
/// name.
pub const EDGE_VERSION: u32 = 1;

/// Map of addresses: [`FrontendKey`] to [`Frontend`]. A node port stands under the unspecified address of its family.
pub const FRONTENDS: &str = "FRONTENDS";
/// Array of list states: list to [`ListState`]. Place zero is never used.
pub const LISTS: &str = "LISTS";
/// Map of endpoint lists: [`super::SlotKey`] to [`Target`].
pub const TARGETS: &str = "TARGETS";
/// Map of who serves: [`ServerKey`] to [`super::Member`], whose index is [`NOT_LISTED`] for endpoints that keep what they
/// have.
pub const SERVERS: &str = "SERVERS";
/// Trie of sources that are let in: [`SourceKey`] to a number without meaning.
pub const SOURCES: &str = "SOURCES";
/// Map of the node's own addresses: [`Address`] to [`OWN`] and [`NODE_PORTS`].
pub const OWN_ADDRESSES: &str = "OWN_ADDRESSES";
/// Map of devices with our programs: index to [`EdgeDevice`].
pub const DEVICES: &str = "DEVICES";
/// Map of endpoints on this node whose answers come in by a device with our program for them: [`Address`] to its index.
pub const BACKED: &str = "BACKED";
/// What is the same for all flows: [`Side`], by family.
pub const SIDES: &str = "SIDES";
/// One number, raised whenever a next hop may have changed; never [`NO_EPOCH`].
pub const EPOCH: &str = "EPOCH";
/// Map of what became of new flows: number of the service port, as in [`ListState`], to [`super::Traffic`]. It outlives a daemon.
pub const EDGE_TRAFFIC: &str = "EDGE_TRAFFIC";
/// Map of flows: [`FlowKey`] to [`Flow`].
pub const FLOWS: &str = "FLOWS";
/// Map of flows that have not been brought to a bigger [`FLOWS`] yet: the same keys and values. Looked at only while
/// [`MOVES`] is set.
pub const FLOWS_BEFORE: &str = "FLOWS_BEFORE";
/// Map of which client had which endpoint: [`ClientKey`] to [`Stay`]. The least recently used goes first.
pub const STAYS: &str = "STAYS";
/// Map of answers that come in fragments: [`FragmentKey`] to [`Fragment`]. The least recently used goes first.
pub const FRAGMENTS: &str = "FRAGMENTS";
/// Map of programs that others go on with, in the order of [`STEP_PROGRAMS`].
pub const STEPS: &str = "STEPS";
/// Names of these programs. Each place is also a number in `programs/edge/hooks.rs`.
pub const STEP_PROGRAMS: [&str; 25] = [
    "edge_again",
    "edge_again_bare",
    "edge_send",
    "edge_send_bare",
    "edge_error_in",
    "edge_error_in_bare",
    "edge_error_out",
    "edge_error_out_bare",
    "edge_error_back",
    "edge_open",
    "edge_open_bare",
    "edge_recall_in",
    "edge_recall_in_bare",
    "edge_recall_out",
    "edge_recall_out_bare",
    "edge_recall_back",
    "edge_in",
    "edge_in_bare",
    "edge_out",
    "edge_out_bare",
    "edge_back",
    "edge_fragment_in",
    "edge_fragment_in_bare",
    "edge_fragment_out",
    "edge_fragment_out_bare",
];
/// Per-CPU event counts, indexed by [`EdgeCounter`].
pub const EDGE_COUNTERS: &str = "EDGE_COUNTERS";

/// In [`OWN_ADDRESSES`]: an address of this node.
pub const OWN: u32 = 1;
/// The same, and it answers at node ports.
pub const NODE_PORTS: u32 = 3;
/// Of an [`EdgeDevice`]: it has the programs for what comes in and what leaves.
pub const COVERED: u32 = 1;
/// Its driver can send a frame back that came by it, before the stack has seen it (`XDP_TX`).
pub const FRAMES_BACK: u32 = 2;
/// Such frames may be sent to it, whichever device they came by (`XDP_REDIRECT`).
pub const FRAMES: u32 = 4;
/// It has the program for what endpoints answer.
pub const ANSWERS: u32 = 8;
/// Place of an endpoint that gets no new flows but keeps those it has.
pub const NOT_LISTED: u32 = u32::MAX;
/// Place in [`SIDES`].
pub const SIDE_V4: u32 = 0;
/// Place in [`SIDES`].
pub const SIDE_V6: u32 = 1;

abi! {
    /// A device.
    pub struct EdgeDevice: 36 {
        /// [`COVERED`], [`FRAMES_BACK`], [`FRAMES`] and [`ANSWERS`].
        pub flags: u32,
        /// The node's IPv4 address that flows bear which are masqueraded and leave by it; zero: there is none.
        pub own_v4: Address,
        /// The same for IPv6.
        pub own_v6: Address,
    }
}

abi! {
    /// What a client names.
    pub struct FrontendKey: 24 {
        /// Address.
        pub address: Address,
        /// Port: two bytes in network order as the machine loads them.
        pub port: u32,
        /// IP protocol number (6 TCP, 17 UDP).
        pub protocol: u32,
    }
}

abi! {
    /// What becomes of new flows to an address.
    pub struct Frontend: 20 {
        /// List for flows from outside the cluster.
        pub outside: u32,
        /// List for flows from pods.
        pub pod: u32,
        /// Which sources are let in: the number that stands before them in the trie. Zero: all.
        pub sources: u32,
        /// What to do: [`FORWARD`], [`DROP_FLOW`] and [`MASQUERADE`] for flows from outside, and the same, four bits
        /// higher, for flows from pods. Without any of them a flow is left to the packet filter.
        pub rules: u32,
        /// Number of the service port, as in [`ListState`].
        pub service: u32,
    }
}

/// The flow goes to one of the list.
pub const FORWARD: u32 = 1;
/// The flow vanishes.
pub const DROP_FLOW: u32 = 2;
/// The meaning demands that the source becomes an address of this node.
pub const MASQUERADE: u32 = 4;
/// By how many bits the rules for pods are higher.
pub const POD_RULES: u32 = 4;

abi! {
    /// Where the list of a service port stands. Writing this value, in place, is the one commit point of a change.
    pub struct ListState: 16 {
        /// Which list is valid. No other list ever has the same.
        pub generation: u32,
        /// Length of that list.
        pub slots: u32,
        /// For how many seconds after its last new flow a client gets the same endpoint. Zero: each flow is spread.
        pub timeout: u32,
        /// Number of the service port, made from its name: all daemons call it so.
        pub service: u32,
    }
}

abi! {
    /// One endpoint in one place of a list.
    pub struct Target: 24 {
        /// Its address.
        pub address: Address,
        /// Its port, as in [`FrontendKey`].
        pub port: u32,
        /// One if it is on this node.
        pub here: u32,
    }
}

abi! {
    /// One endpoint of one list.
    pub struct ServerKey: 24 {
        /// The list.
        pub list: u32,
        /// Its port, as in [`FrontendKey`].
        pub port: u32,
        /// Its address.
        pub address: Address,
    }
}

abi! {
    /// A range of sources, as a trie wants it.
    pub struct SourceKey: 24 {
        /// How many bits of the rest count.
        pub bits: u32,
        /// Whose sources.
        pub sources: u32,
        /// Address.
        pub address: Address,
    }
}

abi! {
    /// One client of one list with session affinity.
    pub struct ClientKey: 20 {
        /// The client's address.
        pub address: Address,
        /// Number of the service port: all its addresses share what a client got. Never the same again for another.
        pub service: u32,
    }
}

abi! {
    /// What that client got.
    pub struct Stay: 24 {
        /// The endpoint's address.
        pub address: Address,
        /// Its port, as in [`FrontendKey`].
        pub port: u32,
        /// When its last new flow began: seconds of the monotonic clock.
        pub used: u32,
    }
}

abi! {
    /// What all fragments of one packet bear.
    pub struct FragmentKey: 40 {
        /// Who sent them.
        pub source: Address,
        /// Whom they are for.
        pub target: Address,
        /// The packet's number, as the machine loads its bytes.
        pub number: u32,
        /// IP protocol number.
        pub protocol: u32,
    }
}

abi! {
    /// What they bear then.
    pub struct Fragment: 32 {
        /// Their new source.
        pub source: Address,
        /// Their new target.
        pub target: Address,
    }
}

abi! {
    /// What packets of one direction of one flow bear.
    pub struct FlowKey: 40 {
        /// Who sent them.
        pub source: Address,
        /// Whom they are for.
        pub target: Address,
        /// Both ports, as the machine loads the four bytes.
        pub ports: u32,
        /// IP protocol number.
        pub protocol: u32,
    }
}

abi! {
    /// What becomes of them. The entry of the other direction follows from key and value: what comes from the new target
    /// for the new source goes from the old target to the old source.
    pub struct Flow: 76 {
        /// Their new source.
        pub source: Address,
        /// Their new target.
        pub target: Address,
        /// Their new ports.
        pub ports: u32,
        /// [`REPLY`], [`MASQUERADED`] and what has been seen of TCP's life.
        pub marks: u32,
        /// The list that the endpoint is from.
        pub list: u32,
        /// The list's generation when the endpoint was last known to serve.
        pub generation: u32,
        /// When the last packet came, within a second: seconds of the monotonic clock.
        pub seen: u32,
        /// Number of the service port.
        pub service: u32,
        /// Where the next hop is reached: index of a device.
        pub device: u32,
        /// Its hardware address and the device's own, as a frame begins.
        pub addresses: [u32; 3],
        /// The routes' epoch in which that was found; [`NO_EPOCH`]: nobody has looked yet.
        pub epoch: u32,
    }
}

/// Epoch of a next hop that nobody has looked for yet.
pub const NO_EPOCH: u32 = 0;

/// The entry is for what the endpoint answers.
pub const REPLY: u32 = 1;
/// The source became an address of this node.
pub const MASQUERADED: u32 = 2;
/// This direction of a connection has ended.
pub const SEEN_FIN: u32 = 0x10;
/// Reset in this direction.
pub const SEEN_RST: u32 = 0x20;
/// The other direction has ended.
pub const PEER_FIN: u32 = 0x40;
/// The other direction was reset.
pub const PEER_RST: u32 = 0x80;
/// The other direction has answered.
pub const ANSWERED: u32 = 0x100;

abi! {
    /// What is the same for all flows of a family.
    pub struct Side: 44 {
        /// The range of pods, and its mask. A mask of zero: pods are not told by their address.
        pub pods: Address,
        /// See above.
        pub pods_mask: Address,
        /// First port for masqueraded flows.
        pub first_port: u32,
        /// How many there are.
        pub ports: u32,
        /// How packets go on: [`REDIRECT`], [`TRUSTS_STACK`] and [`MOVES`].
        pub forwarding: u32,
    }
}

/// Packets go to the next hop's device at once. Without it they go through the host's stack.
pub const REDIRECT: u32 = 1;
/// What endpoints on this node answer may come through the host's stack: nobody there takes it for something new, and gives it
/// another source.
pub const TRUSTS_STACK: u32 = 2;
/// Some flows are still in the smaller table of before.
pub const MOVES: u32 = 4;

/// Index into the map of counters.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EdgeCounter {
    /// New flows that got an endpoint.
    Opened = 0,
    /// New flows that were dropped: others serve, but not here.
    NoLocalEndpoint = 1,
    /// New flows that were dropped: their source is not let in.
    SourceRefused = 2,
    /// New flows left to the packet filter: the table of flows is full.
    TableFull = 3,
    /// New flows left to the packet filter: no port to masquerade with was free.
    NoPort = 4,
    /// New flows left to the packet filter: what they ask for is not done here.
    Left = 5,
    /// Datagram flows that got another endpoint, because theirs has gone.
    Moved = 6,
    /// Packets sent to the next hop's device at once.
    Redirected = 7,
    /// Packets translated and given to the host's stack.
    Passed = 8,
    /// Error messages (ICMP) translated.
    Errors = 9,
    /// Of the packets sent to the next hop's device, those that the stack never saw.
    Express = 10,
}

impl EdgeCounter {
    /// Every counter, in index order.
    pub const ALL: [Self; 11] = [
        Self::Opened,
        Self::NoLocalEndpoint,
        Self::SourceRefused,
        Self::TableFull,
        Self::NoPort,
        Self::Left,
        Self::Moved,
        Self::Redirected,
        Self::Passed,
        Self::Errors,
        Self::Express,
    ];

    /// Name for metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::NoLocalEndpoint => "noLocalEndpoint",
            Self::SourceRefused => "sourceRefused",
            Self::TableFull => "tableFull",
            Self::NoPort => "noPort",
            Self::Left => "left",
            Self::Moved => "moved",
            Self::Redirected => "redirected",
            Self::Passed => "passed",
            Self::Errors => "errors",
            Self::Express => "xdp",
        }
    }
}
