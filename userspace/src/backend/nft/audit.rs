//! Looking through the tables while they serve. Reading big sets takes the kernel a while, so a thread of its own does that; and
//! nothing is read as long as the number of the ruleset says that nobody but this process has changed anything.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::chains::{Chain, base, fixed};
use super::drift::{
    Comparison, Detail, Key, NFTABLES, OF_NODE, Place, Snapshot, Suspects, Touched, Wrong, WrongElement,
    borders, chain_key, key_of, planned_rules, print, rules_of,
};
use super::image::{Image, Value};
use super::kernel::{read_generation, scan_rules, scan_set};
use super::layout::{by_set, ranges};
use super::rule::tables;
use super::sets::Set;
use super::wire::{self, Batch, Element, Refused, Socket};
use super::{Nft, Table, image};
use crate::backend::BackendError;
use crate::backend::findings::{Findings, Look, Turn};
use crate::model::{Family, ServiceName};

/// How often a set is read again that changes while it is read, and after how long.
const AGAIN: (u32, Duration) = (5, Duration::from_millis(20));
/// Elements that are put right in one transaction.
const SHARE: usize = 1000;
/// Chains likewise.
const CHAINS: usize = 20;

/// How far a round has come, and what is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Audit {
    stage: Stage,
    /// The number of the ruleset as this process made it, as long as nobody else has made another one meanwhile.
    trail: Option<u32>,
    /// Whether all was as it should be when the trail was begun.
    clean: bool,
    touched: Touched,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    Reading(Reply<Snapshot>),
    Elements(Box<Comparison>, Option<ServiceName>),
    Chains(Box<Comparison>, Option<(Family, Chain)>),
    Again(Reply<Detail>, Box<Suspects>),
    Healing(Box<Wrong>),
}

/// What a thread will have read. Nobody ever waits for the lock: it lets the loop, which owns this, go from thread to thread.
type Reply<T> = Mutex<Receiver<io::Result<T>>>;

