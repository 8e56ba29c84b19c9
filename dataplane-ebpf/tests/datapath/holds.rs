//! How much service ports and endpoints are used: whatever sockets do, an endpoint is used by those that remember it, and by
//! nobody else.

use std::collections::BTreeMap;

use dataplane_ebpf::abi::{Counter, DATAGRAM_PEERS, DROP, Peer, Traffic, Uses};
use dataplane_ebpf::datapath::holds::release;
use dataplane_ebpf::datapath::socket::{connect, send};
use dataplane_ebpf::host::{HostSocket, HostTables};
use proptest::prelude::*;

use crate::world::{DNS, ELSEWHERE, List, TCP, UDP, WEB, any_tables, counted, endpoint, put, web};

#[test]
fn a_connection_counts_until_its_socket_is_closed() {
    let tables = web(&[5]);
    let mut sockets = [opened(&tables, TCP, WEB), opened(&tables, TCP, WEB)];
    check(&tables, 5, 2, 2);
    sockets.iter_mut().for_each(|socket| release(socket, &tables));
    check(&tables, 5, 2, 0);
    // A socket that is closed for good is closed once.
    sockets.iter_mut().for_each(|socket| release(socket, &tables));
    check(&tables, 5, 2, 0);
}

#[test]
fn who_connects_elsewhere_uses_the_endpoint_no_longer() {
    let mut tables = web(&[5]);
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 1 }, &[8]);
    put(&mut tables, "10.96.0.12:80", List { id: 3, generation: 1, slots: 1 }, &[DROP]);
    for (elsewhere, theirs) in [(ELSEWHERE, 0), (DNS, 1), ("10.96.0.12:80", 0)] {
        let mut socket = opened(&tables, UDP, WEB);
        call(connect, &mut socket, &tables, elsewhere);
        assert_eq!((open(&tables, 5), open(&tables, 8)), (0, theirs), "{elsewhere}");
        release(&mut socket, &tables);
        assert_eq!((open(&tables, 5), open(&tables, 8)), (0, 0), "{elsewhere}");
    }
}

#[test]
fn a_connection_that_is_made_again_counts_once_and_is_opened_twice() {
    let tables = web(&[5]);
    let mut socket = opened(&tables, UDP, WEB);
    call(connect, &mut socket, &tables, WEB);
    check(&tables, 5, 2, 1);
}

#[test]
fn datagrams_count_once_a_service_and_only_the_first_opens() {
    let tables = web(&[5]);
    let mut socket = HostSocket::new(UDP, endpoint(WEB));
    (0..3).for_each(|_| call(send, &mut socket, &tables, WEB));
    check(&tables, 5, 1, 1);
    release(&mut socket, &tables);
    check(&tables, 5, 1, 0);
}

#[test]
fn the_ninth_service_ends_the_use_of_the_first() {
    let mut tables = HostTables::default();
    let last = u32::try_from(DATAGRAM_PEERS).unwrap() + 1;
    let address = |id: u32| format!("10.96.1.{id}:53");
    (1..=last).for_each(|id| put(&mut tables, &address(id), List { id, generation: 1, slots: 1 }, &[id]));
    let mut socket = HostSocket::new(UDP, endpoint(WEB));
    (1..=last).for_each(|id| call(send, &mut socket, &tables, &address(id)));
    assert_eq!((open(&tables, 1), open(&tables, 2), open(&tables, last)), (0, 1, 1));
}

#[test]
fn what_is_refused_or_left_alone_is_counted_for_its_service() {
    let mut tables = web(&[]);
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 1 }, &[DROP]);
    for protocol in [TCP, UDP] {
        for to in [WEB, DNS, ELSEWHERE] {
            opened(&tables, protocol, to);
        }
    }
    let expected = [(1, Traffic { refused: 2, ..Traffic::NONE }), (2, Traffic { left: 2, ..Traffic::NONE })];
    assert_eq!(*tables.traffic.borrow(), BTreeMap::from(expected));
    assert_eq!(*tables.uses.borrow(), BTreeMap::new());
}

