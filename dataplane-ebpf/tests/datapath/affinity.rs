//! Session affinity: which clients stay, for how long, and when they are spread again.

use dataplane_ebpf::abi::{AffinityKey, DROP, Endpoint};
use dataplane_ebpf::datapath::Verdict;
use dataplane_ebpf::datapath::affinity::is_fresh;
use dataplane_ebpf::datapath::socket::{connect, send};
use dataplane_ebpf::host::{HostSocket, HostTables};
use proptest::prelude::*;

use crate::world::{DNS, List, TCP, UDP, WEB, backend_address, endpoint, put, stick, web};

/// Nanoseconds.
const SECOND: u64 = 1_000_000_000;
/// The last number that is drawn leads to the last endpoint.
const LAST: u32 = u32::MAX;

#[test]
fn a_client_gets_the_endpoint_it_had() {
    check(&[Had(5), Later(9), Got(5)]);
}

#[test]
fn without_affinity_each_flow_is_spread_and_nothing_is_written_down() {
    check(&[Timeout(0), Had(5), Got(7), Records(0)]);
}

#[test]
fn a_client_that_comes_too_late_is_spread_again() {
    check(&[Had(5), Later(10), Got(7)]);
}

#[test]
fn each_new_flow_begins_the_time_anew() {
    check(&[Had(5), Later(9), Got(5), Later(9), Got(5), Later(10), Got(7)]);
}

#[test]
fn datagrams_of_a_flow_do_not_begin_the_time_anew() {
    check(&[HadDatagram(5), Later(9), SameSocket(5), Later(1), Got(7)]);
}

#[test]
fn the_first_datagram_of_a_socket_is_a_new_flow() {
    check(&[HadDatagram(5), Later(9), GotDatagram(5), Later(9), Got(5)]);
}

#[test]
fn an_endpoint_that_left_the_list_is_not_used_and_the_new_one_is_kept() {
    check(&[Had(5), Listed(&[6, 7]), Got(7), Listed(&[6, 7, 8]), Got(7)]);
}

#[test]
fn an_endpoint_that_was_away_for_no_flow_is_used_again() {
    check(&[Had(5), Listed(&[6, 7]), Listed(&[5, 6, 7]), Got(5)]);
}

#[test]
fn a_client_stays_when_its_endpoint_moves_to_another_place() {
    check(&[Had(7), Listed(&[3, 4, 7, 8]), Got(7)]);
}

#[test]
fn an_endpoint_that_is_gone_for_good_is_not_used() {
    check(&[Had(5), Gone(5), Listed(&[6, 7]), Got(7)]);
}

#[test]
fn affinity_ends_and_begins_with_the_next_flow() {
    check(&[Had(5), Timeout(0), Got(7), Timeout(10), Got(5)]);
    check(&[Timeout(0), Had(5), Timeout(10), Got(7), Had(7)]);
}

#[test]
fn another_timeout_counts_from_the_next_flow_on() {
    check(&[Had(5), Timeout(100), Later(99), Got(5)]);
    check(&[Had(5), Later(5), Timeout(5), Got(7)]);
}

#[test]
fn another_client_makes_its_own_choice() {
    check(&[Had(5), Client(2), Got(7), Client(1), Got(5), Client(2), Had(7)]);
}

#[test]
fn when_new_flows_are_refused_or_dropped_the_client_is_not_forgotten() {
    check(&[Had(5), Listed(&[]), Refused, Listed(&[5, 6, 7]), Got(5)]);
    check(&[Had(5), Listed(&[DROP]), Left, Records(1), Listed(&[5, 6, 7]), Got(5)]);
}

#[test]
fn a_dropped_flow_is_not_written_down() {
    check(&[Listed(&[DROP]), Left, Records(0)]);
}

#[test]
fn two_services_keep_their_own_records() {
    let mut tables = world();
    put(&mut tables, DNS, List { id: 2, generation: 1, slots: 2 }, &[8, 9]);
    stick(&mut tables, 2, 10);
    let flow = |address: &str, random| {
        tables.random.set(random);
        let mut socket = HostSocket::new(TCP, endpoint(address));
        assert_eq!(connect(&mut socket, &tables), Verdict::Translated);
        socket.remote
    };
    assert_eq!((flow(WEB, 0), flow(DNS, LAST)), (backend_address(WEB, 5), backend_address(DNS, 9)));
    assert_eq!((flow(WEB, LAST), flow(DNS, 0)), (backend_address(WEB, 5), backend_address(DNS, 9)));
}

#[test]
fn a_record_of_an_endpoint_of_another_service_leads_nowhere() {
    let tables = world();
    let mut steps = World { tables, generation: 1, client: 1, socket: None };
    steps.take(&Had(5));
    let key = AffinityKey { client: 1, service: 1, zero: 0 };
    steps.tables.affinities.borrow_mut().get_mut(&key).expect("a record").backend = 99;
    steps.take(&Got(7));
}