/// A table to read.
type Found = (Family, &'static str);

impl Audit {
    /// What has been written counts only while something is being compared.
    pub(super) fn touched(&mut self) -> Option<&mut Touched> {
        (!matches!(self.stage, Stage::Begin)).then_some(&mut self.touched)
    }

    /// A transaction of ours has been carried out, or refused, between these two numbers of the ruleset.
    pub(super) fn follow(&mut self, before: Option<u32>, after: Option<u32>, is_done: bool) {
        let next = before.map(|number| if is_done { number.wrapping_add(1) } else { number });
        let is_ours = self.trail == before && (after == next || after == before);
        self.trail = after.filter(|_| is_ours);
    }
}

impl Nft {
    /// One step of a round. See the trait.
    pub fn audit(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        if !self.awake {
            return Ok(Turn::Done);
        }
        if look.is_first {
            self.audit.stage = Stage::Begin;
        }
        if self.tables.len() != Family::ALL.len() || !self.in_force || !self.ledger.is_settled() {
            self.audit = Audit::default();
            findings.notes.push("nftables: the tables are being written anew".to_owned());
            return Ok(Turn::Done);
        }
        let until = Instant::now() + look.budget;
        loop {
            let turn = self.step(look, until, findings)?;
            if turn != Turn::More || Instant::now() >= until {
                return Ok(turn);
            }
        }
    }

    fn step(&mut self, look: Look, until: Instant, findings: &mut Findings) -> Result<Turn, BackendError> {
        match std::mem::take(&mut self.audit.stage) {
            Stage::Begin => self.begin(look),
            Stage::Reading(answer) => self.read(answer, findings),
            Stage::Elements(comparison, after) => Ok(self.compare_elements(comparison, after, until)),
            Stage::Chains(comparison, after) => Ok(self.compare_chains(comparison, after, until)),
            Stage::Again(answer, suspects) => self.confirm(answer, suspects, look, findings),
            Stage::Healing(wrong) => self.heal(*wrong, findings),
        }
    }

    fn begin(&mut self, look: Look) -> Result<Turn, BackendError> {
        let number = read_generation(&mut self.socket).ok();
        if self.audit.clean && !look.thorough && number.is_some() && number == self.audit.trail {
            return Ok(Turn::Done);
        }
        (self.audit.trail, self.audit.clean, self.audit.touched) = (number, false, Touched::default());
        let tables = self.places();
        self.audit.stage = Stage::Reading(in_background(move |socket| read_all(socket, &tables))?);
        Ok(Turn::Wait)
    }

    fn places(&self) -> Vec<Found> {
        self.tables.iter().map(|table| (table.layout.family, table.name)).collect()
    }

    fn read(&mut self, mut answer: Reply<Snapshot>, findings: &mut Findings) -> Result<Turn, BackendError> {
        match received(&mut answer) {
            Err(TryRecvError::Empty) => {
                self.audit.stage = Stage::Reading(answer);
                Ok(Turn::Wait)
            }
            Err(TryRecvError::Disconnected) => Ok(Turn::Done),
            Ok(Err(error)) => Ok(unread(&error, findings)),
            Ok(Ok(snapshot)) => {
                self.audit.stage = Stage::Elements(Box::new(Comparison::new(snapshot)), None);
                Ok(Turn::More)
            }
        }
    }

    fn compare_elements(
        &mut self,
        mut comparison: Box<Comparison>,
        after: Option<ServiceName>,
        until: Instant,
    ) -> Turn {
        let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, ports) in self.have.range::<ServiceName, _>((from, Bound::Unbounded)) {
            let Image { own, shared, chains: _ } = image(ports.iter().map(|(name, port)| (name, port)));
            let owner = name.to_string();
            own.iter().for_each(|(slot, value)| comparison.element(slot, value, &owner));
            shared.keys().for_each(|slot| comparison.element(slot, &Value::nothing(), &owner));
            if Instant::now() >= until {
                self.audit.stage = Stage::Elements(comparison, Some(name.clone()));
                return Turn::More;
            }
        }
        for table in &self.tables {
            for set in OF_NODE {
                let want = borders(self.node_ranges(table, set));
                comparison.ranges((table.layout.family, set), want);
            }
            for (name, rules) in self.always(table) {
                comparison.chain(table.layout.family, name, rules);
            }
        }
        self.audit.stage = Stage::Chains(comparison, None);
        Turn::More
    }

    /// Chains that are always there, with what stands for their rules.
    fn always(&self, table: &Table) -> Vec<(&'static str, u64)> {
        let layout = &table.layout;
        let fixed = fixed(&layout.context, layout.bit);
        let base = base(layout.bit, layout.ports).into_iter().map(|(name, _, rules)| (name, rules));
        fixed.into_iter().chain(base).map(|(name, rules)| (name, planned_rules(layout, &rules))).collect()
    }

    fn compare_chains(
        &mut self,
        mut comparison: Box<Comparison>,
        after: Option<(Family, Chain)>,
        until: Instant,
    ) -> Turn {
        for (family, chain) in self.ledger.needed(after.as_ref()) {
            let Some(table) = self.table(*family) else { continue };
            let rules = chain.rules(&table.layout.context, table.layout.bit);
            comparison.chain(*family, &chain.name(), planned_rules(&table.layout, &rules));
            if Instant::now() >= until {
                self.audit.stage = Stage::Chains(comparison, Some((*family, chain.clone())));
                return Turn::More;
            }
        }
        let suspects = comparison.end(&self.audit.touched);
        if suspects.is_nothing() {
            self.audit.clean = true;
            return Turn::Done;
        }
        let (tables, keys) = (self.places(), suspects.keys());
        match in_background(move |socket| read_some(socket, &tables, &keys)) {
            Ok(answer) => {
                self.audit.stage = Stage::Again(answer, Box::new(suspects));
                Turn::Wait
            }
            Err(_) => Turn::Done,
        }
    }

    fn confirm(
        &mut self,
        mut answer: Reply<Detail>,
        suspects: Box<Suspects>,
        look: Look,
        findings: &mut Findings,
    ) -> Result<Turn, BackendError> {
        let detail = match received(&mut answer) {
            Err(TryRecvError::Empty) => {
                self.audit.stage = Stage::Again(answer, suspects);
                return Ok(Turn::Wait);
            }
            Err(TryRecvError::Disconnected) => return Ok(Turn::Done),
            Ok(Err(error)) => return Ok(unread(&error, findings)),
            Ok(Ok(detail)) => detail,
        };
        let wrong = suspects.confirm(detail, &self.audit.touched);
        wrong.tell(findings);
        if wrong == Wrong::default() {
            self.audit.clean = true;
            return Ok(Turn::Done);
        }
        if !look.heal {
            return Ok(Turn::Done);
        }
        self.audit.stage = Stage::Healing(Box::new(wrong));
        Ok(Turn::More)
    }

    /// Puts some of it right: chains first, because elements lead to them.
    fn heal(&mut self, mut wrong: Wrong, findings: &mut Findings) -> Result<Turn, BackendError> {
        let chains: Vec<_> = wrong.chains.drain(..wrong.chains.len().min(CHAINS)).collect();
        let elements: Vec<_> = wrong.elements.drain(..wrong.elements.len().min(SHARE)).collect();
        let mut batch = Batch::default();
        chains.iter().for_each(|(family, name)| self.write_rules(&mut batch, *family, name));
        self.write_elements(&mut batch, elements);
        for (family, set) in wrong.ranges.drain(..) {
            if let Some(table) = self.table(family) {
                self.write_ranges(&mut batch, table, set);
            }
        }
        if let Err(refused) = self.transact(batch) {
            // Something else is wrong, too: everything is read and written again.
            self.tables.clear();
            return Err(refused.into());
        }
        if wrong != Wrong::default() {
            self.audit.stage = Stage::Healing(Box::new(wrong));
            return Ok(Turn::More);
        }
        findings.heal(NFTABLES);
        self.audit.clean = true;
        Ok(Turn::Done)
    }

    fn write_rules(&self, batch: &mut Batch, family: Family, name: &str) {
        let Some(table) = self.table(family) else { return };
        let layout = &table.layout;
        let needed = self.ledger.needed(None).filter(|(of, chain)| *of == family && chain.name() == name);
        let needed = needed.map(|(_, chain)| chain.rules(&layout.context, layout.bit));
        let fixed = fixed(&layout.context, layout.bit).into_iter();
        let base = base(layout.bit, layout.ports).into_iter().map(|(name, _, rules)| (name, rules));
        let always = fixed.chain(base).filter(|(of, _)| *of == name).map(|(_, rules)| rules);
        if let Some(rules) = always.chain(needed).next() {
            let place = layout.place(table.name);
            batch.flush_chain(place, name);
            layout.rules(batch, table.name, name, &rules);
        }
    }

    fn write_elements(&self, batch: &mut Batch, elements: Vec<WrongElement>) {
        let (mut drops, mut puts) = (BTreeMap::new(), BTreeMap::new());
        for WrongElement { slot, want, found, owner: _ } in elements {
            drops.extend(found.map(|found| (slot.clone(), found)));
            puts.extend(want.map(|want| (slot, want)));
        }
        for ((family, set), elements) in by_set(&drops) {
            if let Some(table) = self.table(family) {
                batch.delete_elements(table.layout.place(table.name), set.name(), elements.iter());
            }
        }
        for ((family, set), elements) in by_set(&puts) {
            if let Some(table) = self.table(family) {
                batch.add_elements(table.layout.place(table.name), set.name(), elements.iter());
            }
        }
    }

    /// Makes a set hold the node's ranges, whatever it held.
    pub(super) fn write_ranges(&self, batch: &mut Batch, table: &Table, set: Set) {
        let place = table.layout.place(table.name);
        batch.flush_set(place, set.name());
        batch.add_elements(place, set.name(), self.node_ranges(table, set).iter());
    }

    fn node_ranges(&self, table: &Table, set: Set) -> Vec<Element> {
        let own = |range: &&ipnet::IpNet| Family::of(range.addr()) == table.layout.family;
        if set == Set::ClusterRanges {
            return ranges(&self.cluster_ranges.iter().filter(own).copied().collect::<Vec<_>>());
        }
        ranges(&table.layout.node_port_ranges())
    }

    /// Carries a transaction out, and notes whether anybody else has made one meanwhile.
    pub(super) fn transact(&mut self, batch: Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        let before = read_generation(&mut self.socket).ok();
        let outcome = self.socket.commit(batch);
        let after = read_generation(&mut self.socket).ok();
        self.audit.follow(before, after, outcome.is_ok());
        outcome
    }
}

