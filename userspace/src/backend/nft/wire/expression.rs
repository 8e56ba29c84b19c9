//! What the kernel's rules are made of.

use super::attribute::Writer;
use super::uapi::rule::{EXPR_DATA, EXPR_NAME, LIST_ELEM};
use super::uapi::{elem, verdict};

/// Of the sixteen registers of four bytes the one at this place (`NFT_REG32_00` and following).
pub(crate) const fn register(place: u32) -> u32 {
    8 + place
}

/// `NFT_REG_VERDICT`.
const VERDICT_REGISTER: u32 = 0;
/// `NF_NAT_RANGE_MAP_IPS | NF_NAT_RANGE_PROTO_SPECIFIED`.
const NAT_ADDRESS_AND_PORT: u32 = 0x3;
/// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`.
const FULLY_RANDOM: u32 = 0x10;
/// `NF_NAT_RANGE_PROTO_SPECIFIED`.
const PORTS: u32 = 2;
/// `NFT_CT_STATUS`.
const CT_STATUS: u32 = 2;
/// `NFT_NG_RANDOM`.
const RANDOM: u32 = 1;
/// `NFT_FIB_RESULT_ADDRTYPE`.
const ADDRESS_TYPE: u32 = 3;
/// `NFT_DYNSET_OP_UPDATE`.
const UPDATE: u32 = 1;
/// `NFT_LOOKUP_F_INV`.
const INVERTED: u32 = 1;

/// Where a load begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Base {
    /// At the IP header.
    Network = 1,
    /// At the header of TCP, UDP or SCTP.
    Transport = 2,
}

/// What a packet carries besides its bytes (`NFT_META_*`).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meta {
    /// The mark.
    Mark = 3,
    /// Name of the interface it arrived on.
    IncomingName = 6,
    /// Number of the transport protocol.
    Protocol = 16,
}

/// Which address is looked up in the routing table (`NFTA_FIB_F_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Where it comes from.
    Source = 1,
    /// Where it goes.
    Destination = 2,
}

