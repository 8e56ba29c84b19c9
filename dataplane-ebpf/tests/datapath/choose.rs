//! Which endpoint a new flow gets.

use std::cell::Cell;

use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Counter, DROP, Endpoint, INSIDE, Member, MemberKey, Service, ServiceKey,
    Slot, SlotKey, State,
};
use dataplane_ebpf::datapath::choose::{Choice, choose, pick};
use dataplane_ebpf::datapath::verdict::Reason;
use dataplane_ebpf::datapath::{Deed, List as Valid, Tables, Way};
use dataplane_ebpf::host::{HostSocket, HostTables};
use proptest::prelude::*;

use crate::world::{
    DNS, ELSEWHERE, List, TCP, UDP, WEB, answers, any_tables, drops, endpoint, is_listed, put, way, web,
};

#[test]
fn an_empty_list_has_no_place() {
    assert_eq!((pick(0, 0), pick(u32::MAX, 0)), (None, None));
}

#[test]
fn a_list_of_one_has_one_place() {
    assert_eq!((pick(0, 1), pick(u32::MAX, 1)), (Some(0), Some(0)));
}

#[test]
fn an_address_without_service_is_not_ours() {
    check(&web(&[5]), ELSEWHERE, "not ours");
}

#[test]
fn another_port_of_the_address_is_not_ours() {
    check(&web(&[5]), "10.96.0.10:81", "not ours");
}

#[test]
fn a_service_without_endpoints_has_nobody() {
    check(&web(&[]), WEB, "no endpoint");
}

#[test]
fn a_service_that_others_serve_elsewhere_has_nobody_here() {
    check(&web(&[DROP]), WEB, "nobody here");
}

#[test]
fn every_endpoint_of_the_list_can_be_chosen() {
    let tables = web(&[5, 6, 7]);
    for (third, chosen) in [(0, "5"), (1, "6"), (2, "7")] {
        tables.random.set(third * (u32::MAX / 3) + 2);
        check(&tables, WEB, chosen);
    }
}

#[test]
fn ipv6_services_are_chosen_among_alike() {
    let mut tables = web(&[5]);
    put(&mut tables, DNS, List { id: 2, generation: 9, slots: 1 }, &[8]);
    check(&tables, DNS, "8");
}

#[test]
fn only_the_generation_that_is_named_counts() {
    let mut tables = web(&[5]);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 1 }, &[6]);
    check(&tables, WEB, "6");
}

#[test]
fn a_list_with_a_hole_is_unsettled() {
    let mut tables = web(&[5]);
    tables.slots.clear();
    check(&tables, WEB, "unsettled");
}

#[test]
fn a_backend_that_is_missing_is_never_chosen() {
    let mut tables = web(&[5]);
    tables.backends.clear();
    check(&tables, WEB, "unsettled");
}

#[test]
fn a_backend_of_another_service_is_never_chosen() {
    let mut tables = web(&[5]);
    if let Some(backend) = tables.backends.get_mut(&5) {
        backend.service = 2;
    }
    check(&tables, WEB, "unsettled");
}

#[test]
fn a_list_that_is_replaced_meanwhile_is_read_again() {
    for replaced_after in 0..4 {
        check_flip(replaced_after, web(&[6]), "6");
    }
}

#[test]
fn a_service_that_goes_meanwhile_is_not_ours() {
    check_flip(1, HostTables::default(), "not ours");
}

#[test]
fn a_service_that_loses_its_endpoints_meanwhile_has_nobody() {
    check_flip(1, web(&[]), "no endpoint");
}

#[test]
fn a_service_that_loses_its_endpoints_here_meanwhile_has_nobody_here() {
    check_flip(1, web(&[DROP]), "nobody here");
}

#[test]
fn a_list_that_never_settles_is_given_up() {
    check_flip(4, web(&[6]), "unsettled");
}

proptest! {
    #[test]
    fn every_place_gets_the_same_share(slots in 1_u32.., place in any::<u32>()) {
        let place = place % slots;
        let first = (u64::from(place) << 32).div_ceil(u64::from(slots));
        let next = ((u64::from(place) + 1) << 32).div_ceil(u64::from(slots));
        let at = |random: u64| u32::try_from(random).ok().and_then(|random| pick(random, slots));
        prop_assert_eq!((at(first), at(next - 1)), (Some(place), Some(place)));
        prop_assert!(next == 1 << 32 || at(next) == Some(place + 1));
        // Shares differ by one draw of 2^32 at most.
        let share = (1_u64 << 32) / u64::from(slots);
        prop_assert!(next - first == share || next - first == share + 1);
    }

    #[test]
    fn a_place_is_within_the_list(random in any::<u32>(), slots in 1_u32..) {
        prop_assert!(pick(random, slots).is_some_and(|place| place < slots));
    }

    #[test]
    fn whatever_the_tables_hold_only_a_listed_endpoint_is_chosen(
        tables in any_tables(), protocol in prop::sample::select(vec![TCP, UDP]), is_node in any::<bool>(),
    ) {
        let own = tables.node_addresses.keys().flat_map(|address| {
            [80_u16, 53, 8080].map(|port| Endpoint { address: *address, port: port.to_be_bytes() })
        });
        let named = tables.services.keys().map(|key| Endpoint { address: key.address, port: key.port });
        for to in named.chain(own) {
            let caller = HostSocket { protocol, is_node, ..caller() };
            let service = answers(&tables, protocol, &to);
            let choice = choose(&caller, &tables, &to);
            let Some(service) = service else {
                prop_assert_eq!(choice, Choice::NotOurs);
                continue;
            };
            let way = way(&service, is_node);
            let slots = tables.states.get(&service.id).map(|state| Valid::of(state, way).slots);
            match choice {
                Choice::Chosen(id, backend) => {
                    prop_assert_eq!(tables.backends.get(&id), Some(&backend));
                    prop_assert!(is_listed(&tables, &service, way, &backend.endpoint));
                }
                Choice::Nobody(_, Reason::NoEndpoint) => prop_assert_eq!(slots, Some(0)),
                Choice::Nobody(_, Reason::Unsettled) => prop_assert_ne!(slots, Some(0)),
                Choice::NobodyHere(_) => prop_assert!(drops(&tables, &service, way)),
                Choice::NotOurs => prop_assert!(false, "{to:?} is a service"),
            }
        }
    }
}

