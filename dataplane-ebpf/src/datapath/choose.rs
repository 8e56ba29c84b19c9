//! Which endpoint a new flow gets.

use super::affinity::{self, Client};
use super::tables::{Socket, Tables};
use super::verdict::Reason;
use crate::abi::{Backend, DROP, ServiceKey, Slot, SlotKey, State};

/// How often a choice is begun anew when the list changes under it. A list must be replaced within the few hundred
/// nanoseconds between two lookups, this many times in a row, before a call fails.
const TRIES: usize = 4;

/// Outcome of a choice.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// No service has this address.
    NotOurs,
    /// A service has, but nobody can answer.
    Nobody(Reason),
    /// A service has, and others serve it, but not here.
    NobodyHere,
    /// This endpoint, with its id.
    Chosen(u32, Backend),
}

/// Chooses for the service at `key`: the endpoint that the caller had, if the service port has affinity and the endpoint
/// is still listed, else uniformly among those listed.
///
/// What was read, and also that a list is empty, counts only if state and service are the same afterwards. The kernel may
/// use a removed element again at once, also while somebody reads it (bpf_mem_cache_free, since 6.1), and nothing that a
/// state names is removed before that state is replaced. And when an address goes to another service port, the list of
/// the one before is emptied only after the address has gone.
#[inline(always)]
pub fn choose(socket: &impl Socket, tables: &impl Tables, key: &ServiceKey) -> Choice {
    for _ in 0..TRIES {
        let Some(service) = tables.service(key) else { return Choice::NotOurs };
        let Some(state) = tables.state(service.id) else { continue };
        let client = affinity::client(socket, tables, service.id, &state);
        let found = match place(tables, client.as_ref(), &state) {
            Some(index) => resolve(tables, service.id, &state, index),
            None => Some(Choice::Nobody(Reason::NoEndpoint)),
        };
        if let Some(choice) = found
            && tables.state(service.id) == Some(state)
            && tables.service(key) == Some(service)
        {
            if let (Some(client), Choice::Chosen(id, _)) = (&client, &choice) {
                affinity::record(tables, client, *id);
            }
            return choice;
        }
    }
    Choice::Nobody(Reason::Unsettled)
}

/// The place in the list that a client gets; `None` for an empty list.
#[inline(always)]
fn place(tables: &impl Tables, client: Option<&Client>, state: &State) -> Option<u32> {
    if let Some(client) = client
        && let Some(index) = affinity::recall(tables, client, state)
    {
        return Some(index);
    }
    pick(tables.random(), state.slots)
}

/// What is in one place of the list. `None` when the list was replaced since `state` was read; an endpoint that belongs
/// to another service means the same.
#[inline(always)]
fn resolve(tables: &impl Tables, service: u32, state: &State, index: u32) -> Option<Choice> {
    let Slot { backend: id } = tables.slot(&SlotKey { service, generation: state.generation, index })?;
    if id == DROP {
        return Some(Choice::NobodyHere);
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
