//! Looking through the edge layer's maps while they serve, as for the socket layer. Flows, clients' endpoints and counts are
//! packets' affair and are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Bound;
use std::time::Instant;

use dataplane_ebpf::abi::{
    Address, EdgeDevice, Frontend, FrontendKey, ListState, Member, ServerKey, SlotKey,
};
use dataplane_ebpf::abi::{SourceKey, Target};

use super::super::ebpf::table::{Place, Wrong};
use super::books::{EMPTY, Plan};
use super::{Edge, image};
use crate::backend::BackendError;
use crate::backend::difference::{Difference, Kind};
use crate::backend::findings::{Findings, Look, Turn};
use crate::model::ServicePortName;

/// What these maps are called.
const EDGE: &str = "edge";
/// Service ports that are put right in one step.
const SHARE: usize = 64;
/// Maps that are gone through for what is nobody's.
const TABLES: usize = 4;

/// How far a round has come.
#[derive(Debug, Default)]
pub(super) struct Audit {
    stage: Stage,
    suspects: BTreeSet<ServicePortName>,
    /// What seems to belong to nobody.
    strays: Plan,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Begin,
    Ports(ServicePortName),
    Others {
        table: usize,
        place: Place,
        owners: BTreeMap<u32, ServicePortName>,
    },
    Again,
}

/// Entries of one service port that are not as they should be.
#[derive(Debug)]
struct WrongEntries {
    sources: Wrong<SourceKey, u32>,
    targets: Wrong<SlotKey, Target>,
    servers: Wrong<ServerKey, Member>,
    lists: Wrong<u32, ListState>,
    frontends: Wrong<FrontendKey, Frontend>,
}

impl Edge {
    /// One step of a round. See the trait.
    pub fn audit(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        if !self.in_force {
            self.audit = Audit::default();
            return Ok(Turn::Done);
        }
        let mut audit = std::mem::take(&mut self.audit);
        if look.is_first {
            audit = Audit::default();
        }
        let until = Instant::now() + look.budget;
        loop {
            let turn = self.step(&mut audit, look, until, findings)?;
            if turn == Turn::Done {
                return Ok(turn);
            }
            if Instant::now() >= until {
                self.audit = audit;
                return Ok(turn);
            }
        }
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
                let end = self.find_strays(table, &mut place, &owners, &mut audit.strays)?;
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

    fn look_at_ports(
        &self,
        suspects: &mut BTreeSet<ServicePortName>,
        after: Option<&ServicePortName>,
        until: Instant,
    ) -> Result<Stage, BackendError> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (name, want) in self.books.entries_from(from) {
            if !self.wrong(&want)?.is_nothing() {
                suspects.insert(name.clone());
            }
            if Instant::now() >= until {
                return Ok(Stage::Ports(name.clone()));
            }
        }
        Ok(Stage::Others { table: 0, place: Place::default(), owners: self.books.by_number() })
    }

    fn wrong(&self, want: &Plan) -> Result<WrongEntries, BackendError> {
        Ok(WrongEntries {
            sources: self.maps.sources.wrong(&want.put_sources)?,
            targets: self.maps.targets.wrong(&want.put_targets)?,
            servers: self.maps.servers.wrong(&want.put_servers)?,
            lists: self.maps.lists.wrong(&want.put_lists)?,
            frontends: self.maps.frontends.wrong(&want.put_frontends)?,
        })
    }

    /// Goes on through one map. The trie of sources is left out: the kernel finds what is nearest there, not what is the same.
    fn find_strays(
        &self,
        table: usize,
        place: &mut Place,
        owners: &BTreeMap<u32, ServicePortName>,
        strays: &mut Plan,
    ) -> Result<bool, BackendError> {
        let books = &self.books;
        let end = match table {
            0 => {
                let (some, end) = self.maps.frontends.some(place)?;
                let keys = some.into_iter().map(|(key, _)| key);
                strays.drop_frontends.extend(keys.filter(|key| !books.owns_frontend(key)));
                end
            }
            1 => {
                let (some, end) = self.maps.lists.some(place)?;
                let foreign =
                    some.into_iter().filter(|(id, state)| *state != EMPTY && !owners.contains_key(id));
                strays.drop_lists.extend(foreign.map(|(id, _)| id));
                end
            }
            2 => {
                let (some, end) = self.maps.targets.some(place)?;
                let keys = some.into_iter().map(|(key, _)| key);
                strays.drop_targets.extend(keys.filter(|key| !books.has_target(owners, key)));
                end
            }
            _ => {
                let (some, end) = self.maps.servers.some(place)?;
                let keys = some.into_iter().map(|(key, _)| key);
                strays.drop_servers.extend(keys.filter(|key| !books.has_server(owners, key)));
                end
            }
        };
        Ok(end)
    }

