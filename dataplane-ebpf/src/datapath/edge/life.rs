//! The life of a flow, as far as packets tell it.

use super::header::{FIN, Header, RST, swapped};
use crate::abi::{
    ANSWERED, Flow, FlowKey, MASQUERADED, NO_EPOCH, PEER_FIN, PEER_RST, REPLY, SEEN_FIN, SEEN_RST,
};

/// The marks that a packet adds to its own direction.
#[inline(always)]
pub fn marks(header: &Header) -> u32 {
    let fin = if header.bits & FIN != 0 { SEEN_FIN } else { 0 };
    let rst = if header.bits & RST != 0 { SEEN_RST } else { 0 };
    fin | rst
}

/// What the other direction learns of them: the end, and that there was an answer.
#[inline(always)]
pub fn told(marks: u32) -> u32 {
    let fin = if marks & SEEN_FIN != 0 { PEER_FIN } else { 0 };
    let rst = if marks & SEEN_RST != 0 { PEER_RST } else { 0 };
    let answer = if marks & REPLY != 0 { ANSWERED } else { 0 };
    fin | rst | answer
}

/// Whether both sides of a connection have ended: the same ports may mean another one from now on.
#[inline(always)]
pub fn has_ended(marks: u32) -> bool {
    marks & (SEEN_RST | PEER_RST) != 0 || marks & (SEEN_FIN | PEER_FIN) == SEEN_FIN | PEER_FIN
}

/// The key of the other direction.
#[inline(always)]
pub fn sibling(key: &FlowKey, flow: &Flow) -> FlowKey {
    FlowKey { source: flow.target, target: flow.source, ports: swapped(flow.ports), protocol: key.protocol }
}

/// The other direction of a flow: what it answers goes back the way it came.
#[inline(always)]
pub fn reply(key: &FlowKey, flow: &Flow) -> Flow {
    Flow {
        source: key.target,
        target: key.source,
        ports: swapped(key.ports),
        marks: REPLY | (flow.marks & MASQUERADED),
        device: 0,
        addresses: [0; 3],
        epoch: NO_EPOCH,
        ..*flow
    }
}
