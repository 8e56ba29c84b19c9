//! Answers that were too big for one frame. The first fragment alone bears ports; it tells which flow the packet is of, and the
//! others follow by the packet's number. Those that come before it are nobody's.
//!
//! Questions in fragments are the packet filter's: it puts them together, and needs no flow of ours for that.

use super::frame::{Frame, Tables, Way};
use super::header::{Header, MAPPED, TCP, UDP, Version, version};
use super::pass::{Verdict, at_once, follow, place};
use super::rewrite::rewrite_fragment;
use crate::abi::{EdgeCounter, Flow, FlowKey, Fragment, FragmentKey, MASQUERADED, REPLY};

/// IPv6's header of a fragment.
const FRAGMENT: u8 = 44;
/// Its bytes.
const FRAGMENT_BYTES: usize = 8;
/// Third word of a header of IPv4, without the packet's number: more fragments, or not at the beginning.
const IN_FRAGMENTS: u32 = u32::from_ne_bytes([0, 0, 0x3f, 0xff]);
/// See above: not at the beginning.
const LATER: u32 = u32::from_ne_bytes([0, 0, 0x1f, 0xff]);
/// The same in IPv6's header of a fragment.
const LATER_V6: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xf8]);

/// One fragment.
struct Part {
    /// Of the packet; ports are zero but in the first one.
    header: Header,
    number: u32,
    /// Where what is carried begins, in the first one.
    first: Option<usize>,
}

/// Whether the packet at `at`, which is not read as a whole one, is a fragment.
#[inline(always)]
pub(super) fn is_one(frame: &impl Frame, at: usize, version: Version) -> bool {
    match version {
        Version::V4 => frame.words::<1>(at + 4).is_some_and(|[identity]| identity & IN_FRAGMENTS != 0),
        Version::V6 => frame.words::<1>(at + 4).is_some_and(|[kind]| kind.to_ne_bytes()[2] == FRAGMENT),
    }
}

/// Comes into the node: what an endpoint elsewhere answers.
#[inline(always)]
pub fn incoming(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    match version(frame, at) {
        Some(Version::V4) => match read_v4(frame, at) {
            Some(part) => forward(frame, tables, at, &part),
            None => Verdict::Left,
        },
        Some(Version::V6) => match read_v6(frame, at) {
            Some(part) => forward(frame, tables, at, &part),
            None => Verdict::Left,
        },
        None => Verdict::Left,
    }
}

/// Leaves the node: what an endpoint here answers.
#[inline(always)]
pub fn outgoing(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    match version(frame, at) {
        Some(Version::V4) => match read_v4(frame, at) {
            Some(part) => pass(frame, tables, at, &part),
            None => Verdict::Left,
        },
        Some(Version::V6) => match read_v6(frame, at) {
            Some(part) => pass(frame, tables, at, &part),
            None => Verdict::Left,
        },
        None => Verdict::Left,
    }
}

#[inline(always)]
fn pass(frame: &mut impl Frame, tables: &impl Tables, at: usize, part: &Part) -> Verdict {
    let ours = |flow: &Flow| flow.marks & (REPLY | MASQUERADED) == REPLY;
    let Some(new) = translated(tables, part, ours) else { return Verdict::Left };
    match rewrite_fragment(frame, at, &new, part.first) {
        Some(()) => Verdict::Passed,
        None => Verdict::Left,
    }
}

