//! One tracked flow, read from the attributes by which ctnetlink describes it.
//!
//! Attribute numbers are those of include/uapi/linux/netfilter/nfnetlink_conntrack.h. Nothing is copied before a flow is
//! to be removed: a table may hold a million of them.

use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLA_ALIGNTO, NLA_HEADER_SIZE, NlasIterator, parse_ip, parse_u8, parse_u16_be};

pub(super) const TUPLE_ORIGINAL: u16 = 1;
pub(super) const TUPLE_REPLY: u16 = 2;
pub(super) const ID: u16 = 12;
pub(super) const ZONE: u16 = 18;
/// In a tuple.
pub(super) const ADDRESSES: u16 = 1;
/// In a tuple.
pub(super) const TRANSPORT: u16 = 2;
/// In the transport of a tuple.
pub(super) const PROTOCOL: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;
const SOURCES: [u16; 2] = [1, 3];
const DESTINATIONS: [u16; 2] = [2, 4];

/// From whom to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tuple {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// One flow between ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// IP protocol number.
    pub(super) protocol: u8,
    /// As the client sent it.
    pub(super) original: Tuple,
    /// As the answer comes.
    pub(super) reply: Tuple,
}

/// What tells the kernel exactly which flow is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key(Vec<u8>);

impl Entry {
    /// `None` for what has no ports, or lacks something.
    pub(super) fn read(attributes: &[u8]) -> Option<Self> {
        let (protocol, original) = tuple(find(attributes, TUPLE_ORIGINAL)?)?;
        let (_, reply) = tuple(find(attributes, TUPLE_REPLY)?)?;
        Some(Self { protocol, original, reply })
    }
}

impl Key {
    /// The original tuple, the zone if there is one, and the identity, as the kernel wrote them. The identity is
    /// another one when the flow has ended meanwhile and a new one began between the same ports: that one is not meant.
    ///
    /// Never empty: without a tuple the kernel would take a removal for one of the whole table.
    pub(super) fn of(attributes: &[u8]) -> Option<Self> {
        find(attributes, TUPLE_ORIGINAL)?;
        let mut key = Vec::new();
        for (_, whole) in each(attributes).filter(|(kind, _)| [TUPLE_ORIGINAL, ZONE, ID].contains(kind)) {
            key.extend_from_slice(whole);
            key.resize(key.len().next_multiple_of(NLA_ALIGNTO), 0);
        }
        Some(Self(key))
    }

    pub(super) fn attributes(&self) -> &[u8] {
        &self.0
    }
}

fn tuple(attributes: &[u8]) -> Option<(u8, Tuple)> {
    let addresses = find(attributes, ADDRESSES)?;
    let transport = find(attributes, TRANSPORT)?;
    let protocol = parse_u8(find(transport, PROTOCOL)?).ok()?;
    let source = SocketAddr::new(address(addresses, SOURCES)?, port(transport, SOURCE_PORT)?);
    let destination = SocketAddr::new(address(addresses, DESTINATIONS)?, port(transport, DESTINATION_PORT)?);
    Some((protocol, Tuple { source, destination }))
}

fn address(attributes: &[u8], kinds: [u16; 2]) -> Option<IpAddr> {
    parse_ip(kinds.into_iter().find_map(|kind| find(attributes, kind))?).ok()
}

fn port(attributes: &[u8], kind: u16) -> Option<u16> {
    parse_u16_be(find(attributes, kind)?).ok()
}

pub(super) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    each(attributes).find(|(found, _)| *found == kind).map(|(_, whole)| &whole[NLA_HEADER_SIZE..])
}

/// Kind and bytes of each attribute, its header included. Ends where the bytes make no sense.
fn each(attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(attributes).map_while(Result::ok).map(|attribute| {
        let length = usize::from(attribute.length());
        (attribute.kind(), &attribute.into_inner()[..length])
    })
}
