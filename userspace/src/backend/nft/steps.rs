//! Tests: changes and restarts in any order, against a table in memory that refuses what the kernel refuses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};

use proptest::prelude::*;

use super::chains::{Chain, fixed};
use super::image::{Image, Slot, Value, label};
use super::ledger::{ChainName, Change, Ledger};
use super::sets::Set;
use super::wire::Data;
use crate::desired::{Action, Endpoint, Frontend, List, Masquerade, Routes, ServicePort, Uses};
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// Services in these tests.
const SERVICES: u8 = 4;

/// What stands in the kernel, of one family.
#[derive(Clone, Debug, Default)]
struct Kernel {
    elements: BTreeMap<Slot, Value>,
    chains: BTreeMap<ChainName, BTreeSet<ChainName>>,
}

impl Kernel {
    /// Carries a change out as one transaction; panics where the kernel would refuse.
    fn commit(&mut self, change: &Change) {
        for (family, chain) in &change.new_chains {
            let next: BTreeSet<ChainName> =
                chain.leads_to().iter().map(|next| named(*family, next)).collect();
            assert!(next.iter().all(|next| self.chains.contains_key(next)), "{chain:?} leads nowhere");
            assert!(self.chains.insert(named(*family, chain), next).is_none(), "{chain:?} is there");
        }
        for (slot, value) in &change.drops {
            let found = self.elements.remove(slot);
            assert_eq!(found.as_ref(), Some(value), "{slot:?} is removed");
        }
        for (slot, value) in &change.puts {
            if let Data::Goto(chain) = &value.data {
                assert!(self.knows(slot.0, chain), "{chain} is not there");
            }
            assert!(self.elements.insert(slot.clone(), value.clone()).is_none(), "{slot:?} is there");
        }
    }

    fn knows(&self, family: Family, chain: &str) -> bool {
        let always =
            [fixed::REFUSE, fixed::DISCARD, fixed::FILTERED, fixed::BY_SOURCE, fixed::NODE_PORT_BY_SOURCE];
        always.contains(&chain) || self.chains.contains_key(&(family, chain.into()))
    }

    /// Removes chains; the kernel refuses while something leads there.
    fn sweep(&mut self, garbage: &mut BTreeSet<ChainName>) {
        for chain in garbage.iter().filter(|(_, name)| !name.starts_with("remember")) {
            self.chains.remove(chain).expect("a chain");
        }
        for chain in std::mem::take(garbage) {
            self.chains.remove(&chain);
            let led = self.chains.values().any(|next| next.contains(&chain));
            let meant = |value: &Value| matches!(&value.data, Data::Goto(to) if *to == chain.1);
            assert!(!led && !self.elements.values().any(meant), "{chain:?} is still led to");
        }
    }
}

fn named(family: Family, chain: &Chain) -> ChainName {
    (family, chain.name().into())
}

/// A daemon, as far as the tables know it.
#[derive(Default)]
struct Daemon {
    ledger: Ledger,
    have: BTreeMap<u8, ServicePort>,
}

impl Daemon {
    fn apply(&mut self, kernel: &mut Kernel, number: u8, port: Option<ServicePort>) -> usize {
        let service = name(number).service;
        let (before, after) = (image(number, self.have.get(&number)), image(number, port.as_ref()));
        let change = self.ledger.step(&[&service].into(), &before, &after);
        kernel.commit(&change);
        self.ledger.done(&change, &before, &after);
        if let Some(leftovers) = self.ledger.leftovers() {
            kernel.commit(&leftovers);
            self.ledger.forget_orphans();
        }
        kernel.sweep(&mut self.ledger.garbage);
        match port {
            Some(port) => self.have.insert(number, port),
            None => self.have.remove(&number),
        };
        change.puts.len() + change.drops.len() + change.new_chains.len()
    }

    /// Another process goes on, with what it finds; returns how much it wrote.
    fn restart(&mut self, kernel: &mut Kernel) -> usize {
        let have = std::mem::take(&mut self.have);
        self.ledger = Ledger::default();
        let chains = kernel.chains.keys().map(|(_, chain)| chain.to_string()).collect::<Vec<_>>();
        self.ledger.find(Family::V4, kernel.elements.clone(), chains.into_iter());
        let left: Vec<u8> = (0..SERVICES)
            .filter(|number| self.ledger.owners().any(|owner| *owner == name(*number).service))
            .collect();
        let known = left.into_iter().filter(|number| !have.contains_key(number)).map(|number| (number, None));
        let all: Vec<_> =
            have.clone().into_iter().map(|(number, port)| (number, Some(port))).chain(known).collect();
        let written = all.into_iter().map(|(number, port)| self.apply(kernel, number, port)).sum();
        self.ledger.retire_chains();
        kernel.sweep(&mut self.ledger.garbage);
        written
    }
}

