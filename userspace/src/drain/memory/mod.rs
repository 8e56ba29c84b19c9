//! The memory: who left, until it has drained, is back, or is too old to matter. Bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Asked, Flows, Layer, Left, Now, Reasons, State, Subject, Told, Why};
use crate::desired::{Departed, Desired};
use crate::model::{Cluster, ServiceName, ServicePortName};

/// So many endpoints of service ports are remembered.
const ROOM: usize = 4096;
/// For how long all layers must say that there are no flows.
const QUIET: Duration = Duration::from_secs(30);
/// How long somebody is remembered of whom no flow is known.
const PATIENCE: Duration = Duration::from_secs(3600);
/// So many endpoints are told by name to whoever keeps time series.
const NAMED: usize = 100;

/// Flows that were found, by service port and endpoint.
pub type Found = BTreeMap<(ServicePortName, SocketAddr), Flows>;

/// Who left.
#[derive(Clone, Debug)]
pub struct Memory {
    left: BTreeMap<ServicePortName, BTreeMap<SocketAddr, Remembered>>,
    room: usize,
    count: usize,
    drained: u64,
    forgotten: u64,
}

/// What is known of one that left.
#[derive(Clone, Debug)]
struct Remembered {
    asked: Arc<Asked>,
    why: Why,
    is_now: Why,
    /// `None`: before the daemon began.
    left: Option<Now>,
    noted: Duration,
    /// When flows were last known of; at first, when it was noted.
    alive: Duration,
    /// Since when there are none.
    quiet: Option<Duration>,
    flows: Option<Flows>,
}

/// How much there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Endpoints that are known to have flows.
    pub endpoints: usize,
    /// Flows that they have.
    pub flows: u64,
    /// The same by layer; a layer that cannot tell is missing.
    pub by_layer: BTreeMap<Layer, u64>,
    /// Endpoints of which no layer knew flows any more, since the daemon began.
    pub drained: u64,
    /// Those with the most flows, at most a hundred, with what layers know of.
    pub most: Vec<Named>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The service port.
    pub port: ServicePortName,
    /// The endpoint.
    pub endpoint: SocketAddr,
    /// Its flows.
    pub by_layer: BTreeMap<Layer, u64>,
}

impl Default for Memory {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Memory {
    /// For so many at most.
    pub const fn with_room(room: usize) -> Self {
        Self { left: BTreeMap::new(), room, count: 0, drained: 0, forgotten: 0 }
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Takes what has come of a change: who left, and what has become of those who had left before.
    pub fn follow(
        &mut self,
        cluster: &Cluster,
        desired: &mut Desired,
        changed: &BTreeSet<ServiceName>,
        now: Now,
    ) {
        for Departed { port, frontends, endpoints } in desired.departed() {
            let reasons = Reasons::of(cluster, &port, Reasons::used(desired, &port), &endpoints);
            let asked = Arc::new(Asked::of(&frontends));
            for endpoint in endpoints {
                let subject = Subject { port: port.clone(), endpoint, asked: Arc::clone(&asked) };
                self.leave(subject, reasons.why(endpoint), Some(now), now.run);
            }
        }
        for service in changed {
            self.look_again(cluster, desired, service);
        }
    }

    /// What the daemon finds when it begins: endpoints that go away left earlier, if they were ever used.
    pub fn begin(&mut self, cluster: &Cluster, desired: &Desired, now: Duration) {
        for (service, outcome) in desired.services().filter(|(service, _)| any_terminates(cluster, service)) {
            for (id, port) in &outcome.ports {
                let name = id.of(service);
                let reasons = Reasons::of_all(cluster, &name, Reasons::used(desired, &name));
                let asked = Arc::new(Asked::of(&port.frontends));
                for endpoint in reasons.terminating() {
                    let subject = Subject { port: name.clone(), endpoint, asked: Arc::clone(&asked) };
                    self.leave(subject, reasons.why(endpoint), None, now);
                }
            }
        }
    }

    fn look_again(&mut self, cluster: &Cluster, desired: &Desired, service: &ServiceName) {
        let mut now = Vec::new();
        for (port, endpoints) in self.of(service) {
            let endpoints: Vec<SocketAddr> = endpoints.collect();
            let reasons = Reasons::of(cluster, port, Reasons::used(desired, port), &endpoints);
            now.extend(endpoints.into_iter().map(|endpoint| (port.clone(), endpoint, reasons.why(endpoint))));
        }
        for (port, endpoint, why) in now {
            self.becomes(&port, endpoint, why);
        }
    }

    /// An endpoint has left; `left` says when, if that is known. Who is remembered already keeps its time and reason.
    pub fn leave(&mut self, subject: Subject, why: Why, left: Option<Now>, now: Duration) {
        let Subject { port, endpoint, asked } = subject;
        let endpoints = self.left.entry(port).or_default();
        if let Some(known) = endpoints.get_mut(&endpoint) {
            (known.is_now, known.asked) = (why, asked);
            return;
        }
        let one =
            Remembered { asked, why, is_now: why, left, noted: now, alive: now, quiet: None, flows: None };
        endpoints.insert(endpoint, one);
        self.count += 1;
        if self.count > self.room {
            self.make_room();
        }
    }

    /// Who is remembered of a Service.
    fn of<'a>(
        &'a self,
        service: &'a ServiceName,
    ) -> impl Iterator<Item = (&'a ServicePortName, impl Iterator<Item = SocketAddr> + 'a)> {
        ServicePortName::all_of(&self.left, service).map(|(port, all)| (port, all.keys().copied()))
    }

