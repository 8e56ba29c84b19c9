//! Looking through the tables while they serve, a little at a time: whatever somebody took away, changed or added is found and
//! put right. What packets write (clients' endpoints, sockets, counts) is never looked at.
//!
//! Nobody else writes these tables, and the books say what they hold, so a look is exact; all the same, what seems to be
//! wrong is looked at again before anything is done about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Instant;

use dataplane_ebpf::abi::{Name, State};

use super::books::Ports;
use super::compare::of_port;
use super::image::{Entries, Plan};
use super::set::Set;
use super::table::{Place, Wrong};
use super::{Ebpf, abi};
use crate::backend::BackendError;
use crate::backend::difference::{Difference, Kind};
use crate::backend::findings::{Findings, Look, Turn};
use crate::model::ServicePortName;

/// What these tables are called.
const EBPF: &str = "ebpf";
/// Service ports that are put right in one step.
const SHARE: usize = 64;

/// How far a round has come.
#[derive(Debug, Default)]
pub(super) struct Audit {
    stage: Stage,
    /// Service ports of which something seems to be wrong.
    suspects: BTreeSet<ServicePortName>,
    /// What seems to belong to nobody.
    strays: Plan,
}

#[derive(Debug, Default)]
enum Stage {
    /// Whether everything wanted is there.
    #[default]
    Begin,
    Ports(ServicePortName),
    /// Whether there is anything else.
    Others {
        table: usize,
        place: Place,
        owners: BTreeMap<u32, ServicePortName>,
    },
    /// Whether that is still so.
    Again,
}

impl Ebpf {
    /// One step of a round. See the trait.
    pub(super) fn look(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        let ready = !self.doubtful && self.in_force == Some(self.number);
        if !ready {
            self.audit = Audit::default();
            findings.notes.push("ebpf: the tables are being written anew".to_owned());
            return Ok(Turn::Done);
        }
        let mut audit = std::mem::take(&mut self.audit);
        if look.is_first {
            audit = Audit::default();
        }
        let until = Instant::now() + look.budget;
        let outcome = loop {
            match self.step(&mut audit, look, until, findings) {
                Ok(Turn::More) if Instant::now() < until => {}
                outcome => break outcome,
            }
        };
        match &outcome {
            Ok(Turn::More | Turn::Wait) => self.audit = audit,
            Ok(Turn::Done) => {}
            Err(_) => self.doubtful = true,
        }
        outcome
    }

    /// Begins anew: the tables are others.
    pub(super) fn forget_audit(&mut self) {
        self.audit = Audit::default();
    }

    fn step(
        &mut self,
        audit: &mut Audit,
        look: Look,
        until: Instant,
        findings: &mut Findings,
    ) -> Result<Turn, BackendError> {
        match std::mem::take(&mut audit.stage) {
            Stage::Begin => audit.stage = self.look_at_ports(&mut audit.suspects, None, until)?,
            Stage::Ports(after) => {
                audit.stage = self.look_at_ports(&mut audit.suspects, Some(&after), until)?;
            }
            Stage::Others { table, mut place, owners } => {
                let end =
                    find_strays(&self.set, table, &mut place, self.books.have(), &owners, &mut audit.strays)?;
                let next = if end { (table + 1, Place::default()) } else { (table, place) };
                audit.stage = match next {
                    (table, place) if table < TABLES => Stage::Others { table, place, owners },
                    _ => Stage::Again,
                };
            }
            Stage::Again => return self.look_again(audit, look, findings),
        }
        Ok(Turn::More)
    }

    /// Looks whether all is there that these service ports need, from one on.
    fn look_at_ports(
        &self,
        suspects: &mut BTreeSet<ServicePortName>,
        after: Option<&ServicePortName>,
        until: Instant,
    ) -> Result<Stage, BackendError> {
        let have = self.books.have();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (name, entries) in have.range((from, Bound::Unbounded)) {
            if !self.wrong(name, entries)?.is_nothing() {
                suspects.insert(name.clone());
            }
            if Instant::now() >= until {
                return Ok(Stage::Ports(name.clone()));
            }
        }
        Ok(Stage::Others { table: 0, place: Place::default(), owners: owners(have) })
    }

