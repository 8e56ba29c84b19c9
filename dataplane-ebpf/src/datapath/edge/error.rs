//! Error messages about packets of our flows: they quote what the one who sends them saw, and must bear and quote what the
//! receiver knows. Who reports stays who it is, unless it is the one whom the packet was for.

use super::frame::{Frame, Tables};
use super::header::{self, Header, Version, swapped};
use super::pass::Verdict;
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

/// The quoted packet has been translated by the entry of its direction already; the entry of the other direction, whose key it
/// bears in reverse, tells what it was before.
#[inline(always)]
fn translate(
    frame: &mut impl Frame,
    tables: &impl Tables,
    at: usize,
    ours: impl Fn(&Flow) -> bool,
    bears: impl FnOnce(&Address) -> bool,
) -> Verdict {
    let Some(outer) = header::read(frame, at, true).filter(reports) else { return Verdict::Left };
    let about = at + outer.version.bytes() + ICMP_BYTES;
    let Some(inner) = header::read(frame, about, false) else { return Verdict::Left };
    if inner.version != outer.version || inner.source != outer.target {
        return Verdict::Left;
    }
    let Some(end) = header::end(frame, at, outer.version) else { return Verdict::Left };
    if about + inner.version.bytes() + QUOTED_BYTES > end {
        return Verdict::Left;
    }
    let key = FlowKey {
        source: inner.target,
        target: inner.source,
        ports: swapped(inner.ports),
        protocol: inner.protocol,
    };
    let Some(flow) = tables.flow(&key).filter(|flow| ours(flow)) else { return Verdict::Left };
    let reporter =
        if outer.source == inner.target && bears(&flow.source) { flow.source } else { outer.source };
    let new_outer = Header { source: reporter, target: flow.target, ..outer };
    let ports = swapped(flow.ports);
    let new_inner = Header { source: flow.target, target: flow.source, ports, ..inner };
    if rewrite_error(frame, at, about, end, &new_outer, &new_inner).is_none() {
        return Verdict::Left;
    }
    tables.count(EdgeCounter::Errors);
    Verdict::Passed
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
