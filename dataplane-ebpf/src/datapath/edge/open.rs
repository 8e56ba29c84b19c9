//! New flows: whether they are ours, who gets them, and what they will bear.

use super::frame::{Added, Frame, Tables};
use super::hash;
use super::header::{Header, MAPPED, Version, pair, split};
use super::life;
use crate::abi::{
    Address, COVERED, ClientKey, DROP_FLOW, EdgeCounter, FORWARD, Flow, FlowKey, Frontend, FrontendKey,
    ListState, MASQUERADE, MASQUERADED, MOVES, Member, NO_EPOCH, NODE_PORTS, NOT_LISTED, OWN, POD_RULES,
    REDIRECT, ServerKey, Side, SlotKey, SourceKey, Stay, TRUSTS_STACK, Target,
};
use crate::datapath::Deed;

/// How often a choice is begun anew when the list changes under it.
const TRIES: usize = 3;
/// How many ports are tried for one masqueraded flow.
const PORTS: u32 = 16;

/// Outcome for the first packet of a flow.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// What becomes of it, and of those after it, is written down.
    Written,
    /// It vanishes.
    Dropped,
    /// It is nobody's, or the packet filter's.
    Left,
}

/// What is to become of a flow.
struct Wish {
    list: u32,
    masquerade: bool,
}

/// Decides about a packet that belongs to no flow yet. `at_once`: packets can go to the next hop past the host's stack, which
/// takes none whose source is its own.
#[inline(always)]
pub fn open(frame: &impl Frame, tables: &impl Tables, header: &Header, side: &Side, at_once: bool) -> Opened {
    let Some(frontend) = frontend(tables, header) else { return Opened::Left };
    match wish(tables, header, side, &frontend) {
        Ok(wish) => admit(frame, tables, header, side, &wish, at_once),
        Err(outcome) => outcome,
    }
}

/// What answers at the packet's target: an address of a service, else a node port.
#[inline(always)]
fn frontend(tables: &impl Tables, header: &Header) -> Option<Frontend> {
    let [_, port] = split(header.ports);
    let mut key = FrontendKey { address: header.target, port, protocol: header.protocol };
    if let Some(frontend) = tables.frontend(&key) {
        return Some(frontend);
    }
    if tables.own(&header.target)? & NODE_PORTS != NODE_PORTS {
        return None;
    }
    key.address = unspecified(header.version);
    tables.frontend(&key)
}

/// Under this address stand node ports.
#[inline(always)]
pub const fn unspecified(version: Version) -> Address {
    match version {
        Version::V4 => [0, 0, MAPPED, 0],
        Version::V6 => [0; 4],
    }
}

/// The rules for where it comes from. What claims to come from this node itself is left to the host, which knows better.
#[inline(always)]
fn wish(tables: &impl Tables, header: &Header, side: &Side, frontend: &Frontend) -> Result<Wish, Opened> {
    if tables.own(&header.source).is_some_and(|use_| use_ & OWN != 0) {
        return Err(Opened::Left);
    }
    if !lets_in(tables, header, frontend) {
        tables.count(EdgeCounter::SourceRefused);
        tables.tally(frontend.service, Deed::Refused);
        return Err(Opened::Dropped);
    }
    let pod = is_pod(&header.source, side);
    let (list, rules) =
        if pod { (frontend.pod, frontend.rules >> POD_RULES) } else { (frontend.outside, frontend.rules) };
    if rules & DROP_FLOW != 0 {
        tables.count(EdgeCounter::NoLocalEndpoint);
        tables.tally(frontend.service, Deed::Left);
        return Err(Opened::Dropped);
    }
    if rules & FORWARD == 0 {
        return Err(Opened::Left);
    }
    Ok(Wish { list, masquerade: rules & MASQUERADE != 0 })
}

#[inline(always)]
fn lets_in(tables: &impl Tables, header: &Header, frontend: &Frontend) -> bool {
    // All bits behind the number count.
    let key = SourceKey { bits: 32 + 128, sources: frontend.sources, address: header.source };
    frontend.sources == 0 || tables.admits(&key)
}

/// Whether an address is in the range of pods, where there is one.
#[inline(always)]
fn is_pod(address: &Address, side: &Side) -> bool {
    let [a, b, c, d] = side.pods_mask;
    let [e, f, g, h] = side.pods;
    let there_is = a | b | c | d != 0;
    let [i, j, k, l] = *address;
    there_is && i & a == e && j & b == f && k & c == g && l & d == h
}