#[test]
fn a_clock_that_is_a_little_behind_does_not_end_affinity() {
    assert!(is_fresh(5 * SECOND, 4 * SECOND, 1));
}

#[test]
fn the_longest_timeout_does_not_overflow() {
    assert!(is_fresh(0, u64::from(u32::MAX) * SECOND - 1, u32::MAX) && !is_fresh(0, u64::MAX, u32::MAX));
}

proptest! {
    #[test]
    fn a_record_is_fresh_for_exactly_its_timeout(used in 0_u64..1 << 60, timeout in 1_u32..=86_400) {
        let end = used + u64::from(timeout) * SECOND;
        prop_assert!(is_fresh(used, end - 1, timeout) && !is_fresh(used, end, timeout));
    }
}

/// What happens to service 1, which begins with the endpoints 5, 6 and 7 and affinity for ten seconds.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A new connection of which chance would make this, and it does.
    Had(u32),
    /// A new connection of which chance would make the last endpoint.
    Got(u32),
    /// The same two by a datagram of a new socket.
    HadDatagram(u32),
    GotDatagram(u32),
    /// One more datagram of the socket before.
    SameSocket(u32),
    /// A new connection is refused, or left alone.
    Refused,
    Left,
    /// Seconds go by.
    Later(u64),
    /// A new list; endpoints that are not in it still serve.
    Listed(&'static [u32]),
    /// An endpoint serves no more.
    Gone(u32),
    Timeout(u32),
    /// Who calls from now on.
    Client(u64),
    /// How many records there are.
    Records(usize),
}
use Step::{
    Client, Gone, Got, GotDatagram, Had, HadDatagram, Later, Left, Listed, Records, Refused, SameSocket,
    Timeout,
};

struct World {
    tables: HostTables,
    generation: u32,
    client: u64,
    socket: Option<HostSocket>,
}

fn world() -> HostTables {
    let mut tables = web(&[5, 6, 7]);
    stick(&mut tables, 1, 10);
    tables
}

fn check(steps: &[Step]) {
    let mut world = World { tables: world(), generation: 1, client: 1, socket: None };
    steps.iter().for_each(|step| world.take(step));
}

impl World {
    fn take(&mut self, step: &Step) {
        let tables = &mut self.tables;
        match *step {
            Had(id) => assert_eq!(self.flow(TCP, id - 5), Ok(to(id)), "{step:?}"),
            HadDatagram(id) => assert_eq!(self.flow(UDP, id - 5), Ok(to(id)), "{step:?}"),
            Got(id) => assert_eq!(self.flow(TCP, 2), Ok(to(id)), "{step:?}"),
            GotDatagram(id) => assert_eq!(self.flow(UDP, 2), Ok(to(id)), "{step:?}"),
            SameSocket(id) => assert_eq!(self.again(), Ok(to(id)), "{step:?}"),
            Refused => assert!(matches!(self.flow(TCP, 0), Err(Verdict::Refused(_)))),
            Left => assert_eq!(self.flow(TCP, 0), Err(Verdict::Left)),
            Later(seconds) => tables.now.set(tables.now.get() + seconds * SECOND),
            Listed(list) => self.list(list),
            Gone(id) => drop(tables.backends.remove(&id)),
            Timeout(seconds) => stick(tables, 1, seconds),
            Client(client) => self.client = client,
            Records(count) => assert_eq!(tables.affinities.borrow().len(), count),
        }
    }

    /// A new flow that chance would lead to a place: the first, the second, or the last.
    fn flow(&mut self, protocol: u8, place: u32) -> Result<Endpoint, Verdict> {
        self.tables.random.set(if place == 0 { 0 } else { LAST / 2 * place });
        let mut socket = HostSocket { client: self.client, ..HostSocket::new(protocol, endpoint(WEB)) };
        let verdict = match protocol {
            UDP => send(&mut socket, &self.tables),
            _ => connect(&mut socket, &self.tables),
        };
        let to = socket.remote;
        self.socket = Some(socket);
        if verdict == Verdict::Translated { Ok(to) } else { Err(verdict) }
    }

    fn again(&mut self) -> Result<Endpoint, Verdict> {
        let socket = self.socket.as_mut().expect("a socket that has sent");
        socket.remote = endpoint(WEB);
        let verdict = send(socket, &self.tables);
        if verdict == Verdict::Translated { Ok(socket.remote) } else { Err(verdict) }
    }

    fn list(&mut self, list: &[u32]) {
        let timeout = self.tables.states[&1].timeout;
        self.generation += 1;
        let slots = u32::try_from(list.len()).expect("a short list");
        put(&mut self.tables, WEB, List { id: 1, generation: self.generation, slots }, list);
        stick(&mut self.tables, 1, timeout);
    }
}

fn to(id: u32) -> Endpoint {
    backend_address(WEB, id)
}
