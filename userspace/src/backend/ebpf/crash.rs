//! Tests: a change is carried out one write at a time, and after every single write a reader looks, or the daemon
//! dies and another one goes on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32};

use dataplane_ebpf::abi::{
    Backend, DROP, Member, MemberKey, Name, OUTSIDE, Service, ServiceKey, Slot, SlotKey, State,
};
use dataplane_ebpf::datapath::{List as Valid, Way};
use proptest::prelude::*;

use super::books::{Books, Ports};
use super::image::{Entries, Numbers, Plan, entries};
use super::read::{Dump, Installed, by_port};
use super::sample::{endpoint, everywhere, name, port};
use super::{Summary, Verdict, describe};
use crate::backend::Wanted;
use crate::desired::{Action, Frontend, List, Masquerade, Routes, ServicePort};
use crate::model::{Protocol, ServiceName, ServicePortName};
use crate::plan::{ORDER, Step};

/// The kernel's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Kernel {
    services: BTreeMap<ServiceKey, Service>,
    states: BTreeMap<u32, State>,
    slots: BTreeMap<SlotKey, Slot>,
    members: BTreeMap<MemberKey, Member>,
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
            Step::PutMembers => put(&mut all, &plan.put_members, |kernel| &mut kernel.members),
            Step::PutStates => put(&mut all, &plan.put_states, |kernel| &mut kernel.states),
            Step::PutServices => put(&mut all, &plan.put_services, |kernel| &mut kernel.services),
            Step::DropServices => {
                let keys: Vec<ServiceKey> = plan.drop_services.iter().map(|(key, _)| *key).collect();
                drop(&mut all, &keys, |kernel| &mut kernel.services);
            }
            Step::DropStates => drop(&mut all, &plan.drop_states, |kernel| &mut kernel.states),
            Step::DropMembers => drop(&mut all, &plan.drop_members, |kernel| &mut kernel.members),
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
            members: self.members.clone().into_iter().collect(),
            backends: self.backends.clone().into_iter().collect(),
            names: self.names.clone().into_iter().collect(),
        }
    }

    /// Entries in SERVICES, SLOTS, MEMBERS, BACKENDS and NAMES.
    fn counts(&self) -> [usize; 5] {
        let Self { services, states: _, slots, members, backends, names } = self;
        [services.len(), slots.len(), members.len(), backends.len(), names.len()]
    }

    /// What a client of each address can get that comes this way. Panics if any list has a hole, or if a client could not
    /// keep its endpoint.
    fn offers(&self) -> Offers {
        let offer = |service: &Service, way: Way| {
            let state = self.states.get(&service.id).expect("a service has a state");
            let valid = Valid::of(state, way);
            let list = (0..valid.slots).map(|index| self.place(service.id, &valid, index)).collect();
            Offer { list, timeout: valid.timeout }
        };
        let ways = |(key, service): (&ServiceKey, &Service)| {
            let ways: &[Way] = if service.side == OUTSIDE { &[Way::Pod, Way::Node] } else { &[Way::Inside] };
            ways.iter().map(|way| ((*key, *way == Way::Node), offer(service, *way))).collect::<Vec<_>>()
        };
        self.services.iter().flat_map(ways).collect()
    }

    /// The endpoint in a place of a list; `None` for a place of those that are dropped.
    fn place(&self, service: u32, valid: &Valid, index: u32) -> Option<SocketAddr> {
        let Valid { generation, slots: _, timeout } = *valid;
        let key = SlotKey { service, generation, index };
        let Slot { backend: id } = *self.slots.get(&key).expect("a list has all its places");
        if id == DROP {
            return None;
        }
        let backend = self.backends.get(&id).expect("a place names an endpoint that exists");
        assert_eq!(backend.service, service, "the endpoint belongs to the service");
        let member = self.members.get(&MemberKey { service, generation, backend: id });
        assert!(timeout == 0 || member == Some(&Member { index }), "a client finds its endpoint in the list");
        Some(SocketAddr::from(backend.endpoint))
    }
}

