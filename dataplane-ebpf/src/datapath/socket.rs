//! The sequences at the cgroup hooks: an address is exchanged at the system call, and no packet is ever touched.

use super::choose::{Choice, answering, choose};
use super::holds;
use super::tables::{Deed, Socket, Tables};
use super::verdict::{Reason, Verdict};
use crate::abi::{Backend, Counter, DATAGRAM_PEERS, Datagrams, Endpoint, Peer};

/// `connect()`, TCP and UDP: the service's address becomes an endpoint's.
#[inline(always)]
pub fn connect(socket: &mut impl Socket, tables: &impl Tables) -> Verdict {
    let service = socket.remote();
    match choose(socket, tables, &service) {
        Choice::NotOurs => {
            forget_other(socket, tables, &service);
            Verdict::NotOurs
        }
        Choice::Nobody(id, reason) => refuse(tables, id, reason),
        Choice::NobodyHere(id) => {
            forget(socket, tables);
            leave(tables, id)
        }
        Choice::Chosen(backend_id, chosen) => {
            let Backend { endpoint: backend, zero: _, service: id } = chosen;
            socket.set_remote(&backend);
            if socket.remember_connected(&Peer { service, backend, backend_id }) {
                holds::connected(socket, tables, backend_id, &chosen);
            } else {
                tables.count(Counter::Forgotten);
            }
            tables.count(Counter::Connected);
            tables.tally(id, Deed::Opened);
            Verdict::Translated
        }
    }
}

/// `sendto()` and `sendmsg()` with an address: the same endpoint as the last time this socket sent to this service, as
/// long as it serves, also when new flows would be refused or dropped; else a new choice.
#[inline(always)]
pub fn send(socket: &mut impl Socket, tables: &impl Tables) -> Verdict {
    let service = socket.remote();
    if let Some(backend) = remembered(socket, tables, &service) {
        socket.set_remote(&backend);
        return Verdict::Translated;
    }
    match choose(socket, tables, &service) {
        Choice::NotOurs => Verdict::NotOurs,
        Choice::Nobody(id, reason) => refuse(tables, id, reason),
        Choice::NobodyHere(id) => leave(tables, id),
        Choice::Chosen(backend_id, chosen) => {
            let Backend { endpoint: backend, zero: _, service: id } = chosen;
            socket.set_remote(&backend);
            let peer = Peer { service, backend, backend_id };
            match socket.datagrams_mut().map(|memory| remember(memory, &peer)) {
                Some(place) => holds::sends(socket, tables, place, backend_id, &chosen),
                None => tables.count(Counter::Forgotten),
            }
            tables.count(Counter::DatagramFlow);
            tables.tally(id, Deed::Opened);
            Verdict::Translated
        }
    }
}

/// `recvfrom()` and `recvmsg()` that ask for the sender: the endpoint's address becomes the service's again.
#[inline(always)]
pub fn receive(socket: &mut impl Socket) {
    let from = socket.remote();
    if let Some(peer) = socket.connected()
        && peer.backend == from
    {
        socket.set_remote(&peer.service);
        return;
    }
    let found = socket.datagrams().and_then(|memory| service_of(memory, &from));
    if let Some(service) = found {
        socket.set_remote(&service);
    }
}

/// `getpeername()`: a connected socket sees the service it asked for.
#[inline(always)]
pub fn peer_name(socket: &mut impl Socket) {
    if let Some(peer) = socket.connected()
        && peer.backend == socket.remote()
    {
        socket.set_remote(&peer.service);
    }
}

#[inline(always)]
fn refuse(tables: &impl Tables, service: u32, reason: Reason) -> Verdict {
    tables.tally(service, Deed::Refused);
    tables.count(match reason {
        Reason::NoEndpoint => Counter::NoEndpoint,
        Reason::Unsettled => Counter::Unsettled,
    });
    Verdict::Refused(reason)
}

#[inline(always)]
fn leave(tables: &impl Tables, service: u32) -> Verdict {
    tables.tally(service, Deed::Left);
    tables.count(Counter::NoLocalEndpoint);
    Verdict::Left
}

/// A UDP socket may be connected again, to somewhere that is no service; then it forgets the service before. But `to` may
/// be the very endpoint it remembers: a program of another layout version, which runs first while a daemon takes over, has
/// translated the call then and written that down.
#[inline(always)]
fn forget_other(socket: &mut impl Socket, tables: &impl Tables, to: &Endpoint) {
    if let Some(peer) = socket.connected()
        && peer.backend != *to
    {
        forget(socket, tables);
    }
}

#[inline(always)]
fn forget(socket: &mut impl Socket, tables: &impl Tables) {
    socket.forget_connected();
    holds::disconnected(socket, tables);
}

/// The endpoint of a translation that is in force for sends to `service`, if it still serves. A connected socket that
/// names the address all the same must reach the endpoint it is connected to: the answer of another would not be delivered
/// to it. A socket that was connected once, and was disconnected since, still remembers that: so where that endpoint has
/// gone, what it sent without connecting counts.
#[inline(always)]
fn remembered(socket: &impl Socket, tables: &impl Tables, service: &Endpoint) -> Option<Endpoint> {
    if let Some(peer) = socket.connected()
        && peer.service == *service
        && holds(tables, socket.protocol(), &peer)
    {
        return Some(peer.backend);
    }
    let peer = sent(socket, service)?;
    holds(tables, socket.protocol(), &peer).then_some(peer.backend)
}

/// What a socket got when it sent to `service` without connecting.
#[inline(always)]
fn sent(socket: &impl Socket, service: &Endpoint) -> Option<Peer> {
    let memory = socket.datagrams()?;
    for peer in &memory.peers {
        if peer.service == *service {
            return Some(*peer);
        }
    }
    None
}

/// Whether the endpoint of a translation still serves the service port that answers there. Ids are never given out twice by one
/// daemon, but the next daemon may: so address and owner are compared too.
#[inline(always)]
fn holds(tables: &impl Tables, protocol: u8, peer: &Peer) -> bool {
    let Some((_, service)) = answering(tables, &peer.service, protocol) else { return false };
    tables
        .backend(peer.backend_id)
        .is_some_and(|backend| backend.service == service.id && backend.endpoint == peer.backend)
}

/// Writes a translation over the one for the same service, else over the oldest. Returns where it stands.
#[inline(always)]
fn remember(memory: &mut Datagrams, peer: &Peer) -> usize {
    for (index, place) in memory.peers.iter_mut().enumerate() {
        if place.service == peer.service {
            *place = *peer;
            return index;
        }
    }
    let next = memory.next as usize % DATAGRAM_PEERS;
    if let Some(place) = memory.peers.get_mut(next) {
        *place = *peer;
    }
    memory.next = (next as u32 + 1) % DATAGRAM_PEERS as u32;
    next
}

/// The service that stands for an endpoint in this socket's eyes. Of two that share the endpoint either is as good.
#[inline(always)]
fn service_of(memory: &Datagrams, backend: &Endpoint) -> Option<Endpoint> {
    for peer in &memory.peers {
        if peer.backend == *backend {
            return Some(peer.service);
        }
    }
    None
}
