//! Asks the daemon and the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use jiff::Timestamp;

use super::super::advice;
use super::super::daemon::ask;
use super::super::services::lists;
use super::{Drain, Row};
use crate::backend::survey::{Counted, Finder, List, Whose, look};
use crate::drain::{Flows, Layer, Left, State, Subject, Told};
use crate::model::{ServiceName, ServicePortName};

const BEFORE: &str = "before this daemon began";
const NOT_REMEMBERED: &str = "this daemon has not seen it in a list of new flows";
const NO_DAEMON: &str = "no daemon answers";

/// Whom to ask, and of what.
pub(super) struct Ground<'a> {
    pub(super) wanted: Option<&'a ServiceName>,
    pub(super) socket: &'a Path,
    pub(super) pin_dir: &'a Path,
}

type Lists = BTreeMap<ServicePortName, (List, Vec<SocketAddr>)>;
/// By service port and endpoint.
type Remembered = BTreeMap<(ServicePortName, SocketAddr), Left>;

/// What the daemon remembers, or why nobody does.
struct Memory {
    told: Result<Told, String>,
    remembered: Remembered,
}

impl Ground<'_> {
    fn lists(&self) -> anyhow::Result<Lists> {
        lists(self.pin_dir)
    }

    fn ask(&self) -> Memory {
        let told = ask::<Told>(self.socket, "drain").map_err(|error| advice::silent(self.socket, &error));
        let left = told.iter().flat_map(|told| told.left.clone());
        let named = left.filter_map(|left| {
            let Subject { port, endpoint, asked: _ } = left.subject()?;
            Some(((port, endpoint), left))
        });
        Memory { remembered: named.collect(), told }
    }

    /// A Service that nobody knows is a slip of the pen, and must not pass for one that has drained.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Some(wanted) = self.wanted else { return Ok(()) };
        let is_known = self.lists()?.keys().any(|port| port.service == *wanted)
            || self.ask().remembered.keys().any(|(port, _)| port.service == *wanted);
        anyhow::ensure!(
            is_known,
            "no Service {wanted} is programmed here, and none is remembered; see `sluice services`"
        );
        Ok(())
    }
}

/// Looks once, or twice with so much time between.
pub(super) fn gather(ground: &Ground<'_>, apart: Option<Duration>) -> anyhow::Result<Drain> {
    let memory = ground.ask();
    let lists = ground.lists()?;
    let mut finder = Finder::of(subjects(&memory, &lists)).with_lists(plain(&lists));
    let named = finder.all().count();
    let first = look(ground.pin_dir, &mut finder);
    let counted = match apart {
        Some(apart) => {
            sleep(apart);
            look(ground.pin_dir, &mut finder).counted(&finder, Some(&first))
        }
        None => first.counted(&finder, None),
    };
    let taken_in = counted.len() > named;
    // Somebody may have come into a list while flows were looked at.
    let later = if taken_in { ground.lists()? } else { Lists::new() };
    let rows = (0..).zip(&counted).filter(|(place, one)| {
        is_wanted(ground.wanted, one)
            && (*place < named || !is_used(&later, one))
            && has_any(*place < named, one)
    });
    let mut endpoints: Vec<Row> = rows.map(|(_, one)| row(one, &memory)).collect();
    endpoints.sort_by(|a, b| (a.state, &a.service, a.endpoint).cmp(&(b.state, &b.service, b.endpoint)));
    let notes = notes(&endpoints, &memory);
    Ok(Drain { no_daemon: memory.told.err(), endpoints, notes })
}

/// Who is to be looked for in any case: whom the daemon remembers; without one, whoever the kernel keeps for the flows it has.
fn subjects(memory: &Memory, lists: &Lists) -> Vec<Subject> {
    if memory.told.is_ok() {
        return memory.remembered.values().filter_map(Left::subject).collect();
    }
    let kept = lists.iter().flat_map(|(port, (list, kept))| {
        kept.iter().map(move |endpoint| Subject {
            port: port.clone(),
            endpoint: *endpoint,
            asked: Arc::clone(&list.asked),
        })
    });
    kept.collect()
}

