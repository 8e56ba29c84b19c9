//! Counts the flows of endpoints, in the edge layer's table and in connection tracking: of some that are named, and of others
//! that turn out to have flows without being in a list. Tables may be large: each is gone through once a look, and of a table no
//! more is held than the flows that matter, up to a bound. Not for the loop's thread.

mod finder;
mod sockets;
mod tallies;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::finder::{Finder, List, Whose};
use self::sockets::Sockets;
use self::tallies::{Mark, Seen, Tallies, Through};
use super::conntrack::{Conntrack, Timeouts};
use super::edge::{Pair, State, show_flows};
use super::{BackendError, chain};
use crate::drain::{Flows, Layer, Tally};
use crate::model::Family;

/// How often a table that changes its shape is gone through again.
const LOOKS: usize = 3;

/// Why it is not known what goes straight to endpoints.
const TOO_MANY: &str = "the edge layer has too many flows to tell them from these";

/// What was found at one moment.
#[derive(Debug)]
pub struct Look {
    edge: Result<Tallies, String>,
    tracked: Result<Tallies, String>,
    sockets: Result<Sockets, String>,
    began: Instant,
    ended: Instant,
}

/// Whose flows they are, and how many.
pub type Counted = (Whose, SocketAddr, Flows);

/// Goes through all tables.
pub fn look(pin_dir: &Path, finder: &mut Finder) -> Look {
    let began = Instant::now();
    let edge = at_edge(pin_dir, finder).map_err(|error| chain(&error));
    let tracked = tracked(finder, edge.as_ref().ok()).map_err(|error| error_text(&error));
    let sockets = sockets::count(pin_dir);
    for (port, endpoint) in sockets.iter().flat_map(Sockets::holders) {
        finder.at_socket(port, *endpoint);
    }
    Look { edge, tracked, sockets, began, ended: Instant::now() }
}

impl Look {
    /// How long it took.
    pub fn took(&self) -> Duration {
        self.ended.saturating_duration_since(self.began)
    }

    /// What it has found of everybody that the finder knows; with an earlier look also how many of the flows move.
    pub fn counted(&self, finder: &Finder, earlier: Option<&Self>) -> Vec<Counted> {
        let clocks = earlier.map(|earlier| {
            let pause = self.began.saturating_duration_since(earlier.ended);
            (earlier, pause, self.ended.saturating_duration_since(earlier.began))
        });
        let moving = |of: fn(&Self) -> &Result<Tallies, String>| {
            let (earlier, pause, all) = clocks?;
            Some((of(earlier).as_ref().ok()?, pause, all))
        };
        let tally = |of: fn(&Self) -> &Result<Tallies, String>, place, layer| match of(self) {
            Ok(tallies) => tallies.tally(place, layer, moving(of)),
            Err(why) => Tally::unknown(why.as_str()),
        };
        let direct = |place| match &self.edge {
            Ok(edge) if edge.is_full() => Tally::unknown(TOO_MANY),
            Ok(_) | Err(_) => tally(|look| &look.tracked, place, Layer::Direct),
        };
        let flows = |place| Flows {
            socket: sockets::tally(&self.sockets, finder, place),
            edge: tally(|look| &look.edge, place, Layer::Edge),
            nftables: tally(|look| &look.tracked, place, Layer::Nftables),
            direct: direct(place),
        };
        finder.all().map(|(place, whose, endpoint)| (whose.clone(), endpoint, flows(place))).collect()
    }
}

/// Flows that have ended are kept for a moment, and count no more.
fn at_edge(pin_dir: &Path, finder: &mut Finder) -> Result<Tallies, BackendError> {
    let mut tallies = Tallies::default();
    let finder = std::cell::RefCell::new(finder);
    let place = |pair: &Pair| finder.borrow_mut().at_edge(pair.service, pair.protocol, pair.endpoint);
    let mut wanted = |pair: &Pair| place(pair).is_some();
    let mut take = |pair: &Pair, seen_at: u32| {
        if let (Some(place), false) = (place(pair), pair.state == State::Closed) {
            let seen = Seen { idle: Some(pair.idle), began: None };
            let mark = Mark::Edge { seen_at, state: pair.state };
            let key = (pair.protocol.number(), pair.client, pair.address);
            tallies.add(place, Layer::Edge, &key, mark, seen);
            let source = pair.source.unwrap_or(pair.client);
            tallies.note_through((pair.protocol.number(), source, pair.endpoint));
        }
    };
    show_flows(pin_dir, &mut wanted, &mut take)?;
    Ok(tallies)
}

/// Where a table could not be read whole.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error(transparent)]
    Kernel(#[from] BackendError),
    #[error("connection tracking changed its shape while it was read")]
    Holes,
}

fn error_text(unread: &Unread) -> String {
    match unread {
        Unread::Kernel(error) => chain(error),
        Unread::Holes => unread.to_string(),
    }
}

fn tracked(finder: &mut Finder, edge: Option<&Tallies>) -> Result<Tallies, Unread> {
    let timeouts = Timeouts::read();
    let mut conntrack = Conntrack::open()?;
    for _ in 0..LOOKS {
        let mut tallies = Tallies::default();
        let mut is_whole = true;
        for family in Family::ALL {
            is_whole &= track_family(&mut conntrack, family, &timeouts, finder, edge, &mut tallies)?;
        }
        if is_whole {
            return Ok(tallies);
        }
    }
    Err(Unread::Holes)
}

/// What the edge layer sends through the host's stack is seen there too, as if somebody had named the endpoint: it is not
/// counted again.
fn track_family(
    conntrack: &mut Conntrack,
    family: Family,
    timeouts: &Timeouts,
    finder: &mut Finder,
    edge: Option<&Tallies>,
    tallies: &mut Tallies,
) -> Result<bool, BackendError> {
    let now = nanos();
    let is_edges = |at: &Through| edge.is_some_and(|edge| edge.goes_through(at));
    conntrack.show(family, &mut |flow| {
        let places = finder.tracked(flow.protocol, flow.asked, flow.answers);
        if places.is_empty() {
            return;
        }
        let track = flow.track();
        if track.has_ended() || is_edges(&(flow.protocol, flow.client, flow.answers)) {
            return;
        }
        let began = track.began.map(|began| now.saturating_sub(began) / 1_000_000_000);
        let seen = Seen { idle: track.idle(flow.protocol, timeouts), began };
        for (place, layer) in places {
            let key = (flow.protocol, flow.client, flow.asked, track.id);
            tallies.add(place, layer, &key, Mark::Tracked(track), seen);
        }
    })
}

/// Since 1970.
fn nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