/// Chooses an endpoint and writes the flow down.
#[inline(always)]
fn admit(
    frame: &impl Frame,
    tables: &impl Tables,
    header: &Header,
    side: &Side,
    wish: &Wish,
    at_once: bool,
) -> Opened {
    let Some((target, state)) = choose(tables, header, wish) else {
        tables.count(EdgeCounter::Left);
        return Opened::Left;
    };
    let source = source(frame, tables, header, side, wish, &target);
    let Some(source) = source.filter(|source| at_once || *source == CLIENTS) else {
        tables.count(EdgeCounter::Left);
        return Opened::Left;
    };
    let [port, _] = split(header.ports);
    let flow = Flow {
        source: header.source,
        target: target.address,
        ports: pair(port, target.port),
        list: wish.list,
        generation: state.generation,
        seen: tables.seconds(),
        service: state.service,
        marks: if source == CLIENTS { 0 } else { MASQUERADED },
        device: 0,
        addresses: [0; 3],
        epoch: NO_EPOCH,
    };
    write(tables, header, side, flow, source)
}

/// The endpoint for a new flow, and the list it is from.
#[inline(always)]
fn choose(tables: &impl Tables, header: &Header, wish: &Wish) -> Option<(Target, ListState)> {
    for _ in 0..TRIES {
        let state = tables.list(wish.list)?;
        if let Some(target) = draw(tables, header, wish, &state)
            && tables.list(wish.list) == Some(state)
        {
            if state.timeout != 0 {
                let stay = Stay { address: target.address, port: target.port, used: tables.seconds() };
                tables.set_stay(&client(header, &state), &stay);
            }
            return Some((target, state));
        }
    }
    None
}

#[inline(always)]
fn draw(tables: &impl Tables, header: &Header, wish: &Wish, state: &ListState) -> Option<Target> {
    let at = |index| tables.target(&SlotKey { service: wish.list, generation: state.generation, index });
    if state.timeout != 0
        && let Some(stay) = tables.stay(&client(header, state))
        && tables.seconds().wrapping_sub(stay.used) < state.timeout
        && let Some(Member { index }) =
            tables.server(&ServerKey { list: wish.list, port: stay.port, address: stay.address })
        && index < state.slots
        && let Some(target) = at(index)
        && target.address == stay.address
        && target.port == stay.port
    {
        return Some(target);
    }
    let hash = hash::sender(header);
    at(crate::datapath::choose::pick(hash, state.slots)?)
}

/// Who asks, for a service port whose clients stay where they are.
#[inline(always)]
fn client(header: &Header, state: &ListState) -> ClientKey {
    ClientKey { address: header.source, service: state.service }
}

/// The flow keeps the client's address.
const CLIENTS: u32 = 0;

/// Whose address the flow bears: [`CLIENTS`], or the node's at the device with this index; `None` where the flow cannot be
/// served from here.
///
/// An endpoint on this node gets the client's own address even where the meaning would allow another, and must: what it sends
/// to the node's address ends in the node. So its answers must come by where they are translated back.
#[inline(always)]
fn source(
    frame: &impl Frame,
    tables: &impl Tables,
    header: &Header,
    side: &Side,
    wish: &Wish,
    target: &Target,
) -> Option<u32> {
    let hairpin = target.address == header.source;
    let here = target.here != 0 && !hairpin;
    if here && side.forwarding & REDIRECT != 0 && tables.backed(&target.address) {
        return Some(CLIENTS);
    }
    let may = if here { side.forwarding & TRUSTS_STACK != 0 } else { hairpin || wish.masquerade };
    if !may {
        return None;
    }
    // An endpoint elsewhere answers by the device by which it is reached; what one here answers leaves by that of the client.
    let (from, to) = if here { (&header.target, &header.source) } else { (&header.source, &target.address) };
    let device = frame.leads(header, from, to)?;
    let flags = tables.device(device)?.flags;
    match here {
        true => (flags & COVERED != 0).then_some(CLIENTS),
        false => Some(device),
    }
}

