//! Tests: a change is carried out one write at a time, and after every single write a reader looks, or the daemon
//! dies and another one goes on.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use dataplane_ebpf::abi::{Backend, Name, Service, ServiceKey, Slot, SlotKey, State};
use proptest::prelude::*;

use super::image::{Entries, Numbers, Plan, entries};
use super::read::{Dump, Installed, by_port};
use crate::desired::ServicePort;
use crate::model::{Family, Protocol, ServiceName, ServicePortName};
use crate::plan::{ORDER, Step};

/// The kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    services: BTreeMap<ServiceKey, Service>,
    states: BTreeMap<u32, State>,
    slots: BTreeMap<SlotKey, Slot>,
    backends: BTreeMap<u32, Backend>,
    names: BTreeMap<u32, Name>,
}

/// One write.
type Write = Box<dyn Fn(&mut Kernel)>;

/// The writes of a plan in the order in which the backend makes them.
fn writes(plan: &Plan) -> Vec<Write> {
    let mut all: Vec<Write> = Vec::new();
    for step in ORDER {
        match step {
            Step::PutNames => put(&mut all, &plan.put_names, |kernel| &mut kernel.names),
            Step::PutBackends => put(&mut all, &plan.put_backends, |kernel| &mut kernel.backends),
            Step::PutSlots => put(&mut all, &plan.put_slots, |kernel| &mut kernel.slots),
            Step::PutStates => put(&mut all, &plan.put_states, |kernel| &mut kernel.states),
            Step::PutServices => put(&mut all, &plan.put_services, |kernel| &mut kernel.services),
            Step::DropServices => {
                let keys: Vec<ServiceKey> = plan.drop_services.iter().map(|(key, _)| *key).collect();
                drop(&mut all, &keys, |kernel| &mut kernel.services);
            }
            Step::DropStates => drop(&mut all, &plan.drop_states, |kernel| &mut kernel.states),
            Step::DropSlots => drop(&mut all, &plan.drop_slots, |kernel| &mut kernel.slots),
            Step::DropBackends => drop(&mut all, &plan.drop_backends, |kernel| &mut kernel.backends),
            Step::DropNames => drop(&mut all, &plan.drop_names, |kernel| &mut kernel.names),
        }
    }
    all
}

fn put<K, V>(all: &mut Vec<Write>, entries: &[(K, V)], table: fn(&mut Kernel) -> &mut BTreeMap<K, V>)
where
    K: Ord + Copy + 'static,
    V: Copy + 'static,
{
    for (key, value) in entries.iter().copied() {
        all.push(Box::new(move |kernel| {
            table(kernel).insert(key, value);
        }));
    }
}

fn drop<K, V>(all: &mut Vec<Write>, keys: &[K], table: fn(&mut Kernel) -> &mut BTreeMap<K, V>)
where
    K: Ord + Copy + 'static,
    V: 'static,
{
    let removal = |key: &K| -> Write {
        let key = *key;
        Box::new(move |kernel| {
            table(kernel).remove(&key);
        })
    };
    all.extend(keys.iter().map(removal));
}

impl Kernel {
    fn dump(&self) -> Dump {
        Dump {
            services: self.services.clone().into_iter().collect(),
            states: self.states.clone().into_iter().collect(),
            slots: self.slots.clone().into_iter().collect(),
            backends: self.backends.clone().into_iter().collect(),
            names: self.names.clone().into_iter().collect(),
        }
    }

    /// What a client of each address can get. Panics if any list has a hole.
    fn offers(&self) -> BTreeMap<ServiceKey, Vec<SocketAddr>> {
        let list = |service: &Service| {
            let state = self.states.get(&service.id).expect("a service has a state");
            let place = |index| {
                let key = SlotKey { service: service.id, generation: state.generation, index };
                let slot = self.slots.get(&key).expect("a list has all its places");
                let backend =
                    self.backends.get(&slot.backend).expect("a place names an endpoint that exists");
                assert_eq!(backend.service, service.id, "the endpoint belongs to the service");
                SocketAddr::from(backend.endpoint)
            };
            (0..state.slots).map(place).collect()
        };
        self.services.iter().map(|(key, service)| (*key, list(service))).collect()
    }
}

/// A daemon: what it knows, and its numbers.
struct Daemon {
    have: BTreeMap<ServicePortName, Entries>,
    numbers: Numbers,
}

impl Daemon {
    /// Begins with what the kernel holds; strays are removed at once.
    fn adopt(kernel: &mut Kernel) -> Self {
        let Installed { ports, strays } = by_port(kernel.dump());
        writes(&strays).iter().for_each(|write| write(kernel));
        let numbers = Numbers::beside(ports.values(), 8);
        Self { have: ports, numbers }
    }