#[inline(always)]
fn forward(frame: &mut impl Frame, tables: &impl Tables, at: usize, part: &Part) -> Verdict {
    let Some(side) = tables.side(place(part.header.version)) else { return Verdict::Left };
    let Some(new) = translated(tables, part, |flow| flow.marks & REPLY != 0) else { return Verdict::Left };
    if !at_once(side, at) {
        return go(frame, tables, at, &new, part.first, EdgeCounter::Passed, Verdict::Passed);
    }
    if new.hops <= 1 {
        return Verdict::Left;
    }
    let new = Header { hops: new.hops - 1, ..new };
    // Seldom enough to ask each time.
    let way = frame.way(&new);
    if way == Way::Stack {
        return Verdict::Left;
    }
    let verdict = go(frame, tables, at, &new, part.first, EdgeCounter::Redirected, Verdict::Redirected);
    match (way, verdict) {
        (Way::To(hop), Verdict::Redirected) => {
            frame.put(0, &hop.addresses);
            frame.leave(hop.device, true);
        }
        (Way::Ask(device), Verdict::Redirected) => frame.leave(device, false),
        (Way::To(_) | Way::Ask(_) | Way::Stack, _) => {}
    }
    verdict
}

#[inline(always)]
fn go(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    new: &Header,
    first: Option<usize>,
    counter: EdgeCounter,
    verdict: Verdict,
) -> Verdict {
    if rewrite_fragment(frame, at, new, first).is_none() {
        return Verdict::Left;
    }
    tables.count(counter);
    verdict
}

/// What the packet bears from here on.
#[inline(always)]
fn translated(tables: &impl Tables, part: &Part, ours: impl Fn(&Flow) -> bool) -> Option<Header> {
    let Part { header, number, first } = part;
    let Header { source, target, protocol, .. } = *header;
    let key = FragmentKey { source, target, number: *number, protocol };
    if first.is_none() {
        let Fragment { source, target } = tables.fragment(&key)?;
        return Some(Header { source, target, ..*header });
    }
    let flow_key: FlowKey = header.key();
    let flow = tables.flow(&flow_key).filter(|flow| ours(flow))?;
    follow(tables, header, &flow_key, &flow);
    tables.set_fragment(&key, &Fragment { source: flow.source, target: flow.target });
    Some(Header { source: flow.source, target: flow.target, ports: flow.ports, ..*header })
}

#[inline(always)]
fn read_v4(frame: &impl Frame, at: usize) -> Option<Part> {
    let [identity, kind, source, target] = frame.words::<4>(at + 4)?;
    let [hops, protocol, _, _] = kind.to_ne_bytes().map(u32::from);
    let [source, target] = [source, target].map(|word| [0, 0, MAPPED, word]);
    let header = Header { version: Version::V4, protocol, hops, bits: 0, source, target, ports: 0 };
    let [a, b, _, _] = identity.to_ne_bytes();
    let number = u32::from_ne_bytes([a, b, 0, 0]);
    with_ports(frame, at + 20, header, number, identity & LATER == 0)
}

#[inline(always)]
fn read_v6(frame: &impl Frame, at: usize) -> Option<Part> {
    let [kind, a, b, c, d, e, f, g, h, place, number] = frame.words::<11>(at + 4)?;
    let [_, _, next, hops] = kind.to_ne_bytes();
    if next != FRAGMENT {
        return None;
    }
    let (source, target) = ([a, b, c, d], [e, f, g, h]);
    let protocol = u32::from(place.to_ne_bytes()[0]);
    let hops = u32::from(hops);
    let header = Header { version: Version::V6, protocol, hops, bits: 0, source, target, ports: 0 };
    with_ports(frame, at + 40 + FRAGMENT_BYTES, header, number, place & LATER_V6 == 0)
}

/// A first fragment without all of the next header's fixed part is nobody's, for its checksum would not be there.
#[inline(always)]
fn with_ports(frame: &impl Frame, start: usize, header: Header, number: u32, is_first: bool) -> Option<Part> {
    if !is_first {
        let known = header.protocol == TCP || header.protocol == UDP;
        return known.then_some(Part { header, number, first: None });
    }
    let ports = match header.protocol {
        TCP => frame.words::<5>(start)?[0],
        UDP => frame.words::<2>(start)?[0],
        _ => return None,
    };
    Some(Part { header: Header { ports, ..header }, number, first: Some(start) })
}
