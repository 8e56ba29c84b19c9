//! What the maps are known to hold, which numbers are given out, and what a change makes of both. Pure.

#![forbid(unsafe_code)]

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dataplane_ebpf::abi::{
    Frontend, FrontendKey, ListState, Member, NOT_LISTED, ServerKey, SlotKey, SourceKey, Target,
};
use ring::digest::{SHA256, digest};

use super::image::{self, Image, Listed, Server, address, network};
use crate::backend::Wanted;
use crate::model::ServicePortName;

/// What is to be written and removed, in the order in which it is done: nobody ever sees half a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) put_sources: Vec<(SourceKey, u32)>,
    pub(super) put_targets: Vec<(SlotKey, Target)>,
    pub(super) put_servers: Vec<(ServerKey, Member)>,
    pub(super) put_lists: Vec<(u32, ListState)>,
    pub(super) put_frontends: Vec<(FrontendKey, Frontend)>,
    pub(super) drop_frontends: Vec<FrontendKey>,
    pub(super) drop_lists: Vec<u32>,
    pub(super) drop_targets: Vec<SlotKey>,
    pub(super) drop_servers: Vec<ServerKey>,
    pub(super) drop_sources: Vec<SourceKey>,
}

/// What one service port has.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    image: Image,
    lists: [(u32, ListState); 2],
    sources: u32,
}

/// The books of one set of maps.
#[derive(Debug, Default)]
pub(super) struct Books {
    have: BTreeMap<ServicePortName, Held>,
    owners: BTreeMap<FrontendKey, ServicePortName>,
    free: Vec<u32>,
    next: u32,
    generation: u32,
    /// Endpoints on this node, and how many lists they are in.
    here: BTreeMap<IpAddr, usize>,
}

/// What a change makes of the books.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) plan: Plan,
    /// Numbers of service ports that are no more.
    pub(super) gone: Vec<u32>,
    held: Vec<(ServicePortName, Held)>,
}

impl Books {
    /// Of empty maps. Generations go on from a number that no daemon before has come near to.
    pub(super) fn new(generation: u32) -> Self {
        Self { generation, ..Self::default() }
    }

    /// Endpoints on this node.
    pub(super) fn here(&self) -> BTreeSet<IpAddr> {
        self.here.keys().copied().collect()
    }

    /// How many numbers of lists have been given out.
    pub(super) fn lists(&self) -> u32 {
        self.next
    }

    /// What brings these Services to what is wanted. Numbers are taken from the books at once; [`Self::done`] writes down the
    /// rest.
    pub(super) fn step(&mut self, wanted: &Wanted) -> Step {
        let mut step = Step { plan: Plan::default(), gone: Vec::new(), held: Vec::new() };
        for (service, ports) in wanted {
            let names = ServicePortName::all_of(&self.have, service).map(|(name, _)| name);
            let gone: Vec<_> = names.filter(|name| !ports.contains_key(name)).cloned().collect();
            step.gone.extend(gone.iter().map(service_number));
            gone.into_iter().for_each(|name| self.change(&mut step, name, Image::default()));
            for (name, port) in ports {
                self.change(&mut step, name.clone(), image::image(name, port));
            }
        }
        let taken: BTreeSet<FrontendKey> = step.plan.put_frontends.iter().map(|(key, _)| *key).collect();
        step.plan.drop_frontends.retain(|key| !taken.contains(key));
        step
    }

    fn change(&mut self, step: &mut Step, name: ServicePortName, image: Image) {
        let had = self.have.get(&name).cloned().unwrap_or_default();
        if had.image == image {
            return;
        }
        let mut held = Held { image, ..had.clone() };
        self.change_sources(&mut step.plan, &had, &mut held);
        for at in 0..2 {
            self.change_list(&mut step.plan, &name, &had, &mut held, at);
        }
        let (numbers, service) = (held.lists.map(|(number, _)| number), service_number(&name));
        let before = had.image.frontends.iter();
        let before: BTreeMap<FrontendKey, Frontend> = before
            .map(|(key, rules)| {
                (*key, rules.numbered(had.lists.map(|(number, _)| number), had.sources, service))
            })
            .collect();
        for (key, rules) in &held.image.frontends {
            let value = rules.numbered(numbers, held.sources, service);
            let is_mine = self.owners.get(key) == Some(&name);
            if !is_mine || before.get(key) != Some(&value) {
                step.plan.put_frontends.push((*key, value));
            }
        }
        let still: BTreeSet<&FrontendKey> = held.image.frontends.iter().map(|(key, _)| key).collect();
        let gone = before.keys().filter(|key| !still.contains(key) && self.owners.get(*key) == Some(&name));
        step.plan.drop_frontends.extend(gone.copied());
        step.held.push((name, held));
    }

    fn change_sources(&mut self, plan: &mut Plan, had: &Held, held: &mut Held) {
        if had.image.sources == held.image.sources {
            return;
        }
        // Another number, so that nobody is let in or kept out by half a list.
        plan.drop_sources.extend(had.image.sources.iter().map(|range| image::source(had.sources, range)));
        held.sources = if held.image.sources.is_empty() { 0 } else { self.number() };
        plan.put_sources
            .extend(held.image.sources.iter().map(|range| (image::source(held.sources, range), 1)));
    }