fn name(number: u8) -> ServicePortName {
    ServicePortName {
        service: ServiceName::new("default", format!("s{number}")),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn image(number: u8, port: Option<&ServicePort>) -> Image {
    let mut image = Image::default();
    port.into_iter().for_each(|port| image.add(&name(number), port));
    image
}

/// What the kernel should hold for these.
fn whole(have: &BTreeMap<u8, ServicePort>) -> BTreeMap<Slot, Value> {
    let mut image = Image::default();
    have.iter().for_each(|(number, port)| image.add(&name(*number), port));
    let shared = image.shared.into_keys().map(|slot| (slot, Value::nothing()));
    image.own.into_iter().chain(shared).collect()
}

fn check(daemon: &Daemon, kernel: &Kernel) {
    assert_eq!(kernel.elements, whole(&daemon.have));
    let mut image = Image::default();
    daemon.have.iter().for_each(|(number, port)| image.add(&name(*number), port));
    let needed: BTreeSet<ChainName> =
        image.chains.keys().map(|(family, chain)| named(*family, chain)).collect();
    let there: BTreeSet<ChainName> = kernel.chains.keys().cloned().collect();
    let more: Vec<_> = there.difference(&needed).filter(|(_, name)| !super::chains::may_stay(name)).collect();
    assert!(needed.is_subset(&there) && more.is_empty(), "needed {needed:?}, there {there:?}");
}

fn action() -> impl Strategy<Value = Action> {
    let forward = |list| move |masquerade| Action::Forward(list, masquerade);
    let masquerade = || prop_oneof![Just(Masquerade::Hairpin), Just(Masquerade::Always)];
    prop_oneof![
        3 => masquerade().prop_map(forward(List::Cluster)),
        2 => masquerade().prop_map(forward(List::Local)),
        1 => Just(Action::Reject),
        1 => Just(Action::Drop),
    ]
}

fn routes() -> impl Strategy<Value = Routes> {
    let same = action().prop_map(|action| Routes { pod: action, node: action, outside: action });
    let each = (action(), action(), action()).prop_map(|(pod, node, outside)| Routes { pod, node, outside });
    prop_oneof![same, each]
}

fn frontends(number: u8) -> impl Strategy<Value = Box<[Frontend]>> {
    let at = move |third: u8| SocketAddr::from(([10, 96, third, number], 80));
    let all = vec![
        // One cluster address is shared, as by two ports of one Service.
        Frontend::ClusterIp(SocketAddr::from(([10, 96, 0, 1], 80 + u16::from(number)))),
        Frontend::ExternalIp(at(1)),
        Frontend::LoadBalancer(at(2)),
        Frontend::NodePort(NonZeroU16::MIN.saturating_add(30_000 + u16::from(number))),
    ];
    proptest::sample::subsequence(all, 1..=4).prop_map(Vec::into_boxed_slice)
}

fn endpoints() -> impl Strategy<Value = Box<[Endpoint]>> {
    let one = |last: u8| {
        any::<[bool; 2]>().prop_map(move |[cluster, here]| {
            let uses = Uses { cluster, local: here, here };
            Endpoint::new(SocketAddr::from(([10, 1, 0, last], 8080)), uses)
        })
    };
    (one(1), one(2), one(3)).prop_map(|(a, b, c)| {
        // Each list has somebody: a flow is forwarded to nobody's list never.
        let all = Uses { cluster: true, local: true, here: true };
        let fourth = Endpoint::new(SocketAddr::from(([10, 1, 0, 4], 8080)), all);
        Box::from([a, b, c, fourth])
    })
}

fn port(number: u8) -> impl Strategy<Value = ServicePort> {
    let sources = proptest::option::of(Just(Box::from(["192.0.2.0/24".parse().expect("a range")])));
    let affinity =
        proptest::option::of((1_u32..3).prop_map(|seconds| NonZeroU32::MIN.saturating_add(seconds)));
    (frontends(number), routes(), routes(), sources, affinity, endpoints()).prop_map(
        |(frontends, internal, external, sources, affinity, endpoints)| ServicePort {
            frontends,
            internal,
            external,
            sources,
            affinity,
            endpoints,
        },
    )
}

#[derive(Clone, Debug)]
enum Event {
    Apply(u8, Option<Box<ServicePort>>),
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let apply = (0..SERVICES).prop_flat_map(|number| {
        proptest::option::weighted(0.8, port(number).prop_map(Box::new))
            .prop_map(move |port| Event::Apply(number, port))
    });
    proptest::collection::vec(prop_oneof![5 => apply, 1 => Just(Event::Restart)], 1..12)
}

proptest! {
    #[test]
    fn whatever_happens_the_tables_hold_what_is_wanted_and_a_restart_writes_nothing(events in events()) {
        let (mut daemon, mut kernel) = (Daemon::default(), Kernel::default());
        for event in events {
            match event {
                Event::Apply(number, port) => drop(daemon.apply(&mut kernel, number, port.map(|port| *port))),
                Event::Restart => prop_assert_eq!(daemon.restart(&mut kernel), 0),
            }
            check(&daemon, &kernel);
        }
    }

    #[test]
    fn what_changed_while_nobody_worked_is_made_good(
        before in proptest::collection::btree_map(0..SERVICES, port(0), 0..4),
        after in proptest::collection::btree_map(0..SERVICES, port(0), 0..4),
    ) {
        let (mut daemon, mut kernel) = (Daemon::default(), Kernel::default());
        let own = |number: u8, port: ServicePort| ServicePort { frontends: moved(number, &port.frontends), ..port };
        for (number, port) in before {
            daemon.apply(&mut kernel, number, Some(own(number, port)));
        }
        daemon.have = after.into_iter().map(|(number, port)| (number, own(number, port))).collect();
        daemon.restart(&mut kernel);
        check(&daemon, &kernel);
    }
}

/// The same addresses for another service.
fn moved(number: u8, frontends: &[Frontend]) -> Box<[Frontend]> {
    let address = |at: SocketAddr| SocketAddr::new(at.ip(), at.port() + 100 * u16::from(number));
    let one = |frontend: &Frontend| match *frontend {
        Frontend::ClusterIp(at) => Frontend::ClusterIp(address(at)),
        Frontend::ExternalIp(at) => Frontend::ExternalIp(address(at)),
        Frontend::LoadBalancer(at) => Frontend::LoadBalancer(address(at)),
        Frontend::NodePort(port) => Frontend::NodePort(port.saturating_add(u16::from(number))),
    };
    frontends.iter().map(one).collect()
}

#[test]
fn a_change_of_one_endpoint_is_a_change_of_few_elements() {
    let (mut daemon, mut kernel) = (Daemon::default(), Kernel::default());
    let with = |last: u8| {
        let uses = Uses { cluster: true, local: false, here: false };
        let endpoints = [1, last].map(|last| Endpoint::new(SocketAddr::from(([10, 1, 0, last], 8080)), uses));
        let action = Action::Forward(List::Cluster, Masquerade::Hairpin);
        let routes = Routes { pod: action, node: action, outside: action };
        ServicePort {
            frontends: Box::from([Frontend::ClusterIp(SocketAddr::from(([10, 96, 0, 1], 80)))]),
            internal: routes,
            external: routes,
            sources: None,
            affinity: None,
            endpoints: endpoints.into(),
        }
    };
    daemon.apply(&mut kernel, 0, Some(with(2)));
    assert_eq!(daemon.apply(&mut kernel, 0, Some(with(3))), 2, "one away, one there");
    assert_eq!(daemon.apply(&mut kernel, 0, Some(with(3))), 0);
    let of = |set| kernel.elements.keys().filter(|slot| slot.1 == set).count();
    assert_eq!((of(Set::Services), of(Set::Endpoints), of(Set::ClusterIps)), (1, 2, 1));
}

#[test]
fn a_label_names_the_port_only_if_it_has_a_name() {
    assert_eq!(label(&name(1)), "default/s1:http");
    assert_eq!(label(&ServicePortName { port: "".into(), ..name(1) }), "default/s1");
}
