//! What the maps should hold for one service port, and what they hold. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use dataplane_ebpf::abi::{Backend, Endpoint, NAME_BYTES, Name, Service, ServiceKey, Slot, SlotKey, State};

use crate::desired::ServicePort;
use crate::model::ServicePortName;
use crate::plan::{Ids, diff};

/// The entries of one service port, each table sorted by key. The default holds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Id of the service port; zero: it has none, and no entries.
    pub id: u32,
    /// Its addresses.
    pub services: Box<[(ServiceKey, Service)]>,
    /// Where its list stands.
    pub state: State,
    /// Its lists: after an interrupted change, of more than one generation.
    pub slots: Box<[(SlotKey, Slot)]>,
    /// Its endpoints.
    pub backends: Box<[(u32, Backend)]>,
}

impl Default for Entries {
    fn default() -> Self {
        let state = State { generation: 0, slots: 0 };
        Self { id: 0, services: Box::default(), state, slots: Box::default(), backends: Box::default() }
    }
}

/// Writes and removals, by table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Names to write.
    pub put_names: Vec<(u32, Name)>,
    /// Endpoints to write.
    pub put_backends: Vec<(u32, Backend)>,
    /// List places to write.
    pub put_slots: Vec<(SlotKey, Slot)>,
    /// States to write.
    pub put_states: Vec<(u32, State)>,
    /// Services to write.
    pub put_services: Vec<(ServiceKey, Service)>,
    /// Services to remove, if they still belong to the service port with this id.
    pub drop_services: Vec<(ServiceKey, u32)>,
    /// States to set to nothing.
    pub drop_states: Vec<u32>,
    /// List places to remove.
    pub drop_slots: Vec<SlotKey>,
    /// Endpoints to remove.
    pub drop_backends: Vec<u32>,
    /// Names to remove.
    pub drop_names: Vec<u32>,
}

/// Where numbers come from.
#[derive(Debug)]
pub(super) struct Numbers {
    /// For service ports.
    pub(super) services: Ids,
    /// Those in use.
    pub(super) used: BTreeSet<u32>,
    /// For endpoints.
    pub(super) backends: Ids,
}

impl Numbers {
    /// Numbers for tables that hold `ports`, with places for service ports up to `limit`.
    pub(super) fn beside<'a>(ports: impl Iterator<Item = &'a Entries> + Clone, limit: u32) -> Self {
        let used: BTreeSet<u32> = ports.clone().map(|entries| entries.id).collect();
        let backends = ports.flat_map(|entries| entries.backends.iter().map(|(id, _)| *id)).max();
        Self {
            services: Ids::after(used.last().copied().unwrap_or(0), limit),
            used,
            backends: Ids::after(backends.unwrap_or(0), u32::MAX),
        }
    }

    /// The same, but never behind what was given out before.
    pub(super) fn not_before(self, other: &Self) -> Self {
        Self {
            services: self.services.not_before(&other.services),
            used: self.used,
            backends: self.backends.not_before(&other.backends),
        }
    }

    /// A number for a service port. When none is left the next ones are beyond the tables: bigger ones are due then.
    fn service(&mut self) -> u32 {
        loop {
            if let Some(id) = self.services.next(|id| self.used.contains(&id)) {
                self.used.insert(id);
                return id;
            }
            self.services.raise(self.used.len() as u32 * 2 + 1);
        }
    }

    /// A number for an endpoint. Of four thousand million none can still be in use when they come round.
    fn backend(&mut self) -> u32 {
        self.backends.next(|_| false).unwrap_or(1)
    }
}

