//! The socket layer in eBPF: programs on a cgroup, tables in pinned maps. See README.md beside this file.

mod audit;
mod books;
mod compare;
mod counts;
#[cfg(test)]
mod crash;
mod describe;
mod image;
mod links;
mod load;
pub(super) mod magic;
mod own;
pub(super) mod pins;
mod probe;
mod read;
#[cfg(test)]
mod sample;
mod set;
mod shared;
#[expect(unsafe_code, reason = "bpf(2) has no safe face for these calls")]
pub(super) mod sys;
pub(super) mod table;
mod unserved;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use aya::Ebpf as Object;
use dataplane_ebpf::abi::{self, State};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::audit::Audit;
use self::books::{Books, Ports};
pub use self::compare::{differences, torn, unhooked};
use self::counts::Tallies;
pub use self::counts::{Counts, Endpoint, read_counts};
pub use self::describe::{Summary, Verdict, describe, held_at};
pub use self::image::{Entries, Plan};
use self::links::{Cgroup, Links};
pub use self::links::{HOOKS, HookState};
pub use self::load::Capacity;
use self::own::Own;
pub use self::pins::Pins;
pub use self::probe::probe;
pub use self::read::{Dump, Installed, by_port};
pub use self::set::Fill;
use self::set::Set;
use super::difference::Difference;
use super::findings::{Findings, Look, Turn};
use super::{Applied, Backend, BackendError, Wanted, chain};
use crate::desired::{Context, ServicePort};
use crate::model::{Problem, ServiceName, ServicePortName};

/// A table grows when it would be fuller than this, in percent.
const FULL_PERCENT: usize = 75;

/// Where and how to install.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory of the cgroup whose processes are served.
    pub cgroup: PathBuf,
    /// Directory for pins, on a bpf file system.
    pub pin_dir: PathBuf,
    /// Room in new tables.
    pub capacity: Capacity,
}

/// What is in the kernel, for people.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The pin directory.
    pub pin_dir: PathBuf,
    /// The hooks.
    pub hooks: Vec<HookState>,
    /// The tables.
    pub maps: Vec<Fill>,
    /// Event counts by name.
    pub counters: BTreeMap<String, u64>,
    /// What stands in the pin directory beside what is in force: it is being replaced, or could not be removed yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
}

/// The dataplane, and what it is known to hold.
pub struct Ebpf {
    pins: Pins,
    _lock: File,
    cgroup: Cgroup,
    links: Links,
    number: u32,
    set: Set,
    programs: Object,
    /// Which set the hooks work on, once this process has turned them over.
    in_force: Option<u32>,
    /// After a failed write the tables must be read before they are compared with anything.
    doubtful: bool,
    books: Books,
    own: Own,
    audit: Audit,
    tallies: Tallies,
}

impl Ebpf {
    /// Adopts what an earlier process left, or begins anew. Nothing that is in force changes yet.
    pub fn open(settings: &Settings) -> Result<Self, BackendError> {
        let pins = Pins::new(&settings.pin_dir);
        let lock = pins.prepare()?;
        let cgroup = Cgroup::open(&settings.cgroup)?;
        shared::prepare(&pins)?;
        shared::begin_counts(&pins)?;
        remove_unfinished(&pins)?;
        let adopted = adoptable(&pins)?;
        let (number, lent) = match adopted {
            Some(number) => (number, Ports::new()),
            None => (pins.sets()?.last().map_or(1, |last| last + 1), shared::numbers(&pins)?),
        };
        let programs = load::load(&pins, number, settings.capacity)?;
        let set = Set::open(&pins.set(number))?;
        let links = Links::new(pins.links());
        let mut books = Books::new(lent, set.services.capacity());
        let (own, tallies) = (Own::open(&pins.shared())?, Tallies::open(&pins.shared())?);
        let counted = tallies.endpoints()?;
        books.skip(counted.last().copied().unwrap_or(0));
        let (in_force, doubtful) = (None, false);
        let audit = Audit::default();
        let mut backend = Self {
            pins,
            _lock: lock,
            cgroup,
            links,
            number,
            set,
            programs,
            in_force,
            doubtful,
            books,
            own,
            audit,
            tallies,
        };
        if adopted.is_some() {
            backend.reread()?;
            let service_ports = backend.books.have().len();
            info!(set = number, service_ports, "adopted what an earlier daemon left");
        }
        let known = backend.books.endpoints();
        backend.tallies.leave(counted.difference(&known).copied());
        Ok(backend)
    }

