//! What the maps should hold for one service port, and what they hold. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use dataplane_ebpf::abi::{
    Backend, DROP, Endpoint, Extent, INSIDE, Member, MemberKey, NAME_BYTES, Name, OUTSIDE, Service,
    ServiceKey, Slot, SlotKey, State,
};

use crate::desired::{self, Action, Frontend, ServicePort};
use crate::model::{Protocol, ServicePortName};
use crate::plan::{Ids, diff};

/// The entries of one service port, each table sorted by key. The default holds nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries {
    /// Id of the service port; zero: it has none, and no entries.
    pub id: u32,
    /// Its addresses.
    pub services: Box<[(ServiceKey, Service)]>,
    /// Where its lists stand.
    pub state: State,
    /// Its lists, by generation: those that the state names, and after an interrupted change others.
    pub slots: Box<[(SlotKey, Slot)]>,
    /// Who is in these lists, if clients keep their endpoints.
    pub members: Box<[(MemberKey, Member)]>,
    /// Its endpoints.
    pub backends: Box<[(u32, Backend)]>,
}

impl Default for Entries {
    fn default() -> Self {
        Self {
            id: 0,
            services: Box::default(),
            state: State::NONE,
            slots: Box::default(),
            members: Box::default(),
            backends: Box::default(),
        }
    }
}

impl Entries {
    /// Endpoints that get new flows, by id; by whichever address.
    pub fn active(&self) -> impl Iterator<Item = u32> {
        let lists = in_force(&self.state);
        let is_in_force = move |generation| lists.iter().any(|extent| extent.generation == generation);
        let slots = self.slots.iter().filter(move |(key, _)| is_in_force(key.generation));
        slots.map(|(_, slot)| slot.backend).filter(|id| *id != DROP)
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
    /// Members of lists to write.
    pub put_members: Vec<(MemberKey, Member)>,
    /// States to write.
    pub put_states: Vec<(u32, State)>,
    /// Services to write.
    pub put_services: Vec<(ServiceKey, Service)>,
    /// Services to remove, if they still belong to the service port with this id.
    pub drop_services: Vec<(ServiceKey, u32)>,
    /// States to set to nothing.
    pub drop_states: Vec<u32>,
    /// Members of lists to remove.
    pub drop_members: Vec<MemberKey>,
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

/// The entries that bring a service port to what is wanted; without an address here it needs none. Numbers are kept where
/// the thing is the same: an endpoint that stays keeps its id, an unchanged list its generation.
pub(super) fn entries(
    name: &ServicePortName,
    want: &ServicePort,
    have: &Entries,
    numbers: &mut Numbers,
) -> Entries {
    let sides = sides(name, want);
    if sides.is_empty() {
        return Entries::default();
    }
    let id = if have.id == 0 { numbers.service() } else { have.id };
    let mut backends = backends(want, have, id, numbers);
    let mut lists = Lists { have, id, made: BTreeMap::new() };
    let inside = lists.extent(list(want, want.internal.pod, &backends));
    let outside = sides.values().any(|side| *side == OUTSIDE);
    let mut extent = |action| {
        if outside { lists.extent(list(want, action, &backends)) } else { Extent::NONE }
    };
    let (pod, node) = (extent(want.external.pod), extent(want.external.node));
    let timeout = want.affinity.map_or(0, NonZeroU32::get);
    let state = State { generation: inside.generation, slots: inside.slots, timeout, zero: 0, pod, node };
    let (slots, members) = (lists.slots(), if timeout == 0 { Box::default() } else { lists.members() });
    backends.sort_unstable_by_key(|(id, _)| *id);
    Entries {
        id,
        services: sides.into_iter().map(|(key, side)| (key, Service { id, side })).collect(),
        state,
        slots,
        members,
        backends: backends.into_boxed_slice(),
    }
}

/// The addresses of a service port that this layer serves, as the programs look for them, and on which side of it they
/// are. Sockets of other protocols than TCP and UDP never come by; and whether a source is let in cannot be told from a
/// socket that has no address yet.
fn sides(name: &ServicePortName, port: &ServicePort) -> BTreeMap<ServiceKey, u32> {
    let protocol = name.protocol.number();
    let at = |address| ServiceKey::new(&Endpoint::from(address), protocol);
    let side = |frontend: &Frontend| match *frontend {
        Frontend::ClusterIp(address) => Some((at(address), INSIDE)),
        Frontend::ExternalIp(address) => Some((at(address), OUTSIDE)),
        Frontend::LoadBalancer(address) => port.sources.is_none().then(|| (at(address), OUTSIDE)),
        Frontend::NodePort(number) => {
            let key = ServiceKey::node_port(number.get().to_be_bytes(), protocol, name.family.number());
            Some((key, OUTSIDE))
        }
    };
    match name.protocol {
        Protocol::Tcp | Protocol::Udp => port.frontends.iter().filter_map(side).collect(),
        Protocol::Sctp => BTreeMap::new(),
    }
}

/// Every endpoint of a service port, listed or not, with its number; in the order in which it is wanted.
fn backends(want: &ServicePort, have: &Entries, service: u32, numbers: &mut Numbers) -> Vec<(u32, Backend)> {
    let known: BTreeMap<Backend, u32> = have.backends.iter().map(|(id, backend)| (*backend, *id)).collect();
    let place = |endpoint: &desired::Endpoint| {
        let backend = Backend { endpoint: Endpoint::from(endpoint.address()), zero: [0; 2], service };
        (known.get(&backend).copied().unwrap_or_else(|| numbers.backend()), backend)
    };
    want.endpoints.iter().map(place).collect()
}

/// What new flows are spread over of which this becomes; `backends` are those of `want`, in its order. Who calls from here
/// is a pod or this node. At the ClusterIP these two always get the same.
fn list(want: &ServicePort, action: Action, backends: &[(u32, Backend)]) -> Vec<u32> {
    let list = match action {
        Action::Reject => return Vec::new(),
        Action::Drop => return vec![DROP],
        Action::Forward(list, _) => list,
    };
    let all = want.endpoints.iter().zip(backends);
    all.filter(|(endpoint, _)| endpoint.uses.is_in(list)).map(|(_, (id, _))| *id).collect()
}

/// The addresses of a service port, as the programs look for them; sorted, each once.
pub(super) fn keys(name: &ServicePortName, want: &ServicePort) -> Vec<ServiceKey> {
    sides(name, want).into_keys().collect()
}

/// The lists of a service port by generation, as they are made.
struct Lists<'a> {
    have: &'a Entries,
    id: u32,
    made: BTreeMap<u32, Vec<u32>>,
}

impl Lists<'_> {
    /// Where this list stands. Ways that lead to the same endpoints share one.
    fn extent(&mut self, list: Vec<u32>) -> Extent {
        let slots = list.len() as u32;
        let made = self.made.iter().find(|(_, made)| **made == list).map(|(generation, _)| *generation);
        let generation = made.unwrap_or_else(|| {
            let generation = self.generation(&list);
            self.made.insert(generation, list);
            generation
        });
        Extent { generation, slots }
    }

