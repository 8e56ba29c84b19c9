//! The sequences at the hooks: what a program sees that connects, sends, receives and asks for its peer.

use dataplane_ebpf::abi::{
    Counter, DATAGRAM_PEERS, DROP, Datagrams, Endpoint, Holds, Peer, Service, ServiceKey,
};
use dataplane_ebpf::datapath::socket::{connect, peer_name, receive, send};
use dataplane_ebpf::datapath::verdict::Reason;
use dataplane_ebpf::datapath::{Holder, Socket, Verdict};
use dataplane_ebpf::host::{HostSocket, HostTables};
use proptest::prelude::*;

use crate::world::{
    DNS, ELSEWHERE, List, TCP, UDP, WEB, answers, any_tables, backend_address, counted, drops, endpoint,
    is_listed, put, way, web,
};

const NO_ENDPOINT: Verdict = Verdict::Refused(Reason::NoEndpoint);

#[test]
fn a_connection_to_elsewhere_is_left_alone() {
    let tables = web(&[5]);
    let mut socket = socket(TCP, ELSEWHERE);
    check(connect(&mut socket, &tables), Verdict::NotOurs, &socket, &endpoint(ELSEWHERE));
    assert_eq!((socket.connected, counted(&tables)), (None, vec![]));
}

#[test]
fn a_connection_to_a_service_goes_to_its_endpoint_and_is_remembered() {
    let tables = web(&[5]);
    let mut socket = socket(TCP, WEB);
    check(connect(&mut socket, &tables), Verdict::Translated, &socket, &backend(5));
    let remembered = Peer { service: endpoint(WEB), backend: backend(5), backend_id: 5 };
    assert_eq!((socket.connected, counted(&tables)), (Some(remembered), vec![(Counter::Connected, 1)]));
}

#[test]
fn a_connection_over_ipv6_stays_ipv6() {
    let mut tables = HostTables::default();
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 1 }, &[8]);
    let mut socket = socket(TCP, DNS);
    check(connect(&mut socket, &tables), Verdict::Translated, &socket, &backend_address(DNS, 8));
}

#[test]
fn an_ipv6_socket_that_names_a_mapped_address_finds_the_ipv4_service() {
    let mut socket = socket(TCP, "[::ffff:10.96.0.10]:80");
    check(connect(&mut socket, &web(&[5])), Verdict::Translated, &socket, &backend(5));
}

#[test]
fn a_service_without_endpoints_refuses() {
    let tables = web(&[]);
    let mut socket = socket(TCP, WEB);
    check(connect(&mut socket, &tables), NO_ENDPOINT, &socket, &endpoint(WEB));
    assert_eq!((socket.connected, counted(&tables)), (None, vec![(Counter::NoEndpoint, 1)]));
}

#[test]
fn a_list_that_never_settles_refuses() {
    let mut tables = web(&[5]);
    tables.slots.clear();
    let mut socket = socket(TCP, WEB);
    check(connect(&mut socket, &tables), Verdict::Refused(Reason::Unsettled), &socket, &endpoint(WEB));
    assert_eq!(counted(&tables), [(Counter::Unsettled, 1)]);
}

#[test]
fn a_service_that_others_serve_elsewhere_is_left_alone() {
    let tables = web(&[DROP]);
    for step in [connect, send] {
        let mut socket = socket(UDP, WEB);
        check(step(&mut socket, &tables), Verdict::Left, &socket, &endpoint(WEB));
        assert_eq!((socket.connected, peers(&socket)), (None, vec![]));
    }
    assert_eq!(counted(&tables), [(Counter::NoLocalEndpoint, 2)]);
}

#[test]
fn a_connection_that_is_left_alone_forgets_the_service_before() {
    let mut socket = connected(UDP);
    socket.remote = endpoint(WEB);
    check(connect(&mut socket, &web(&[DROP])), Verdict::Left, &socket, &endpoint(WEB));
    assert_eq!(socket.connected, None);
}

