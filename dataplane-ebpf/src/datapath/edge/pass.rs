//! The sequences for one packet, where it comes into the node and where it leaves it.

use super::error;
use super::fragment;
use super::frame::{Added, Frame, Hop, Tables, Way};
use super::header::{self, Header, TCP, UDP};
use super::life;
use super::open::{self, Opened};
use super::rewrite::rewrite;
use crate::abi::{
    ANSWERED, EdgeCounter, Flow, FlowKey, MASQUERADED, MOVES, NO_EPOCH, REDIRECT, REPLY, SIDE_V4, SIDE_V6,
    Side,
};
use header::Version;

/// What becomes of a packet.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on as it came.
    Left,
    /// It goes on to the host's stack, translated.
    Passed,
    /// It leaves by another device at once ([`Frame::leave`]).
    Redirected,
    /// It vanishes.
    Dropped,
}

/// What to do about a packet for which the short way is not enough. In the kernel each is a program of its own: one alone would
/// need more room than a program has.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing more.
    Done(Verdict),
    /// [`recall`], and then from the beginning.
    Recall,
    /// From the beginning.
    Begin,
    /// [`again`].
    Again,
    /// [`open`].
    Open,
    /// [`send`].
    Send,
    /// [`error`](super::error::incoming).
    Error,
    /// [`fragment`](super::fragment::incoming).
    Fragment,
}