    /// What the objects say of it now. Whoever is used again does not drain.
    pub fn becomes(&mut self, port: &ServicePortName, endpoint: SocketAddr, why: Why) {
        if why == Why::Used {
            self.forget(port, endpoint);
        } else if let Some(one) = self.left.get_mut(port).and_then(|all| all.get_mut(&endpoint)) {
            one.is_now = why;
        }
    }

    /// Whose flows are to be counted.
    pub fn subjects(&self) -> Vec<Subject> {
        let subject = |port: &ServicePortName, endpoint: SocketAddr, one: &Remembered| Subject {
            port: port.clone(),
            endpoint,
            asked: Arc::clone(&one.asked),
        };
        self.each().map(|(port, endpoint, one)| subject(port, endpoint, one)).collect()
    }

    /// Takes flows that were counted; counting began then. Who left later was not looked for.
    pub fn counted(&mut self, found: &Found, began: Duration, now: Duration) {
        for (port, all) in &mut self.left {
            for (endpoint, one) in all.iter_mut().filter(|(_, one)| one.noted <= began) {
                if let Some(flows) = found.get(&(port.clone(), *endpoint)) {
                    one.take(flows, now);
                }
            }
        }
    }

    /// Forgets who has drained, and who is too old. Returns who has drained.
    pub fn tidy(&mut self, now: Duration) -> Vec<(ServicePortName, SocketAddr)> {
        let names = |of: &dyn Fn(&Remembered) -> bool| {
            let all = self.each().filter(|(_, _, one)| of(one));
            all.map(|(port, endpoint, _)| (port.clone(), endpoint)).collect::<Vec<_>>()
        };
        let drained = names(&|one| one.quiet.is_some_and(|since| now.saturating_sub(since) >= QUIET));
        let old = names(&|one| now.saturating_sub(one.alive) >= PATIENCE);
        self.drained += drained.len() as u64;
        for (port, endpoint) in drained.iter().chain(&old) {
            self.forget(port, *endpoint);
        }
        drained
    }

