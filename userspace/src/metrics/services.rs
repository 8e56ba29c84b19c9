//! What is counted for each service port, as counters that never go back while the daemon lives. Pure.
//!
//! What the kernel has counted may begin anew: a number goes to another Service, maps are made again. So what has come since the
//! last reading is added here. A service port that stands alone does so for as long as it exists, and what came before it did
//! stays with the others: no count ever moves.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::family::Family;
use crate::backend::counts::{Layer, Tally, Usage};
use crate::model::{ServiceName, ServicePortName};

/// What bears labels of its own: both families of a port together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    service: ServiceName,
    name: Arc<str>,
}

/// In the place of names, for all that have no labels of their own. No namespace, Service or port is called so.
const OTHERS: &str = "_others";

/// All counters, and what they were made of.
#[derive(Debug)]
pub struct Ledger {
    /// How many service ports may stand alone.
    most: usize,
    /// What the kernel had at the last reading.
    last: BTreeMap<(ServicePortName, Layer), Tally>,
    alone: BTreeMap<Port, BTreeMap<Layer, Tally>>,
    others: BTreeMap<Layer, Tally>,
    /// How many service ports are counted with the others.
    crowd: usize,
}

impl Ledger {
    /// Nothing counted yet; at most so many service ports stand alone.
    pub fn new(most: usize) -> Self {
        let (alone, others) = (BTreeMap::new(), BTreeMap::new());
        Self { most, last: BTreeMap::new(), alone, others, crowd: 0 }
    }

    /// Adds what has come since the last reading.
    pub fn take(&mut self, usage: &Usage) {
        let ports: BTreeSet<Port> = usage.ports.keys().map(Port::of).collect();
        self.alone.retain(|port, _| ports.contains(port));
        self.choose(usage);
        self.crowd = ports.len() - self.alone.len();
        let closed = |tally: &mut Tally| tally.open = Some(0);
        self.alone.values_mut().flat_map(BTreeMap::values_mut).for_each(closed);
        self.others.values_mut().for_each(closed);
        let mut last = BTreeMap::new();
        for (name, port) in &usage.ports {
            for (layer, now) in &port.layers {
                let key = (name.clone(), *layer);
                let come = since(self.last.get(&key), *now);
                let place = self.alone.get_mut(&Port::of(name)).unwrap_or(&mut self.others);
                let sum = place.entry(*layer).or_insert(Tally { open: Some(0), ..Tally::default() });
                *sum = sum.plus(come);
                last.insert(key, *now);
            }
        }
        self.last = last;
    }

    /// Gives free places to those that are asked for most.
    fn choose(&mut self, usage: &Usage) {
        let mut asked: BTreeMap<Port, u64> = BTreeMap::new();
        for (name, port) in &usage.ports {
            let (name, tallies) = (Port::of(name), port.layers.values());
            if !self.alone.contains_key(&name) {
                let many = tallies.map(|tally| tally.connections + tally.refused + tally.dropped);
                *asked.entry(name).or_default() += many.sum::<u64>();
            }
        }
        let mut asked: Vec<(Port, u64)> = asked.into_iter().collect();
        asked.sort_by(|(a, more), (b, less)| less.cmp(more).then_with(|| a.cmp(b)));
        let free = self.most.saturating_sub(self.alone.len());
        self.alone.extend(asked.into_iter().take(free).map(|(port, _)| (port, BTreeMap::new())));
    }

    /// As Prometheus reads it.
    pub(super) fn families(&self) -> Vec<Family> {
        let mut connections = Family::counter("sluice_service_connections_total", CONNECTIONS);
        let mut refused = Family::counter("sluice_service_refused_total", REFUSED);
        let mut dropped = Family::counter("sluice_service_dropped_total", DROPPED);
        let mut open = Family::gauge("sluice_service_connections_open", OPEN);
        let alone = self.alone.iter().flat_map(|(port, layers)| {
            let Port { service: ServiceName { namespace, name: service }, name } = port;
            layers.iter().map(move |(layer, tally)| ([&**namespace, &**service, &**name], *layer, *tally))
        });
        let others = self.others.iter().map(|(layer, tally)| ([OTHERS; 3], *layer, *tally));
        for ([namespace, service, port], layer, tally) in alone.chain(others) {
            let layer = layer.as_str();
            let labels = [("namespace", namespace), ("service", service), ("port", port), ("layer", layer)];
            connections = connections.with(labels, tally.connections as f64);
            refused = refused.with(labels, tally.refused as f64);
            dropped = dropped.with(labels, tally.dropped as f64);
            if let Some(many) = tally.open {
                open = open.with(labels, many as f64);
            }
        }
        let ports = Family::gauge("sluice_service_ports_counted", PORTS)
            .with([("labels", "own")], self.alone.len() as f64)
            .with([("labels", "shared")], self.crowd as f64);
        vec![connections, refused, dropped, open, ports]
    }
}

const CONNECTIONS: &str = "Connections, and flows of datagrams, that got an endpoint.";
const REFUSED: &str = "Those that were refused: there is no endpoint, or the source is not let in.";
const DROPPED: &str = "Those that found nobody here who may serve them, though others do elsewhere.";
const OPEN: &str = "How many are open. Absent where their end is not seen.";
const PORTS: &str = "Service ports that were asked for, by whether they have labels of their own.";

impl Port {
    fn of(name: &ServicePortName) -> Self {
        Self { service: name.service.clone(), name: Arc::clone(&name.port) }
    }
}