    fn wrong(&self, name: &ServicePortName, entries: &Entries) -> Result<WrongEntries, BackendError> {
        let Set { services, states, slots, members, backends, names, meta: _ } = &self.set;
        let mut own: Vec<_> = entries.services.to_vec();
        own.retain(|(key, _)| self.books.owns(key, entries.id));
        Ok(WrongEntries {
            services: services.wrong(&own)?,
            states: states.wrong(&[(entries.id, entries.state)])?,
            slots: slots.wrong(&entries.slots)?,
            members: members.wrong(&entries.members)?,
            backends: backends.wrong(&entries.backends)?,
            names: names.wrong(&Plan::named(name, entries.id).put_names)?,
        })
    }

    fn look_again(
        &mut self,
        audit: &mut Audit,
        look: Look,
        findings: &mut Findings,
    ) -> Result<Turn, BackendError> {
        let strays = std::mem::take(&mut audit.strays);
        if strays.drops() > 0 {
            let strays = self.still_strays(strays)?;
            findings.extend(EBPF, rows_of_strays(&strays));
            if look.heal {
                self.set.write(&strays)?;
            }
        }
        let share: Vec<_> = audit.suspects.iter().take(SHARE).cloned().collect();
        let mut plan = Plan::default();
        for name in share {
            audit.suspects.remove(&name);
            let Some(entries) = self.books.have().get(&name) else { continue };
            let wrong = self.wrong(&name, entries)?;
            if !wrong.is_nothing() {
                findings.extend(EBPF, of_port(&name, entries, &wrong.beside(entries)));
                wrong.mend(&mut plan);
            }
        }
        if look.heal {
            self.set.write(&plan)?;
            findings.heal(EBPF);
        }
        if !audit.suspects.is_empty() {
            audit.stage = Stage::Again;
            return Ok(Turn::More);
        }
        self.own.audit(look.heal, findings)?;
        Ok(Turn::Done)
    }

    /// Of what seemed to belong to nobody, what is there and belongs to nobody by now.
    fn still_strays(&self, found: Plan) -> Result<Plan, BackendError> {
        let (have, owners) = (self.books.have(), owners(self.books.have()));
        let of = |id: u32| owners.get(&id).and_then(|name| have.get(name));
        let Plan { mut drop_services, mut drop_states, mut drop_members, mut drop_slots, .. } = found;
        let Plan { mut drop_backends, mut drop_names, .. } = found;
        drop_services.retain(|(key, _)| !self.books.is_owned(key));
        drop_states.retain(|id| !owners.contains_key(id));
        drop_names.retain(|id| !owners.contains_key(id));
        drop_slots.retain(|key| !of(key.service).is_some_and(|entries| has(&entries.slots, key)));
        drop_members.retain(|key| !of(key.service).is_some_and(|entries| has(&entries.members, key)));
        // One that names another owner than it should is somebody's all the same.
        drop_backends.retain(|id| !have.values().any(|entries| has(&entries.backends, id)));
        Ok(Plan {
            drop_services,
            drop_states,
            drop_members,
            drop_slots,
            drop_backends,
            drop_names,
            ..Plan::default()
        })
    }
}

/// Entries of one service port that are not as they should be.
#[derive(Debug)]
struct WrongEntries {
    services: Wrong<abi::ServiceKey, abi::Service>,
    states: Wrong<u32, State>,
    slots: Wrong<abi::SlotKey, abi::Slot>,
    members: Wrong<abi::MemberKey, abi::Member>,
    backends: Wrong<u32, abi::Backend>,
    names: Wrong<u32, Name>,
}

impl WrongEntries {
    fn is_nothing(&self) -> bool {
        let Self { services, states, slots, members, backends, names } = self;
        services.is_empty()
            && states.is_empty()
            && slots.is_empty()
            && members.is_empty()
            && backends.is_empty()
            && names.is_empty()
    }

    /// What the tables hold in place of these entries.
    fn beside(&self, want: &Entries) -> Entries {
        let state = self.states.iter().map(|(_, _, found)| found.unwrap_or(State::NONE)).next();
        Entries {
            id: want.id,
            state: state.unwrap_or(want.state),
            services: found(&want.services, &self.services),
            slots: found(&want.slots, &self.slots),
            members: found(&want.members, &self.members),
            backends: found(&want.backends, &self.backends),
        }
    }

    /// Adds what puts them right.
    fn mend(self, plan: &mut Plan) {
        let Self { services, states, slots, members, backends, names } = self;
        plan.put_services.extend(right(services));
        plan.put_states.extend(right(states));
        plan.put_slots.extend(right(slots));
        plan.put_members.extend(right(members));
        plan.put_backends.extend(right(backends));
        plan.put_names.extend(right(names));
    }
}

