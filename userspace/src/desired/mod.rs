//! What this node should do for each service port: which addresses answer, what becomes of a flow from where, who gets
//! it, whose flows may stay.
//!
//! Pure. [`of_service`] is the meaning of one Service and depends on nothing but the facts and the [`Context`].
//! [`Desired`] keeps the outcome of all and follows changes: one changed slice touches only its Service, and those
//! that contend with it for an address.

#![forbid(unsafe_code)]

pub mod claims;
pub mod context;
mod departed;
pub mod endpoints;
pub mod explain;
mod frontends;
pub mod port;
pub mod routes;
pub mod settings;
mod unreached;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use crate::model::{self, Cluster, Family, Policy, Problem, Protocol, Service, ServiceName, ServicePortName};

use self::claims::Claims;
use self::endpoints::{Candidate, Chosen, Needs};
use self::routes::{Lists, Sources};

pub use context::{Context, FamilyContext, NodePorts, Pods};
pub use departed::Departed;
pub use port::{Action, Caller, Endpoint, Frontend, List, Masquerade, Routes, ServicePort, Uses};
pub use settings::{Detector, NodePortAddress, Settings};
pub use unreached::Unreached;

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortId {
    /// Its name; empty for an unnamed one.
    pub port: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of its addresses and endpoints.
    pub family: Family,
}

/// What this node does for one Service; nothing, if it is gone or skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Its ports, sorted.
    pub ports: Box<[(PortId, ServicePort)]>,
    /// What load balancers are told, at most one a family.
    pub health_checks: Box<[HealthCheck]>,
}

/// What a load balancer is told that asks whether this node has endpoints of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The family of the addresses at which it may ask.
    pub family: Family,
    /// The port at which it asks (TCP).
    pub port: NonZeroU16,
    /// Distinct addresses of ready endpoints on this node, over all ports. Those that terminate do not count, though
    /// they may still get flows: the load balancer must turn away in time (KEP-1669).
    pub local_endpoints: usize,
}

/// The outcome for all Services, kept up to date.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    context: Context,
    services: BTreeMap<ServiceName, Outcome>,
    claims: Claims,
    /// Services between which an address has moved since somebody asked.
    contended: BTreeSet<ServiceName>,
    /// Who has left lists of new flows since somebody asked.
    departed: Vec<Departed>,
}

impl PortId {
    /// The name of this port of a Service.
    pub fn of(&self, service: &ServiceName) -> ServicePortName {
        let Self { port, protocol, family } = self;
        ServicePortName { service: service.clone(), port: port.clone(), protocol: *protocol, family: *family }
    }
}

impl Desired {
    /// Nothing yet, in this context.
    pub fn new(context: Context) -> Self {
        Self { context, ..Self::default() }
    }

    /// The context it is computed in.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The outcome for one Service.
    pub fn service(&self, name: &ServiceName) -> Option<&Outcome> {
        self.services.get(name)
    }

    /// Every Service that has an outcome, in order.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Outcome)> {
        self.services.iter()
    }

    /// The Services between which an address has moved since the last call. What one gives up another takes, so they
    /// should be carried out together.
    pub fn contended(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.contended)
    }

    /// Who has left lists of new flows since the last call, in the order in which it happened.
    pub fn departed(&mut self) -> Vec<Departed> {
        std::mem::take(&mut self.departed)
    }

    /// Addresses that Services ask for and do not get.
    pub fn problems(&self) -> Vec<Problem> {
        self.claims.problems()
    }

    /// Computes everything anew if the context is another one. Returns the Services whose outcome changed.
    pub fn set_context(&mut self, context: Context, cluster: &Cluster) -> BTreeSet<ServiceName> {
        if self.context == context {
            return BTreeSet::new();
        }
        self.context = context;
        let all = cluster.names().chain(self.services.keys()).cloned().collect();
        self.update(cluster, all)
    }

    /// Computes some Services anew, and those that contend with them for an address. Returns those whose outcome
    /// changed.
    pub fn update(&mut self, cluster: &Cluster, mut names: BTreeSet<ServiceName>) -> BTreeSet<ServiceName> {
        let mut outcomes = BTreeMap::new();
        while let Some(name) = names.pop_first() {
            let outcome = of_service(cluster, &self.context, &name);
            let created = cluster.service(&name).and_then(|service| service.created);
            let before = self.services.get(&name).map(|before| &*before.ports).unwrap_or_default();
            let others = self.claims.update(&name, created, before, &outcome.ports);
            if !others.is_empty() {
                self.contended.insert(name.clone());
                self.contended.extend(others.iter().cloned());
            }
            outcomes.insert(name, outcome);
            names.extend(others.into_iter().filter(|other| !outcomes.contains_key(other)));
        }
        // Only when all have asked is it known who holds what; before, an address would seem to come and go.
        outcomes
            .into_iter()
            .filter_map(|(name, outcome)| self.settle(&name, outcome).then_some(name))
            .collect()
    }

    fn settle(&mut self, name: &ServiceName, mut outcome: Outcome) -> bool {
        self.claims.settle(name, &mut outcome.ports);
        self.put(name, outcome)
    }

    fn put(&mut self, name: &ServiceName, outcome: Outcome) -> bool {
        if let Some(before) = self.services.get(name) {
            self.departed.extend(departed::between(name, &before.ports, &outcome.ports));
        }
        if outcome == Outcome::default() {
            return self.services.remove(name).is_some();
        }
        if self.services.get(name) == Some(&outcome) {
            return false;
        }
        self.services.insert(name.clone(), outcome);
        true
    }
}

