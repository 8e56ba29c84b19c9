//! The packet filter as a dataplane: one table for each family, written by netlink, one transaction for each change. See
//! README.md beside this file.

#![forbid(unsafe_code)]

mod audit;
mod chains;
mod compare;
mod describe;
mod drift;
mod flows;
mod handover;
mod image;
mod kernel;
mod layout;
mod ledger;
mod probe;
mod rule;
mod sets;
#[cfg(test)]
mod steps;
mod text;
mod typeof_data;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

use ipnet::IpNet;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::audit::Audit;
use self::chains::Chain;
use self::chains::fixed::DISPATCH;
pub use self::describe::Described;
use self::drift::OF_NODE;
use self::flows::{Flows, Memory};
use self::image::Image;
use self::kernel::{chains_of, has_rules, read_chains, read_counters, read_elements, read_set, read_tables};
use self::layout::{Layout, by_set, is_fixed};
use self::ledger::{ChainName, Change, Ledger};
pub use self::probe::probe;
pub use self::sets::AFFINITY_CLIENTS;
pub use self::wire::Refused;
use self::wire::{Batch, Socket};
use super::difference::Difference;
use super::held::Held;
use super::{Applied, BackendError, Wanted};
use crate::desired::{Caller, Context, ServicePort};
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// Names that our tables can have. A new table is filled beside the old one, and takes its place at once.
const NAMES: [&str; 2] = ["sluice", "sluice-2"];
/// What the comments of our tables begin with.
const OURS: &str = "sluice, layout ";
/// The abstract socket that stands for the right to program the packet filter.
const LOCK: &str = "sluice.nftables";
/// Services that are written at a time.
const SHARE: usize = 512;
/// After so many failures in a row the kernel is read again; after one more everything is built anew beside.
const READ_AGAIN: u32 = 2;

/// The bit of the mark that asks connection tracking to leave a packet alone, unless the operator chooses another. See
/// docs/nftables.md for who uses which.
pub const NOTRACK_BIT: u32 = 15;

/// What the tables share with others on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Set from the choice of an endpoint until the source has been translated.
    pub masquerade: u32,
    /// Set by whoever wants connection tracking to leave a packet alone.
    pub notrack: u32,
    /// First and last port for masqueraded flows, where others have the rest.
    pub ports: Option<[u16; 2]>,
}

/// What the packet filter holds of ours, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// One for each family.
    pub tables: Vec<TableReport>,
    /// New flows that did not reach an endpoint, by reason; and those whose client could not be remembered.
    pub counters: BTreeMap<String, u64>,
    /// Flows over UDP that were removed because their endpoint had gone.
    pub stale_flows_removed: u64,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TableReport {
    /// `ip` or `ip6`.
    pub family: String,
    /// Its name.
    pub name: String,
    /// Chains that should hang on hooks and do not.
    pub missing: Vec<String>,
}

type Ports = Vec<(ServicePortName, ServicePort)>;

/// The dataplane, and what it is known to hold.
#[derive(Debug)]
pub struct Nft {
    socket: Socket,
    landing: bool,
    marks: Marks,
    clients: u32,
    context: Context,
    cluster_ranges: Vec<IpNet>,
    have: BTreeMap<ServiceName, Ports>,
    ledger: Ledger,
    tables: Vec<Table>,
    /// Whether the ranges in the kernel may be others.
    stale_ranges: bool,
    failures: u32,
    /// Whether Services are written at all; otherwise only the landing place is there.
    awake: bool,
    /// Whether tables of this process have been in force: a new one takes their place at once.
    in_force: bool,
    /// Whether it has been asked who left what: then what nobody asks for may go.
    pruned: bool,
    /// Number of the ruleset that was looked at last.
    generation: Option<u32>,
    flows: Flows,
    audit: Audit,
    _lock: Option<UnixListener>,
}

/// Where a family's rules are.
#[derive(Debug)]
struct Table {
    layout: Layout,
    name: &'static str,
    /// Chains on hooks that are there.
    hooks: BTreeSet<String>,
}