/// By address, and whether the node calls or a pod.
type Offers = BTreeMap<(ServiceKey, bool), Offer>;

/// What clients of one address get.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Offer {
    /// Endpoints, or a place for those that are dropped.
    list: Vec<Option<SocketAddr>>,
    timeout: u32,
}

/// A daemon, by its books.
struct Daemon(Books);

impl Daemon {
    /// Begins with what the kernel holds; strays are removed at once.
    fn adopt(kernel: &mut Kernel) -> Self {
        let Installed { ports, strays } = by_port(kernel.dump());
        writes(&strays).iter().for_each(|write| write(kernel));
        let mut books = Books::new(Ports::new(), 8);
        books.found(ports, 8);
        Self(books)
    }

    /// Plans what brings everything to what is wanted, and goes on as if that were done.
    fn plan(&mut self, want: &World) -> Plan {
        let known: Vec<_> = self.0.have().keys().map(|name| name.service.clone()).collect();
        let mut wanted: Wanted = known.into_iter().map(|name| (name, BTreeMap::new())).collect();
        for (name, port) in want {
            wanted.entry(name.service.clone()).or_default().insert(name.clone(), port.clone());
        }
        self.take(&wanted)
    }

    fn take(&mut self, wanted: &Wanted) -> Plan {
        let image = self.0.image(wanted);
        let plan = self.0.plan(&image);
        self.0.commit(image, &plan);
        plan
    }
}

type World = BTreeMap<ServicePortName, ServicePort>;

/// Up to four services; each its own address, any endpoints, dropped or not, with affinity or without.
fn world() -> impl Strategy<Value = World> {
    let affinity = prop::sample::select(vec![None, NonZeroU32::new(10), NonZeroU32::new(10_800)]);
    let lists = (prop::collection::vec(0_u8..12, 0..8), prop::collection::vec(12_u8..16, 0..3));
    let outside = (any::<bool>(), 0_usize..4, 0_usize..4);
    prop::collection::btree_map(0_u8..4, (lists, any::<bool>(), affinity, outside), 0..5).prop_map(
        |services| {
            let service = |(number, ((listed, kept), dropped, affinity, outside)): (
                u8,
                ((Vec<_>, Vec<_>), _, _, _),
            )| {
                let mut port = ServicePort { affinity, ..port(number, &once(listed), &once(kept)) };
                if dropped {
                    port.internal = everywhere(Action::Drop);
                }
                (name(number), with_outside(number, port, outside))
            };
            services.into_iter().map(service).collect()
        },
    )
}

/// The same with addresses for outside, perhaps, of which pods and the node get something else. Every other endpoint is
/// here.
fn with_outside(number: u8, mut port: ServicePort, outside: (bool, usize, usize)) -> ServicePort {
    let (is_there, pod, node) = outside;
    if !is_there {
        return port;
    }
    for endpoint in &mut port.endpoints {
        endpoint.uses.local =
            endpoint.uses.cluster && endpoint.address().ip().to_string().ends_with(['1', '3', '5']);
    }
    let forward = |list| {
        let has_one = port.endpoints.iter().any(|endpoint| endpoint.uses.is_in(list));
        if has_one { Action::Forward(list, Masquerade::Hairpin) } else { Action::Reject }
    };
    let actions = [forward(List::Cluster), forward(List::Local), Action::Drop, Action::Reject];
    port.external = Routes { pod: actions[pod], node: actions[node], outside: Action::Reject };
    let external = Frontend::ExternalIp(SocketAddr::from(([192, 0, 2, number], 80)));
    let node_port = Frontend::NodePort(NonZeroU16::new(30_000 + u16::from(number)).expect("a port"));
    port.frontends = port.frontends.iter().copied().chain([external, node_port]).collect();
    port.frontends.sort_unstable();
    port
}

fn once(numbers: Vec<u8>) -> Vec<u8> {
    numbers.into_iter().collect::<BTreeSet<_>>().into_iter().collect()
}

