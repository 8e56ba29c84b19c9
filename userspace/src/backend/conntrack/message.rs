//! What is said to ctnetlink, and what it answers, as bytes.

use netlink_packet_core::{
    DefaultNla, DoneBuffer, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST,
    NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NetlinkHeader,
};

use super::entry::{self, Key};
use crate::model::{Family, Protocol};

/// The subsystem in the upper byte, the deed in the lower.
const NEW: u16 = 1 << 8;
const GET: u16 = NEW | 1;
const DELETE: u16 = NEW | 2;

/// Length of the header that all messages of netfilter begin with: family, version, and two bytes for others.
const NETFILTER_HEADER: usize = 4;
/// Messages begin at multiples of this.
const ALIGNMENT: usize = 4;

/// What the kernel is asked to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listing {
    /// UDP. Kernels before 5.8 do not know the filter, ignore it, and list everything.
    Udp,
    /// Everything in the family.
    Everything,
}

/// One message of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer<'a> {
    /// Number of the request.
    pub(super) sequence: u32,
    /// The table changed its shape while it was listed: entries may be missing.
    pub(super) interrupted: bool,
    pub(super) content: Content<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    /// The attributes of an entry.
    Entry(&'a [u8]),
    /// Nothing more comes; 0, or the error number.
    End(i32),
    /// Nothing that was asked for.
    Other,
}

/// Asks for the table of a family.
pub(super) fn list(family: Family, sequence: u32, listing: Listing) -> Vec<u8> {
    let filter = match listing {
        Listing::Udp => only_udp(),
        Listing::Everything => Vec::new(),
    };
    request(GET, NLM_F_DUMP, family, sequence, &filter)
}

/// Asks for the removal of one entry.
pub(super) fn delete(family: Family, sequence: u32, key: &Key) -> Vec<u8> {
    request(DELETE, NLM_F_ACK, family, sequence, key.attributes())
}

/// The messages in one reading from the socket. Ends where the bytes make no sense.
pub(super) fn answers(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(bytes).ok()?;
        let length = (message.length() as usize).next_multiple_of(ALIGNMENT);
        bytes = bytes.get(length..).unwrap_or_default();
        Some(Answer {
            sequence: message.sequence_number(),
            interrupted: message.flags() & NLM_F_DUMP_INTR != 0,
            content: content(message.message_type(), message.payload()),
        })
    })
}

fn content(kind: u16, payload: &[u8]) -> Content<'_> {
    match kind {
        NEW => Content::Entry(payload.get(NETFILTER_HEADER..).unwrap_or_default()),
        // Both begin with the error number, negative.
        NLMSG_DONE | NLMSG_ERROR => match DoneBuffer::new_checked(payload) {
            Ok(end) => Content::End(end.code().saturating_neg()),
            Err(_) => Content::Other,
        },
        _ => Content::Other,
    }
}

/// An example of a tuple, and which part of it counts (`CTA_FILTER_F_CTA_PROTO_NUM` in the kernel's nf_internals.h).
fn only_udp() -> Vec<u8> {
    const FILTER: u16 = 25;
    const ORIGINAL_FLAGS: u16 = 1;
    const PROTOCOL_COUNTS: u32 = 1 << 3;
    let protocol = attribute(entry::PROTOCOL, &[Protocol::Udp.number()]);
    let transport = attribute(entry::TRANSPORT | NLA_F_NESTED, &protocol);
    let tuple = attribute(entry::TUPLE_ORIGINAL | NLA_F_NESTED, &transport);
    let flags = attribute(ORIGINAL_FLAGS, &PROTOCOL_COUNTS.to_ne_bytes());
    [tuple, attribute(FILTER | NLA_F_NESTED, &flags)].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    emitted(&DefaultNla::new(kind, value.to_vec()))
}

/// The attributes end at a multiple of the alignment, so that another request may follow.
fn request(kind: u16, flags: u16, family: Family, sequence: u32, attributes: &[u8]) -> Vec<u8> {
    const INET: u8 = 2;
    const INET6: u8 = 10;
    let family = match family {
        Family::V4 => INET,
        Family::V6 => INET6,
    };
    let mut header = NetlinkHeader::default();
    header.length = (header.buffer_len() + NETFILTER_HEADER + attributes.len()) as u32;
    header.message_type = kind;
    header.flags = NLM_F_REQUEST | flags;
    header.sequence_number = sequence;
    [&emitted(&header)[..], &[family, 0, 0, 0], attributes].concat()
}

fn emitted(part: &impl Emitable) -> Vec<u8> {
    let mut bytes = vec![0; part.buffer_len()];
    part.emit(&mut bytes);
    bytes
}