impl Nft {
    /// Opens the packet filter of this network namespace. What an earlier process left stays in force.
    /// `landing`: whether connections may be handed over to it, so that the place for that must be there. `clients`: how
    /// many are remembered at most.
    pub fn open(marks: Marks, landing: bool, clients: u32) -> Result<Self, BackendError> {
        let lock = lock()?;
        let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
        if landing {
            handover::ensure(&mut socket, marks.notrack)?;
        }
        Ok(Self {
            landing,
            socket,
            marks,
            clients,
            context: Context::default(),
            cluster_ranges: Vec::new(),
            have: BTreeMap::new(),
            ledger: Ledger::default(),
            tables: Vec::new(),
            stale_ranges: true,
            failures: 0,
            awake: false,
            in_force: false,
            pruned: false,
            generation: None,
            flows: Flows::start(),
            audit: Audit::default(),
            _lock: lock,
        })
    }

    /// Whether Services are written.
    pub fn is_awake(&self) -> bool {
        self.awake
    }

    /// Begins or ends to write Services; takes effect with the next [`Self::enable`].
    pub fn set_awake(&mut self, awake: bool) {
        self.awake = awake;
    }

    /// Whether it has been told of a Service.
    pub fn knows(&self, name: &ServiceName) -> bool {
        self.have.contains_key(name)
    }

    /// All that it has been told, in shares of a good size.
    pub fn shares(&self) -> impl Iterator<Item = Wanted> {
        let names: Vec<&ServiceName> = self.have.keys().collect();
        let ports = |name: &ServiceName| self.have.get(name).into_iter().flatten().cloned().collect();
        let share =
            move |names: &[&ServiceName]| names.iter().map(|name| ((*name).clone(), ports(name))).collect();
        names.chunks(SHARE).map(share).collect::<Vec<_>>().into_iter()
    }

    /// Takes what does not belong to a Service. Returns whether the kernel is behind now.
    pub fn surround(&mut self, context: &Context, cluster_ranges: &BTreeSet<IpNet>) -> bool {
        let cluster_ranges: Vec<IpNet> = cluster_ranges.iter().copied().collect();
        if &self.context == context && self.cluster_ranges == cluster_ranges {
            return false;
        }
        self.context = context.clone();
        self.cluster_ranges = cluster_ranges;
        self.stale_ranges = true;
        true
    }

    /// The Services for which something is installed, also by an earlier process.
    pub fn installed(&mut self) -> Result<BTreeSet<ServiceName>, BackendError> {
        if !self.awake {
            return Ok(BTreeSet::new());
        }
        self.prepare()?;
        self.pruned = true;
        Ok(self.ledger.owners().chain(self.have.keys()).cloned().collect())
    }