/// Writes both directions down, the answers' first: from then on nobody else can have them.
#[inline(always)]
fn write(tables: &impl Tables, header: &Header, side: &Side, mut flow: Flow, source: u32) -> Opened {
    let key = header.key();
    let own = source != CLIENTS;
    let added = if own {
        reserve(tables, header, &key, &mut flow, side, source)
    } else {
        take(tables, side, &key, &flow)
    };
    match added {
        Added::Yes => {}
        Added::Taken => {
            tables.count(EdgeCounter::NoPort);
            return Opened::Left;
        }
        Added::Full => {
            tables.count(EdgeCounter::TableFull);
            return Opened::Left;
        }
    }
    match tables.add(&key, &flow) {
        Added::Yes => {
            tables.count(EdgeCounter::Opened);
            tables.tally(flow.service, Deed::Opened);
        }
        // Another processor was faster with another packet of the same flow, and its word counts. A port that was found for
        // this one is free again; without one, both have written the same entry for answers.
        Added::Taken if own => tables.remove(&life::sibling(&key, &flow)),
        Added::Taken => {}
        Added::Full => {
            tables.remove(&life::sibling(&key, &flow));
            tables.count(EdgeCounter::TableFull);
            return Opened::Left;
        }
    }
    Opened::Written
}

/// Without another source the answers' ports are what they are. The same client may have come another way (by another address
/// or another port) to the same endpoint, from the same port: that flow stays.
#[inline(always)]
fn take(tables: &impl Tables, side: &Side, key: &FlowKey, flow: &Flow) -> Added {
    let back = life::sibling(key, flow);
    let reply = life::reply(key, flow);
    // What an earlier flow with the same ends left behind is worth nothing.
    if let Some(found) = tables.flow(&back)
        && found.source == reply.source
        && found.target == reply.target
        && found.ports == reply.ports
    {
        tables.remove(&back);
    }
    add_back(tables, side, &back, &reply)
}

/// Writes the entry for answers, if no flow that has not been brought over yet has it.
#[inline(always)]
fn add_back(tables: &impl Tables, side: &Side, back: &FlowKey, reply: &Flow) -> Added {
    if side.forwarding & MOVES != 0 && tables.flow_before(back).is_some() {
        return Added::Taken;
    }
    tables.add(back, reply)
}

/// Finds a port of this node under which the endpoint's answers are nobody else's.
#[inline(always)]
fn reserve(
    tables: &impl Tables,
    header: &Header,
    key: &FlowKey,
    flow: &mut Flow,
    side: &Side,
    device: u32,
) -> Added {
    let Some(device) = tables.device(device) else { return Added::Taken };
    flow.source = match header.version {
        Version::V4 => device.own_v4,
        Version::V6 => device.own_v6,
    };
    if flow.source == [0; 4] || side.ports == 0 {
        return Added::Taken;
    }
    let [_, target] = split(flow.ports);
    let mut at = (tables.random() as u64 * side.ports as u64) >> 32;
    for _ in 0..PORTS {
        let port = (side.first_port as u64 + at) as u16;
        flow.ports = pair(u32::from(port.to_be()), target);
        match add_back(tables, side, &life::sibling(key, flow), &life::reply(key, flow)) {
            Added::Taken => {}
            added @ (Added::Yes | Added::Full) => return added,
        }
        at += 1;
        if at == side.ports as u64 {
            at = 0;
        }
    }
    Added::Taken
}

/// Whether the endpoint of a datagram flow still serves; if it does, that is written down for the list as it is now.
/// Lists of an earlier daemon have other numbers, so the address is asked for again.
#[inline(always)]
pub fn still_serves(tables: &impl Tables, header: &Header, side: &Side, flow: &Flow) -> bool {
    if tables.list(flow.list).is_some_and(|state| state.generation == flow.generation) {
        return true;
    }
    let Some(frontend) = frontend(tables, header) else { return false };
    let list = if is_pod(&header.source, side) { frontend.pod } else { frontend.outside };
    let Some(state) = tables.list(list) else { return false };
    let [_, port] = split(flow.ports);
    let found = tables.server(&ServerKey { list, port, address: flow.target });
    // In the list, or not in it any more but still serving whom it has.
    let serves = found.is_some_and(|Member { index }| index < state.slots || index == NOT_LISTED);
    if serves {
        tables.confirm(&header.key(), list, state.generation);
    }
    serves
}