/// What this node does for one Service if nobody contends with it for an address.
pub fn of_service(cluster: &Cluster, context: &Context, name: &ServiceName) -> Outcome {
    let Some(service) = cluster.service(name) else { return Outcome::default() };
    let mut ports = Vec::with_capacity(service.ports.len() * service.addresses.len());
    let mut ready_here: BTreeSet<IpAddr> = BTreeSet::new();
    for address in &service.addresses {
        let family = Family::of(*address);
        for port in &service.ports {
            let id = PortId { port: port.name.clone(), protocol: port.protocol, family };
            let candidates = endpoints::candidates(cluster.slices(name), &id.of(name));
            let needs = needs(service, port, family);
            let chosen = endpoints::choose(&candidates, needs, context);
            if service.external.is_some() {
                ready_here.extend(ready_on(&candidates, &chosen));
            }
            ports.push((id, service_port(service, port, *address, context, (&candidates, chosen))));
        }
    }
    ports.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Outcome { ports: ports.into(), health_checks: health_checks(service, &ready_here) }
}

fn service_port(
    service: &Service,
    port: &model::ServicePort,
    address: IpAddr,
    context: &Context,
    (candidates, chosen): (&[Candidate<'_>], Chosen),
) -> ServicePort {
    let family = Family::of(address);
    let lists = Lists {
        cluster: chosen.uses.iter().any(|uses| uses.cluster),
        local: chosen.uses.iter().any(|uses| uses.local),
        reachable: chosen.reachable,
    };
    let sources = Sources {
        pods_known: context.family(family).pods.is_some(),
        node_is_pod: context.family(family).node_is_pod(),
        masquerade_all: context.masquerade_all,
    };
    ServicePort {
        frontends: frontends::frontends(service, port, address, context.external_ips),
        internal: routes::internal(service.internal_policy, lists, sources),
        external: routes::external(service.external_policy, lists, sources),
        sources: frontends::sources(service, family, context.family(family).primary),
        affinity: service.affinity,
        endpoints: kept(candidates, &chosen.uses),
    }
}

/// Which lists a port uses. Addresses for outside need the cluster's even with a local policy, for traffic from
/// inside.
pub(crate) fn needs(service: &Service, port: &model::ServicePort, family: Family) -> Needs {
    let external = port.node_port.is_some() || frontends::has_external_address(service, family);
    Needs {
        cluster: service.internal_policy != Policy::Local || external,
        local: service.internal_policy == Policy::Local
            || (service.external_policy == Policy::Local && external),
    }
}

/// Those in a list, and those that can still serve flows which they have.
fn kept(candidates: &[Candidate<'_>], uses: &[Uses]) -> Box<[Endpoint]> {
    let both = candidates.iter().zip(uses);
    let serve = both.filter(|(one, uses)| {
        uses.cluster || uses.local || one.conditions.ready() || one.conditions.serving()
    });
    serve.map(|(one, uses)| Endpoint::new(one.address, *uses)).collect()
}

fn ready_on<'a>(candidates: &'a [Candidate<'_>], chosen: &'a Chosen) -> impl Iterator<Item = IpAddr> {
    let both = candidates.iter().zip(&chosen.uses);
    both.filter(|(one, uses)| uses.here && one.conditions.ready()).map(|(one, _)| one.address.ip())
}

fn health_checks(service: &Service, ready_here: &BTreeSet<IpAddr>) -> Box<[HealthCheck]> {
    let Some(port) = service.external.as_ref().and_then(|external| external.health_check_port) else {
        return Box::default();
    };
    let check = |family| HealthCheck {
        family,
        port,
        local_endpoints: ready_here.iter().filter(|address| Family::of(**address) == family).count(),
    };
    let mut families: Vec<Family> = service.addresses.iter().copied().map(Family::of).collect();
    families.sort_unstable();
    families.into_iter().map(check).collect()
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