    /// Brings some Services to the wanted state, in one transaction.
    pub fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        if !self.awake {
            self.remember(wanted);
            return Ok(Applied::default());
        }
        let outcome = self.prepare().and_then(|()| self.write(wanted));
        self.note(outcome)
    }

    /// Puts what is installed into force, and repairs it.
    pub fn enable(&mut self) -> Result<(), BackendError> {
        if !self.awake {
            self.tables.clear();
            self.in_force = false;
            return remove_tables(&mut self.socket).map(drop);
        }
        let outcome = self.look().and_then(|()| self.prepare()).and_then(|()| self.switch());
        self.note(outcome)
    }

    fn note<T>(&mut self, outcome: Result<T, BackendError>) -> Result<T, BackendError> {
        self.failures = if outcome.is_ok() { 0 } else { self.failures + 1 };
        if self.failures >= READ_AGAIN {
            self.tables.clear();
        }
        outcome
    }

    fn write(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        let names: BTreeSet<&ServiceName> = wanted.keys().collect();
        let before = image(pairs(names.iter().filter_map(|name| self.have.get(*name))));
        let after = image(wanted.values().flatten());
        let applied = self.carry_out(&names, &before, &after)?;
        self.look_after_flows(wanted);
        self.remember(wanted);
        Ok(applied)
    }

    /// Clients of endpoints that nobody needs any more must not come back to them.
    fn forget(&self, before: &Image) {
        let gone = before.chains.keys().filter(|key| !self.ledger.needs(key));
        let memory = |(family, chain): &(Family, Chain)| {
            let Chain::Remember(affinity) = chain else { return None };
            // The same clients may be remembered for another time now.
            let table =
                self.table(*family).filter(|_| !self.ledger.remembers(*family, affinity.number()))?.name;
            Some(Memory { family: *family, table, number: affinity.number() })
        };
        self.flows.forget(gone.filter_map(memory).collect());
    }

    /// A service port that has changed may have lost an endpoint.
    fn look_after_flows(&self, wanted: &Wanted) {
        let had = wanted.keys().filter_map(|name| self.have.get(name)).flatten();
        let had: BTreeMap<&ServicePortName, &ServicePort> = had.map(|(name, port)| (name, port)).collect();
        let now: BTreeMap<&ServicePortName, &ServicePort> = wanted.values().flatten().collect();
        let gone = had.keys().filter(|name| !now.contains_key(*name)).map(|name| (*name, None));
        let changed = now.iter().filter(|(name, port)| had.get(*name) != Some(*port));
        self.flows.look_after(gone.chain(changed.map(|(name, port)| (*name, Some(*port)))));
    }

    /// Takes what is wanted without writing it; the next write begins with reading what is there.
    pub fn fall_behind(&mut self, wanted: &Wanted) {
        self.remember(wanted);
        self.tables.clear();
    }

    fn remember(&mut self, wanted: &Wanted) {
        for (name, ports) in wanted {
            if ports.is_empty() {
                self.have.remove(name);
            } else {
                self.have.insert(name.clone(), ports.clone().into_iter().collect());
            }
        }
    }

    fn carry_out(
        &mut self,
        names: &BTreeSet<&ServiceName>,
        before: &Image,
        after: &Image,
    ) -> Result<Applied, BackendError> {
        let change = self.ledger.step(names, before, after);
        self.commit(&change)?;
        self.ledger.done(&change, before, after);
        self.forget(before);
        let mut drops = change.drops.len();
        if let Some(leftovers) = self.ledger.leftovers() {
            self.commit(&leftovers)?;
            drops += leftovers.drops.len();
            self.ledger.forget_orphans();
        }
        self.sweep();
        Ok(Applied { puts: change.puts.len() + change.new_chains.len(), drops })
    }

    fn commit(&mut self, change: &Change) -> Result<(), BackendError> {
        if change.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (family, chain) in &change.new_chains {
            if let Some(table) = self.table(*family) {
                table.layout.chain(&mut batch, table.name, chain);
            }
        }
        for ((family, set), elements) in by_set(&change.drops) {
            if let Some(table) = self.table(family) {
                batch.delete_elements(table.layout.place(table.name), set.name(), elements.iter());
            }
        }
        for ((family, set), elements) in by_set(&change.puts) {
            if let Some(table) = self.table(family) {
                batch.add_elements(table.layout.place(table.name), set.name(), elements.iter());
            }
        }
        if let Some(touched) = self.audit.touched() {
            change.puts.keys().chain(change.drops.keys()).for_each(|slot| touched.element(slot));
            change.new_chains.iter().for_each(|(family, chain)| touched.chain(*family, &chain.name()));
        }
        Ok(self.transact(batch)?)
    }

    fn table(&self, family: Family) -> Option<&Table> {
        self.tables.iter().find(|table| table.layout.family == family)
    }

    /// Removes chains that nobody leads to any more. In a transaction of its own: a kernel may still count what the one
    /// before has removed. What it does not let go is tried again with the next change.
    fn sweep(&mut self) {
        let garbage = &self.ledger.garbage;
        if garbage.is_empty() {
            return;
        }
        // What leads to others goes first.
        let last = |(_, chain): &&ChainName| chain.starts_with("remember");
        let (others, remembering): (Vec<_>, Vec<_>) = garbage.iter().partition(|chain| !last(chain));
        let all: Vec<ChainName> = others.into_iter().chain(remembering).cloned().collect();
        if self.remove_chains(&all).is_ok() {
            self.ledger.garbage.clear();
            return;
        }
        // One that is not there, or is still led to, must not keep the others.
        for chain in all {
            match self.remove_chains(std::slice::from_ref(&chain)) {
                Err(Refused { source, .. }) if source.kind() != std::io::ErrorKind::NotFound => {
                    tracing::debug!(chain = &*chain.1, error = %source, "a chain that nobody needs goes later");
                }
                Ok(()) | Err(_) => drop(self.ledger.garbage.remove(&chain)),
            }
        }
    }

    fn remove_chains(&mut self, chains: &[ChainName]) -> Result<(), Refused> {
        let mut batch = Batch::default();
        chains.iter().for_each(|(family, chain)| self.delete_chain(&mut batch, *family, chain));
        self.transact(batch)
    }

    fn delete_chain(&self, batch: &mut Batch, family: Family, chain: &str) {
        if let Some(table) = self.table(family) {
            batch.delete_chain(table.layout.place(table.name), chain);
        }
    }

    /// Sees to it that both tables are there and known.
    fn prepare(&mut self) -> Result<(), BackendError> {
        let layouts = [Family::V4, Family::V6].map(|family| self.layout(family));
        if self.tables.iter().map(|table| &table.layout).eq(&layouts) {
            return Ok(());
        }
        self.ledger = Ledger::default();
        self.audit = Audit::default();
        self.stale_ranges = true;
        let anew = self.failures > READ_AGAIN;
        let mut tables = Vec::new();
        let mut batch = Batch::default();
        for layout in layouts {
            tables.push(self.find_or_make(layout, anew, &mut batch)?);
        }
        self.socket.commit(batch)?;
        self.tables = tables;
        self.replay().inspect_err(|_| self.tables.clear())
    }

    fn layout(&self, family: Family) -> Layout {
        let context = self.context.family(family).clone();
        Layout { family, context, bit: self.marks.masquerade, ports: self.marks.ports, clients: self.clients }
    }

    fn find_or_make(&mut self, layout: Layout, anew: bool, batch: &mut Batch) -> Result<Table, BackendError> {
        let family = layout.place("").family;
        let tables =
            read_tables(&mut self.socket, family).map_err(|source| read("read the tables", source))?;
        let chains =
            read_chains(&mut self.socket, family).map_err(|source| read("read the chains", source))?;
        let about = layout.about();
        let same = |name: &&&str| tables.get(**name).is_some_and(|found| found.as_deref() == Some(&*about));
        let found = NAMES.iter().find(same).filter(|_| !anew);
        if let Some(name) = found
            && has_rules(&mut self.socket, layout.place(name), DISPATCH)
                .map_err(|source| read("read the rules", source))?
        {
            return self.adopt(layout, name, &chains_of(&chains, name));
        }
        let free = |name: &&&str| !tables.contains_key(**name);
        let idle = |name: &&&str| is_ours(tables.get(**name)) && chains_of(&chains, name).0.is_empty();
        let name = NAMES.iter().find(free).or_else(|| NAMES.iter().find(idle));
        let Some(name) = name.or_else(|| NAMES.iter().rev().find(|name| is_ours(tables.get(**name)))) else {
            return Err(BackendError::Foreign(NAMES.join(" and ")));
        };
        if tables.contains_key(*name) {
            batch.delete_table(layout.place(name));
        }
        layout.make(batch, name);
        Ok(Table { layout, name, hooks: BTreeSet::new() })
    }

    /// Takes over a table of an earlier process.
    fn adopt(
        &mut self,
        layout: Layout,
        name: &'static str,
        (hooks, plain): &(BTreeSet<String>, BTreeSet<String>),
    ) -> Result<Table, BackendError> {
        let family = layout.family;
        let elements = read_elements(&mut self.socket, family, layout.place(name))
            .map_err(|source| read("read the elements", source))?;
        info!(table = name, family = family.as_str(), elements = elements.len(), "taking over a table");
        let chains = plain.iter().filter(|chain| !is_fixed(&layout, chain));
        self.ledger.find(family, elements, chains.cloned());
        Ok(Table { layout, name, hooks: hooks.clone() })
    }

    /// Writes all that is known into tables of which nothing is known but what they hold.
    fn replay(&mut self) -> Result<(), BackendError> {
        let names: Vec<ServiceName> = self.have.keys().cloned().collect();
        for share in names.chunks(SHARE) {
            let after = image(pairs(share.iter().filter_map(|name| self.have.get(name))));
            self.carry_out(&share.iter().collect(), &Image::default(), &after)?;
        }
        if self.pruned {
            // Who left what is left has gone.
            self.commit(&self.ledger.all_orphans())?;
            self.ledger.forget_orphans();
        }
        if self.in_force { self.switch() } else { Ok(()) }
    }

    /// Hangs our chains on their hooks and removes other tables of ours, at once.
    fn switch(&mut self) -> Result<(), BackendError> {
        let mut batch = Batch::default();
        for index in 0..self.tables.len() {
            self.switch_family(index, &mut batch)?;
        }
        self.transact(batch)?;
        if let Some(touched) = self.audit.touched() {
            touched.ranges = true;
        }
        self.stale_ranges = false;
        self.ledger.retire_chains();
        self.sweep();
        for table in &mut self.tables {
            table.hooks = hook_names();
        }
        self.in_force = true;
        Ok(())
    }

    fn switch_family(&mut self, index: usize, batch: &mut Batch) -> Result<(), BackendError> {
        let Some(table) = self.tables.get(index) else { return Ok(()) };
        let place = table.layout.place(table.name);
        if self.stale_ranges {
            OF_NODE.into_iter().for_each(|set| self.write_ranges(batch, table, set));
        }
        table.layout.hook(batch, table.name, &table.hooks);
        let tables =
            read_tables(&mut self.socket, place.family).map_err(|source| read("read the tables", source))?;
        for name in NAMES.into_iter().filter(|name| *name != table.name && is_ours(tables.get(*name))) {
            batch.delete_table(table.layout.place(name));
        }
        Ok(())
    }

    /// Tables, hooks and counters, as they are in the kernel.
    pub fn report(&self) -> Result<Report, BackendError> {
        // A socket of its own: reading for people must not get in the way of writing.
        let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
        let mut report = Report { stale_flows_removed: self.flows.removed(), ..Report::default() };
        for table in &self.tables {
            report.add(&mut socket, table.layout.family, table.name)?;
        }
        Ok(report)
    }
}