#[test]
fn protocols_are_kept_apart() {
    let mut tables = web(&[5]);
    tables.services.remove(&ServiceKey::new(&endpoint(WEB), UDP));
    let mut socket = socket(UDP, WEB);
    check(connect(&mut socket, &tables), Verdict::NotOurs, &socket, &endpoint(WEB));
}

#[test]
fn a_connection_to_elsewhere_forgets_the_service() {
    let mut socket = connected(UDP);
    socket.remote = endpoint(ELSEWHERE);
    check(connect(&mut socket, &web(&[5])), Verdict::NotOurs, &socket, &endpoint(ELSEWHERE));
    assert_eq!(socket.connected, None);
}

#[test]
fn a_connection_that_an_earlier_program_has_translated_already_keeps_what_that_one_wrote() {
    let mut socket = connected(TCP);
    let written = socket.connected;
    check(connect(&mut socket, &web(&[5])), Verdict::NotOurs, &socket, &backend(5));
    assert_eq!(socket.connected, written);
    peer_name(&mut socket);
    assert_eq!(socket.remote, endpoint(WEB));
}

#[test]
fn a_refused_connection_leaves_the_one_before_in_force() {
    let mut socket = connected(UDP);
    let before = socket.connected;
    socket.remote = endpoint(WEB);
    check(connect(&mut socket, &web(&[])), NO_ENDPOINT, &socket, &endpoint(WEB));
    assert_eq!(socket.connected, before);
}

#[test]
fn without_memory_a_connection_works_and_its_peer_is_not_hidden() {
    let tables = web(&[5]);
    let mut socket = Forgetful(endpoint(WEB));
    assert_eq!(connect(&mut socket, &tables), Verdict::Translated);
    assert_eq!(
        (socket.0, counted(&tables)),
        (backend(5), vec![(Counter::Connected, 1), (Counter::Forgotten, 1)])
    );
    peer_name(&mut socket);
    assert_eq!(socket.0, backend(5));
}

#[test]
fn a_connected_socket_sees_the_service_as_its_peer() {
    let mut socket = connected(TCP);
    peer_name(&mut socket);
    assert_eq!(socket.remote, endpoint(WEB));
}

#[test]
fn a_connected_socket_receives_from_the_service() {
    let mut socket = connected(UDP);
    receive(&mut socket);
    assert_eq!(socket.remote, endpoint(WEB));
}

#[test]
fn nobody_else_is_shown_as_the_service() {
    for step in [peer_name, receive] {
        for other in ["10.1.0.5:8081", "10.1.0.6:8080", ELSEWHERE] {
            let mut socket = connected(UDP);
            socket.remote = endpoint(other);
            step(&mut socket);
            assert_eq!(socket.remote, endpoint(other));
        }
    }
}

#[test]
fn a_socket_that_was_never_translated_sees_what_is_there() {
    for step in [peer_name, receive] {
        let mut socket = socket(UDP, "10.1.0.5:8080");
        step(&mut socket);
        assert_eq!(socket.remote, endpoint("10.1.0.5:8080"));
    }
}

#[test]
fn a_datagram_to_elsewhere_is_left_alone() {
    let tables = web(&[5]);
    let mut socket = socket(UDP, ELSEWHERE);
    check(send(&mut socket, &tables), Verdict::NotOurs, &socket, &endpoint(ELSEWHERE));
    assert_eq!((socket.datagrams, counted(&tables)), (None, vec![]));
}

#[test]
fn datagrams_stay_with_the_endpoint_of_the_first() {
    let tables = web(&[5, 6]);
    let mut socket = HostSocket::new(UDP, endpoint(WEB));
    check_send(&mut socket, &tables, WEB, 5);
    tables.random.set(u32::MAX);
    check_send(&mut socket, &tables, WEB, 5);
    assert_eq!(counted(&tables), [(Counter::DatagramFlow, 1)]);
}

#[test]
fn another_socket_makes_its_own_choice() {
    let tables = web(&[5, 6]);
    check_send(&mut socket(UDP, WEB), &tables, WEB, 5);
    tables.random.set(u32::MAX);
    check_send(&mut socket(UDP, WEB), &tables, WEB, 6);
}

