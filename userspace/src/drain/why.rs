//! Why an endpoint gets no new flows of a service port, by what the objects say.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::desired::endpoints::{Candidate, candidates, candidates_at};
use crate::desired::{Desired, Endpoint, needs};
use crate::model::{Cluster, Family, Service, ServicePort, ServicePortName};

/// Why an endpoint is in no list of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Why {
    /// It goes away, and serves what it has.
    TerminatingServing,
    /// It goes away, and serves no more.
    Terminating,
    /// It is not ready.
    NotReady,
    /// It is ready, but its hints name others than this node.
    HintedElsewhere,
    /// It is ready, but only endpoints on this node are used, and it is on another.
    NotLocal,
    /// No slice names it for this port.
    Gone,
    /// The Service has no such port in this family any more.
    PortGone,
    /// The Service is gone, or is one that nobody serves.
    ServiceGone,
    /// The objects name it as one that gets new flows: it is back, or about to be.
    Used,
}

impl Why {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TerminatingServing => "terminating, still serving",
            Self::Terminating => "terminating, serving no more",
            Self::NotReady => "not ready",
            Self::HintedElsewhere => "hinted for others",
            Self::NotLocal => "not on this node",
            Self::Gone => "gone from the slices",
            Self::PortGone => "the Service has no such port any more",
            Self::ServiceGone => "the Service is not served any more",
            Self::Used => "used again",
        }
    }
}

/// What the objects say of one service port.
pub struct Reasons<'a> {
    is_known: bool,
    port: Option<(&'a Service, &'a ServicePort)>,
    candidates: Vec<Candidate<'a>>,
    used: Vec<SocketAddr>,
    takes_cluster: bool,
}

impl<'a> Reasons<'a> {
    /// Who gets new flows of a service port, sorted.
    pub fn used(desired: &Desired, id: &ServicePortName) -> Vec<SocketAddr> {
        let ports = desired.service(&id.service).into_iter().flat_map(|outcome| &outcome.ports);
        let own = ports.filter(|(port, _)| {
            port.port == id.port && port.protocol == id.protocol && port.family == id.family
        });
        let endpoints = own.flat_map(|(_, port)| &port.endpoints);
        endpoints.filter(|one| one.uses.cluster || one.uses.local).map(Endpoint::address).collect()
    }

    /// Reads what they say of these endpoints. They, and `used`, those that get new flows, are sorted.
    pub fn of(
        cluster: &'a Cluster,
        id: &ServicePortName,
        used: Vec<SocketAddr>,
        endpoints: &[SocketAddr],
    ) -> Self {
        Self::from_candidates(cluster, id, used, candidates_at(cluster.slices(&id.service), id, endpoints))
    }

    /// Reads what they say of everybody.
    pub fn of_all(cluster: &'a Cluster, id: &ServicePortName, used: Vec<SocketAddr>) -> Self {
        Self::from_candidates(cluster, id, used, candidates(cluster.slices(&id.service), id))
    }

    fn from_candidates(
        cluster: &'a Cluster,
        id: &ServicePortName,
        used: Vec<SocketAddr>,
        candidates: Vec<Candidate<'a>>,
    ) -> Self {
        let service = cluster.service(&id.service);
        let has_family =
            |service: &&Service| service.addresses.iter().any(|address| Family::of(*address) == id.family);
        let port = service.filter(has_family).and_then(|service| {
            let named = |port: &&ServicePort| port.name == id.port && port.protocol == id.protocol;
            Some((service, service.ports.iter().find(named)?))
        });
        let takes_cluster = port.is_some_and(|(service, port)| needs(service, port, id.family).cluster);
        Self { is_known: service.is_some(), port, candidates, used, takes_cluster }
    }

    /// Why this endpoint gets no new flows.
    pub fn why(&self, endpoint: SocketAddr) -> Why {
        if !self.is_known {
            return Why::ServiceGone;
        }
        if self.port.is_none() {
            return Why::PortGone;
        }
        let Ok(place) = self.candidates.binary_search_by(|one| one.address.cmp(&endpoint)) else {
            return Why::Gone;
        };
        if self.used.binary_search(&endpoint).is_ok() {
            return Why::Used;
        }
        self.candidates.get(place).map_or(Why::Gone, |one| self.unused(one))
    }

    /// Endpoints that go away and get no new flows.
    pub fn terminating(&self) -> impl Iterator<Item = SocketAddr> {
        let all = self.candidates.iter().filter(|one| one.conditions.terminating());
        all.map(|one| one.address).filter(|address| self.used.binary_search(address).is_err())
    }

    fn unused(&self, one: &Candidate<'_>) -> Why {
        let conditions = one.conditions;
        match (conditions.ready(), conditions.terminating(), conditions.serving()) {
            (true, _, _) if self.takes_cluster => Why::HintedElsewhere,
            (true, _, _) => Why::NotLocal,
            (false, true, true) => Why::TerminatingServing,
            (false, true, false) => Why::Terminating,
            (false, false, _) => Why::NotReady,
        }
    }
}