fn expected(world: &World) -> Offers {
    let offers = |port: &ServicePort| {
        let offer = |action: Action| {
            let list: Vec<_> = match action {
                Action::Forward(list, _) => port.list(list).map(Some).collect(),
                Action::Reject => Vec::new(),
                Action::Drop => vec![None],
            };
            Offer { list, timeout: port.affinity.map_or(0, NonZeroU32::get) }
        };
        let (internal, external) = (&port.internal, &port.external);
        let of = |frontend: &Frontend| match *frontend {
            Frontend::ClusterIp(address) => {
                vec![((ServiceKey::new(&address.into(), 6), false), offer(internal.pod))]
            }
            Frontend::NodePort(number) => {
                let key = ServiceKey::node_port(number.get().to_be_bytes(), 6, 4);
                vec![((key, false), offer(external.pod)), ((key, true), offer(external.node))]
            }
            Frontend::ExternalIp(address) | Frontend::LoadBalancer(address) => {
                let key = ServiceKey::new(&address.into(), 6);
                vec![((key, false), offer(external.pod)), ((key, true), offer(external.node))]
            }
        };
        port.frontends.iter().flat_map(of).collect::<Vec<_>>()
    };
    world.values().flat_map(offers).collect()
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
            for (key, offer) in kernel.offers() {
                prop_assert!(old.get(&key) == Some(&offer) || new.get(&key) == Some(&offer));
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
        prop_assert_eq!(&ports, second.0.have());
        // Nothing is left of anything: every endpoint in the table is wanted.
        let wanted: usize = after.values().map(|port| port.endpoints.len()).sum();
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

/// Who has which of four addresses, and under which name of its port a Service answers there.
type Claims = (Vec<Option<u8>>, [bool; 3]);

fn claims() -> impl Strategy<Value = Claims> {
    (prop::collection::vec(prop::option::of(0_u8..3), 4), any::<[bool; 3]>())
}

/// What three Services want then. One without an address wants nothing.
fn claimed((owners, renamed): &Claims) -> Wanted {
    let service = |number: u8| {
        let addresses = (0..).zip(owners).filter(|(_, owner)| **owner == Some(number));
        let frontends: Vec<_> = addresses
            .map(|(last, _): (u8, _)| Frontend::ClusterIp(SocketAddr::from(([10, 96, 1, last], 80))))
            .collect();
        let port_name = if renamed[usize::from(number)] { "web" } else { "http" };
        let name = ServicePortName { port: port_name.into(), ..name(number) };
        let port = ServicePort { frontends: frontends.into(), ..port(number, &[number], &[]) };
        let is_there = !port.frontends.is_empty();
        (name.service.clone(), is_there.then_some((name, port)).into_iter().collect())
    };
    (0..3).map(service).collect()
}

proptest! {
    /// The books are true after every share, whoever was written in it, and whether tables grew in between.
    #[test]
    fn addresses_and_names_go_round_in_any_shares_and_the_last_word_counts(
        steps in prop::collection::vec((claims(), any::<[bool; 3]>(), any::<bool>()), 1..6),
    ) {
        let mut kernel = Kernel::default();
        let mut daemon = Daemon::adopt(&mut kernel);
        let last = steps.len() - 1;
        for (index, (claims, first, grows)) in steps.iter().enumerate() {
            let is_first = |name: &ServiceName| first[usize::from(name.name.as_bytes()[1] - b'0')];
            let (one, other): (Wanted, Wanted) =
                claimed(claims).into_iter().partition(|(name, _)| is_first(name));
            // Only the last word is heard to its end.
            for share in [Some(one), (index == last).then_some(other)].into_iter().flatten() {
                writes(&daemon.take(&share)).iter().for_each(|write| write(&mut kernel));
                let Installed { ports, strays } = by_port(kernel.dump());
                prop_assert_eq!((&ports, strays), (daemon.0.have(), Plan::default()));
                prop_assert_eq!(daemon.0.counts(), kernel.counts());
                if *grows {
                    kernel = Kernel::default();
                    writes(&daemon.0.everything()).iter().for_each(|write| write(&mut kernel));
                    prop_assert_eq!(&by_port(kernel.dump()).ports, daemon.0.have());
                }
            }
        }
        let all = claimed(&steps[last].0).into_values().flatten().collect();
        prop_assert_eq!(kernel.offers(), expected(&all));
    }
}

#[test]
fn an_address_that_turns_back_before_its_old_holder_was_written_is_written_back() {
    let mut kernel = Kernel::default();
    let mut daemon = Daemon::adopt(&mut kernel);
    let mine = claimed(&(vec![Some(1)], [false; 3]));
    let theirs = claimed(&(vec![Some(2)], [false; 3]));
    let only = |wanted: &Wanted, number| {
        let service = name(number).service;
        Wanted::from([(service.clone(), wanted[&service].clone())])
    };
    for share in [mine.clone(), only(&theirs, 2)] {
        writes(&daemon.take(&share)).iter().for_each(|write| write(&mut kernel));
    }
    let mut bigger = Kernel::default();
    writes(&daemon.0.everything()).iter().for_each(|write| write(&mut bigger));
    for mut kernel in [kernel, bigger] {
        let mut daemon = Daemon::adopt(&mut kernel);
        for share in [only(&mine, 1), only(&mine, 2)] {
            writes(&daemon.take(&share)).iter().for_each(|write| write(&mut kernel));
        }
        assert_eq!(kernel.offers(), expected(&mine.clone().into_values().flatten().collect()));
    }
    for share in [only(&mine, 1), only(&mine, 2)] {
        let plan = daemon.take(&share);
        let one = usize::from(share.contains_key(&name(1).service));
        assert_eq!((plan.put_services.len(), plan.drop_services.len()), (one, 0));
    }
}

#[test]
fn whatever_belongs_to_no_name_is_removed() {
    let mut kernel = Kernel::default();
    let port = ServicePort { affinity: NonZeroU32::new(10), ..port(1, &[1, 2], &[3]) };
    let world = World::from([(name(1), port)]);
    writes(&Daemon::adopt(&mut kernel).plan(&world)).iter().for_each(|write| write(&mut kernel));
    assert_eq!((kernel.members.len(), kernel.backends.len()), (2, 3));
    kernel.names.clear();
    Daemon::adopt(&mut kernel);
    assert_eq!(kernel, Kernel::default());
}

#[test]
fn an_endpoint_that_stays_keeps_its_number_and_an_unchanged_list_its_generation() {
    let mut steps = Steps::default();
    let first = steps.take(&port(1, &[1, 2], &[]));
    let kept = steps.take(&port(1, &[2], &[1]));
    assert_eq!(first.backends, kept.backends, "leaving the list changes nobody's number");
    assert_eq!((first.state.generation, kept.state.generation), (1, 2));
    let same = steps.take(&port(1, &[2], &[]));
    assert_eq!(same.state.generation, 2, "the list is the same although an endpoint has gone for good");
}

#[test]
fn affinity_comes_and_goes_without_a_new_list() {
    let mut steps = Steps::default();
    let spread = port(1, &[1, 2], &[3]);
    let affine = ServicePort { affinity: NonZeroU32::new(10), ..spread.clone() };
    let timeouts = [&spread, &affine, &spread].map(|port| {
        let entries = steps.take(port);
        (entries.state.generation, entries.state.timeout, entries.members.len())
    });
    assert_eq!(timeouts, [(1, 0, 0), (1, 10, 2), (1, 0, 0)]);
}

#[test]
fn what_is_dropped_is_a_list_without_an_endpoint_and_keeps_those_there_are() {
    let mut steps = Steps::default();
    let first = steps.take(&port(1, &[1, 2], &[]));
    let dropped = steps.take(&ServicePort { internal: everywhere(Action::Drop), ..port(1, &[1, 2], &[]) });
    assert_eq!(first.backends, dropped.backends);
    assert_eq!(dropped.slots.iter().map(|(_, slot)| slot.backend).collect::<Vec<_>>(), [DROP]);
}

#[test]
fn addresses_and_verdicts_of_both_sides_are_read_back() {
    let dropped = ServicePort { internal: everywhere(Action::Drop), ..port(1, &[1, 2], &[3]) };
    let found = describe(&Steps::default().take(&with_outside(1, dropped, (true, 1, 2))));
    assert_eq!(found.addresses, ["*:30001", "10.96.0.1:80", "192.0.2.1:80"]);
    assert_eq!((found.verdict, found.active), (Verdict::Forward, vec![endpoint(1)]));
    assert_eq!(found.kept, [endpoint(2), endpoint(3)]);
}

#[test]
fn each_verdict_is_read_back() {
    check_summary(&port(1, &[1, 2], &[3]), Verdict::Forward, &[1, 2], &[3]);
    check_summary(&port(1, &[], &[3]), Verdict::Reject, &[], &[3]);
    let dropped = ServicePort { internal: everywhere(Action::Drop), ..port(1, &[1], &[3]) };
    check_summary(&dropped, Verdict::Drop, &[], &[1, 3]);
}

#[test]
fn what_this_layer_does_not_serve_has_no_entries() {
    let mut numbers = Numbers::beside(std::iter::empty(), 8);
    let port = port(1, &[1], &[]);
    let sctp = ServicePortName { protocol: Protocol::Sctp, ..name(1) };
    assert_eq!(entries(&sctp, &port, &Entries::default(), &mut numbers), Entries::default());
    let filtered = ServicePort {
        frontends: Box::new([Frontend::LoadBalancer(SocketAddr::from(([203, 0, 113, 1], 80)))]),
        sources: Some(Box::default()),
        ..port
    };
    assert_eq!(entries(&name(1), &filtered, &Entries::default(), &mut numbers), Entries::default());
}

#[test]
fn ways_that_lead_to_the_same_endpoints_share_a_list_and_others_have_their_own() {
    let mut steps = Steps::default();
    let same = steps.take(&with_outside(1, port(1, &[1, 2], &[]), (true, 0, 0)));
    let State { generation, pod, node, .. } = same.state;
    assert_eq!((generation, pod.generation, node.generation, same.slots.len()), (1, 1, 1, 2));
    let local = steps.take(&with_outside(1, port(1, &[1, 2], &[]), (true, 1, 0)));
    let State { generation, pod, node, .. } = local.state;
    assert_eq!((generation, pod.generation, node.generation, local.slots.len()), (1, 2, 1, 3));
    assert_eq!(local.backends.len(), 2, "an endpoint is there once");
    let inside = steps.take(&port(1, &[1, 2], &[]));
    assert_eq!((inside.state.generation, inside.slots.len()), (1, 2), "what stays is not written again");
}

/// One service port that changes.
struct Steps {
    have: Entries,
    numbers: Numbers,
}

impl Default for Steps {
    fn default() -> Self {
        Self { have: Entries::default(), numbers: Numbers::beside(std::iter::empty(), 8) }
    }
}

impl Steps {
    fn take(&mut self, port: &ServicePort) -> Entries {
        self.have = entries(&name(1), port, &self.have, &mut self.numbers);
        self.have.clone()
    }
}

fn check_summary(port: &ServicePort, verdict: Verdict, active: &[u8], kept: &[u8]) {
    let affinity = NonZeroU32::new(10);
    let port = ServicePort { affinity, ..port.clone() };
    let addresses = port.frontends.iter().filter_map(|frontend| frontend.address());
    let addresses = addresses.map(|address| address.to_string()).collect();
    let numbers = |list: &[u8]| list.iter().copied().map(endpoint).collect();
    let expected = Summary { addresses, verdict, active: numbers(active), kept: numbers(kept), affinity };
    assert_eq!(describe(&Steps::default().take(&port)), expected);
}