#[test]
fn datagrams_stay_with_an_endpoint_that_drains() {
    let mut tables = web(&[5]);
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 1 }, &[6]);
    check_send(&mut socket, &tables, WEB, 5);
}

#[test]
fn datagrams_move_when_their_endpoint_has_left() {
    let mut tables = web(&[5]);
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 1 }, &[6]);
    tables.backends.remove(&5);
    check_send(&mut socket, &tables, WEB, 6);
    assert_eq!(peers(&socket), [(endpoint(WEB), backend(6))]);
}

#[test]
fn datagrams_move_when_the_id_of_their_endpoint_is_given_to_another() {
    let mut tables = web(&[5]);
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &tables, WEB, 5);
    if let Some(backend) = tables.backends.get_mut(&5) {
        backend.endpoint = endpoint("10.1.0.77:8080");
    }
    assert_eq!(resend(&mut socket, &tables, WEB), Verdict::Translated);
    assert_eq!(socket.remote, endpoint("10.1.0.77:8080"));
}

#[test]
fn datagrams_move_when_the_address_is_given_to_another_service() {
    let mut tables = web(&[5]);
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 2, generation: 1, slots: 1 }, &[6]);
    check_send(&mut socket, &tables, WEB, 6);
}

#[test]
fn datagrams_are_refused_when_nobody_is_left() {
    let mut tables = web(&[5]);
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 0 }, &[]);
    tables.backends.clear();
    check(resend(&mut socket, &tables, WEB), NO_ENDPOINT, &socket, &endpoint(WEB));
}

#[test]
fn a_datagram_flow_stays_with_a_serving_endpoint_when_new_flows_are_refused() {
    let mut tables = web(&[5]);
    let mut old = socket(UDP, WEB);
    check_send(&mut old, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 0 }, &[]);
    check(resend(&mut old, &tables, WEB), Verdict::Translated, &old, &backend(5));
    let mut new = socket(UDP, WEB);
    check(send(&mut new, &tables), NO_ENDPOINT, &new, &endpoint(WEB));
}

#[test]
fn a_datagram_flow_stays_with_a_serving_endpoint_when_new_flows_are_dropped() {
    let mut tables = web(&[5]);
    let mut old = socket(UDP, WEB);
    check_send(&mut old, &tables, WEB, 5);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 1 }, &[DROP]);
    check_send(&mut old, &tables, WEB, 5);
    let mut new = socket(UDP, WEB);
    check(send(&mut new, &tables), Verdict::Left, &new, &endpoint(WEB));
    tables.backends.clear();
    check(resend(&mut old, &tables, WEB), Verdict::Left, &old, &endpoint(WEB));
}

#[test]
fn a_connected_socket_that_names_the_service_again_reaches_the_same_endpoint() {
    let tables = web(&[5, 6, 7]);
    let mut socket = socket(UDP, WEB);
    assert_eq!(connect(&mut socket, &tables), Verdict::Translated);
    tables.random.set(u32::MAX);
    check(resend(&mut socket, &tables, WEB), Verdict::Translated, &socket, &backend(5));
}

#[test]
fn a_socket_that_was_connected_once_keeps_its_endpoint_when_the_one_of_that_connection_goes() {
    let mut tables = web(&[5, 6, 7]);
    let mut socket = connected(UDP);
    put(&mut tables, WEB, List { id: 1, generation: 2, slots: 2 }, &[6, 7]);
    tables.backends.remove(&5);
    check_send(&mut socket, &tables, WEB, 6);
    tables.random.set(u32::MAX);
    check_send(&mut socket, &tables, WEB, 6);
    assert_eq!(counted(&tables), [(Counter::DatagramFlow, 1)]);
}

#[test]
fn datagrams_to_a_service_that_is_gone_are_left_alone() {
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &web(&[5]), WEB, 5);
    let tables = HostTables::default();
    check(resend(&mut socket, &tables, WEB), Verdict::NotOurs, &socket, &endpoint(WEB));
}

