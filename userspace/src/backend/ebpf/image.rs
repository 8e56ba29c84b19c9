//! What the maps should hold for one service port, and what they hold. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;

use dataplane_ebpf::abi::{Backend, Endpoint, NAME_BYTES, Name, Service, ServiceKey, Slot, SlotKey};

use crate::desired::ServicePort;
use crate::model::ServicePortName;
use crate::plan::{Ids, diff};

/// The entries of one service port, each table sorted by key. The default holds nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Id of the service port; zero: it has none, and no entries.
    pub id: u32,
    /// Its addresses.
    pub services: Box<[(ServiceKey, Service)]>,
    /// Its lists: after an interrupted change, of more than one generation.
    pub slots: Box<[(SlotKey, Slot)]>,
    /// Its endpoints.
    pub backends: Box<[(u32, Backend)]>,
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
    /// Services to write.
    pub put_services: Vec<(ServiceKey, Service)>,
    /// Services to remove, if they still belong to the service port with this id.
    pub drop_services: Vec<(ServiceKey, u32)>,
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
    /// For endpoints.
    pub(super) backends: Ids,
}

/// The entries that bring a service port to what is wanted; without an address it needs none. Numbers are kept where the thing is the same: an endpoint
/// that stays keeps its id, an unchanged list its generation.
pub(super) fn entries(
    name: &ServicePortName,
    want: &ServicePort,
    have: &Entries,
    numbers: &mut Numbers,
) -> Entries {
    if want.frontends.is_empty() {
        return Entries::default();
    }
    let id = if have.id == 0 { numbers.services.next(|_| false) } else { have.id };
    let mut backends = Vec::with_capacity(want.endpoints.len() + want.draining.len());
    let list: Vec<u32> =
        want.endpoints.iter().map(|address| place(*address, id, have, &mut backends, numbers)).collect();
    for address in &want.draining {
        place(*address, id, have, &mut backends, numbers);
    }
    backends.sort_unstable_by_key(|(id, _)| *id);
    let generation = generation(have, id, &list);
    let service = Service { id, generation, slots: list.len() as u32 };
    let protocol = name.protocol.number();
    let mut services: Vec<_> = want
        .frontends
        .iter()
        .map(|address| (ServiceKey::new(&Endpoint::from(*address), protocol), service))
        .collect();
    services.sort_unstable_by_key(|(key, _)| *key);
    services.dedup_by_key(|(key, _)| *key);
    let slots = (0..)
        .zip(&list)
        .map(|(index, backend)| (SlotKey { service: id, generation, index }, Slot { backend: *backend }));
    Entries {
        id,
        services: services.into_boxed_slice(),
        slots: slots.collect(),
        backends: backends.into_boxed_slice(),
    }
}

/// Adds an endpoint to `backends` under the id it has, or a new one.
fn place(
    address: SocketAddr,
    service: u32,
    have: &Entries,
    backends: &mut Vec<(u32, Backend)>,
    numbers: &mut Numbers,
) -> u32 {
    let backend = Backend { endpoint: Endpoint::from(address), zero: [0; 2], service };
    let known = have.backends.iter().find(|(_, old)| *old == backend).map(|(id, _)| *id);
    let id = known.unwrap_or_else(|| numbers.backends.next(|_| false));
    backends.push((id, backend));
    id
}

/// The generation whose list in the kernel is complete and equal, else one that no entry has yet.
fn generation(have: &Entries, id: u32, list: &[u32]) -> u32 {
    let current = have.services.first().map(|(_, service)| service.generation);
    let same = |generation: u32| {
        let held = have.slots.iter().filter(|(key, _)| key.service == id && key.generation == generation);
        held.map(|(key, slot)| (key.index, slot.backend)).eq((0..).zip(list.iter().copied()))
    };
    if let Some(generation) = current
        && same(generation)
    {
        return generation;
    }
    let used: BTreeSet<u32> = have
        .slots
        .iter()
        .map(|(key, _)| key.generation)
        .chain(have.services.iter().map(|(_, service)| service.generation))
        .collect();
    let mut next = used.last().map_or(1, |last| last.wrapping_add(1));
    while used.contains(&next) {
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
        self.put_names.len() + self.put_backends.len() + self.put_slots.len() + self.put_services.len()
    }

    /// Entries to remove.
    pub fn drops(&self) -> usize {
        self.drop_names.len() + self.drop_backends.len() + self.drop_slots.len() + self.drop_services.len()
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