impl Report {
    fn add(&mut self, socket: &mut Socket, family: Family, name: &str) -> Result<(), BackendError> {
        let place = wire::Place { family: rule::tables(family), table: name };
        let missing = watch::missing(socket, place).map_err(|source| read("read the chains", source))?;
        let family = rule::word(family).to_owned();
        self.tables.push(TableReport { family, name: name.to_owned(), missing });
        for (counter, count) in read_counters(socket, place).unwrap_or_default() {
            *self.counters.entry(counter).or_default() += count;
        }
        Ok(())
    }
}

/// The service ports that our tables serve, read without the daemon.
pub fn read_found() -> Result<BTreeMap<ServicePortName, Described>, BackendError> {
    let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
    let mut all = BTreeMap::new();
    for (family, name) in found(&mut socket)? {
        let place = wire::Place { family: rule::tables(family), table: name };
        let elements =
            read_elements(&mut socket, family, place).map_err(|source| read("read the elements", source))?;
        all.extend(describe::describe(&elements));
    }
    Ok(all)
}

/// What callers meet at an address, read without the daemon.
pub fn held_found(
    address: std::net::SocketAddr,
    protocol: Protocol,
    is_own: bool,
    caller: Caller,
) -> Result<Option<Held>, BackendError> {
    let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
    let of_family = Family::of(address.ip());
    for (family, name) in found(&mut socket)?.into_iter().filter(|(family, _)| *family == of_family) {
        let place = wire::Place { family: rule::tables(family), table: name };
        let elements =
            read_elements(&mut socket, family, place).map_err(|source| read("read the elements", source))?;
        if let Some(held) = describe::held_at(&elements, address, protocol, is_own, caller) {
            return Ok(Some(held));
        }
    }
    Ok(None)
}