#[test]
fn without_memory_datagrams_go_out_and_the_sender_of_replies_is_not_hidden() {
    let tables = web(&[5]);
    let mut socket = Forgetful(endpoint(WEB));
    assert_eq!(send(&mut socket, &tables), Verdict::Translated);
    assert_eq!(
        (socket.0, counted(&tables)),
        (backend(5), vec![(Counter::DatagramFlow, 1), (Counter::Forgotten, 1)])
    );
}

#[test]
fn the_ninth_service_takes_the_place_of_the_oldest() {
    let (tables, addresses) = many_services();
    let mut socket = socket(UDP, WEB);
    for (id, address) in (1..).zip(&addresses) {
        check_send(&mut socket, &tables, address, id);
    }
    let remembered: Vec<Endpoint> = peers(&socket).into_iter().map(|(service, _)| service).collect();
    let mut expected: Vec<Endpoint> = addresses[1..].iter().map(|address| endpoint(address)).collect();
    expected.rotate_right(1);
    assert_eq!(remembered, expected);
}

#[test]
fn replies_come_from_the_service_that_was_sent_to() {
    let (tables, addresses) = many_services();
    let mut socket = socket(UDP, WEB);
    for (id, address) in (1..).zip(&addresses) {
        check_send(&mut socket, &tables, address, id);
    }
    for (id, address) in (1..).zip(&addresses) {
        socket.remote = backend(id);
        receive(&mut socket);
        let forgotten = id == 1;
        assert_eq!(socket.remote, if forgotten { backend(id) } else { endpoint(address) });
    }
}

#[test]
fn asking_for_the_peer_does_not_look_at_datagrams() {
    let mut socket = socket(UDP, WEB);
    check_send(&mut socket, &web(&[5]), WEB, 5);
    peer_name(&mut socket);
    assert_eq!(socket.remote, backend(5));
}