    fn look_again(
        &mut self,
        audit: &mut Audit,
        look: Look,
        findings: &mut Findings,
    ) -> Result<Turn, BackendError> {
        let mut strays = std::mem::take(&mut audit.strays);
        let owners = self.books.by_number();
        strays.drop_frontends.retain(|key| !self.books.owns_frontend(key));
        strays.drop_lists.retain(|id| !owners.contains_key(id));
        strays.drop_targets.retain(|key| !self.books.has_target(&owners, key));
        strays.drop_servers.retain(|key| !self.books.has_server(&owners, key));
        findings.extend(EDGE, rows_of_strays(&strays));
        let mut plan = strays;
        let share: Vec<_> = audit.suspects.iter().take(SHARE).cloned().collect();
        for name in share {
            audit.suspects.remove(&name);
            let Some(want) = self.books.entries_of(&name) else { continue };
            let wrong = self.wrong(&want)?;
            findings.extend(EDGE, wrong.rows(&name));
            wrong.mend(&mut plan);
        }
        if look.heal && !plan.is_empty() {
            self.maps.write(&plan)?;
        }
        if !audit.suspects.is_empty() {
            audit.stage = Stage::Again;
            return Ok(Turn::More);
        }
        self.look_at_node(look, findings)?;
        if look.heal {
            findings.heal(EDGE);
        }
        Ok(Turn::Done)
    }

    /// The node's addresses and devices.
    fn look_at_node(&mut self, look: Look, findings: &mut Findings) -> Result<(), BackendError> {
        let own: BTreeMap<Address, u32> = self.own_addresses().into_iter().collect();
        let found: BTreeMap<Address, u32> = self.maps.own.dump()?.into_iter().collect();
        let mut rows = differing(&own, &found, |address| format!("node address {}", image::ip(address)));
        let told: BTreeMap<u32, EdgeDevice> = self.told_devices.iter().flatten().copied().collect();
        let found: BTreeMap<u32, EdgeDevice> = self.maps.devices.dump()?.into_iter().collect();
        if self.told_devices.is_some() {
            rows.extend(differing(&told, &found, |index| format!("device {index}")));
        }
        if rows.is_empty() {
            return Ok(());
        }
        findings.extend(EDGE, rows);
        if look.heal {
            self.describe()?;
            self.told_devices = None;
            self.cover()?;
        }
        Ok(())
    }
}

impl WrongEntries {
    fn is_nothing(&self) -> bool {
        let Self { sources, targets, servers, lists, frontends } = self;
        sources.is_empty()
            && targets.is_empty()
            && servers.is_empty()
            && lists.is_empty()
            && frontends.is_empty()
    }

    fn mend(self, plan: &mut Plan) {
        let Self { sources, targets, servers, lists, frontends } = self;
        plan.put_sources.extend(sources.into_iter().map(|(key, want, _)| (key, want)));
        plan.put_targets.extend(targets.into_iter().map(|(key, want, _)| (key, want)));
        plan.put_servers.extend(servers.into_iter().map(|(key, want, _)| (key, want)));
        plan.put_lists.extend(lists.into_iter().map(|(key, want, _)| (key, want)));
        plan.put_frontends.extend(frontends.into_iter().map(|(key, want, _)| (key, want)));
    }

    fn rows(&self, name: &ServicePortName) -> Vec<Difference> {
        let Self { sources, targets, servers, lists, frontends } = self;
        let service = format!("{name}/{} {}", name.protocol, name.family);
        let plain = |what: String, is_there: bool| row(&service, what, Kind::of(true, is_there));
        let at =
            |address: &Address, port: u32| SocketAddr::new(image::ip(address), u16::from_be(port as u16));
        let sources = sources.iter().map(|(key, _, found)| {
            plain(format!("source range {}", image::ip(&key.address)), found.is_some())
        });
        let targets = targets.iter().map(|(key, want, found)| {
            plain(format!("place {} of a list, {}", key.index, at(&want.address, want.port)), found.is_some())
        });
        let servers = servers.iter().map(|(key, _, found)| {
            plain(format!("endpoint {}", at(&key.address, key.port)), found.is_some())
        });
        let lists = lists.iter().map(|(number, _, found)| {
            plain(format!("list {number}"), found.is_some_and(|found| found != EMPTY))
        });
        let frontends = frontends
            .iter()
            .map(|(key, _, found)| plain(format!("address {}", at(&key.address, key.port)), found.is_some()));
        sources.chain(targets).chain(servers).chain(lists).chain(frontends).collect()
    }
}

fn differing<K: Ord, V: PartialEq>(
    want: &BTreeMap<K, V>,
    found: &BTreeMap<K, V>,
    what: impl Fn(&K) -> String,
) -> Vec<Difference> {
    let keys: BTreeSet<&K> = want.keys().chain(found.keys()).collect();
    let differ = keys.into_iter().filter(|key| want.get(*key) != found.get(*key));
    differ.map(|key| row("", what(key), Kind::of(want.contains_key(key), found.contains_key(key)))).collect()
}

fn row(service: &str, what: String, kind: Kind) -> Difference {
    let kernel = match kind {
        Kind::Missing | Kind::Detached => None,
        Kind::Changed => Some("something else".to_owned()),
        Kind::Foreign => Some("there".to_owned()),
    };
    let plan = Some("there".to_owned()).filter(|_| kind != Kind::Foreign);
    Difference { dataplane: EDGE.into(), service: service.to_owned(), what, plan, kernel }
}

fn rows_of_strays(strays: &Plan) -> impl Iterator<Item = Difference> {
    let counts = [
        ("FRONTENDS", strays.drop_frontends.len()),
        ("LISTS", strays.drop_lists.len()),
        ("TARGETS", strays.drop_targets.len()),
        ("SERVERS", strays.drop_servers.len()),
    ];
    let of = |(map, count): (&str, usize)| Difference {
        kernel: Some(count.to_string()),
        ..row("", format!("entries in {map} that belong to nobody"), Kind::Foreign)
    };
    counts.into_iter().filter(|(_, count)| *count > 0).map(of)
}