#[test]
fn what_was_never_counted_is_not_taken_away() {
    let tables = web(&[5]);
    let mut socket = opened(&tables, TCP, WEB);
    tables.uses.borrow_mut().clear();
    release(&mut socket, &tables);
    assert_eq!(*tables.uses.borrow(), BTreeMap::new());
    let uses = Uses { open: u64::MAX, ..Uses::none(tables.backends[&5]) };
    assert_eq!(uses.open(), 0, "a reader sees none");
}

#[derive(Clone, Debug)]
enum Step {
    Connect(usize, &'static str),
    Send(usize, &'static str),
    Close(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let address = || prop::sample::select(vec![WEB, DNS, "10.96.0.11:80", "10.1.0.1:8080", ELSEWHERE]);
    let step = prop_oneof![
        3 => (0..4_usize, address()).prop_map(|(socket, to)| Step::Connect(socket, to)),
        3 => (0..4_usize, address()).prop_map(|(socket, to)| Step::Send(socket, to)),
        1 => (0..4_usize).prop_map(Step::Close),
    ];
    prop::collection::vec(step, 0..40)
}

proptest! {
    #[test]
    fn an_endpoint_is_used_by_the_sockets_that_remember_it(
        worlds in prop::collection::vec((any_tables(), steps()), 1..4),
    ) {
        let fresh = || HostSocket::new(UDP, endpoint(WEB));
        let mut sockets = [0; 4].map(|_| fresh());
        let mut kept: BTreeMap<u32, Uses> = BTreeMap::new();
        for (tables, steps) in &worlds {
            tables.uses.replace(kept);
            for step in steps {
                match step {
                    Step::Connect(at, to) => call(connect, &mut sockets[*at], tables, to),
                    Step::Send(at, to) => call(send, &mut sockets[*at], tables, to),
                    Step::Close(at) => {
                        release(&mut sockets[*at], tables);
                        sockets[*at] = fresh();
                    }
                }
                let remembered = users(&sockets);
                let mut counted: BTreeMap<u32, u64> =
                    tables.uses.borrow().iter().map(|(id, uses)| (*id, uses.open)).collect();
                counted.retain(|_, open| *open != 0);
                prop_assert_eq!(counted, remembered, "after {:?}", step);
            }
            let events: BTreeMap<Counter, u64> = counted(tables).into_iter().collect();
            let flows = [Counter::Connected, Counter::DatagramFlow].map(|one| events.get(&one).unwrap_or(&0));
            let opened: u64 = tables.traffic.borrow().values().map(|traffic| traffic.opened).sum();
            prop_assert_eq!(opened, flows.into_iter().sum::<u64>());
            kept = tables.uses.take();
        }
    }
}

/// How many sockets remember each endpoint.
fn users(sockets: &[HostSocket]) -> BTreeMap<u32, u64> {
    let mut users = BTreeMap::new();
    for socket in sockets {
        let sent = socket.datagrams.iter().flat_map(|memory| memory.peers).filter(|peer| *peer != Peer::NONE);
        for peer in socket.connected.into_iter().chain(sent) {
            *users.entry(peer.backend_id).or_default() += 1;
        }
    }
    users
}

fn opened(tables: &HostTables, protocol: u8, to: &str) -> HostSocket {
    let mut socket = HostSocket::new(protocol, endpoint(to));
    call(connect, &mut socket, tables, to);
    socket
}

fn call<V>(
    step: impl Fn(&mut HostSocket, &HostTables) -> V,
    socket: &mut HostSocket,
    tables: &HostTables,
    to: &str,
) {
    socket.remote = endpoint(to);
    let _ = step(socket, tables);
}

fn open(tables: &HostTables, backend: u32) -> u64 {
    tables.uses.borrow().get(&backend).map_or(0, Uses::open)
}

fn check(tables: &HostTables, backend: u32, opened: u64, open: u64) {
    let expected = Uses { opened, open, backend: tables.backends[&backend] };
    assert_eq!(tables.uses.borrow().get(&backend), Some(&expected));
}