    fn plan(&mut self, want: &BTreeMap<ServicePortName, ServicePort>) -> Plan {
        let mut plan = Plan::default();
        let gone: Vec<_> = self.have.keys().filter(|name| !want.contains_key(*name)).cloned().collect();
        for name in gone {
            let have = self.have.remove(&name).unwrap_or_default();
            plan.add(&name, &have, &Entries::default());
        }
        for (name, port) in want {
            let have = self.have.get(name).cloned().unwrap_or_default();
            let image = entries(name, port, &have, &mut self.numbers);
            plan.add(name, &have, &image);
            self.have.insert(name.clone(), image);
        }
        plan
    }
}

type World = BTreeMap<ServicePortName, ServicePort>;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 8080))
}

fn port_name(number: u8) -> ServicePortName {
    ServicePortName {
        service: ServiceName::new("default", format!("s{number}")),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// Up to four services; each its own address, any endpoints.
fn world() -> impl Strategy<Value = World> {
    let port = (prop::collection::btree_set(0_u8..12, 0..8), prop::collection::btree_set(12_u8..16, 0..3));
    prop::collection::btree_map(0_u8..4, port, 0..5).prop_map(|services| {
        let service = |(number, (endpoints, draining)): (u8, (_, _))| {
            let addresses = |set: std::collections::BTreeSet<u8>| set.into_iter().map(address).collect();
            let frontends = vec![SocketAddr::from(([10, 96, 0, number], 80))];
            let port =
                ServicePort { frontends, endpoints: addresses(endpoints), draining: addresses(draining) };
            (port_name(number), port)
        };
        services.into_iter().map(service).collect()
    })
}

fn expected(world: &World) -> BTreeMap<ServiceKey, Vec<SocketAddr>> {
    let key = |address: &SocketAddr| ServiceKey::new(&(*address).into(), 6);
    world
        .values()
        .flat_map(|port| port.frontends.iter().map(move |at| (key(at), port.endpoints.clone())))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_reader_sees_the_old_list_or_the_new_one_and_never_a_part(before in world(), after in world()) {
        let mut kernel = Kernel::default();
        let mut daemon = Daemon::adopt(&mut kernel);
        writes(&daemon.plan(&before)).iter().for_each(|write| write(&mut kernel));
        let (old, new) = (expected(&before), expected(&after));
        prop_assert_eq!(&kernel.offers(), &old);
        for write in writes(&daemon.plan(&after)) {
            write(&mut kernel);
            for (key, list) in kernel.offers() {
                prop_assert!(old.get(&key) == Some(&list) || new.get(&key) == Some(&list));
            }
        }
        prop_assert_eq!(kernel.offers(), new);
    }

    #[test]
    fn a_daemon_that_dies_at_any_write_is_succeeded_without_damage(
        before in world(), middle in world(), after in world(), at in 0_usize..200,
    ) {
        let mut kernel = Kernel::default();
        let mut first = Daemon::adopt(&mut kernel);
        writes(&first.plan(&before)).iter().for_each(|write| write(&mut kernel));
        for write in writes(&first.plan(&middle)).iter().take(at) {
            write(&mut kernel);
        }
        let mut second = Daemon::adopt(&mut kernel);
        for write in writes(&second.plan(&after)) {
            write(&mut kernel);
            kernel.offers();
        }
        prop_assert_eq!(kernel.offers(), expected(&after));
        let Installed { ports, strays } = by_port(kernel.dump());
        prop_assert_eq!(strays, Plan::default());
        prop_assert_eq!(&ports, &second.have);
        // Nothing is left of anything: every endpoint in the table is wanted.
        let wanted: usize = after.values().map(|port| port.endpoints.len() + port.draining.len()).sum();
        prop_assert_eq!(kernel.backends.len(), wanted);
    }

    #[test]
    fn a_successor_that_wants_the_same_writes_nothing(world in world()) {
        let mut kernel = Kernel::default();
        let mut first = Daemon::adopt(&mut kernel);
        writes(&first.plan(&world)).iter().for_each(|write| write(&mut kernel));
        let mut second = Daemon::adopt(&mut kernel);
        prop_assert_eq!(second.plan(&world), Plan::default());
    }
}

#[test]
fn an_endpoint_that_stays_keeps_its_number_and_an_unchanged_list_its_generation() {
    let port = |endpoints: &[u8], draining: &[u8]| ServicePort {
        frontends: vec![SocketAddr::from(([10, 96, 0, 1], 80))],
        endpoints: endpoints.iter().copied().map(address).collect(),
        draining: draining.iter().copied().map(address).collect(),
    };
    let mut numbers = Numbers::beside(std::iter::empty(), 8);
    let name = port_name(1);
    let first = entries(&name, &port(&[1, 2], &[]), &Entries::default(), &mut numbers);
    let drained = entries(&name, &port(&[2], &[1]), &first, &mut numbers);
    assert_eq!(first.backends, drained.backends, "leaving the list changes nobody's number");
    assert_eq!((first.state.generation, drained.state.generation), (1, 2));
    let same = entries(&name, &port(&[2], &[]), &drained, &mut numbers);
    assert_eq!(same.state.generation, 2, "the list is the same although an endpoint has gone for good");
}