/// The entries that bring a service port to what is wanted; without an address it needs none. Numbers are kept where
/// the thing is the same: an endpoint that stays keeps its id, an unchanged list its generation.
pub(super) fn entries(
    name: &ServicePortName,
    want: &ServicePort,
    have: &Entries,
    numbers: &mut Numbers,
) -> Entries {
    if want.frontends.is_empty() {
        return Entries::default();
    }
    let id = if have.id == 0 { numbers.service() } else { have.id };
    let known: BTreeMap<Backend, u32> = have.backends.iter().map(|(id, backend)| (*backend, *id)).collect();
    let mut place = |address: &SocketAddr| {
        let backend = Backend { endpoint: Endpoint::from(*address), zero: [0; 2], service: id };
        (known.get(&backend).copied().unwrap_or_else(|| numbers.backend()), backend)
    };
    let mut backends: Vec<_> = want.endpoints.iter().map(&mut place).collect();
    let list: Vec<u32> = backends.iter().map(|(id, _)| *id).collect();
    backends.extend(want.draining.iter().map(&mut place));
    backends.sort_unstable_by_key(|(id, _)| *id);
    let state = State { generation: generation(have, id, &list), slots: list.len() as u32 };
    let slots = (0..).zip(&list).map(|(index, backend)| {
        (SlotKey { service: id, generation: state.generation, index }, Slot { backend: *backend })
    });
    Entries {
        id,
        services: services(name, want, id),
        state,
        slots: slots.collect(),
        backends: backends.into_boxed_slice(),
    }
}

fn services(name: &ServicePortName, want: &ServicePort, id: u32) -> Box<[(ServiceKey, Service)]> {
    let key = |address: &SocketAddr| ServiceKey::new(&Endpoint::from(*address), name.protocol.number());
    let mut services: Vec<_> = want.frontends.iter().map(|address| (key(address), Service { id })).collect();
    services.sort_unstable_by_key(|(key, _)| *key);
    services.dedup_by_key(|(key, _)| *key);
    services.into_boxed_slice()
}

/// The generation whose list in the kernel is complete and equal, else one that no entry has yet.
fn generation(have: &Entries, id: u32, list: &[u32]) -> u32 {
    let State { generation: current, slots } = have.state;
    let held = have.slots.iter().filter(|(key, _)| key.service == id && key.generation == current);
    let same = held.map(|(key, slot)| (key.index, slot.backend)).eq((0..).zip(list.iter().copied()));
    if current != 0 && slots as usize == list.len() && same {
        return current;
    }
    let used: BTreeSet<u32> = have.slots.iter().map(|(key, _)| key.generation).chain([current]).collect();
    let mut next = used.last().map_or(1, |last| last.wrapping_add(1));
    // Zero means that there is no list.
    while next == 0 || used.contains(&next) {
        next = next.wrapping_add(1);
    }
    next
}

impl Plan {
    /// Adds what turns `have` into `want` for the service port `name`.
    pub fn add(&mut self, name: &ServicePortName, have: &Entries, want: &Entries) {
        let services = diff(&have.services, &want.services);
        let slots = diff(&have.slots, &want.slots);
        let backends = diff(&have.backends, &want.backends);
        if have.id != want.id {
            self.put_names.extend((want.id != 0).then(|| (want.id, label(name))));
            self.drop_names.extend((have.id != 0).then_some(have.id));
            self.drop_states.extend((have.id != 0).then_some(have.id));
        }
        if want.id != 0 && (have.id, have.state) != (want.id, want.state) {
            self.put_states.push((want.id, want.state));
        }
        self.put_services.extend(services.puts);
        self.drop_services.extend(services.drops.into_iter().map(|key| (key, have.id)));
        self.put_slots.extend(slots.puts);
        self.drop_slots.extend(slots.drops);
        self.put_backends.extend(backends.puts);
        self.drop_backends.extend(backends.drops);
    }

    /// Entries to write.
    pub fn puts(&self) -> usize {
        let writes = [self.put_names.len(), self.put_backends.len(), self.put_slots.len()];
        writes.iter().sum::<usize>() + self.put_states.len() + self.put_services.len()
    }

    /// Entries to remove.
    pub fn drops(&self) -> usize {
        let removals = [self.drop_names.len(), self.drop_backends.len(), self.drop_slots.len()];
        removals.iter().sum::<usize>() + self.drop_states.len() + self.drop_services.len()
    }
}

/// The name as the map holds it. What does not fit is cut: the API's names always fit.
fn label(name: &ServicePortName) -> Name {
    let mut text = [0; NAME_BYTES];
    let full = name.to_string();
    let mut length = full.len().min(NAME_BYTES);
    while !full.is_char_boundary(length) {
        length -= 1;
    }
    for (to, from) in text.iter_mut().zip(full.bytes().take(length)) {
        *to = from;
    }
    Name {
        text,
        length: length as u8,
        protocol: name.protocol.number(),
        family: name.family.number(),
        zero: 0,
    }
}