/// One step of a rule. Places are of registers of four bytes; a step that does not match ends the rule.
#[derive(Clone, Debug)]
pub(crate) enum Expression<'a> {
    /// Loads bytes of the packet.
    Load { base: Base, offset: u32, length: u32, to: u32 },
    /// Loads what the packet carries besides.
    LoadMeta { what: Meta, to: u32 },
    /// Loads the status of the connection.
    LoadStatus { to: u32 },
    /// Sets the mark.
    SetMark { from: u32 },
    /// Goes on if the bytes there are these, or are not.
    Compare { from: u32, equal: bool, with: Vec<u8> },
    /// `to = (from & mask) ^ xor`.
    Bits { at: u32, mask: Vec<u8>, xor: Vec<u8> },
    /// The kind of an address in the routing table.
    AddressType { side: Side, to: u32 },
    /// Goes on if the set has the key, or has it not.
    In { from: u32, set: &'a str, inverted: bool },
    /// Goes on if the map has the key, and loads what it has for it.
    Map { from: u32, set: &'a str, to: u32 },
    /// Goes on if the map has the key, and does what it says.
    VerdictMap { from: u32, set: &'a str },
    /// The same with a map that is made in the same transaction and has no name.
    VerdictMapById { from: u32, id: u32 },
    /// Jenkins' hash of some bytes, scaled to a number below the modulus.
    Hash { from: u32, length: u32, modulus: u32, seed: u32, to: u32 },
    /// A random number below the modulus, plus an offset.
    Random { modulus: u32, offset: u32, to: u32 },
    /// Loads bytes.
    Immediate { to: u32, bytes: Vec<u8> },
    /// Translates the destination to an address and a port, and ends the chain.
    Dnat { family: u32, address: u32, port: u32 },
    /// Translates the source to the outgoing interface's address and a random port, from the one that is loaded there to the other, if
    /// not any; ends the chain.
    Masquerade { ports: Option<[u32; 2]> },
    /// Adds or refreshes an element.
    Update { set: &'a str, key: u32, timeout_millis: u64 },
    /// Counts.
    Count { counter: &'a str },
    /// Answers that the port is unreachable, and drops.
    Reject { code: u8 },
    /// Drops.
    Drop,
    /// Goes to a chain and comes back.
    Jump { chain: &'a str },
    /// Goes to a chain and does not come back.
    Goto { chain: &'a str },
    /// Keeps connection tracking away.
    Notrack,
}

impl Expression<'_> {
    /// Writes it as an element of a rule's list.
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.nest(LIST_ELEM, |element| {
            element.text(EXPR_NAME, self.name());
            element.nest(EXPR_DATA, |data| self.attributes(data));
        });
    }

    /// As the kernel calls it.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Load { .. } => "payload",
            Self::LoadMeta { .. } | Self::SetMark { .. } => "meta",
            Self::LoadStatus { .. } => "ct",
            Self::Compare { .. } => "cmp",
            Self::Bits { .. } => "bitwise",
            Self::AddressType { .. } => "fib",
            Self::In { .. } | Self::Map { .. } | Self::VerdictMap { .. } | Self::VerdictMapById { .. } => {
                "lookup"
            }
            Self::Hash { .. } => "hash",
            Self::Random { .. } => "numgen",
            Self::Immediate { .. } | Self::Drop | Self::Jump { .. } | Self::Goto { .. } => "immediate",
            Self::Dnat { .. } => "nat",
            Self::Masquerade { .. } => "masq",
            Self::Update { .. } => "dynset",
            Self::Count { .. } => "objref",
            Self::Reject { .. } => "reject",
            Self::Notrack => "notrack",
        }
    }

    /// The attributes, numbered as in `NFTA_PAYLOAD_*`, `NFTA_META_*` and so on.
    fn attributes(&self, data: &mut Writer) {
        match self {
            Self::Load { base, offset, length, to } => {
                numbers(data, &[(1, register(*to)), (2, *base as u32), (3, *offset), (4, *length)]);
            }
            Self::LoadMeta { what, to } => numbers(data, &[(2, *what as u32), (1, register(*to))]),
            Self::LoadStatus { to } => numbers(data, &[(2, CT_STATUS), (1, register(*to))]),
            Self::SetMark { from } => numbers(data, &[(2, Meta::Mark as u32), (3, register(*from))]),
            Self::Compare { from, equal, with } => {
                numbers(data, &[(1, register(*from)), (2, u32::from(!equal))]);
                data.nest(3, |value| value.put(elem::DATA_VALUE, with));
            }
            Self::Bits { at, mask, xor } => {
                let length = mask.len() as u32;
                numbers(data, &[(1, register(*at)), (2, register(*at)), (6, 0), (3, length)]);
                data.nest(4, |value| value.put(elem::DATA_VALUE, mask));
                data.nest(5, |value| value.put(elem::DATA_VALUE, xor));
            }
            Self::AddressType { side, to } => {
                numbers(data, &[(1, register(*to)), (2, ADDRESS_TYPE), (3, *side as u32)]);
            }
            Self::In { .. } | Self::Map { .. } | Self::VerdictMap { .. } | Self::VerdictMapById { .. } => {
                self.lookup(data);
            }
            Self::Hash { from, length, modulus, seed, to } => {
                let (from, to) = (register(*from), register(*to));
                numbers(data, &[(1, from), (2, to), (3, *length), (4, *modulus), (5, *seed), (7, 0)]);
            }
            Self::Random { modulus, offset, to } => {
                numbers(data, &[(1, register(*to)), (2, *modulus), (3, RANDOM), (4, *offset)]);
            }
            Self::Immediate { to, bytes } => {
                data.number(1, register(*to));
                data.nest(2, |value| value.put(elem::DATA_VALUE, bytes));
            }
            Self::Dnat { family, address, port } => {
                let (address, port) = (register(*address), register(*port));
                numbers(data, &[(1, 1), (2, *family), (3, address), (4, address), (5, port), (6, port)]);
                data.number(7, NAT_ADDRESS_AND_PORT);
            }
            Self::Masquerade { ports } => masquerade(data, *ports),
            Self::Update { set, key, timeout_millis } => {
                numbers(data, &[(4, register(*key)), (3, UPDATE)]);
                data.text(1, set);
                data.long(6, *timeout_millis);
            }
            Self::Count { counter } => {
                data.number(1, super::uapi::object::COUNTER);
                data.put(2, counter.as_bytes());
            }
            Self::Reject { code } => {
                data.number(1, 0);
                data.put(2, &[*code]);
            }
            Self::Drop => immediate(data, verdict::DROP, None),
            Self::Jump { chain } => immediate(data, verdict::JUMP, Some(chain)),
            Self::Goto { chain } => immediate(data, verdict::GOTO, Some(chain)),
            Self::Notrack => {}
        }
    }

    /// `NFTA_LOOKUP_*`.
    fn lookup(&self, data: &mut Writer) {
        let (from, set, last) = match self {
            Self::In { from, set, inverted } => (from, *set, Some((5, if *inverted { INVERTED } else { 0 }))),
            Self::Map { from, set, to } => (from, *set, Some((3, register(*to)))),
            Self::VerdictMap { from, set } => (from, *set, Some((3, VERDICT_REGISTER))),
            Self::VerdictMapById { from, id } => {
                data.number(4, *id);
                (from, ANONYMOUS_MAP, Some((3, VERDICT_REGISTER)))
            }
            Self::Load { .. }
            | Self::LoadMeta { .. }
            | Self::LoadStatus { .. }
            | Self::SetMark { .. }
            | Self::Compare { .. }
            | Self::Bits { .. }
            | Self::AddressType { .. }
            | Self::Hash { .. }
            | Self::Random { .. }
            | Self::Immediate { .. }
            | Self::Dnat { .. }
            | Self::Masquerade { .. }
            | Self::Update { .. }
            | Self::Count { .. }
            | Self::Reject { .. }
            | Self::Drop
            | Self::Jump { .. }
            | Self::Goto { .. }
            | Self::Notrack => return,
        };
        data.text(1, set);
        data.number(2, register(*from));
        numbers(data, last.as_slice());
    }
}

/// What the kernel makes the name of a map without a name from.
pub(crate) const ANONYMOUS_MAP: &str = "__map%d";

fn numbers(data: &mut Writer, list: &[(u16, u32)]) {
    for (kind, value) in list {
        data.number(*kind, *value);
    }
}

fn masquerade(data: &mut Writer, ports: Option<[u32; 2]>) {
    data.number(1, FULLY_RANDOM | if ports.is_some() { PORTS } else { 0 });
    for (attribute, from) in (2..).zip(ports.iter().flatten()) {
        data.number(attribute, register(*from));
    }
}

fn immediate(data: &mut Writer, code: i32, chain: Option<&str>) {
    data.number(1, VERDICT_REGISTER);
    data.nest(2, |value| write_verdict(value, code, chain));
}

/// A verdict as a piece of data.
pub(crate) fn write_verdict(data: &mut Writer, code: i32, chain: Option<&str>) {
    data.nest(elem::DATA_VERDICT, |inner| {
        inner.number(elem::VERDICT_CODE, code as u32);
        if let Some(chain) = chain {
            inner.text(elem::VERDICT_CHAIN, chain);
        }
    });
}
