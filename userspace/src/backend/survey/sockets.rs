//! Open sockets of this node, by endpoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use super::finder::{Finder, Whose};
use crate::backend::chain;
use crate::backend::ebpf::Pins;
use crate::drain::Tally;
use crate::model::ServicePortName;

/// By service port and endpoint.
pub(super) type Counts = BTreeMap<(ServicePortName, SocketAddr), u64>;

/// The socket layer translates when a socket connects, and nothing in the kernel remembers which sockets it did that for.
const UNKNOWN: &str = "the kernel does not list them";

/// Where there is no socket layer it has no sockets.
pub(super) fn count(pin_dir: &Path) -> Result<Counts, String> {
    let sets = Pins::new(pin_dir).sets().map_err(|error| chain(&error))?;
    if sets.is_empty() { Ok(Counts::new()) } else { Err(UNKNOWN.to_owned()) }
}

pub(super) fn tally(counts: &Result<Counts, String>, finder: &Finder, place: usize) -> Tally {
    let Some((whose, endpoint)) = finder.at(place) else { return Tally::unknown(UNKNOWN) };
    match (counts, whose) {
        (Err(why), _) => Tally::unknown(why.as_str()),
        (Ok(counts), Whose::Port(port)) => {
            Tally::of(counts.get(&(port.clone(), endpoint)).copied().unwrap_or_default())
        }
        (Ok(_), Whose::Number(..)) => Tally::unknown("nobody knows the Service's name"),
    }
}