    /// Learns from the kernel what it holds.
    fn reread(&mut self) -> Result<(), BackendError> {
        let Installed { ports, strays } = by_port(dump(&self.set)?);
        let lost = strays.drops();
        if lost > 0 {
            warn!(entries = lost, "the maps hold entries that belong to no service; removing them");
            self.set.write(&strays)?;
        }
        self.books.found(ports, self.set.services.capacity());
        self.forget_audit();
        self.doubtful = false;
        Ok(())
    }

    /// By which factor the tables must grow for this plan; 1 if there is room.
    fn factor(&self, plan: &Plan, percent: usize) -> usize {
        let need = [
            plan.put_services.len(),
            plan.put_slots.len(),
            plan.put_members.len(),
            plan.put_backends.len(),
            plan.put_names.len(),
        ];
        let highest = plan.put_states.iter().map(|(id, _)| *id).max().unwrap_or(0) as usize;
        let fits = |factor: usize| {
            let room = |fill: &Fill| fill.capacity as usize * factor;
            let mut tables = self.fills().into_iter().zip(need);
            highest <= self.set.services.capacity() as usize * factor
                && tables.all(|(fill, puts)| (fill.entries + puts) * 100 <= room(&fill) * percent)
        };
        let mut factor = 1;
        while !fits(factor) {
            factor *= 2;
        }
        factor
    }

    /// Moves to tables with more room if the plan would fill these too far. If that fails and there is room all the
    /// same, the plan goes ahead.
    fn make_room(&mut self, plan: &Plan) -> Result<(), BackendError> {
        let factor = self.factor(plan, FULL_PERCENT);
        if factor == 1 {
            return Ok(());
        }
        match self.grow(factor as u32) {
            Err(error) if self.factor(plan, 100) == 1 => {
                warn!(error = chain(&error), "could not move to bigger maps; going on in these");
                Ok(())
            }
            done => done,
        }
    }

    /// Builds a bigger set beside this one, complete; [`Self::settle`] turns the hooks over to it.
    fn grow(&mut self, factor: u32) -> Result<(), BackendError> {
        let capacity = Capacity {
            services: self.set.services.capacity().saturating_mul(factor),
            slots: self.set.slots.capacity().saturating_mul(factor),
        };
        let number = self.number + 1;
        self.pins.remove_set(number)?;
        let programs = load::load(&self.pins, number, capacity)?;
        let set = Set::open(&self.pins.set(number))?;
        set.write(&self.books.everything())?;
        info!(set = number, services = capacity.services, slots = capacity.slots, "moving to bigger maps");
        (self.number, self.set, self.programs) = (number, set, programs);
        self.forget_audit();
        self.books.raise(capacity.services);
        Ok(())
    }

    /// Finishes a growth, also one whose end failed before: until the hooks work on the bigger tables, what is written
    /// there is seen by nobody.
    fn settle(&mut self) -> Result<(), BackendError> {
        if self.in_force.is_some_and(|set| set != self.number) { self.turn_over() } else { Ok(()) }
    }

    /// Puts this process's programs, over its set, behind every hook.
    fn turn_over(&mut self) -> Result<(), BackendError> {
        self.set.complete()?;
        for hook in &HOOKS {
            let program = load::program(&mut self.programs, hook)?;
            let fd = program
                .fd()
                .map_err(|error| BackendError::Program { hook: hook.name, source: Box::new(error) })?;
            self.links.put(hook, &self.cgroup, fd)?;
        }
        self.in_force = Some(self.number);
        self.books.end_loan();
        self.sweep();
        Ok(())
    }