    /// The generation whose list in the kernel is complete and equal, else one that no entry has yet.
    fn generation(&self, list: &[u32]) -> u32 {
        let in_force = in_force(&self.have.state);
        if let Some(same) = in_force.iter().find(|extent| self.holds(extent, list)) {
            return same.generation;
        }
        let held = self.have.slots.iter().map(|(key, _)| key.generation);
        let named = in_force.iter().map(|extent| extent.generation);
        let used: BTreeSet<u32> = held.chain(named).chain(self.made.keys().copied()).collect();
        let mut next = used.last().map_or(1, |last| last.wrapping_add(1));
        // Zero means that there is no list.
        while next == 0 || used.contains(&next) {
            next = next.wrapping_add(1);
        }
        next
    }

    /// Whether the kernel holds this list there.
    fn holds(&self, extent: &Extent, list: &[u32]) -> bool {
        let Extent { generation, slots } = *extent;
        let held = self.have.slots.iter();
        let held = held.filter(|(key, _)| key.service == self.id && key.generation == generation);
        slots as usize == list.len()
            && held.map(|(key, slot)| (key.index, slot.backend)).eq((0..).zip(list.iter().copied()))
    }

    fn slots(&self) -> Box<[(SlotKey, Slot)]> {
        let slots = |(generation, list): (&u32, &Vec<u32>)| {
            let (service, generation) = (self.id, *generation);
            let slot = |(index, backend): (u32, &u32)| {
                (SlotKey { service, generation, index }, Slot { backend: *backend })
            };
            (0..).zip(list).map(slot).collect::<Vec<_>>()
        };
        self.made.iter().flat_map(slots).collect()
    }

    /// Who is in which list, by number.
    fn members(&self) -> Box<[(MemberKey, Member)]> {
        let member = |(key, slot): &(SlotKey, Slot)| {
            let SlotKey { service, generation, index } = *key;
            (MemberKey { service, generation, backend: slot.backend }, Member { index })
        };
        let slots = self.slots();
        let endpoints = slots.iter().filter(|(_, slot)| slot.backend != DROP);
        let mut members: Vec<_> = endpoints.map(member).collect();
        members.sort_unstable_by_key(|(key, _)| *key);
        members.into_boxed_slice()
    }
}

/// The lists that a state names.
pub(super) fn in_force(state: &State) -> Vec<Extent> {
    let all = [state.inside(), state.pod, state.node];
    all.into_iter().filter(|extent| extent.generation != 0).collect()
}

impl Plan {
    /// Adds what turns `have` into `want` for the service port `name`.
    pub fn add(&mut self, name: &ServicePortName, have: &Entries, want: &Entries) {
        let services = diff(&have.services, &want.services);
        let slots = diff(&have.slots, &want.slots);
        let members = diff(&have.members, &want.members);
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
        self.put_members.extend(members.puts);
        self.drop_members.extend(members.drops);
        self.put_backends.extend(backends.puts);
        self.drop_backends.extend(backends.drops);
    }

    /// Writes the name of what has this id.
    pub fn named(name: &ServicePortName, id: u32) -> Self {
        Self { put_names: vec![(id, label(name))], ..Self::default() }
    }

    /// Adds the new name of what has this id.
    pub fn rename(&mut self, name: &ServicePortName, id: u32) {
        self.put_names.push((id, label(name)));
    }

    /// Entries to write.
    pub fn puts(&self) -> usize {
        let lists = self.put_slots.len() + self.put_members.len() + self.put_states.len();
        lists + self.put_names.len() + self.put_backends.len() + self.put_services.len()
    }

    /// Entries to remove.
    pub fn drops(&self) -> usize {
        let lists = self.drop_slots.len() + self.drop_members.len() + self.drop_states.len();
        lists + self.drop_names.len() + self.drop_backends.len() + self.drop_services.len()
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