    /// For the tool.
    pub fn told(&self, now: Duration) -> Told {
        let left = |port: &ServicePortName, endpoint: SocketAddr, one: &Remembered| Left {
            namespace: port.service.namespace.to_string(),
            name: port.service.name.to_string(),
            port_name: port.port.to_string(),
            protocol: port.protocol.as_str().to_owned(),
            endpoint,
            addresses: one.asked.addresses.clone(),
            node_port: one.asked.node_port,
            why: one.why,
            is_now: one.is_now,
            left_at: one.left.map(|left| left.wall.as_secs()),
            ago_seconds: one.left.map(|left| now.saturating_sub(left.run).as_secs()),
        };
        let all = self.each().map(|(port, endpoint, one)| left(port, endpoint, one));
        Told { left: all.collect(), forgotten: self.forgotten }
    }

    /// For metrics.
    pub fn numbers(&self) -> Numbers {
        let draining =
            |one: &Remembered| one.flows.as_ref().is_some_and(|flows| flows.state() == State::Draining);
        let mut numbers = Numbers { drained: self.drained, by_layer: self.by_layer(), ..Numbers::default() };
        for (port, endpoint, one) in self.each().filter(|(_, _, one)| draining(one)) {
            let Some(flows) = &one.flows else { continue };
            numbers.endpoints += 1;
            numbers.flows += flows.known();
            let by_layer = Layer::ALL.into_iter().filter_map(|layer| Some((layer, flows.of(layer).flows?)));
            let named = Named { port: port.clone(), endpoint, by_layer: by_layer.collect() };
            numbers.most.push(named);
        }
        let own = |one: &Named| -> u64 {
            one.by_layer.iter().filter(|(layer, _)| **layer != Layer::Direct).map(|(_, flows)| *flows).sum()
        };
        numbers.most.sort_by_key(|one| std::cmp::Reverse(own(one)));
        numbers.most.truncate(NAMED);
        numbers
    }

    /// Nobody has no flows. A layer that cannot tell of one endpoint cannot tell of all.
    fn by_layer(&self) -> BTreeMap<Layer, u64> {
        let sum = |layer: Layer| {
            let flows = self.each().filter_map(|(_, _, one)| one.flows.as_ref());
            flows.map(|flows| flows.of(layer).flows).sum::<Option<u64>>()
        };
        Layer::ALL.into_iter().filter_map(|layer| Some((layer, sum(layer)?))).collect()
    }

    fn each(&self) -> impl Iterator<Item = (&ServicePortName, SocketAddr, &Remembered)> {
        self.left.iter().flat_map(|(port, all)| all.iter().map(move |(endpoint, one)| (port, *endpoint, one)))
    }

    fn forget(&mut self, port: &ServicePortName, endpoint: SocketAddr) {
        let Some(all) = self.left.get_mut(port) else { return };
        if all.remove(&endpoint).is_some() {
            self.count -= 1;
        }
        if all.is_empty() {
            self.left.remove(port);
        }
    }

    /// Whoever has been quiet for longest goes first, then whoever left first. Several go at once: to find one is as much work.
    fn make_room(&mut self) {
        let rank = |one: &Remembered| (one.quiet.is_none(), one.quiet, one.noted);
        let mut all: Vec<_> =
            self.each().map(|(port, endpoint, one)| (rank(one), port.clone(), endpoint)).collect();
        all.sort_by_key(|(rank, _, _)| *rank);
        for ((is_lost, _, _), port, endpoint) in all.into_iter().take((self.room / 8).max(1)) {
            self.forgotten += u64::from(is_lost);
            self.drained += u64::from(!is_lost);
            self.forget(&port, endpoint);
        }
    }
}

fn any_terminates(cluster: &Cluster, service: &ServiceName) -> bool {
    cluster.slices(service).flat_map(|slice| &slice.endpoints).any(|one| one.conditions.terminating())
}

impl Remembered {
    fn take(&mut self, flows: &Flows, now: Duration) {
        self.quiet = if flows.is_quiet() { self.quiet.or(Some(now)) } else { None };
        let is_alive = flows.known() > 0 || flows.direct.flows.is_some_and(|direct| direct > 0);
        self.alive = if is_alive { now } else { self.alive };
        self.flows = Some(flows.clone());
    }
}

#[cfg(test)]
mod tests;