/// What has come since `last`; everything, where the kernel has begun anew.
fn since(last: Option<&Tally>, now: Tally) -> Tally {
    let last = last.copied().unwrap_or_default();
    let come = |now: u64, last: u64| now.checked_sub(last).unwrap_or(now);
    Tally {
        connections: come(now.connections, last.connections),
        refused: come(now.refused, last.refused),
        dropped: come(now.dropped, last.dropped),
        open: now.open,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::counts::PortUse;
    use crate::model::{Family as IpFamily, Protocol};

    fn name(service: &str, family: IpFamily) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", service),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family,
        }
    }

    /// What the kernel has: connections by Service, all open.
    fn usage(rows: &[(&str, u64)]) -> Usage {
        let port = |connections| {
            let tally = Tally { connections, open: Some(connections), ..Tally::default() };
            PortUse { layers: [(Layer::Socket, tally)].into(), endpoints: Vec::new() }
        };
        let ports = rows.iter().map(|(service, many)| (name(service, IpFamily::V4), port(*many)));
        Usage { ports: ports.collect(), sees_ends: true }
    }

    /// Connections by Service, those of all others behind them, and how many are open in all.
    fn counted(ledger: &Ledger) -> (Vec<(String, u64)>, u64, u64) {
        let sum = |layers: &BTreeMap<Layer, Tally>| layers.values().map(|tally| tally.connections).sum();
        let alone = ledger.alone.iter().map(|(port, layers)| (port.service.name.to_string(), sum(layers)));
        let all = ledger.alone.values().chain([&ledger.others]).flat_map(BTreeMap::values);
        (alone.collect(), sum(&ledger.others), all.filter_map(|tally| tally.open).sum())
    }

    #[track_caller]
    fn check(ledger: &mut Ledger, rows: &[(&str, u64)], alone: &[(&str, u64)], others: u64) {
        ledger.take(&usage(rows));
        let alone = alone.iter().map(|(name, many)| ((*name).to_owned(), *many)).collect();
        let open = rows.iter().map(|(_, many)| many).sum();
        assert_eq!(counted(ledger), (alone, others, open), "{rows:?}");
    }

    #[test]
    fn counts_go_on_where_the_kernel_begins_anew() {
        let mut ledger = Ledger::new(9);
        check(&mut ledger, &[("a", 5)], &[("a", 5)], 0);
        check(&mut ledger, &[("a", 7)], &[("a", 7)], 0);
        check(&mut ledger, &[("a", 2)], &[("a", 9)], 0);
    }

    #[test]
    fn those_that_are_asked_for_most_stand_alone_and_keep_their_places() {
        let mut ledger = Ledger::new(1);
        check(&mut ledger, &[("a", 1), ("b", 5)], &[("b", 5)], 1);
        check(&mut ledger, &[("a", 9), ("b", 6)], &[("b", 6)], 9);
        assert_eq!(ledger.crowd, 1);
    }

    #[test]
    fn a_place_that_is_free_again_goes_to_another_and_what_it_had_stays_with_the_others() {
        let mut ledger = Ledger::new(1);
        check(&mut ledger, &[("a", 4), ("b", 5)], &[("b", 5)], 4);
        check(&mut ledger, &[("a", 6)], &[("a", 2)], 4);
        assert_eq!(ledger.crowd, 0);
    }

    #[test]
    fn both_families_of_a_port_are_one() {
        let mut both = usage(&[("a", 3)]);
        let (_, port) = both.ports.pop_first().unwrap();
        both.ports = IpFamily::ALL.map(|family| (name("a", family), port.clone())).into();
        let mut ledger = Ledger::new(9);
        ledger.take(&both);
        assert_eq!(counted(&ledger), (vec![("a".to_owned(), 6)], 0, 6));
    }

    #[test]
    fn what_is_open_is_not_said_where_it_is_not_known() {
        let mut unknown = usage(&[("a", 3)]);
        let tallies = unknown.ports.values_mut().flat_map(|port| port.layers.values_mut());
        tallies.for_each(|tally| tally.open = None);
        let mut ledger = Ledger::new(9);
        ledger.take(&unknown);
        ledger.take(&unknown);
        assert_eq!(ledger.alone.values().next().unwrap()[&Layer::Socket].open, None);
    }

    proptest! {
        #[test]
        fn no_counter_ever_goes_back_and_nothing_is_counted_twice(
            most in 0_usize..4,
            readings in prop::collection::vec(
                prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c", "d"]), 0_u64..9, 0..4), 0..8,
            ),
        ) {
            let mut ledger = Ledger::new(most);
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            let mut total = 0;
            for reading in &readings {
                let (before, others, _) = counted(&ledger);
                let before: BTreeMap<_, _> = before.into_iter().collect();
                let gone: u64 = before
                    .iter()
                    .filter(|(name, _)| !reading.contains_key(name.as_str()))
                    .map(|(_, many)| many)
                    .sum();
                let rows: Vec<(&str, u64)> = reading.iter().map(|(name, many)| (*name, *many)).collect();
                ledger.take(&usage(&rows));
                let (after, others_now, _) = counted(&ledger);
                prop_assert!(others_now >= others && after.len() <= most);
                for (name, many) in &after {
                    prop_assert!(before.get(name).is_none_or(|before| many >= before), "{name}");
                }
                let come = rows.iter().map(|(name, many)| {
                    let before = last.get(name).copied().unwrap_or(0);
                    if *many >= before { many - before } else { *many }
                });
                total += come.sum::<u64>();
                total -= gone;
                last = rows.into_iter().collect();
                let sum: u64 = after.iter().map(|(_, many)| many).sum();
                prop_assert_eq!(sum + others_now, total);
            }
        }
    }
}
