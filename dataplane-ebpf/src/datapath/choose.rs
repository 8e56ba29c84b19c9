//! Which endpoint a new flow gets.

use super::affinity::{self, Client};
use super::tables::{List, Socket, Tables, Way};
use super::verdict::Reason;
use crate::abi::{Backend, DROP, Endpoint, INSIDE, Service, ServiceKey, Slot, SlotKey};

/// How often a choice is begun anew when the list changes under it. A list must be replaced within the few hundred
/// nanoseconds between two lookups, this many times in a row, before a call fails.
const TRIES: usize = 4;

/// Outcome of a choice.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No service has this address.
    NotOurs,
    /// A service port has, with this id, but nobody can answer.
    Nobody(u32, Reason),
    /// A service port has, with this id, and others serve it, but not here.
    NobodyHere(u32),
    /// This endpoint, with its id.
    Chosen(u32, Backend),
}

/// Chooses for the service at `address`: the endpoint that the caller had, if the service port has affinity and the endpoint
/// is still listed, else uniformly among those listed.
///
/// What was read, and also that a list is empty, counts only if list and service are the same afterwards. The kernel may
/// use a removed element again at once, also while somebody reads it (bpf_mem_cache_free, since 6.1), and nothing that a
/// state names is removed before that state is replaced. And when an address goes to another service port, the list of
/// the one before is emptied only after the address has gone.
#[inline(always)]
pub fn choose(socket: &impl Socket, tables: &impl Tables, address: &Endpoint) -> Choice {
    let mut asked = 0;
    for _ in 0..TRIES {
        let Some((key, service)) = answering(tables, address, socket.protocol()) else {
            return Choice::NotOurs;
        };
        asked = service.id;
        let way = way(socket, &service);
        let Some(list) = tables.list(service.id, way) else { continue };
        let client = affinity::client(socket, tables, service.id, &list);
        let found = match place(tables, client.as_ref(), &list) {
            Some(index) => resolve(tables, service.id, &list, index),
            None => Some(Choice::Nobody(service.id, Reason::NoEndpoint)),
        };
        if let Some(choice) = found
            && tables.list(service.id, way) == Some(list)
            && tables.service(&key) == Some(service)
        {
            if let (Some(client), Choice::Chosen(id, _)) = (&client, &choice) {
                affinity::record(tables, client, *id);
            }
            return choice;
        }
    }
    Choice::Nobody(asked, Reason::Unsettled)
}

/// The service that answers at an address: the one that has it for its own, else a node port, where this is an address of
/// the node. With the key under which it stands.
#[inline(always)]
pub(super) fn answering(
    tables: &impl Tables,
    address: &Endpoint,
    protocol: u8,
) -> Option<(ServiceKey, Service)> {
    let key = ServiceKey::new(address, protocol);
    if let Some(service) = tables.service(&key) {
        return Some((key, service));
    }
    let node = tables.node_address(&address.address)?;
    let key = ServiceKey::node_port(address.port, protocol, node);
    tables.service(&key).map(|service| (key, service))
}

/// Whoever is in another network namespace than the node counts as a pod: which address it will have is not known yet.
#[inline(always)]
fn way(socket: &impl Socket, service: &Service) -> Way {
    if service.side == INSIDE {
        Way::Inside
    } else if socket.is_node() {
        Way::Node
    } else {
        Way::Pod
    }
}

/// The place in the list that a client gets; `None` for an empty list.
#[inline(always)]
fn place(tables: &impl Tables, client: Option<&Client>, list: &List) -> Option<u32> {
    if let Some(client) = client
        && let Some(index) = affinity::recall(tables, client, list)
    {
        return Some(index);
    }
    pick(tables.random(), list.slots)
}

/// What is in one place of the list. `None` when the list was replaced since it was named; an endpoint that belongs
/// to another service means the same.
#[inline(always)]
fn resolve(tables: &impl Tables, service: u32, list: &List, index: u32) -> Option<Choice> {
    let Slot { backend: id } = tables.slot(&SlotKey { service, generation: list.generation, index })?;
    if id == DROP {
        return Some(Choice::NobodyHere(service));
    }
    let backend = tables.backend(id)?;
    (backend.service == service).then_some(Choice::Chosen(id, backend))
}

/// A place in a list of `slots`, uniform for a uniform `random`; `None` for an empty list. Multiply and shift instead
/// of a division: the bias is below `slots` / 2^32 (Lemire, "Fast random integer generation in an interval", 2019).
#[inline(always)]
pub fn pick(random: u32, slots: u32) -> Option<u32> {
    (slots != 0).then_some(((random as u64 * slots as u64) >> 32) as u32)
}
