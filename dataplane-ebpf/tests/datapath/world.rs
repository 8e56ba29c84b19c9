//! Tables in short form. A service is an address, an id and the backends in its list; a backend's id is the
//! last number of its address.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;

use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Counter, DROP, Endpoint, Extent, INSIDE, Member, MemberKey, OUTSIDE,
    Service, ServiceKey, Slot, SlotKey, State,
};
use dataplane_ebpf::datapath::{List as Valid, Way};
use dataplane_ebpf::host::HostTables;
use proptest::prelude::*;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// Service 1.
pub(crate) const WEB: &str = "10.96.0.10:80";
/// Service 2.
pub(crate) const DNS: &str = "[fd00::10]:53";
/// Nobody's.
pub(crate) const ELSEWHERE: &str = "192.0.2.1:80";

pub(crate) fn endpoint(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().expect("an address and a port").into()
}

/// Backend number `id` of the service with that address.
pub(crate) fn backend_address(service: &str, id: u32) -> Endpoint {
    let family = if service.starts_with('[') { format!("[fd00::1:{id:x}]") } else { format!("10.1.0.{id}") };
    endpoint(&format!("{family}:8080"))
}

/// A service port and where its list stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct List {
    pub(crate) id: u32,
    pub(crate) generation: u32,
    pub(crate) slots: u32,
}

/// A service that answers for both protocols, with a list of the given backends; they are added as well. A number for
/// the backend that is [`DROP`] adds none.
pub(crate) fn put(tables: &mut HostTables, address: &str, list: List, backends: &[u32]) {
    let List { id: service, generation, slots } = list;
    for protocol in [TCP, UDP] {
        tables
            .services
            .insert(ServiceKey::new(&endpoint(address), protocol), Service { id: service, side: INSIDE });
    }
    tables.states.insert(service, State { generation, slots, ..State::NONE });
    for (index, &backend) in (0..).zip(backends) {
        tables.slots.insert(SlotKey { service, generation, index }, Slot { backend });
        if backend != DROP {
            let endpoint = backend_address(address, backend);
            tables.backends.insert(backend, Backend { endpoint, zero: [0; 2], service });
        }
    }
}

/// Gives a service affinity for so many seconds, and its list members; zero: takes both away.
pub(crate) fn stick(tables: &mut HostTables, service: u32, timeout: u32) {
    let Some(state) = tables.states.get_mut(&service) else { return };
    state.timeout = timeout;
    let valid = [state.generation, state.pod.generation, state.node.generation];
    tables.members.retain(|key, _| key.service != service);
    let list =
        tables.slots.iter().filter(|(key, _)| key.service == service && valid.contains(&key.generation));
    let member = |(key, slot): (&SlotKey, &Slot)| {
        (
            MemberKey { service, generation: key.generation, backend: slot.backend },
            Member { index: key.index },
        )
    };
    let members = list.filter(|(_, slot)| timeout != 0 && slot.backend != DROP).map(member);
    tables.members.extend(members);
}

/// Service 1 with a complete list.
pub(crate) fn web(backends: &[u32]) -> HostTables {
    let mut tables = HostTables::default();
    let slots = u32::try_from(backends.len()).expect("a short list");
    put(&mut tables, WEB, List { id: 1, generation: 1, slots }, backends);
    tables
}

/// How often each event was counted.
pub(crate) fn counted(tables: &HostTables) -> Vec<(Counter, u64)> {
    tables.counted.borrow().iter().map(|(counter, times)| (*counter, *times)).collect()
}

