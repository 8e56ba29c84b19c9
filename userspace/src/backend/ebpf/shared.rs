//! The maps that outlive a set, before programs are loaded over them; and what a daemon of another layout version left that
//! this one goes on with: what sockets remember, and the numbers by which they remember it.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use aya::maps::{MapInfo, MapType};
use dataplane_ebpf::abi::{self, Counter, MAPS};
use tracing::{info, warn};

use super::books::Ports;
use super::links::{Links, RELEASE};
use super::pins::{Pins, remove};
use super::read::{Dump, by_port};
use super::set::{broken, was_completed};
use super::{set, sys};
use crate::backend::{BackendError, chain};

/// What a shared map must be.
struct Expected {
    name: &'static str,
    kind: MapType,
    least_entries: u32,
    /// Whether that of another layout version is as good. Socket storage and what clients got are: a change of what they
    /// mean changes their size or name. Numbers in them that were not kept lead to an endpoint that is listed, or to none.
    /// The counters are not worth it, and the node's addresses are written anew.
    inherited: bool,
}

const EXPECTED: [Expected; 8] = [
    Expected {
        name: abi::COUNTERS,
        kind: MapType::PerCpuArray,
        least_entries: Counter::ALL.len() as u32,
        inherited: false,
    },
    Expected { name: abi::AFFINITY, kind: MapType::LruHash, least_entries: 1, inherited: true },
    Expected { name: abi::CONNECTED, kind: MapType::SkStorage, least_entries: 0, inherited: true },
    Expected { name: abi::DATAGRAMS, kind: MapType::SkStorage, least_entries: 0, inherited: true },
    Expected { name: abi::NODE_ADDRESSES, kind: MapType::Hash, least_entries: 1, inherited: false },
    Expected { name: abi::TRAFFIC, kind: MapType::Hash, least_entries: 1, inherited: false },
    Expected { name: abi::USES, kind: MapType::Hash, least_entries: 1, inherited: false },
    Expected { name: abi::HOLDS, kind: MapType::SkStorage, least_entries: 0, inherited: false },
];

/// What a map is, as the kernel says; no kind: one that is not known here.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Shape {
    kind: Option<MapType>,
    key_size: u32,
    value_size: u32,
    entries: u32,
}

/// Where a shared map comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// It is there already.
    Own,
    /// From a daemon of this layout version.
    From(u32),
    /// The loader makes it.
    New,
}

impl Expected {
    fn fits(&self, shape: &Shape) -> bool {
        let Shape { kind, key_size, value_size, entries } = *shape;
        let sizes = MAPS.iter().find(|map| map.name == self.name).map(|map| (map.key_size, map.value_size));
        kind == Some(self.kind) && sizes == Some((key_size, value_size)) && entries >= self.least_entries
    }

    /// Where to take the map from: `own` is what stands in our place, `others` what other layout versions have.
    fn origin(&self, own: Option<&Shape>, others: &BTreeMap<u32, Shape>) -> Origin {
        if own.is_some_and(|shape| self.fits(shape)) {
            return Origin::Own;
        }
        let heirlooms = others.iter().rev().filter(|(_, shape)| self.inherited && self.fits(shape));
        heirlooms.map(|(version, _)| Origin::From(*version)).next().unwrap_or(Origin::New)
    }
}

/// Makes sure that what is pinned in the shared place can be used as it is. What cannot is removed: programs that work on it
/// keep it until others take their places.
pub(super) fn prepare(pins: &Pins) -> Result<(), BackendError> {
    let others = pins.others()?;
    for expected in &EXPECTED {
        let path = pins.shared().join(expected.name);
        let own = shape(expected.name, &path)?;
        let theirs = |pins: &Pins| shape(expected.name, &pins.shared().join(expected.name)).ok().flatten();
        let found = others.iter().filter_map(|(version, pins)| Some((*version, theirs(pins)?))).collect();
        let origin = expected.origin(own.as_ref(), &found);
        if let (Origin::From(_) | Origin::New, Some(own)) = (origin, own) {
            warn!(map = expected.name, found = ?own, "a shared map has another shape than this build expects; beginning anew");
            remove(&path)?;
        }
        if let Origin::From(version) = origin
            && let Some(elder) = others.get(&version)
        {
            adopt(expected.name, &elder.shared(), &path)?;
            info!(map = expected.name, version, "taken over from another layout version");
        }
    }
    Ok(())
}

/// How many sockets have an endpoint is right only if each end was seen, and if both maps began together. Where it was not,
/// they begin anew: sockets that were open before count for nobody then.
pub(super) fn begin_counts(pins: &Pins) -> Result<(), BackendError> {
    let places = [abi::USES, abi::HOLDS].map(|name| pins.shared().join(name));
    let is_seen = Links::new(pins.links()).state(&RELEASE).attached;
    if is_seen && places.iter().all(|place| place.exists()) {
        return Ok(());
    }
    places.iter().try_for_each(|place| remove(place).map(drop))
}