/// Comes into the node. `at`: where the IP header begins; before it stand hardware addresses, or nothing.
#[inline(always)]
pub fn ingress(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Step {
    let left = Step::Done(Verdict::Left);
    if frame.is_foreign() {
        return left;
    }
    // Each version has a path of its own, in which all that follows from it is known when the program is made.
    match header::version(frame, at) {
        Some(Version::V4) => match header::read_v4(frame, at, true) {
            Some(header) => known(frame, tables, at, &header),
            None => unread(frame, at, Version::V4),
        },
        Some(Version::V6) => match header::read_v6(frame, at, true) {
            Some(header) => known(frame, tables, at, &header),
            None => unread(frame, at, Version::V6),
        },
        None => left,
    }
}

/// What is not read as a whole packet.
#[inline(always)]
fn unread(frame: &impl Frame, at: usize, version: Version) -> Step {
    if fragment::is_one(frame, at, version) { Step::Fragment } else { Step::Done(Verdict::Left) }
}

/// The short way: a packet of a flow that is written down.
#[inline(always)]
fn known(frame: &mut impl Frame, tables: &impl Tables, at: usize, header: &Header) -> Step {
    let left = Step::Done(Verdict::Left);
    if header.is_icmp() {
        return if error::reports(header) { Step::Error } else { left };
    }
    let key = header.key();
    let Some(flow) = tables.flow(&key) else {
        return if moves(tables, header) { Step::Recall } else { unknown(header) };
    };
    if header.protocol == TCP && header.opens() || !is_current(tables, header, &flow) {
        return Step::Again;
    }
    let Some(side) = tables.side(place(header.version)) else { return left };
    follow(tables, header, &key, &flow);
    Step::Done(translate(frame, tables, at, header, side, &key, &flow))
}

/// Whether nothing has changed in the list that a datagram flow's endpoint is from.
#[inline(always)]
pub(super) fn is_current(tables: &impl Tables, header: &Header, flow: &Flow) -> bool {
    header.protocol != UDP
        || flow.marks & REPLY != 0
        || tables.list(flow.list).is_some_and(|list| list.generation == flow.generation)
}

/// What becomes of a packet of no flow.
#[inline(always)]
fn unknown(header: &Header) -> Step {
    if header.opens() { Step::Open } else { Step::Done(Verdict::Left) }
}

/// Whether flows are being brought to another table.
#[inline(always)]
fn moves(tables: &impl Tables, header: &Header) -> bool {
    tables.side(place(header.version)).is_some_and(|side| side.forwarding & MOVES != 0)
}

/// A packet whose flow may be in the table of before: it is brought over, both directions.
#[inline(always)]
pub fn recall(frame: &impl Frame, tables: &impl Tables, at: usize) -> Step {
    let Some(header) = header::read(frame, at, true) else { return Step::Done(Verdict::Left) };
    let key = header.key();
    let Some(flow) = tables.flow_before(&key) else { return unknown(&header) };
    let sibling = life::sibling(&key, &flow);
    if let Some(other) = tables.flow_before(&sibling) {
        // Where there is no room for both, the other one is brought over with its own first packet.
        let _ = tables.add(&sibling, &other);
    }
    match tables.add(&key, &flow) {
        Added::Yes | Added::Taken => Step::Begin,
        Added::Full => Step::Done(Verdict::Left),
    }
}

/// A packet whose flow must be asked whether it goes on.
#[inline(always)]
pub fn again(frame: &impl Frame, tables: &impl Tables, at: usize) -> Step {
    let left = Step::Done(Verdict::Left);
    let Some(header) = header::read(frame, at, true) else { return left };
    let Some(side) = tables.side(place(header.version)) else { return left };
    let key = header.key();
    match tables.flow(&key) {
        Some(flow) if goes_on(tables, &header, side, &key, &flow) => Step::Send,
        Some(_) | None => Step::Open,
    }
}

/// A packet that may be the first of its flow.
#[inline(always)]
pub fn open(frame: &impl Frame, tables: &impl Tables, at: usize) -> Step {
    let left = Step::Done(Verdict::Left);
    let Some(header) = header::read(frame, at, true) else { return left };
    let Some(side) = tables.side(place(header.version)) else { return left };
    match open::open(frame, tables, &header, side, at_once(side, at)) {
        Opened::Written => Step::Send,
        Opened::Dropped => Step::Done(Verdict::Dropped),
        Opened::Left => left,
    }
}

/// A packet whose flow is written down.
#[inline(always)]
pub fn send(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    let Some(header) = header::read(frame, at, true) else { return Verdict::Left };
    let Some(side) = tables.side(place(header.version)) else { return Verdict::Left };
    let key = header.key();
    let Some(flow) = tables.flow(&key) else { return Verdict::Left };
    follow(tables, &header, &key, &flow);
    translate(frame, tables, at, &header, side, &key, &flow)
}

/// Comes into the node by a device behind which endpoints are: what they answer leaves at once, with the service's address.
/// Neither connection tracking, which knows nothing of these flows, nor whoever masquerades what endpoints send, sees it.
#[inline(always)]
pub fn back(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Step {
    let left = Step::Done(Verdict::Left);
    if frame.is_foreign() {
        return left;
    }
    match header::version(frame, at) {
        Some(Version::V4) => match header::read_v4(frame, at, true) {
            Some(header) => answered(frame, tables, at, &header),
            None => unread(frame, at, Version::V4),
        },
        Some(Version::V6) => match header::read_v6(frame, at, true) {
            Some(header) => answered(frame, tables, at, &header),
            None => unread(frame, at, Version::V6),
        },
        None => left,
    }
}

/// What is no answer goes on as it came: endpoints may call services as well, and are served elsewhere.
#[inline(always)]
fn answered(frame: &mut impl Frame, tables: &impl Tables, at: usize, header: &Header) -> Step {
    let left = Step::Done(Verdict::Left);
    if header.is_icmp() {
        return if error::reports(header) { Step::Error } else { left };
    }
    let key = header.key();
    let Some(flow) = tables.flow(&key) else {
        return if moves(tables, header) { Step::Recall } else { left };
    };
    let Some(side) = tables.side(place(header.version)) else { return left };
    if flow.marks & REPLY == 0 || !at_once(side, at) {
        return left;
    }
    follow(tables, header, &key, &flow);
    let new = Header { source: flow.source, target: flow.target, ports: flow.ports, ..*header };
    Step::Done(redirect(frame, tables, at, &new, &key, &flow))
}

/// Leaves the node: what an endpoint here answers bears the service's address again.
#[inline(always)]
pub fn egress(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Step {
    let left = Step::Done(Verdict::Left);
    let Some(header) = header::read(frame, at, true) else {
        return header::version(frame, at).map_or(left, |version| unread(frame, at, version));
    };
    if header.is_icmp() {
        return if error::reports(&header) { Step::Error } else { left };
    }
    let key = header.key();
    let Some(flow) = tables.flow(&key) else {
        return if moves(tables, &header) { Step::Recall } else { left };
    };
    if flow.marks & (REPLY | MASQUERADED) != REPLY {
        return left;
    }
    follow(tables, &header, &key, &flow);
    let new = Header { source: flow.source, target: flow.target, ports: flow.ports, ..header };
    Step::Done(match rewrite(frame, at, &new) {
        Some(()) => Verdict::Passed,
        None => Verdict::Left,
    })
}

/// Place of a family's settings.
#[inline(always)]
pub(super) const fn place(version: Version) -> u32 {
    match version {
        Version::V4 => SIDE_V4,
        Version::V6 => SIDE_V6,
    }
}

/// Whether the packet belongs to the flow whose key it bears. If not, the flow has ended, and what the packet opens is a new
/// one.
#[inline(always)]
fn goes_on(tables: &impl Tables, header: &Header, side: &Side, key: &FlowKey, flow: &Flow) -> bool {
    let over = match header.protocol {
        TCP => header.opens() && life::has_ended(flow.marks),
        UDP if flow.marks & REPLY == 0 => {
            let moved = !open::still_serves(tables, header, side, flow);
            if moved {
                tables.count(EdgeCounter::Moved);
            }
            moved
        }
        _ => false,
    };
    if over {
        let sibling = life::sibling(key, flow);
        if side.forwarding & MOVES != 0 {
            tables.forget_before(key);
            tables.forget_before(&sibling);
        }
        tables.remove(key);
        tables.remove(&sibling);
    }
    !over
}

/// Writes down what the packet tells of the flow's life: seldom, for every write costs other processors their copy.
#[inline(always)]
pub(super) fn follow(tables: &impl Tables, header: &Header, key: &FlowKey, flow: &Flow) {
    let (now, marks) = (tables.recent_seconds(), life::marks(header));
    let news = marks & !flow.marks;
    if news != 0 || now != flow.seen {
        tables.touch(key, now, marks);
    }
    // The other direction learns of an end, and of the first answer.
    let first = flow.marks & REPLY != 0 && flow.marks & ANSWERED == 0;
    if news != 0 || first {
        tables.touch(&life::sibling(key, flow), 0, life::told(marks | (flow.marks & REPLY)));
        tables.touch(key, now, if first { ANSWERED } else { 0 });
    }
}

/// Whether packets go to the next hop past the host's stack: if that is asked for, and they have room for hardware addresses.
#[inline(always)]
pub(super) fn at_once(side: &Side, at: usize) -> bool {
    side.forwarding & REDIRECT != 0 && at != 0
}

/// Sends a packet of a flow on its way.
#[inline(always)]
fn translate(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    header: &Header,
    side: &Side,
    key: &FlowKey,
    flow: &Flow,
) -> Verdict {
    let new = Header { source: flow.source, target: flow.target, ports: flow.ports, ..*header };
    if at_once(side, at) {
        return redirect(frame, tables, at, &new, key, flow);
    }
    // The stack takes nothing whose source is its own.
    if flow.marks & (MASQUERADED | REPLY) == MASQUERADED {
        return Verdict::Left;
    }
    pass(frame, tables, at, &new)
}

#[inline(always)]
fn pass(frame: &mut impl Frame, tables: &impl Tables, at: usize, new: &Header) -> Verdict {
    if rewrite(frame, at, new).is_none() {
        return Verdict::Left;
    }
    tables.count(EdgeCounter::Passed);
    Verdict::Passed
}

/// To the next hop at once, past the host's stack. What cannot go there, and what has no hop left, goes to the stack as it
/// came: it knows what to answer.
#[inline(always)]
fn redirect(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    new: &Header,
    key: &FlowKey,
    flow: &Flow,
) -> Verdict {
    if new.hops <= 1 {
        return Verdict::Left;
    }
    let new = Header { hops: new.hops - 1, ..*new };
    let epoch = tables.epoch();
    let way = match flow.epoch != NO_EPOCH && flow.epoch == epoch {
        // The stack tells the sender how much would have fitted.
        true if !frame.fits(flow.device) => Way::Stack,
        true => Way::To(Hop { device: flow.device, addresses: flow.addresses }),
        false => frame.way(&new),
    };
    match way {
        Way::To(hop) => {
            if rewrite(frame, at, &new).is_none() {
                return Verdict::Left;
            }
            if flow.epoch != epoch {
                tables.keep(key, &hop, epoch);
            }
            frame.put(0, &hop.addresses);
            tables.count(EdgeCounter::Redirected);
            frame.leave(hop.device, true);
            Verdict::Redirected
        }
        Way::Ask(device) => match rewrite(frame, at, &new) {
            Some(()) => {
                tables.count(EdgeCounter::Redirected);
                frame.leave(device, false);
                Verdict::Redirected
            }
            None => Verdict::Left,
        },
        Way::Stack => Verdict::Left,
    }
}