/// Tables with any content: lists with holes, backends of other services, generations that do not exist.
pub(crate) fn any_tables() -> impl Strategy<Value = HostTables> {
    let address = prop::sample::select(vec![WEB, DNS, "10.96.0.11:80", "10.1.0.1:8080", "[::]:0"]);
    let service = (1_u32..4, prop::sample::select(vec![INSIDE, OUTSIDE]));
    let service = service.prop_map(|(id, side)| Service { id, side });
    let extent = || (0_u32..3, prop_oneof![0_u32..5, any::<u32>()]);
    let state =
        (extent(), extent(), extent(), 0_u32..3).prop_map(|((generation, slots), pod, node, timeout)| {
            let extent = |(generation, slots)| Extent { generation, slots };
            State { generation, slots, timeout, zero: 0, pod: extent(pod), node: extent(node) }
        });
    let key = (address, prop::sample::select(vec![TCP, UDP]), prop::sample::select(vec![0, 4, 6]));
    let key = key.prop_map(|(address, protocol, node)| {
        let Endpoint { address, port } = endpoint(address);
        match node {
            0 => ServiceKey { address, port, protocol, node },
            _ => ServiceKey::node_port(port, protocol, node),
        }
    });
    let own = prop::collection::btree_map(
        prop::sample::select(vec!["10.1.0.1:0", "10.96.0.11:0", "[fd00::5]:0"])
            .prop_map(|text| endpoint(text).address),
        prop::sample::select(vec![4_u32, 6]),
        0..4,
    );
    let place = (1_u32..4, 0_u32..3, 0_u32..5).prop_map(|(service, generation, index)| SlotKey {
        service,
        generation,
        index,
    });
    let slot = (0_u32..6).prop_map(|backend| Slot { backend });
    let backend =
        (1_u32..4, prop::sample::select(vec!["10.1.0.1:8080", "10.1.0.2:8080", "[fd00::5]:53", WEB]))
            .prop_map(|(service, address)| Backend { endpoint: endpoint(address), zero: [0; 2], service });
    let member = (1_u32..4, 0_u32..3, 1_u32..6);
    let member = member.prop_map(|(service, generation, backend)| MemberKey { service, generation, backend });
    let index = (0_u32..5).prop_map(|index| Member { index });
    let had = (1_u32..4).prop_map(|service| AffinityKey { client: 1, service, zero: 0 });
    let what = (0_u64..4, 0_u32..6);
    let what =
        what.prop_map(|(seconds, backend)| Affinity { used: seconds * 1_000_000_000, backend, zero: 0 });
    let members = prop::collection::btree_map(member, index, 0..40);
    let affinities = prop::collection::btree_map(had, what, 0..4);
    let services = prop::collection::btree_map(key, service, 0..8);
    let states = prop::collection::btree_map(1_u32..4, state, 0..4);
    let slots = prop::collection::btree_map(place, slot, 0..40);
    let backends = prop::collection::btree_map(1_u32..6, backend, 0..6);
    (services, own, states, slots, members, backends, affinities, any::<u32>()).prop_map(
        |(services, node_addresses, states, slots, members, backends, affinities, random)| HostTables {
            services,
            node_addresses,
            states,
            slots,
            members,
            backends,
            affinities: RefCell::new(affinities),
            now: Cell::new(3_000_000_000),
            random: Cell::new(random),
            ..HostTables::default()
        },
    )
}

/// Whether an address is an endpoint in the list that counts for who calls a service that way.
pub(crate) fn is_listed(tables: &HostTables, service: &Service, way: Way, to: &Endpoint) -> bool {
    let listed = listed(tables, service, way);
    let endpoints = listed.iter().filter_map(|slot| tables.backends.get(slot));
    endpoints.into_iter().any(|backend| backend.service == service.id && backend.endpoint == *to)
}

/// Whether that list has a place for those that are dropped.
pub(crate) fn drops(tables: &HostTables, service: &Service, way: Way) -> bool {
    listed(tables, service, way).contains(&DROP)
}

/// The backend in each place of that list.
fn listed(tables: &HostTables, service: &Service, way: Way) -> Vec<u32> {
    let Some(state) = tables.states.get(&service.id) else { return Vec::new() };
    let Valid { generation, slots, timeout: _ } = Valid::of(state, way);
    let places = tables
        .slots
        .iter()
        .filter(|(place, _)| place.service == service.id && place.generation == generation);
    places.filter(|(place, _)| place.index < slots).map(|(_, slot)| slot.backend).collect()
}

/// The service that answers at an address, if one does, as the tables say it.
pub(crate) fn answers(tables: &HostTables, protocol: u8, at: &Endpoint) -> Option<Service> {
    let direct = tables.services.get(&ServiceKey::new(at, protocol));
    let by_node_port = || {
        let node = u8::try_from(*tables.node_addresses.get(&at.address)?).expect("a family");
        tables.services.get(&ServiceKey::node_port(at.port, protocol, node))
    };
    direct.or_else(by_node_port).copied()
}

/// How a caller comes to a service.
pub(crate) fn way(service: &Service, is_node: bool) -> Way {
    match (service.side, is_node) {
        (INSIDE, _) => Way::Inside,
        (_, true) => Way::Node,
        (_, false) => Way::Pod,
    }
}