/// Where the tables are not as they should be for these service ports, read without the daemon; nothing if there are none.
pub fn differences_found(
    context: &Context,
    cluster_ranges: &BTreeSet<IpNet>,
    want: &[(ServicePortName, ServicePort)],
) -> Result<Option<Vec<Difference>>, BackendError> {
    let found = read_in_force()?;
    Ok(found.map(|InForce { unhooked: mut all, elements, ranges }| {
        all.extend(compare::differences(&elements, want));
        let of_node = drift::differing_ranges(&ranges, context, cluster_ranges);
        all.extend(of_node.map(|(family, set)| compare::of_ranges(family, set)));
        all
    }))
}

/// What of the tables does not hold together, read without the daemon; nothing if there are none.
pub fn torn_found() -> Result<Option<Vec<Difference>>, BackendError> {
    let found = read_in_force()?;
    Ok(found.map(|InForce { unhooked: mut all, elements, ranges: _ }| {
        all.extend(compare::torn(&elements));
        all
    }))
}

/// What is in force of ours.
#[derive(Debug, Default)]
struct InForce {
    /// Chains that do not hang on their hooks.
    unhooked: Vec<Difference>,
    elements: BTreeMap<image::Slot, image::Value>,
    /// What belongs to the node.
    ranges: BTreeMap<drift::Place, drift::Borders>,
}

