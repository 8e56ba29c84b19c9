//! Addresses for callers from outside, named by callers on this node: which list counts, and where node ports answer.

use dataplane_ebpf::abi::{
    Backend, DROP, Extent, INSIDE, OUTSIDE, Service, ServiceKey, Slot, SlotKey, State,
};
use dataplane_ebpf::datapath::Verdict;
use dataplane_ebpf::datapath::socket::{connect, peer_name, receive, send};
use dataplane_ebpf::datapath::verdict::Reason;
use dataplane_ebpf::host::{HostSocket, HostTables};

use crate::world::{TCP, UDP, WEB, backend_address, endpoint, stick};

const EXTERNAL: &str = "192.0.2.10:80";
const NODE: &str = "10.0.0.1:30080";
const NODE6: &str = "[fd00::1]:30080";

/// Which endpoints each way leads to.
struct Lists<'a> {
    inside: &'a [u32],
    pod: &'a [u32],
    node: &'a [u32],
}

const EVERYWHERE: Lists<'_> = Lists { inside: &[5], pod: &[5], node: &[5] };

/// Service 1 at its ClusterIP, an external address and a node port of both families; the node has the addresses of
/// [`NODE`] and [`NODE6`].
fn world(lists: &Lists<'_>) -> HostTables {
    let mut tables = HostTables::default();
    let port = 30080_u16.to_be_bytes();
    for protocol in [TCP, UDP] {
        let outside = [
            ServiceKey::new(&endpoint(EXTERNAL), protocol),
            ServiceKey::node_port(port, protocol, 4),
            ServiceKey::node_port(port, protocol, 6),
        ];
        let outside = outside.map(|key| (key, Service { id: 1, side: OUTSIDE }));
        let inside = (ServiceKey::new(&endpoint(WEB), protocol), Service { id: 1, side: INSIDE });
        tables.services.extend(outside.into_iter().chain([inside]));
    }
    tables.node_addresses = [(NODE, 4), (NODE6, 6)].map(|(text, node)| (endpoint(text).address, node)).into();
    let Lists { inside, pod, node } = lists;
    let [inside, pod, node] = [(1, inside), (2, pod), (3, node)].map(|(generation, list)| {
        for (index, &backend) in (0..).zip(*list) {
            tables.slots.insert(SlotKey { service: 1, generation, index }, Slot { backend });
            let endpoint = backend_address(WEB, backend);
            if backend != DROP {
                tables.backends.insert(backend, Backend { endpoint, zero: [0; 2], service: 1 });
            }
        }
        Extent { generation, slots: u32::try_from(list.len()).expect("a short list") }
    });
    let Extent { generation, slots } = inside;
    tables.states.insert(1, State { generation, slots, timeout: 0, zero: 0, pod, node });
    tables
}

/// What a connection from a pod and one from the node come to; the number of an endpoint, or a word.
fn outcomes(tables: &HostTables, to: &str) -> [String; 2] {
    [false, true].map(|is_node| {
        let mut socket = HostSocket { is_node, ..HostSocket::new(TCP, endpoint(to)) };
        match connect(&mut socket, tables) {
            Verdict::Translated => socket.remote.as_v4().expect("an endpoint")[3].to_string(),
            Verdict::NotOurs => "not ours".to_owned(),
            Verdict::Left => "left".to_owned(),
            Verdict::Refused(Reason::NoEndpoint) => "refused".to_owned(),
            Verdict::Refused(Reason::Unsettled) => "unsettled".to_owned(),
        }
    })
}

#[track_caller]
fn check(lists: &Lists<'_>, to: &str, pod: &str, node: &str) {
    assert_eq!(outcomes(&world(lists), to), [pod, node], "{to}");
}

#[test]
fn every_address_of_a_service_leads_to_its_endpoints() {
    for to in [WEB, EXTERNAL, NODE, NODE6, "[::ffff:10.0.0.1]:30080"] {
        check(&EVERYWHERE, to, "5", "5");
    }
}