fn plain(lists: &Lists) -> BTreeMap<ServicePortName, List> {
    lists.iter().map(|(port, (list, _))| (port.clone(), list.clone())).collect()
}

fn is_wanted(wanted: Option<&ServiceName>, (whose, ..): &Counted) -> bool {
    wanted.is_none_or(|wanted| match whose {
        Whose::Port(port) => port.service == *wanted,
        Whose::Number(..) => false,
    })
}

fn is_used(lists: &Lists, (whose, endpoint, _): &Counted) -> bool {
    match whose {
        Whose::Port(port) => lists.get(port).is_some_and(|(list, _)| list.used.contains(endpoint)),
        Whose::Number(..) => false,
    }
}

/// Who is named may have flows as long as somebody cannot tell; who was found had some, which may be over.
fn has_any(is_named: bool, (_, _, flows): &Counted) -> bool {
    if is_named { flows.state() != State::Drained } else { flows.known() > 0 }
}

fn row((whose, endpoint, flows): &Counted, memory: &Memory) -> Row {
    let (service, protocol, left) = match whose {
        Whose::Port(port) => {
            (port.to_string(), port.protocol, memory.remembered.get(&(port.clone(), *endpoint)))
        }
        Whose::Number(number, protocol) => (format!("?{number}"), *protocol, None),
    };
    let nobody = if memory.told.is_ok() { NOT_REMEMBERED } else { NO_DAEMON };
    let left_at = left.and_then(|left| Timestamp::from_second(i64::try_from(left.left_at?).ok()?).ok());
    let left_unknown = match (left, left_at) {
        (_, Some(_)) => None,
        (Some(_), None) => Some(BEFORE),
        (None, None) => Some(if memory.told.is_ok() { BEFORE } else { NO_DAEMON }),
    };
    Row {
        state: flows.state(),
        service,
        endpoint: *endpoint,
        protocol: protocol.as_str(),
        why: left.map(|left| left.why),
        is_now: left.map(|left| left.is_now),
        why_unknown: left.is_none().then(|| nobody.to_owned()),
        left_at: left_at.map(|at| at.to_string()),
        ago_seconds: left.and_then(|left| left.ago_seconds),
        left_unknown: left_unknown.map(str::to_owned),
        flows: flows.clone(),
    }
}

/// What cannot be told, and why; each thing once.
fn notes(rows: &[Row], memory: &Memory) -> Vec<String> {
    let mut notes = BTreeSet::new();
    for Row { flows, .. } in rows {
        for layer in Layer::ALL {
            if let Some(why) = &flows.of(layer).unknown {
                notes.insert(format!("{} is unknown: {why}", layer.as_str()));
            }
        }
        if flows.socket.flows.is_none() && flows.direct.flows.is_some_and(|direct| direct > 0) {
            notes.insert(STRAIGHT.to_owned());
        }
        notes.extend(without_times(flows));
    }
    let mut notes: Vec<String> = notes.into_iter().collect();
    let forgotten = memory.told.as_ref().map_or(0, |told| told.forgotten);
    if forgotten > 0 {
        notes.push(format!("{forgotten} more had to be forgotten for want of room"));
    }
    notes
}

const STRAIGHT: &str = "direct: sockets of this node, as far as its connection tracking sees them, and whoever names the endpoint itself; \
     the two cannot be told apart";

fn without_times(flows: &Flows) -> impl Iterator<Item = String> {
    let lacks = |layer| {
        let tally = flows.of(layer);
        tally.flows.is_some_and(|flows| flows > 0) && tally.oldest_seconds.is_none()
    };
    let tracked = (lacks(Layer::Nftables) || lacks(Layer::Direct)).then_some(
        "oldest is unknown in connection tracking: flows that began before net.netfilter.nf_conntrack_timestamp=1 have no time",
    );
    let edge = lacks(Layer::Edge).then_some("oldest is unknown in the edge layer: its flows have no time");
    tracked.into_iter().chain(edge).map(str::to_owned)
}