/// What is in force of ours; nothing if there are no tables.
fn read_in_force() -> Result<Option<InForce>, BackendError> {
    let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
    let tables = found(&mut socket)?;
    let mut all = InForce::default();
    for family in [Family::V4, Family::V6] {
        // While tables change over there are two: the one whose chains hang on hooks counts.
        let mut ours = Vec::new();
        for (_, name) in tables.iter().filter(|(of, _)| *of == family) {
            let place = wire::Place { family: rule::tables(family), table: name };
            let missing =
                watch::missing(&mut socket, place).map_err(|source| read("read the chains", source))?;
            ours.push((missing, place));
        }
        ours.sort_by_key(|(missing, _)| missing.len());
        let Some((missing, place)) = ours.into_iter().next() else { continue };
        all.unhooked.extend(missing.into_iter().map(|chain| compare::unhooked(family, &chain)));
        let theirs =
            read_elements(&mut socket, family, place).map_err(|source| read("read the elements", source))?;
        all.elements.extend(theirs);
        for set in OF_NODE {
            let found =
                read_set(&mut socket, place, set.name()).map_err(|source| read("read the ranges", source))?;
            all.ranges.insert((family, set), drift::borders(found));
        }
    }
    Ok((!tables.is_empty()).then_some(all))
}

/// Our tables.
fn found(socket: &mut Socket) -> Result<Vec<(Family, &'static str)>, BackendError> {
    let mut all = Vec::new();
    for family in [Family::V4, Family::V6] {
        let tables =
            read_tables(socket, rule::tables(family)).map_err(|source| read("read the tables", source))?;
        all.extend(NAMES.into_iter().filter(|name| is_ours(tables.get(*name))).map(|name| (family, name)));
    }
    Ok(all)
}

/// Tables of others that must see both directions of what this node forwards: those that filter it, and those that
/// masquerade it. Of a flow whose first packet they have not seen they take an answer for a new flow.
pub fn others_on_the_way() -> std::io::Result<Others> {
    /// Those of kube-proxy, which looks at packets of its own Services only, and is on its way out.
    const REPLACED: &str = "kube-proxy";
    /// `NF_INET_FORWARD` and `NF_INET_POST_ROUTING`.
    const FORWARD: u32 = 2;
    const POST_ROUTING: u32 = 4;
    let mut socket = Socket::open()?;
    let mut others = Others { filters: legacy("filter"), masquerades: legacy("nat") };
    for (family, word) in [(wire::Tables::Ip, "ip"), (wire::Tables::Ip6, "ip6"), (wire::Tables::Inet, "inet")]
    {
        let mut find = |hook, kind| -> std::io::Result<Vec<String>> {
            let tables = kernel::tables_on(&mut socket, family, hook, kind)?;
            let others = tables.into_iter().filter(|table| !NAMES.contains(&&**table) && table != REPLACED);
            Ok(others.map(|table| format!("{word} {table}")).collect())
        };
        others.filters.extend(find(FORWARD, None)?);
        others.masquerades.extend(find(POST_ROUTING, Some("nat"))?);
    }
    Ok(others)
}

/// Tables that are not ours and that forwarded packets meet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Others {
    /// With chains where packets are forwarded.
    pub filters: Vec<String>,
    /// With chains that may give packets another source.
    pub masquerades: Vec<String>,
}

