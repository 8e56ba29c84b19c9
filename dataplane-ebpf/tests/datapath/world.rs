//! Tables in short form. A service is an address, an id and the backends in its list; a backend's id is the
//! last number of its address.

use std::cell::Cell;
use std::net::SocketAddr;

use dataplane_ebpf::abi::{Backend, Counter, Endpoint, Service, ServiceKey, Slot, SlotKey, State};
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

/// A service that answers for both protocols, with a list of the given backends; they are added as well.
pub(crate) fn put(tables: &mut HostTables, address: &str, list: List, backends: &[u32]) {
    let List { id: service, generation, slots } = list;
    for protocol in [TCP, UDP] {
        tables.services.insert(ServiceKey::new(&endpoint(address), protocol), Service { id: service });
    }
    tables.states.insert(service, State { generation, slots });
    for (index, &backend) in (0..).zip(backends) {
        tables.slots.insert(SlotKey { service, generation, index }, Slot { backend });
        let endpoint = backend_address(address, backend);
        tables.backends.insert(backend, Backend { endpoint, zero: [0; 2], service });
    }
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
    let service = (1_u32..4).prop_map(|id| Service { id });
    let state = (0_u32..3, prop_oneof![0_u32..5, any::<u32>()])
        .prop_map(|(generation, slots)| State { generation, slots });
    let key = (address, prop::sample::select(vec![TCP, UDP]));
    let key = key.prop_map(|(address, protocol)| ServiceKey::new(&endpoint(address), protocol));
    let place = (1_u32..4, 0_u32..3, 0_u32..5).prop_map(|(service, generation, index)| SlotKey {
        service,
        generation,
        index,
    });
    let slot = (1_u32..6).prop_map(|backend| Slot { backend });
    let backend =
        (1_u32..4, prop::sample::select(vec!["10.1.0.1:8080", "10.1.0.2:8080", "[fd00::5]:53", WEB]))
            .prop_map(|(service, address)| Backend { endpoint: endpoint(address), zero: [0; 2], service });
    let services = prop::collection::btree_map(key, service, 0..8);
    let states = prop::collection::btree_map(1_u32..4, state, 0..4);
    let slots = prop::collection::btree_map(place, slot, 0..40);
    let backends = prop::collection::btree_map(1_u32..6, backend, 0..6);
    (services, states, slots, backends, any::<u32>()).prop_map(
        |(services, states, slots, backends, random)| HostTables {
            services,
            states,
            slots,
            backends,
            random: Cell::new(random),
            ..HostTables::default()
        },
    )
}

/// Whether an address is an endpoint in the valid list of the service at `key`.
pub(crate) fn is_listed(tables: &HostTables, key: &ServiceKey, to: &Endpoint) -> bool {
    let Some(&Service { id }) = tables.services.get(key) else { return false };
    let Some(&State { generation, slots }) = tables.states.get(&id) else { return false };
    let places =
        tables.slots.iter().filter(|(place, _)| place.service == id && place.generation == generation);
    let listed = places
        .filter(|(place, _)| place.index < slots)
        .filter_map(|(_, slot)| tables.backends.get(&slot.backend));
    listed.into_iter().any(|backend| backend.service == id && backend.endpoint == *to)
}
