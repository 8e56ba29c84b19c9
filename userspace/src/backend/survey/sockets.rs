//! Open sockets of this node, by endpoint, as the socket layer counts them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use super::finder::{Finder, Whose};
use crate::backend::chain;
use crate::backend::ebpf::{Counts, Endpoint, Pins, read_counts};
use crate::drain::Tally;
use crate::model::ServicePortName;

/// What is counted, sorted by whose it is.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: BTreeMap<(ServicePortName, SocketAddr), u64>,
    /// Service ports that are there.
    names: BTreeSet<ServicePortName>,
    /// Sockets of service ports that are not, by endpoint.
    nameless: BTreeMap<SocketAddr, u64>,
}

/// Since when the layer counts is not known either: sockets from before are missing.
const NOT_COUNTED: &str = "the socket layer that is installed does not count them";
const NO_ENDS: &str = "the end of sockets is not seen: the hook sock_release is not attached";
const NAMELESS: &str = "its Service is gone, and with it the name under which its sockets are counted";
const NUMBER: &str = "the name of its Service is not known";

/// Where there is no socket layer it has no sockets.
pub(super) fn count(pin_dir: &Path) -> Result<Sockets, String> {
    let pins = Pins::new(pin_dir);
    let sets = pins.sets().map_err(|error| chain(&error))?;
    match read_counts(&pins).map_err(|error| chain(&error))? {
        Some(counts) if counts.sees_ends => Ok(Sockets::of(counts)),
        Some(_) => Err(NO_ENDS.to_owned()),
        None if sets.is_empty() => Ok(Sockets::default()),
        None => Err(NOT_COUNTED.to_owned()),
    }
}

impl Sockets {
    fn of(counts: Counts) -> Self {
        let Counts { names, sees_ends: _, ports: _, endpoints } = counts;
        let mut sockets = Self::default();
        for Endpoint { address, service, opened: _, open } in
            endpoints.into_values().filter(|one| one.open > 0)
        {
            let place = match names.get(&service) {
                Some(name) => sockets.open.entry((name.clone(), address)).or_default(),
                None => sockets.nameless.entry(address).or_default(),
            };
            *place += open;
        }
        sockets.names = names.into_values().collect();
        sockets
    }

    /// Whoever has sockets.
    pub(super) fn holders(&self) -> impl Iterator<Item = &(ServicePortName, SocketAddr)> {
        self.open.keys()
    }

    /// Under a number without a name there may be somebody else's.
    fn tally(&self, port: &ServicePortName, endpoint: SocketAddr) -> Tally {
        let is_nameless = !self.names.contains(port) && self.nameless.contains_key(&endpoint);
        match self.open.get(&(port.clone(), endpoint)) {
            Some(open) => Tally::of(*open),
            None if is_nameless => Tally::unknown(NAMELESS),
            None => Tally::of(0),
        }
    }
}

pub(super) fn tally(sockets: &Result<Sockets, String>, finder: &Finder, place: usize) -> Tally {
    match (sockets, finder.at(place)) {
        (Err(why), _) => Tally::unknown(why.as_str()),
        (Ok(sockets), Some((Whose::Port(port), endpoint))) => sockets.tally(port, endpoint),
        (Ok(_), Some((Whose::Number(..), _)) | None) => Tally::unknown(NUMBER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol, ServiceName};

    fn port(name: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn at(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 1, 0, last], 80))
    }

    #[test]
    fn sockets_are_of_the_service_whose_number_has_a_name() {
        let endpoint = |service, last, open| Endpoint { address: at(last), service, opened: 9, open };
        let endpoints =
            [endpoint(1, 1, 2), endpoint(1, 1, 3), endpoint(1, 2, 0), endpoint(7, 3, 4), endpoint(2, 3, 1)];
        let sockets = Sockets::of(Counts {
            names: [(1, port("web")), (2, port("api"))].into(),
            sees_ends: true,
            ports: BTreeMap::new(),
            endpoints: (0..).zip(endpoints).collect(),
        });
        assert_eq!(
            sockets.tally(&port("web"), at(1)),
            Tally::of(5),
            "it left, and came back under another number"
        );
        assert_eq!(sockets.tally(&port("web"), at(2)), Tally::of(0));
        assert_eq!(
            sockets.tally(&port("web"), at(3)),
            Tally::of(0),
            "it has a name: they are somebody else's"
        );
        assert_eq!(sockets.tally(&port("api"), at(3)), Tally::of(1));
        assert_eq!(sockets.tally(&port("gone"), at(3)), Tally::unknown(NAMELESS));
        assert_eq!(sockets.tally(&port("gone"), at(1)), Tally::of(0));
        assert_eq!(sockets.holders().count(), 2, "who has none is not one");
    }
}
