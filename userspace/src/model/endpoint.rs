//! An EndpointSlice: who answers for a Service, and in what condition.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Family, Protocol, ServiceName};

/// One slice. All its endpoints are of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its name; the namespace is the Service's.
    pub name: Arc<str>,
    /// The Service it belongs to.
    pub service: ServiceName,
    /// Where its endpoints listen; every endpoint has every port. Many slices have the same, so they are shared.
    pub ports: Arc<[SlicePort]>,
    /// Its endpoints.
    pub endpoints: Box<[Endpoint]>,
    /// When the latest of the changes happened that whoever wrote it answers with it, if it says so.
    pub triggered: Option<Trigger>,
}

/// When something happened that changed endpoints (annotation `endpoints.kubernetes.io/last-change-trigger-time`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The family of the endpoints.
    pub family: Family,
    /// Nanoseconds since 1970.
    pub at: i64,
}

/// One port of a slice. It belongs to the port of the Service with the same name and protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlicePort {
    /// Its name; the empty name is a name.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The number the endpoints listen on.
    pub port: NonZeroU16,
}

/// One endpoint. There may be very many: keep it small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its address.
    pub address: IpAddr,
    /// Its condition.
    pub conditions: Conditions,
    /// Where it runs and for whom it is meant first, if anything is known of that. Few differ, so they are shared.
    pub place: Option<Arc<Place>>,
}

/// Where an endpoint runs, and for whom it is meant first.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The node it runs on, if known.
    pub node: Option<Arc<str>>,
    /// For whom it is meant first, if there is anybody.
    pub hints: Option<Hints>,
}

/// Topology hints of an endpoint (KEP-2433, KEP-3015): which consumers should prefer it. At least one list is not
/// empty; both are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hints {
    /// Names of zones.
    pub zones: Box<[Arc<str>]>,
    /// Names of nodes.
    pub nodes: Box<[Arc<str>]>,
}

impl Endpoint {
    /// From its parts.
    pub fn new(address: IpAddr, conditions: Conditions, place: Place) -> Self {
        Self { address, conditions, place: (place != Place::default()).then(|| Arc::new(place)) }
    }

    /// The node it runs on, if known.
    pub fn node(&self) -> Option<&Arc<str>> {
        self.place.as_ref()?.node.as_ref()
    }

    /// For whom it is meant first.
    pub fn hints(&self) -> Option<&Hints> {
        self.place.as_ref()?.hints.as_ref()
    }
}

/// Condition of an endpoint, with what the API left open already decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Conditions(u8);

const READY: u8 = 1;
const SERVING: u8 = 2;
const TERMINATING: u8 = 4;

impl Conditions {
    /// From the three conditions.
    pub const fn new(ready: bool, serving: bool, terminating: bool) -> Self {
        Self((ready as u8 * READY) | (serving as u8 * SERVING) | (terminating as u8 * TERMINATING))
    }

    /// It should get new flows. May hold together with `terminating` or without `serving`: a Service can
    /// publish endpoints that are not ready.
    pub const fn ready(self) -> bool {
        self.0 & READY != 0
    }

    /// It answers.
    pub const fn serving(self) -> bool {
        self.0 & SERVING != 0
    }

    /// It is going away.
    pub const fn terminating(self) -> bool {
        self.0 & TERMINATING != 0
    }
}

impl fmt::Debug for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words =
            [(self.ready(), "ready"), (self.serving(), "serving"), (self.terminating(), "terminating")];
        f.debug_set().entries(words.into_iter().filter_map(|(on, word)| on.then_some(word))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_takes_no_more_than_thirty_two_bytes() {
        assert!(size_of::<Endpoint>() <= 32, "{}", size_of::<Endpoint>());
    }

    #[test]
    fn the_three_conditions_do_not_disturb_each_other() {
        for bits in 0..8_u8 {
            let (ready, serving, terminating) = (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0);
            let conditions = Conditions::new(ready, serving, terminating);
            let read = (conditions.ready(), conditions.serving(), conditions.terminating());
            assert_eq!(read, (ready, serving, terminating));
        }
    }
}