fn right<K, V>(wrong: Wrong<K, V>) -> impl Iterator<Item = (K, V)> {
    wrong.into_iter().map(|(key, want, _)| (key, want))
}

fn found<K: Copy + PartialEq, V: Copy>(want: &[(K, V)], wrong: &Wrong<K, V>) -> Box<[(K, V)]> {
    let there = |(key, value): &(K, V)| match wrong.iter().find(|(of, ..)| of == key) {
        Some((_, _, found)) => found.map(|found| (*key, found)),
        None => Some((*key, *value)),
    };
    want.iter().filter_map(there).collect()
}

/// Service ports by number.
fn owners(have: &Ports) -> BTreeMap<u32, ServicePortName> {
    have.iter().map(|(name, entries)| (entries.id, name.clone())).collect()
}

/// Tables that are gone through.
const TABLES: usize = 6;

/// Goes on through one table. Returns whether it has come to the end.
fn find_strays(
    set: &Set,
    table: usize,
    place: &mut Place,
    have: &Ports,
    owners: &BTreeMap<u32, ServicePortName>,
    strays: &mut Plan,
) -> Result<bool, BackendError> {
    let of = |id: u32| owners.get(&id).and_then(|name| have.get(name));
    let end = match table {
        0 => {
            let (some, end) = set.services.some(place)?;
            let known = |id: u32, key: &_| of(id).is_some_and(|entries| has(&entries.services, key));
            let foreign = some.into_iter().filter(|(key, service)| !known(service.id, key));
            strays.drop_services.extend(foreign.map(|(key, service)| (key, service.id)));
            end
        }
        1 => {
            let (some, end) = set.states.some(place)?;
            let foreign = some.into_iter().filter(|(id, state)| *state != State::NONE && of(*id).is_none());
            strays.drop_states.extend(foreign.map(|(id, _)| id));
            end
        }
        2 => {
            let (some, end) = set.slots.some(place)?;
            let known = |key: &abi::SlotKey| of(key.service).is_some_and(|entries| has(&entries.slots, key));
            strays.drop_slots.extend(some.into_iter().map(|(key, _)| key).filter(|key| !known(key)));
            end
        }
        3 => {
            let (some, end) = set.members.some(place)?;
            let known =
                |key: &abi::MemberKey| of(key.service).is_some_and(|entries| has(&entries.members, key));
            strays.drop_members.extend(some.into_iter().map(|(key, _)| key).filter(|key| !known(key)));
            end
        }
        4 => {
            let (some, end) = set.backends.some(place)?;
            let known = |owner: u32, id: &u32| of(owner).is_some_and(|entries| has(&entries.backends, id));
            let foreign = some.into_iter().filter(|(id, backend)| !known(backend.service, id));
            strays.drop_backends.extend(foreign.map(|(id, _)| id));
            end
        }
        _ => {
            let (some, end) = set.names.some(place)?;
            strays.drop_names.extend(some.into_iter().map(|(id, _)| id).filter(|id| of(*id).is_none()));
            end
        }
    };
    Ok(end)
}

fn has<K: Ord, V>(entries: &[(K, V)], key: &K) -> bool {
    entries.binary_search_by(|(of, _)| of.cmp(key)).is_ok()
}

fn rows_of_strays(strays: &Plan) -> impl Iterator<Item = Difference> {
    let counts = [
        (abi::SERVICES, strays.drop_services.len()),
        (abi::STATES, strays.drop_states.len()),
        (abi::SLOTS, strays.drop_slots.len()),
        (abi::MEMBERS, strays.drop_members.len()),
        (abi::BACKENDS, strays.drop_backends.len()),
        (abi::NAMES, strays.drop_names.len()),
    ];
    let row = |(map, count): (&str, usize)| Difference {
        dataplane: EBPF.into(),
        service: String::new(),
        what: format!("entries in {map} that belong to nobody"),
        plan: None,
        kernel: Some(count.to_string()),
    };
    counts.into_iter().filter(|(_, count)| *count > 0).map(row)
}

/// Whether something is wrong with one of the node's addresses.
pub(super) fn row_of_address(address: std::net::IpAddr, kind: Kind) -> Difference {
    let there = || Some("there".to_owned());
    Difference {
        dataplane: EBPF.into(),
        service: String::new(),
        what: format!("node address {address}"),
        plan: there().filter(|_| kind != Kind::Foreign),
        kernel: there().filter(|_| kind != Kind::Missing),
    }
}