fn check(tables: &impl Tables, address: &str, choice: &str) {
    assert_eq!(render(choose(&caller(), tables, &endpoint(address))), choice);
}

fn caller() -> HostSocket {
    HostSocket::new(TCP, endpoint(WEB))
}

fn render(choice: Choice) -> String {
    match choice {
        Choice::NotOurs => "not ours".to_owned(),
        Choice::Nobody(_, Reason::NoEndpoint) => "no endpoint".to_owned(),
        Choice::NobodyHere(_) => "nobody here".to_owned(),
        Choice::Nobody(_, Reason::Unsettled) => "unsettled".to_owned(),
        Choice::Chosen(id, _) => id.to_string(),
    }
}

/// A reader in the middle of a change: at its first looks it is told something else than what the tables say.
struct Early {
    tables: HostTables,
    /// Looks at a service that are left, and what they give.
    service: (Cell<u32>, Service),
    /// The same for states.
    state: (Cell<u32>, State),
}

impl Early {
    fn new(tables: HostTables) -> Self {
        let service = Service { id: 0, side: INSIDE };
        Self { tables, service: (Cell::new(0), service), state: (Cell::new(0), State::NONE) }
    }

    fn service(self, looks: u32, id: u32) -> Self {
        Self { service: (Cell::new(looks), Service { id, side: INSIDE }), ..self }
    }

    fn state(self, looks: u32, state: State) -> Self {
        Self { state: (Cell::new(looks), state), ..self }
    }
}

/// What an early look gives, while there are any left.
fn early<T: Copy>((left, value): &(Cell<u32>, T)) -> Option<T> {
    let looks = left.get();
    left.set(looks.saturating_sub(1));
    (looks > 0).then_some(*value)
}

impl Tables for Early {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        early(&self.service).or_else(|| self.tables.service(key))
    }

    fn node_address(&self, address: &[u8; 16]) -> Option<u8> {
        self.tables.node_address(address)
    }

    fn list(&self, service: u32, way: Way) -> Option<Valid> {
        let early = early(&self.state).map(|state| Valid::of(&state, way));
        early.or_else(|| self.tables.list(service, way))
    }

    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        self.tables.slot(key)
    }

    fn member(&self, key: &MemberKey) -> Option<Member> {
        self.tables.member(key)
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.tables.backend(id)
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.tables.affinity(key)
    }

    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        self.tables.set_affinity(key, value);
    }

    fn now(&self) -> u64 {
        self.tables.now()
    }

    fn random(&self) -> u32 {
        self.tables.random()
    }

    fn count(&self, counter: Counter) {
        self.tables.count(counter);
    }

    fn tally(&self, service: u32, deed: Deed) {
        self.tables.tally(service, deed);
    }

    fn raise(&self, id: u32, backend: &Backend) -> bool {
        self.tables.raise(id, backend)
    }

    fn lower(&self, id: u32) {
        self.tables.lower(id);
    }
}

#[test]
fn an_element_that_was_used_again_while_it_was_read_leads_nowhere() {
    let mut tables = web(&[5]);
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 1 }, &[8]);
    check(&Early::new(tables).service(1, 2), WEB, "5");
}

#[test]
fn an_address_that_goes_to_another_service_meanwhile_is_not_refused_for_the_empty_list_of_the_one_before() {
    let mut tables = web(&[5]);
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 0 }, &[]);
    check(&Early::new(tables).service(1, 2), WEB, "5");
}

#[test]
fn a_list_that_is_empty_only_for_an_instant_refuses_nobody() {
    check(&Early::new(web(&[5])).state(1, State::NONE), WEB, "5");
    check(&Early::new(web(&[5])).state(9, State::NONE), WEB, "no endpoint");
}

/// The old state, of which the list is already gone, is read so many times, then the new tables.
fn check_flip(replaced_after: u32, new: HostTables, choice: &str) {
    let old = State { generation: 77, slots: 2, ..State::NONE };
    check(&Early::new(new).service(replaced_after, 1).state(replaced_after, old), WEB, choice);
}
