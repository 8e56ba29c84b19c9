//! The short cut before the stack has seen a frame at all (XDP): for flows that are written down, with a next hop that is still
//! true. Whatever else comes is left untouched, and [`ingress`](super::ingress) has it a moment later.

use super::checksum::{mend, narrow};
use super::frame::{Frame, Hop, Tables};
use super::header::{self, Header, TCP, Version};
use super::pass::{Verdict, at_once, follow, is_current, place};
use super::rewrite::{checksum_at, rewrite};
use crate::abi::{EdgeCounter, Flow, FlowKey, NO_EPOCH};

/// A frame comes into the node; its IP header is at `at`.
#[inline(always)]
pub fn express(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    if frame.is_foreign() {
        return Verdict::Left;
    }
    // As for packets, each version has a path of its own.
    match header::version(frame, at) {
        Some(Version::V4) => match header::read_v4(frame, at, true) {
            Some(header) => known(frame, tables, at, &header),
            None => Verdict::Left,
        },
        Some(Version::V6) => match header::read_v6(frame, at, true) {
            Some(header) => known(frame, tables, at, &header),
            None => Verdict::Left,
        },
        None => Verdict::Left,
    }
}

/// Nothing is written before it is certain that the frame leaves: what is left has its flow followed where it is served.
#[inline(always)]
fn known(frame: &mut impl Frame, tables: &impl Tables, at: usize, header: &Header) -> Verdict {
    if header.protocol == TCP && header.opens() {
        return Verdict::Left;
    }
    let key = header.key();
    let Some(flow) = tables.flow(&key) else { return Verdict::Left };
    if is_short(tables, at, header, &flow) && frame.fits(flow.device) && !is_half(frame, at, header) {
        send(frame, tables, at, header, &key, &flow)
    } else {
        Verdict::Left
    }
}

/// Whether all is known that the packet's way depends on, and it may go there past the stack.
#[inline(always)]
fn is_short(tables: &impl Tables, at: usize, header: &Header, flow: &Flow) -> bool {
    header.hops > 1
        && flow.epoch != NO_EPOCH
        && flow.epoch == tables.epoch()
        && is_current(tables, header, flow)
        && tables.side(place(header.version)).is_some_and(|side| at_once(side, at))
}

#[inline(always)]
fn send(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    header: &Header,
    key: &FlowKey,
    flow: &Flow,
) -> Verdict {
    let hop = Hop { device: flow.device, addresses: flow.addresses };
    let new = Header {
        source: flow.source,
        target: flow.target,
        ports: flow.ports,
        hops: header.hops - 1,
        ..*header
    };
    if rewrite(frame, at, &new).is_none() {
        return Verdict::Left;
    }
    follow(tables, header, key, flow);
    frame.put(0, &hop.addresses);
    tables.count(EdgeCounter::Redirected);
    tables.count(EdgeCounter::Express);
    frame.leave(hop.device, true);
    Verdict::Redirected
}

/// Whether the checksum is only begun: it is the sum of what it covers besides the segment, and a device was to add up the rest
/// (`CHECKSUM_PARTIAL`). Frames of a program on this machine come so over virtual cables and from some hypervisors; only a
/// packet's buffer says so, and here there is none yet. One whole checksum in 65,535 looks the same and takes the longer way.
#[inline(always)]
fn is_half(frame: &impl Frame, at: usize, header: &Header) -> bool {
    let start = at + header.version.bytes();
    let Some(end) = header::end(frame, at, header.version) else { return true };
    // Two bytes before UDP's, and with TCP's, begins the word that the checksum is in.
    let field = if header.protocol == TCP {
        frame.words::<1>(start + checksum_at(TCP)).map(|[word]| halves(word)[0])
    } else {
        frame.words::<1>(start + 4).map(|[word]| halves(word)[1])
    };
    let length = u16::try_from(end.wrapping_sub(start)).unwrap_or(0).to_be();
    let protocol = (header.protocol as u16).to_be();
    let mut sum = length as u64 + protocol as u64;
    for (source, target) in header.source.iter().zip(&header.target) {
        sum += *source as u64 + *target as u64;
    }
    // The words before an IPv4 address add up to all ones, which is zero here.
    field.is_none_or(|field| mend(field, narrow(sum)) == 0)
}

#[inline(always)]
const fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
}