    fn change_list(
        &mut self,
        plan: &mut Plan,
        name: &ServicePortName,
        had: &Held,
        held: &mut Held,
        at: usize,
    ) {
        let (Some(before), Some(now)) = (had.image.lists.get(at), held.image.lists.get(at)) else { return };
        let ((number, state), Some(place)) =
            (had.lists.get(at).copied().unwrap_or((0, EMPTY)), held.lists.get_mut(at))
        else {
            return;
        };
        if before == now {
            return;
        }
        let number = if number == 0 { take(&mut self.free, &mut self.next) } else { number };
        let generation = self.generation.wrapping_add(1).max(1);
        self.generation = generation;
        let new = now.as_ref().map(|list| ListState {
            generation,
            slots: list.listed.len() as u32,
            timeout: list.timeout,
            service: service_number(name),
        });
        replace(plan, number, (before.as_ref(), state.generation), (now.as_ref(), generation));
        match new {
            Some(new) => {
                plan.put_lists.push((number, new));
                *place = (number, new);
            }
            None => {
                plan.drop_lists.push(number);
                *place = (0, EMPTY);
            }
        }
    }

    fn number(&mut self) -> u32 {
        take(&mut self.free, &mut self.next)
    }

    /// Writes down that a step has been carried out.
    pub(super) fn done(&mut self, step: Step) {
        for key in &step.plan.drop_frontends {
            self.owners.remove(key);
        }
        for (name, held) in step.held {
            for (key, _) in &held.image.frontends {
                self.owners.insert(*key, name.clone());
            }
            let had = if held.image == Image::default() {
                self.have.remove(&name)
            } else {
                self.have.insert(name, held.clone())
            };
            let had = had.unwrap_or_default();
            self.count_here(&had, &held);
            self.free_numbers(&had, &held);
        }
    }

    fn count_here(&mut self, had: &Held, held: &Held) {
        for endpoint in held.image.here() {
            *self.here.entry(endpoint).or_default() += 1;
        }
        for endpoint in had.image.here() {
            if let Entry::Occupied(mut times) = self.here.entry(endpoint) {
                *times.get_mut() -= 1;
                if *times.get() == 0 {
                    times.remove();
                }
            }
        }
    }

    fn free_numbers(&mut self, had: &Held, held: &Held) {
        let numbers = |held: &Held| [held.lists[0].0, held.lists[1].0, held.sources];
        let now = numbers(held);
        self.free.extend(numbers(had).into_iter().filter(|number| *number != 0 && !now.contains(number)));
    }
}

impl Step {
    /// Endpoints on this node that a change names.
    pub(super) fn here(&self) -> BTreeSet<IpAddr> {
        self.held.iter().flat_map(|(_, held)| held.image.here()).collect()
    }
}

impl Default for Held {
    fn default() -> Self {
        Self { image: Image::default(), lists: [(0, EMPTY); 2], sources: 0 }
    }
}

/// No list.
const EMPTY: ListState = ListState { generation: 0, slots: 0, timeout: 0, service: 0 };

fn take(free: &mut Vec<u32>, next: &mut u32) -> u32 {
    free.pop().unwrap_or_else(|| {
        *next += 1;
        *next
    })
}

/// One generation takes the place of another.
fn replace(
    plan: &mut Plan,
    number: u32,
    (before, old): (Option<&Listed>, u32),
    (now, new): (Option<&Listed>, u32),
) {
    let slot = |generation, index: usize| SlotKey { service: number, generation, index: index as u32 };
    let places = |list: Option<&Listed>| list.map_or(0, |list| list.listed.len());
    plan.drop_targets.extend((0..places(before)).map(|index| slot(old, index)));
    let targets = now.into_iter().flat_map(|list| &list.listed).enumerate();
    plan.put_targets.extend(targets.map(|(index, server)| (slot(new, index), target(server))));
    let (had, has) = (servers(number, before), servers(number, now));
    plan.put_servers.extend(
        has.iter().filter(|(key, member)| had.get(key) != Some(member)).map(|(key, member)| (*key, *member)),
    );
    plan.drop_servers.extend(had.keys().filter(|key| !has.contains_key(key)));
}

fn servers(number: u32, list: Option<&Listed>) -> BTreeMap<ServerKey, Member> {
    let Some(Listed { listed, kept, timeout: _ }) = list else { return BTreeMap::new() };
    let key = |server: &Server| ServerKey {
        list: number,
        port: network(server.address.port()),
        address: address(server.address.ip()),
    };
    let kept = kept.iter().map(|server| (key(server), Member { index: NOT_LISTED }));
    let listed = listed.iter().enumerate();
    kept.chain(listed.map(|(index, server)| (key(server), Member { index: index as u32 }))).collect()
}

fn target(server: &Server) -> Target {
    Target {
        address: address(server.address.ip()),
        port: network(server.address.port()),
        here: u32::from(server.here),
    }
}

/// A number for a service port that every daemon makes alike.
pub fn service_number(name: &ServicePortName) -> u32 {
    let digest =
        digest(&SHA256, format!("{name} {} {}", name.protocol.number(), name.family.number()).as_bytes());
    let bytes = digest.as_ref().first_chunk::<4>().copied().unwrap_or_default();
    u32::from_ne_bytes(bytes).max(1)
}

impl Plan {
    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.puts() + self.drops() == 0
    }

    /// Entries to write.
    pub(super) fn puts(&self) -> usize {
        self.put_sources.len()
            + self.put_targets.len()
            + self.put_servers.len()
            + self.put_lists.len()
            + self.put_frontends.len()
    }

    /// Entries to remove.
    pub(super) fn drops(&self) -> usize {
        self.drop_sources.len()
            + self.drop_targets.len()
            + self.drop_servers.len()
            + self.drop_lists.len()
            + self.drop_frontends.len()
    }
}