#[test]
fn pods_and_the_node_have_their_own_lists_at_addresses_for_outside() {
    let lists = Lists { inside: &[5], pod: &[6], node: &[7] };
    check(&lists, WEB, "5", "5");
    for to in [EXTERNAL, NODE, NODE6] {
        check(&lists, to, "6", "7");
    }
}

#[test]
fn each_way_is_refused_or_left_by_itself() {
    check(&Lists { inside: &[DROP], pod: &[5], node: &[] }, WEB, "left", "left");
    check(&Lists { inside: &[5], pod: &[DROP], node: &[6] }, EXTERNAL, "left", "6");
    check(&Lists { inside: &[5], pod: &[6], node: &[] }, NODE, "6", "refused");
}

#[test]
fn node_ports_answer_at_the_nodes_addresses_alone() {
    let elsewhere = ["10.0.0.2:30080", "127.0.0.1:30080", "0.0.0.0:30080", "[::]:30080", "[::1]:30080"];
    for to in elsewhere.into_iter().chain(["10.0.0.1:30081", "[::10.0.0.1]:30080"]) {
        check(&EVERYWHERE, to, "not ours", "not ours");
    }
}

#[test]
fn a_service_at_an_address_of_the_node_goes_before_a_node_port() {
    let mut tables = world(&EVERYWHERE);
    tables.services.insert(ServiceKey::new(&endpoint(NODE), TCP), Service { id: 2, side: OUTSIDE });
    let list = Extent { generation: 1, slots: 0 };
    tables.states.insert(2, State { pod: list, node: list, ..State::NONE });
    assert_eq!(outcomes(&tables, NODE), ["refused", "refused"]);
    assert_eq!(outcomes(&tables, NODE6), ["5", "5"]);
}

#[test]
fn a_socket_sees_the_node_port_that_it_named() {
    let tables = world(&EVERYWHERE);
    for to in [NODE, NODE6, EXTERNAL] {
        let mut socket = HostSocket::new(UDP, endpoint(to));
        assert_eq!(connect(&mut socket, &tables), Verdict::Translated);
        peer_name(&mut socket);
        assert_eq!(socket.remote, endpoint(to));
    }
}

#[test]
fn datagrams_to_a_node_port_stay_while_their_endpoint_serves_and_answers_come_from_there() {
    let mut tables = world(&Lists { inside: &[5], pod: &[5, 6], node: &[5] });
    let mut socket = HostSocket::new(UDP, endpoint(NODE));
    let mut flow = |tables: &HostTables| {
        socket.remote = endpoint(NODE);
        assert_eq!(send(&mut socket, tables), Verdict::Translated);
        let went = socket.remote;
        receive(&mut socket);
        assert_eq!(socket.remote, endpoint(NODE));
        went
    };
    assert_eq!(flow(&tables), backend_address(WEB, 5));
    tables.random.set(u32::MAX);
    assert_eq!(flow(&tables), backend_address(WEB, 5), "the same as long as it serves");
    tables.backends.remove(&5);
    assert_eq!(flow(&tables), backend_address(WEB, 6));
}

#[test]
fn all_addresses_of_a_service_port_share_what_a_client_got() {
    let list = &[5, 6, 7];
    let mut tables = world(&Lists { inside: list, pod: list, node: &[8] });
    stick(&mut tables, 1, 10);
    let all = [EXTERNAL, WEB, NODE, NODE6];
    tables.random.set(u32::MAX / 2);
    assert_eq!(connected_as(&tables, EXTERNAL, false), "6");
    tables.random.set(u32::MAX);
    for to in all {
        assert_eq!(connected_as(&tables, to, false), "6", "{to}");
    }
    assert_eq!(connected_as(&tables, NODE, true), "8", "whose list has not that one gets another");
}

/// The endpoint of a pod, or of the node under the same address.
fn connected_as(tables: &HostTables, to: &str, is_node: bool) -> String {
    let mut socket = HostSocket { is_node, ..HostSocket::new(TCP, endpoint(to)) };
    assert_eq!(connect(&mut socket, tables), Verdict::Translated);
    socket.remote.as_v4().expect("an endpoint")[3].to_string()
}
