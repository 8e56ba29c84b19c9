//! Error messages about packets of our flows: they quote what the one who sends them saw, and must bear and quote what the
//! receiver knows. Who reports stays who it is, unless it is the one whom the packet was for.

use super::frame::{Frame, Tables, Way};
use super::header::{self, Header, Version, swapped};
use super::pass::{Verdict, at_once, place};
use super::rewrite::rewrite_error;
use crate::abi::{Address, EdgeCounter, Flow, FlowKey, MASQUERADED, REPLY};

/// Bytes of the header of ICMP.
const ICMP_BYTES: usize = 8;
/// Bytes behind the IP header that are quoted at least (RFC 792).
const QUOTED_BYTES: usize = 8;

/// About a packet that left this node, from outside it.
#[inline(always)]
pub fn incoming(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    // The stack takes nothing from outside whose source is the node's own.
    translate(frame, tables, at, |_| true, |reporter| tables.own(reporter).is_none())
}

/// From an endpoint on this node.
#[inline(always)]
pub fn outgoing(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    translate(frame, tables, at, |flow| flow.marks & (REPLY | MASQUERADED) == REPLY, |_| true)
}

/// From an endpoint on this node, where it comes in: it leaves at once.
#[inline(always)]
pub fn answering(frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Verdict {
    let Some(mut new) = about(frame, tables, at, |flow| flow.marks & REPLY != 0, |_| true) else {
        return Verdict::Left;
    };
    let goes = tables.side(place(new.outer.version)).is_some_and(|side| at_once(side, at));
    if !goes || new.outer.hops <= 1 {
        return Verdict::Left;
    }
    new.outer.hops -= 1;
    let way = frame.way(&new.outer);
    let (device, hop) = match way {
        Way::To(hop) => (hop.device, Some(hop.addresses)),
        Way::Ask(device) => (device, None),
        Way::Stack => return Verdict::Left,
    };
    if new.write(frame, tables, at).is_none() {
        return Verdict::Left;
    }
    if let Some(addresses) = hop {
        frame.put(0, &addresses);
    }
    frame.leave(device, hop.is_some());
    Verdict::Redirected
}

/// What such a message is to say.
struct Message {
    /// Where the quoted packet begins, and the whole ends.
    quoted: usize,
    end: usize,
    outer: Header,
    inner: Header,
}

impl Message {
    #[inline(always)]
    fn write(&self, frame: &mut impl Frame, tables: &impl Tables, at: usize) -> Option<()> {
        rewrite_error(frame, at, self.quoted, self.end, &self.outer, &self.inner)?;
        tables.count(EdgeCounter::Errors);
        Some(())
    }
}

#[inline(always)]
fn translate(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    ours: impl Fn(&Flow) -> bool,
    bears: impl FnOnce(&Address) -> bool,
) -> Verdict {
    let Some(message) = about(frame, tables, at, ours, bears) else { return Verdict::Left };
    match message.write(frame, tables, at) {
        Some(()) => Verdict::Passed,
        None => Verdict::Left,
    }
}

/// The quoted packet has been translated by the entry of its direction already; the entry of the other direction, whose key it
/// bears in reverse, tells what it was before.
#[inline(always)]
fn about(
    frame: &impl Frame,
    tables: &impl Tables,
    at: usize,
    ours: impl Fn(&Flow) -> bool,
    bears: impl FnOnce(&Address) -> bool,
) -> Option<Message> {
    let outer = header::read(frame, at, true).filter(reports)?;
    let quoted = at + outer.version.bytes() + ICMP_BYTES;
    let inner = header::read(frame, quoted, false)?;
    if inner.version != outer.version || inner.source != outer.target {
        return None;
    }
    let end = header::end(frame, at, outer.version)?;
    if quoted + inner.version.bytes() + QUOTED_BYTES > end {
        return None;
    }
    let key = FlowKey {
        source: inner.target,
        target: inner.source,
        ports: swapped(inner.ports),
        protocol: inner.protocol,
    };
    let flow = tables.flow(&key).filter(|flow| ours(flow))?;
    let reporter =
        if outer.source == inner.target && bears(&flow.source) { flow.source } else { outer.source };
    let new_outer = Header { source: reporter, target: flow.target, ..outer };
    let ports = swapped(flow.ports);
    let new_inner = Header { source: flow.target, target: flow.source, ports, ..inner };
    Some(Message { quoted, end, outer: new_outer, inner: new_inner })
}

/// Whether it is an error message: about a target that cannot be reached, a packet that is too big, hops that ran out, a bad
/// header (RFC 792, RFC 4443).
#[inline(always)]
pub(super) fn reports(outer: &Header) -> bool {
    let [kind, _, _, _] = outer.ports.to_ne_bytes();
    match outer.version {
        Version::V4 => matches!(kind, 3 | 11 | 12),
        Version::V6 => matches!(kind, 1..=4),
    }
}