    /// Removes what is no longer in use: other sets, and what daemons of other layout versions left. Programs of these
    /// would go on translating first. What cannot be removed is tried again whenever somebody looks.
    fn sweep(&self) {
        for removed in [self.pins.remove_other_versions(), self.remove_other_sets()] {
            if let Err(error) = removed {
                warn!(error = chain(&error), "could not remove what is no longer in use");
            }
        }
    }

    fn remove_other_sets(&self) -> Result<(), BackendError> {
        let mut others = self.pins.sets()?.into_iter().filter(|number| *number != self.number);
        others.try_for_each(|number| self.pins.remove_set(number))
    }

    fn fills(&self) -> Vec<Fill> {
        fills_of(&self.set, self.books.counts())
    }

    fn write(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        let image = self.books.image(wanted);
        let plan = self.books.plan(&image);
        if plan == Plan::default() {
            return Ok(Applied::default());
        }
        self.make_room(&plan)?;
        self.settle()?;
        match self.set.write(&plan) {
            Ok(applied) => {
                // The next service port with such a number begins from nothing.
                self.tallies.forget(&plan.drop_names)?;
                self.tallies.leave(plan.drop_backends.iter().copied());
                self.books.commit(image, &plan);
                Ok(applied)
            }
            Err(error) => {
                self.doubtful = true;
                Err(error)
            }
        }
    }
}

impl Ebpf {
    /// Follows the node's addresses as they come and go. Called several times a second.
    pub fn follow(&mut self) {
        if self.in_force.is_some() {
            self.own.follow();
        }
    }

    /// What it cannot do for a service port; `outside`: others serve callers from outside.
    pub fn unserved_beside(&self, name: &ServicePortName, port: &ServicePort, outside: bool) -> Vec<Problem> {
        unserved::problems(name, port, outside)
    }

    /// Hooks, tables and counters.
    pub fn report(&self) -> Result<Report, BackendError> {
        let is_settled = self.in_force == Some(self.number);
        if is_settled && !self.pins.leftovers(self.number)?.is_empty() {
            self.sweep();
        }
        report(&self.pins, self.number, self.fills())
    }
}

/// Takes the hooks of all daemons away that worked below a pin directory, or `everything` that they left. Needs no right to
/// use eBPF. Refused while one of them runs.
pub fn release(pin_dir: &Path, everything: bool) -> Result<(), BackendError> {
    let pins = Pins::new(pin_dir);
    let wanted = pins.is_hooked()? || (everything && pin_dir.exists());
    if !wanted {
        return Ok(());
    }
    let _lock = pins.prepare()?;
    let removed = if everything { pins.remove_all()? } else { pins.remove_links()? };
    info!(pins = removed, "removed what eBPF had left; nftables has the traffic");
    Ok(())
}

impl Backend for Ebpf {
    fn surround(&mut self, context: &Context, _cluster_ranges: &BTreeSet<IpNet>) -> bool {
        self.own.surround(context)
    }

    fn installed(&mut self) -> Result<BTreeSet<ServiceName>, BackendError> {
        Ok(self.books.have().keys().map(|name| name.service.clone()).collect())
    }

    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        self.settle()?;
        if self.doubtful {
            self.reread()?;
        }
        let done = self.write(wanted);
        if done.is_err() {
            self.books.give_back();
        }
        done
    }

    fn enable(&mut self) -> Result<(), BackendError> {
        self.own.refresh();
        self.turn_over()
    }

    fn tend(&mut self) {
        self.own.retry();
        if let Err(error) = self.tallies.sweep() {
            warn!(error = chain(&error), "could not remove the counts of endpoints that have left");
        }
    }

    fn audit(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        self.look(look, findings)
    }

    fn report(&self) -> Result<super::Report, BackendError> {
        Ok(super::Report { ebpf: Some(Self::report(self)?), ..super::Report::default() })
    }

    fn unserved(&self, name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
        unserved::problems(name, port, false)
    }
}