/// Gives a map another name.
fn adopt(name: &'static str, from: &Path, to: &Path) -> Result<(), BackendError> {
    let failed = |source| BackendError::Map { deed: "take over", map: name, source };
    let map = sys::open(&from.join(name)).map_err(failed)?;
    sys::pin(map.as_fd(), to).map_err(failed)
}

fn shape(name: &'static str, path: &Path) -> Result<Option<Shape>, BackendError> {
    if !path.exists() {
        return Ok(None);
    }
    let info = MapInfo::from_pin(path).map_err(|error| broken(name, "inspect", error))?;
    Ok(Some(Shape {
        kind: info.map_type().ok(),
        key_size: info.key_size(),
        value_size: info.value_size(),
        entries: info.max_entries(),
    }))
}

/// The numbers in the newest complete set of the newest other layout version, as far as names and endpoints are written
/// there as they are here. Sockets remember endpoints by number: under other numbers they would choose anew.
pub(super) fn numbers(pins: &Pins) -> Result<Ports, BackendError> {
    for (version, elder) in pins.others()?.into_iter().rev() {
        for number in elder.sets()?.into_iter().rev() {
            let directory = elder.set(number);
            if !was_completed(&directory) {
                continue;
            }
            match read(&directory) {
                Ok(ports) => {
                    info!(
                        version,
                        service_ports = ports.len(),
                        "going on with the numbers of another layout"
                    );
                    return Ok(ports);
                }
                Err(error) => {
                    warn!(
                        version,
                        error = chain(&error),
                        "numbers of another layout cannot be read; beginning with new ones"
                    );
                }
            }
        }
    }
    Ok(Ports::new())
}

fn read(directory: &Path) -> Result<Ports, BackendError> {
    let names = set::table(directory, abi::NAMES)?.dump()?;
    let backends = set::table(directory, abi::BACKENDS)?.dump()?;
    Ok(by_port(Dump { names, backends, ..Dump::default() }).ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKETS: Shape = Shape { kind: Some(MapType::SkStorage), key_size: 4, value_size: 40, entries: 0 };
    const COUNTS: Shape = Shape {
        kind: Some(MapType::PerCpuArray),
        key_size: 4,
        value_size: 8,
        entries: Counter::ALL.len() as u32,
    };

    #[test]
    fn what_is_there_is_kept() {
        check(abi::CONNECTED, Some(SOCKETS), &[(1, SOCKETS)], Origin::Own);
        check(abi::COUNTERS, Some(COUNTS), &[], Origin::Own);
    }

    #[test]
    fn what_sockets_remember_is_taken_over_from_the_newest_version() {
        check(abi::CONNECTED, None, &[(1, SOCKETS), (3, SOCKETS)], Origin::From(3));
    }

    #[test]
    fn what_clients_got_is_taken_over_too() {
        let records = Shape { kind: Some(MapType::LruHash), key_size: 16, value_size: 16, entries: 65_536 };
        check(abi::AFFINITY, None, &[(2, records)], Origin::From(2));
        check(abi::AFFINITY, None, &[(2, Shape { key_size: 20, ..records })], Origin::New);
    }

    #[test]
    fn of_another_size_or_kind_it_is_not() {
        let longer = Shape { value_size: 48, ..SOCKETS };
        check(abi::CONNECTED, None, &[(1, SOCKETS), (3, longer)], Origin::From(1));
        let other = Shape { kind: Some(MapType::Hash), ..SOCKETS };
        check(abi::CONNECTED, None, &[(1, other), (3, Shape { kind: None, ..SOCKETS })], Origin::New);
    }

    #[test]
    fn one_of_ours_that_has_another_shape_is_replaced() {
        let other = Shape { value_size: 48, ..SOCKETS };
        check(abi::CONNECTED, Some(other), &[], Origin::New);
        check(abi::CONNECTED, Some(other), &[(1, SOCKETS)], Origin::From(1));
        check(abi::COUNTERS, Some(Shape { entries: 5, ..COUNTS }), &[], Origin::New);
    }

    #[test]
    fn counts_of_another_version_are_not_taken_over() {
        check(abi::COUNTERS, None, &[(1, COUNTS)], Origin::New);
    }

    fn check(name: &str, own: Option<Shape>, others: &[(u32, Shape)], origin: Origin) {
        let expected = EXPECTED.iter().find(|expected| expected.name == name).expect("a shared map");
        let others = others.iter().copied().collect();
        assert_eq!(expected.origin(own.as_ref(), &others), origin);
    }

    #[test]
    fn every_shared_map_has_an_expectation() {
        assert_eq!(EXPECTED.map(|expected| expected.name), crate::backend::ebpf::pins::SHARED);
    }
}
