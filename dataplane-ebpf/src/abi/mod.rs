//! What the programs in the kernel and the daemon agree on, byte for byte.
//!
//! Rules of this room: addresses and ports are byte arrays in network order; numbers that are computed with (ids,
//! counts) are native integers; no `bool`, no `enum`, no `Option`, no padding. IPv4 addresses are stored as
//! IPv4-mapped IPv6 (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2): one table serves both families, and an IPv6 socket that
//! names a mapped address finds the IPv4 service without a special case.
//!
//! Whoever changes a layout raises [`VERSION`]; a golden test holds the two together.

mod affinity;
mod backend;
mod counter;
mod edge;
mod name;
mod service;
mod socket;
mod traffic;

pub use affinity::{Affinity, AffinityKey, Member, MemberKey};
pub use backend::{Backend, Endpoint};
pub use counter::Counter;
pub use edge::{
    ANSWERED, ANSWERS, Address, BACKED, COVERED, ClientKey, DEVICES, DROP_FLOW, EDGE_COUNTERS, EDGE_TRAFFIC,
    EDGE_VERSION, EPOCH, EdgeCounter, EdgeDevice, FLOWS, FLOWS_BEFORE, FORWARD, FRAGMENTS, FRAMES,
    FRAMES_BACK, FRONTENDS, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey, LISTS, ListState,
    MASQUERADE, MASQUERADED, MOVES, NO_EPOCH, NODE_PORTS, NOT_LISTED, OWN, OWN_ADDRESSES, PEER_FIN, PEER_RST,
    POD_RULES, REDIRECT, REPLY, SEEN_FIN, SEEN_RST, SERVERS, SIDE_V4, SIDE_V6, SIDES, SOURCES, STAYS,
    STEP_PROGRAMS, STEPS, ServerKey, Side, SourceKey, Stay, TARGETS, TRUSTS_STACK, Target,
};
pub use name::{NAME_BYTES, Name};
pub use service::{DROP, Extent, INSIDE, OUTSIDE, Service, ServiceKey, Slot, SlotKey, State};
pub use socket::{DATAGRAM_PEERS, Datagrams, Peer};
pub use traffic::{Holds, Traffic, Uses};

/// Version of every layout and of the meaning of every map. It is part of the pin directory's name, so that a daemon
/// never reads the maps of another layout by accident, and it is stored in the map [`META`].
pub const VERSION: u32 = 4;

/// Map of services: [`ServiceKey`] to [`Service`].
pub const SERVICES: &str = "SERVICES";
/// Map of the node's own addresses where node ports answer, IPv4 as IPv4-mapped: to 4 or 6, by family.
pub const NODE_ADDRESSES: &str = "NODE_ADDRESSES";
/// Array of list states: service id to [`State`]. Place zero is never used.
pub const STATES: &str = "STATES";
/// Map of endpoint lists: [`SlotKey`] to [`Slot`].
pub const SLOTS: &str = "SLOTS";
/// Map of who is in which list, for service ports with session affinity: [`MemberKey`] to [`Member`].
pub const MEMBERS: &str = "MEMBERS";
/// Map of endpoints: id (`u32`) to [`Backend`].
pub const BACKENDS: &str = "BACKENDS";
/// Map of names for people: service id (`u32`) to [`Name`]. No program reads it.
pub const NAMES: &str = "NAMES";
/// Two entries: [`META_VERSION`] and [`META_COMPLETE`].
pub const META: &str = "META";
/// Place in [`META`] that holds [`VERSION`].
pub const META_VERSION: u32 = 0;
/// Place in [`META`] that holds 1 once the maps beside it have been filled completely. Programs are put into force only
/// over complete maps, so of several sets the newest complete one is the one to go on with.
pub const META_COMPLETE: u32 = 1;
/// Per-CPU event counts, indexed by [`Counter`].
pub const COUNTERS: &str = "COUNTERS";
/// Map of which client had which endpoint: [`AffinityKey`] to [`Affinity`]. The least recently used goes first.
pub const AFFINITY: &str = "AFFINITY";
/// In the object: the cookie of the node's own network namespace. Whoever loads it writes it there; zero: no caller is the
/// node itself.
pub const NODE_NETNS: &str = "NODE_NETNS";
/// Socket storage of connected sockets: [`Peer`].
pub const CONNECTED: &str = "CONNECTED";
/// Socket storage of sockets that send without connecting: [`Datagrams`].
pub const DATAGRAMS: &str = "DATAGRAMS";
/// Map of what became of new connections: service id (`u32`) to [`Traffic`].
pub const TRAFFIC: &str = "TRAFFIC";
/// Map of how much endpoints are used: id (`u32`) to [`Uses`].
pub const USES: &str = "USES";
/// Socket storage of sockets that count for an endpoint: [`Holds`].
pub const HOLDS: &str = "HOLDS";

/// Shape of one map, as the kernel reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapShape {
    /// Name of the map in the object, in the pin directory, and (cut to 15 bytes) in the kernel.
    pub name: &'static str,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
}

const fn shape<K, V>(name: &'static str) -> MapShape {
    MapShape { name, key_size: size_of::<K>() as u32, value_size: size_of::<V>() as u32 }
}

/// Every map there is. Loader, dump and tests go through this table.
pub const MAPS: [MapShape; 15] = [
    shape::<ServiceKey, Service>(SERVICES),
    shape::<u32, State>(STATES),
    shape::<SlotKey, Slot>(SLOTS),
    shape::<MemberKey, Member>(MEMBERS),
    shape::<u32, Backend>(BACKENDS),
    shape::<u32, Name>(NAMES),
    shape::<u32, u32>(META),
    shape::<u32, u64>(COUNTERS),
    shape::<AffinityKey, Affinity>(AFFINITY),
    shape::<i32, Peer>(CONNECTED),
    shape::<i32, Datagrams>(DATAGRAMS),
    shape::<[u8; 16], u32>(NODE_ADDRESSES),
    shape::<u32, Traffic>(TRAFFIC),
    shape::<u32, Uses>(USES),
    shape::<i32, Holds>(HOLDS),
];

/// Defines a structure shared with the kernel and proves it: the stated size, no hidden padding, plain fields only.
/// It also lists the layout for the golden test.
macro_rules! abi {
    ($(#[$meta:meta])* pub struct $name:ident: $size:literal {
        $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)+
    }) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)+ }

        const _: () = assert!(size_of::<$name>() == $size, "not the size it says");
        const _: () = assert!(0 $(+ size_of::<$type>())+ == $size, "implicit padding");

        impl $name {
            /// Name, offset and size of each field, in order.
            pub const LAYOUT: &'static [(&'static str, usize, usize)] =
                &[$((stringify!($field), core::mem::offset_of!($name, $field), size_of::<$type>())),+];
        }

        #[cfg(feature = "user")]
        const _: () = { const fn plain<T: aya::Pod>() {} $(plain::<$type>();)+ };
        // SAFETY: repr(C), every field is plain, and no byte is padding: asserted above.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use abi;