fn unread(error: &io::Error, findings: &mut Findings) -> Turn {
    findings.notes.push(format!("nftables: could not be read: {error}"));
    Turn::Done
}

fn received<T>(reply: &mut Reply<T>) -> Result<io::Result<T>, TryRecvError> {
    reply.get_mut().unwrap_or_else(PoisonError::into_inner).try_recv()
}

/// Reads with a socket of its own, in this network namespace.
fn in_background<T: Send + 'static>(
    read: impl FnOnce(&mut Socket) -> io::Result<T> + Send + 'static,
) -> Result<Reply<T>, BackendError> {
    let (sender, receiver) = sync_channel(1);
    let deed = move || drop(sender.send(Socket::open().and_then(|mut socket| read(&mut socket))));
    thread::Builder::new()
        .name("audit".to_owned())
        .spawn(deed)
        .map_err(|source| super::read("start a thread that reads", source))?;
    Ok(Mutex::new(receiver))
}

/// Tries until nothing changes meanwhile, a few times.
fn steady<T: Default>(
    socket: &mut Socket,
    mut read: impl FnMut(&mut Socket, &mut T) -> io::Result<()>,
) -> io::Result<T> {
    for _ in 0..AGAIN.0 {
        let mut all = T::default();
        match read(socket, &mut all) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                thread::sleep(AGAIN.1);
                *socket = Socket::open()?;
            }
            outcome => return outcome.map(|()| all),
        }
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "it changes faster than it can be read"))
}