/// The older iptables, which nf_tables does not list: whether this network namespace has such a table of theirs.
fn legacy(table: &str) -> Vec<String> {
    const LISTS: [(&str, &str); 2] =
        [("/proc/net/ip_tables_names", "iptables"), ("/proc/net/ip6_tables_names", "ip6tables")];
    let has = |(path, word): (&str, &str)| {
        // Without the kernel's module there is no such file.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().any(|name| name == table).then(|| format!("{word} {table}"))
    };
    LISTS.into_iter().filter_map(has).collect()
}

/// What there is of ours, without the daemon.
pub fn report_found() -> Result<Report, BackendError> {
    let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
    let mut report = Report::default();
    for (family, name) in found(&mut socket)? {
        report.add(&mut socket, family, name)?;
    }
    Ok(report)
}

/// Chains that should hang on hooks.
fn hook_names() -> BTreeSet<String> {
    chains::base(0, None).into_iter().map(|(name, ..)| name.to_owned()).collect()
}

fn image<'a>(ports: impl Iterator<Item = (&'a ServicePortName, &'a ServicePort)>) -> Image {
    let mut image = Image::default();
    ports.for_each(|(name, port)| image.add(name, port));
    image
}

fn pairs<'a>(
    lists: impl Iterator<Item = &'a Ports>,
) -> impl Iterator<Item = (&'a ServicePortName, &'a ServicePort)> {
    lists.flatten().map(|(name, port)| (name, port))
}

/// A name that only one process of a network namespace can have, and that goes with it. Somebody who is not root and
/// took it must not keep us from working.
fn lock() -> Result<Option<UnixListener>, BackendError> {
    let name = SocketAddr::from_abstract_name(LOCK).map_err(|error| read("lock the packet filter", error))?;
    match UnixListener::bind_addr(&name) {
        Ok(lock) => Ok(Some(lock)),
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            Err(read("lock the packet filter", error))
        }
        Err(_) => {
            let holder = UnixStream::connect_addr(&name)
                .ok()
                .and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
            match holder {
                Some(holder) if holder.uid() != 0 => {
                    warn!(
                        pid = holder.pid(),
                        uid = holder.uid(),
                        "somebody who may not program the packet filter holds its lock; going on without"
                    );
                    Ok(None)
                }
                Some(_) | None => Err(BackendError::FilterBusy),
            }
        }
    }
}

fn is_ours(about: Option<&Option<String>>) -> bool {
    about.is_some_and(|about| about.as_deref().is_some_and(|about| about.starts_with(OURS)))
}

fn read(deed: &'static str, source: std::io::Error) -> BackendError {
    BackendError::PacketFilter(Refused { deed: deed.into(), source })
}

/// Removes everything of ours from the packet filter of this network namespace. Returns the names of the tables. Refused
/// while a daemon works there: it would put everything back.
pub fn remove_all() -> Result<Vec<String>, BackendError> {
    let _lock = lock()?;
    let mut socket = Socket::open().map_err(|source| read("open the packet filter", source))?;
    let mut removed = remove_tables(&mut socket)?;
    removed.extend(handover::remove(&mut socket)?);
    Ok(removed)
}

/// Removes the tables with Services.
fn remove_tables(socket: &mut Socket) -> Result<Vec<String>, BackendError> {
    let mut batch = Batch::default();
    let mut removed = Vec::new();
    for (family, name) in found(socket)? {
        batch.delete_table(wire::Place { family: rule::tables(family), table: name });
        removed.push(format!("{} {name}", rule::word(family)));
    }
    socket.commit(batch)?;
    Ok(removed)
}

/// The tables that would be loaded for these service ports, as nft reads them.
pub fn ruleset(
    marks: Marks,
    context: &Context,
    cluster_ranges: &BTreeSet<IpNet>,
    ports: &[(ServicePortName, ServicePort)],
) -> String {
    let image = image(ports.iter().map(|(name, port)| (name, port)));
    let ranges: Vec<IpNet> = cluster_ranges.iter().copied().collect();
    let table = |family| {
        let context = context.family(family).clone();
        let layout =
            Layout { family, context, bit: marks.masquerade, ports: marks.ports, clients: AFFINITY_CLIENTS };
        text::table(&layout, NAMES[0], &image, &ranges)
    };
    let families = [Family::V4, Family::V6].map(table);
    format!("{}\n{}", handover::text(marks.notrack), families.join("\n"))
}