#[derive(Clone, Debug)]
enum Call {
    Connect(&'static str),
    Send(&'static str),
    Receive(&'static str),
    PeerName(&'static str),
}

proptest! {
    #[test]
    fn whatever_the_tables_hold_a_translation_ends_at_an_endpoint_of_the_service(
        worlds in prop::collection::vec((any_tables(), some_calls()), 1..4),
        protocol in prop::sample::select(vec![TCP, UDP, 132]), is_node in any::<bool>(),
    ) {
        let mut socket = HostSocket { is_node, ..HostSocket::new(protocol, endpoint(WEB)) };
        for (tables, calls) in &worlds {
            for call in calls {
                check_call(call, &mut socket, tables);
            }
        }
    }
}

/// Makes one call and holds the outcome against the tables.
fn check_call(call: &Call, socket: &mut HostSocket, tables: &HostTables) {
    let (Call::Connect(text) | Call::Send(text) | Call::Receive(text) | Call::PeerName(text)) = call;
    let named = endpoint(text);
    let service = answers(tables, socket.protocol, &named);
    let known: Vec<Endpoint> = known_services(socket, &named);
    socket.remote = named;
    let verdict = match call {
        Call::Connect(_) => connect(socket, tables),
        Call::Send(_) => send(socket, tables),
        Call::Receive(_) | Call::PeerName(_) => {
            if matches!(call, Call::Receive(_)) {
                receive(socket)
            } else {
                peer_name(socket)
            };
            assert!(socket.remote == named || known.contains(&socket.remote), "{call:?}");
            return;
        }
    };
    let Some(service) = service else {
        return assert_eq!((verdict, socket.remote), (Verdict::NotOurs, named), "{call:?}");
    };
    let way = way(&service, socket.is_node);
    match verdict {
        Verdict::NotOurs => panic!("{call:?} is for {service:?}"),
        Verdict::Refused(_) => assert_eq!(socket.remote, named, "{call:?}"),
        Verdict::Left => assert!(socket.remote == named && drops(tables, &service, way), "{call:?}"),
        Verdict::Translated => {
            let serves = matches!(call, Call::Send(_)) && is_backend(tables, &service, &socket.remote);
            assert!(serves || is_listed(tables, &service, way, &socket.remote), "{call:?} {socket:?}");
        }
    }
}

/// The services for which this socket was given that endpoint.
fn known_services(socket: &HostSocket, backend: &Endpoint) -> Vec<Endpoint> {
    let connected =
        socket.connected.into_iter().map(|Peer { service, backend, backend_id: _ }| (service, backend));
    let all = connected.chain(peers(socket));
    all.filter(|(_, theirs)| theirs == backend).map(|(service, _)| service).collect()
}

/// Whether an endpoint serves that service, listed or draining.
fn is_backend(tables: &HostTables, service: &Service, to: &Endpoint) -> bool {
    tables.backends.values().any(|backend| backend.service == service.id && backend.endpoint == *to)
}

fn some_calls() -> impl Strategy<Value = Vec<Call>> {
    let addresses = vec![
        WEB,
        DNS,
        "10.96.0.11:80",
        "10.1.0.1:8080",
        "10.1.0.2:8080",
        "[fd00::5]:53",
        ELSEWHERE,
        "[::]:0",
    ];
    let address = || prop::sample::select(addresses.clone());
    let call = prop_oneof![
        address().prop_map(Call::Connect),
        address().prop_map(Call::Send),
        address().prop_map(Call::Receive),
        address().prop_map(Call::PeerName),
    ];
    prop::collection::vec(call, 0..12)
}

/// One service more than a socket remembers; service n has backend n.
fn many_services() -> (HostTables, Vec<String>) {
    let mut tables = HostTables::default();
    let addresses: Vec<String> = (0..=DATAGRAM_PEERS).map(|number| format!("10.96.1.{number}:53")).collect();
    for (id, address) in (1..).zip(&addresses) {
        put(&mut tables, address, List { id, generation: 1, slots: 1 }, &[id]);
    }
    (tables, addresses)
}

fn socket(protocol: u8, remote: &str) -> HostSocket {
    HostSocket::new(protocol, endpoint(remote))
}

/// A socket that is connected to backend 5 of the service.
fn connected(protocol: u8) -> HostSocket {
    let mut socket = socket(protocol, WEB);
    check(connect(&mut socket, &web(&[5])), Verdict::Translated, &socket, &backend(5));
    socket
}

fn backend(id: u32) -> Endpoint {
    backend_address(WEB, id)
}

fn resend(socket: &mut HostSocket, tables: &HostTables, to: &str) -> Verdict {
    socket.remote = endpoint(to);
    send(socket, tables)
}

fn check_send(socket: &mut HostSocket, tables: &HostTables, to: &str, id: u32) {
    check(resend(socket, tables, to), Verdict::Translated, socket, &backend(id));
}

fn check(verdict: Verdict, expected: Verdict, socket: &HostSocket, remote: &Endpoint) {
    assert_eq!((verdict, socket.remote), (expected, *remote));
}

/// The translations that a socket remembers of its sends: service and endpoint.
fn peers(socket: &HostSocket) -> Vec<(Endpoint, Endpoint)> {
    let peers = socket.datagrams.iter().flat_map(|memory| memory.peers);
    peers.filter(|peer| *peer != Peer::NONE).map(|peer| (peer.service, peer.backend)).collect()
}

/// A socket for which there is no memory.
struct Forgetful(Endpoint);

impl Holder for Forgetful {
    fn holds(&mut self) -> Option<&mut Holds> {
        None
    }
}

impl Socket for Forgetful {
    fn protocol(&self) -> u8 {
        UDP
    }

    fn client(&self) -> u64 {
        1
    }

    fn is_node(&self) -> bool {
        false
    }

    fn remote(&self) -> Endpoint {
        self.0
    }

    fn set_remote(&mut self, to: &Endpoint) {
        self.0 = *to;
    }

    fn connected(&self) -> Option<Peer> {
        None
    }

    fn remember_connected(&mut self, _: &Peer) -> bool {
        false
    }

    fn forget_connected(&mut self) {}

    fn datagrams(&self) -> Option<&Datagrams> {
        None
    }

    fn datagrams_mut(&mut self) -> Option<&mut Datagrams> {
        None
    }

    fn holds_mut(&mut self) -> Option<&mut Holds> {
        None
    }
}