fn read_all(socket: &mut Socket, found: &[Found]) -> io::Result<Snapshot> {
    let mut snapshot = read_rest(socket, found)?;
    for (family, table) in found {
        let place = wire::Place { family: tables(*family), table };
        for set in Set::ALL.into_iter().filter(|set| !set.is_apart()) {
            let prints = steady(socket, |socket, prints: &mut Vec<_>| {
                scan_set(socket, place, set.name(), |element| {
                    let key = element.key.clone();
                    prints.push(print(&key, &element.into()));
                })
            })?;
            snapshot.elements.insert((*family, set), prints);
        }
    }
    snapshot.sort();
    Ok(snapshot)
}

/// Rules, and what belongs to the node.
fn read_rest(socket: &mut Socket, found: &[Found]) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot::default();
    for (family, table) in found {
        let place = wire::Place { family: tables(*family), table };
        let rules = steady(socket, |socket, chains: &mut BTreeMap<String, Vec<String>>| {
            scan_rules(socket, place, |chain, rule| chains.entry(chain.to_owned()).or_default().push(rule))
        })?;
        let prints = rules.iter().map(|(chain, rules)| (chain_key(chain), rules_of(rules)));
        snapshot.chains.insert(*family, prints.collect());
        for set in OF_NODE {
            let elements = steady(socket, |socket, all: &mut Vec<Element>| {
                scan_set(socket, place, set.name(), |element| all.push(element))
            })?;
            snapshot.ranges.insert((*family, set), borders(elements));
        }
    }
    snapshot.sort();
    Ok(snapshot)
}

/// What is to be looked at again.
fn read_some(
    socket: &mut Socket,
    found: &[Found],
    keys: &BTreeMap<Place, BTreeSet<Key>>,
) -> io::Result<Detail> {
    let mut detail = Detail { rest: read_rest(socket, found)?, ..Detail::default() };
    for (family, table) in found {
        let place = wire::Place { family: tables(*family), table };
        for ((_, set), keys) in keys.iter().filter(|((of, _), _)| of == family) {
            let elements = steady(socket, |socket, all: &mut Vec<Element>| {
                scan_set(socket, place, set.name(), |element| {
                    all.extend(Some(element).filter(|element| keys.contains(&key_of(&element.key))));
                })
            })?;
            let slot = |element: Element| ((*family, *set, element.key.clone()), Value::from(element));
            detail.elements.extend(elements.into_iter().map(slot));
        }
    }
    Ok(detail)
}