/// Removes sets that were never filled completely, one for each start that came to nothing: no hook ever works on them.
fn remove_unfinished(pins: &Pins) -> Result<(), BackendError> {
    let mut unfinished = pins.sets()?.into_iter().filter(|number| !set::was_completed(&pins.set(*number)));
    unfinished.try_for_each(|number| pins.remove_set(number))
}

/// The newest set that was filled completely and has the right shape.
fn adoptable(pins: &Pins) -> Result<Option<u32>, BackendError> {
    for number in pins.sets()?.into_iter().rev() {
        match Set::open(&pins.set(number)) {
            Ok(set) if set.is_complete() => return Ok(Some(number)),
            Ok(_) => {}
            Err(error) => {
                warn!(set = number, error = chain(&error), "a pinned set cannot be adopted");
            }
        }
    }
    Ok(None)
}

fn dump(set: &Set) -> Result<Dump, BackendError> {
    Ok(Dump {
        services: set.services.dump()?,
        states: set.states.dump()?.into_iter().filter(|(_, state)| *state != State::NONE).collect(),
        slots: set.slots.dump()?,
        members: set.members.dump()?,
        backends: set.backends.dump()?,
        names: set.names.dump()?,
    })
}

fn fills_of(set: &Set, entries: [usize; 5]) -> Vec<Fill> {
    let capacities = [
        (abi::SERVICES, set.services.capacity()),
        (abi::SLOTS, set.slots.capacity()),
        (abi::MEMBERS, set.members.capacity()),
        (abi::BACKENDS, set.backends.capacity()),
        (abi::NAMES, set.names.capacity()),
    ];
    capacities
        .into_iter()
        .zip(entries)
        .map(|((map, capacity), entries)| Fill { map: map.to_owned(), entries, capacity })
        .collect()
}

fn report(pins: &Pins, number: u32, maps: Vec<Fill>) -> Result<Report, BackendError> {
    let counters = if maps.is_empty() { Vec::new() } else { set::counters(&pins.shared())? };
    Ok(Report {
        pin_dir: pins.top().to_owned(),
        hooks: Links::new(pins.links()).states(),
        maps,
        counters: counters.into_iter().map(|(counter, count)| (counter.name().to_owned(), count)).collect(),
        leftovers: pins.leftovers(number)?,
    })
}

/// What the pinned maps hold, read without the daemon. Empty if nothing is installed.
pub fn read_pinned(pins: &Pins) -> Result<Installed, BackendError> {
    match adoptable(pins)? {
        Some(number) => Ok(by_port(dump(&Set::open(&pins.set(number))?)?)),
        None => Ok(Installed::default()),
    }
}

/// The node's addresses at which node ports answer at sockets, read without the daemon; nothing if nobody has written any.
pub fn own_pinned(pins: &Pins) -> Result<BTreeSet<IpAddr>, BackendError> {
    if !pins.shared().join(abi::NODE_ADDRESSES).exists() {
        return Ok(BTreeSet::new());
    }
    own::read(&pins.shared())
}

/// Where the map of the node's addresses is not as it should be, read without the daemon.
pub fn differing_addresses(pins: &Pins, context: &Context) -> Result<Vec<Difference>, BackendError> {
    if !pins.shared().join(abi::NODE_ADDRESSES).exists() {
        return Ok(Vec::new());
    }
    own::differences(&pins.shared(), context)
}

/// Hooks, tables and counters, read without the daemon.
pub fn report_pinned(pins: &Pins) -> Result<Report, BackendError> {
    let Some(number) = adoptable(pins)? else { return report(pins, 0, Vec::new()) };
    let set = Set::open(&pins.set(number))?;
    let Dump { services, states: _, slots, members, backends, names } = dump(&set)?;
    let entries = [services.len(), slots.len(), members.len(), backends.len(), names.len()];
    report(pins, number, fills_of(&set, entries))
}

impl fmt::Debug for Ebpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ebpf").field("set", &self.number).finish_non_exhaustive()
    }
}
