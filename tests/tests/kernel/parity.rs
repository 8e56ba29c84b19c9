//! The same tables and the same calls, through the programs and through the functions on the host: step by step the
//! same verdict, the same endpoint, and the same peer in the eyes of the caller.

use std::net::SocketAddr;

use dataplane_ebpf::abi::{Backend, DATAGRAM_PEERS, Endpoint, Service, ServiceKey, Slot, SlotKey, State};
use dataplane_ebpf::datapath::{Verdict, socket};
use dataplane_ebpf::host::{HostSocket, HostTables};

use crate::rig::Rig;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A socket in both worlds, under the same tables.
struct Twin<'a> {
    rig: &'a mut Rig,
    tables: &'a HostTables,
    host: HostSocket,
    is_v6: bool,
}

impl<'a> Twin<'a> {
    fn open(rig: &'a mut Rig, tables: &'a HostTables, protocol: u8, is_v6: bool) -> Self {
        rig.fill(tables);
        let kind =
            format!("open {}{}", if protocol == TCP { "tcp" } else { "udp" }, if is_v6 { 6 } else { 4 });
        assert_eq!(rig.ask(&kind), "ok");
        let host = HostSocket::new(protocol, Endpoint::from(SocketAddr::from(([0, 0, 0, 0], 0))));
        Self { rig, tables, host, is_v6 }
    }

    /// As this socket's family writes it.
    fn written(&self, address: SocketAddr) -> SocketAddr {
        match (address, self.is_v6) {
            (SocketAddr::V4(v4), true) => SocketAddr::from((v4.ip().to_ipv6_mapped(), v4.port())),
            (SocketAddr::V4(_) | SocketAddr::V6(_), _) => address,
        }
    }

    fn connect(&mut self, to: SocketAddr) {
        let (word, went) = self.rig.watch(&format!("connect {}", self.written(to)));
        let (word, went) = if word == "ok" && self.host.protocol == UDP {
            self.sent_while_connected()
        } else {
            (word, went)
        };
        self.host.remote = to.into();
        self.draw(to, went);
        let verdict = socket::connect(&mut self.host, self.tables);
        self.compare(to, verdict, &word, went);
    }

    /// A datagram is how a connected socket shows where it is connected to.
    fn sent_while_connected(&mut self) -> (String, Option<SocketAddr>) {
        self.rig.watch("write")
    }

    fn send(&mut self, to: SocketAddr) -> Option<SocketAddr> {
        let (word, went) = self.rig.watch(&format!("send {}", self.written(to)));
        self.host.remote = to.into();
        self.draw(to, went);
        let verdict = socket::send(&mut self.host, self.tables);
        self.compare(to, verdict, &word, went);
        went
    }

    /// Gives the host the chance that leads to the place which the kernel chose.
    fn draw(&self, to: SocketAddr, went: Option<SocketAddr>) {
        let key = ServiceKey::new(&to.into(), self.host.protocol);
        let (Some(went), Some(service)) = (went, self.tables.services.get(&key)) else { return };
        let Some(state) = self.tables.states.get(&service.id) else { return };
        let found = (0..state.slots).find(|index| self.endpoint(service, state, *index) == Some(went.into()));
        if let Some(index) = found {
            let random = (u64::from(index) << 32).div_ceil(u64::from(state.slots));
            self.tables.random.set(u32::try_from(random).expect("an index below the length"));
        }
    }

    fn endpoint(&self, service: &Service, state: &State, index: u32) -> Option<Endpoint> {
        let slot = SlotKey { service: service.id, generation: state.generation, index };
        let Slot { backend } = self.tables.slots.get(&slot)?;
        self.tables.backends.get(backend).map(|backend| backend.endpoint)
    }

    fn compare(&self, to: SocketAddr, verdict: Verdict, word: &str, went: Option<SocketAddr>) {
        let host = (!matches!(verdict, Verdict::Refused(_))).then(|| SocketAddr::from(self.host.remote));
        assert_eq!(went, host, "to {to}: {verdict:?} on the host, {word} in the kernel");
        if matches!(verdict, Verdict::Refused(_)) {
            assert_eq!(word, "ECONNREFUSED", "to {to}");
        }
        if verdict == Verdict::NotOurs {
            assert_eq!(went, Some(to));
        }
    }

    fn peername(&mut self, backend: SocketAddr) {
        self.host.remote = backend.into();
        socket::peer_name(&mut self.host);
        let expected = self.written(self.host.remote.into());
        assert_eq!(self.rig.ask("peername"), expected.to_string());
    }

    fn receive(&mut self, from: SocketAddr) {
        self.host.remote = from.into();
        socket::receive(&mut self.host);
        let expected = self.written(self.host.remote.into());
        assert_eq!(self.rig.ask(&format!("inject {from}")), expected.to_string(), "from {from}");
    }
}

/// Tables under construction.
#[derive(Default)]
struct Builder {
    tables: HostTables,
    next_backend: u32,
}

impl Builder {
    fn service(&mut self, id: u32, address: SocketAddr, protocol: u8, endpoints: &[SocketAddr]) {
        let slots = u32::try_from(endpoints.len()).expect("a short list");
        self.tables.services.insert(ServiceKey::new(&address.into(), protocol), Service { id });
        self.tables.states.insert(id, State { generation: 1, slots });
        for (index, endpoint) in (0..).zip(endpoints) {
            self.next_backend += 1;
            let backend = Backend { endpoint: (*endpoint).into(), zero: [0; 2], service: id };
            self.tables.backends.insert(self.next_backend, backend);
            let slot = SlotKey { service: id, generation: 1, index };
            self.tables.slots.insert(slot, Slot { backend: self.next_backend });
        }
    }
}

fn vip(number: u8, is_v6: bool) -> SocketAddr {
    let text = if is_v6 { format!("[fd00:96::{number:x}]:80") } else { format!("10.96.0.{number}:80") };
    text.parse().expect("an address")
}

fn pod(number: u8, port: u16, is_v6: bool) -> SocketAddr {
    let text = if is_v6 { format!("[fd00:1::{number:x}]:{port}") } else { format!("10.1.0.{number}:{port}") };
    text.parse().expect("an address")
}

/// Every kind of socket that can name an address of this family.
fn kinds(is_v6: bool) -> Vec<(u8, bool)> {
    let all = [(TCP, false), (UDP, false), (TCP, true), (UDP, true)];
    all.into_iter().filter(|(_, socket_v6)| *socket_v6 || !is_v6).collect()
}

fn one_of_each(is_v6: bool) -> HostTables {
    let mut builder = Builder::default();
    for (offset, protocol) in [(0, TCP), (10, UDP)] {
        builder.service(1 + offset, vip(1, is_v6), protocol, &[pod(1, 8080, is_v6)]);
        builder.service(2 + offset, vip(2, is_v6), protocol, &[]);
        let many: Vec<_> = (1..=5).map(|number| pod(number, 9000 + u16::from(number), is_v6)).collect();
        builder.service(3 + offset, vip(3, is_v6), protocol, &many);
    }
    builder.tables
}

fn check_connect(is_v6: bool) {
    let (mut rig, tables) = (Rig::new(), one_of_each(is_v6));
    for (protocol, socket_v6) in kinds(is_v6) {
        for to in [vip(1, is_v6), vip(2, is_v6), vip(3, is_v6), vip(4, is_v6), pod(1, 8080, is_v6)] {
            Twin::open(&mut rig, &tables, protocol, socket_v6).connect(to);
        }
    }
}

#[test]
fn connect_gives_the_same_verdict_for_ipv4_also_by_mapped_addresses() {
    check_connect(false);
}

#[test]
fn connect_gives_the_same_verdict_for_ipv6() {
    check_connect(true);
}

#[test]
fn the_same_address_and_another_protocol_or_port_is_not_ours() {
    let mut builder = Builder::default();
    builder.service(1, vip(1, false), TCP, &[pod(1, 8080, false)]);
    let mut rig = Rig::new();
    Twin::open(&mut rig, &builder.tables, UDP, false).connect(vip(1, false));
    let mut other = vip(1, false);
    other.set_port(81);
    Twin::open(&mut rig, &builder.tables, TCP, false).connect(other);
}

fn check_peer(is_v6: bool) {
    let (mut rig, tables) = (Rig::new(), one_of_each(is_v6));
    for (_, socket_v6) in kinds(is_v6).into_iter().filter(|(protocol, _)| *protocol == UDP) {
        let mut twin = Twin::open(&mut rig, &tables, UDP, socket_v6);
        twin.connect(vip(1, is_v6));
        twin.peername(pod(1, 8080, is_v6));
        twin.receive(pod(1, 8080, is_v6));
        twin.connect(pod(7, 7070, is_v6));
        twin.peername(pod(7, 7070, is_v6));
        twin.receive(pod(7, 7070, is_v6));
    }
}

#[test]
fn a_connected_socket_sees_the_service_and_forgets_it_when_connected_elsewhere() {
    check_peer(false);
    check_peer(true);
}

fn check_datagrams(is_v6: bool) {
    let (mut rig, tables) = (Rig::new(), one_of_each(is_v6));
    for (_, socket_v6) in kinds(is_v6).into_iter().filter(|(protocol, _)| *protocol == UDP) {
        let mut twin = Twin::open(&mut rig, &tables, UDP, socket_v6);
        for to in
            [vip(1, is_v6), vip(2, is_v6), vip(3, is_v6), vip(3, is_v6), vip(4, is_v6), pod(9, 9, is_v6)]
        {
            let went = twin.send(to);
            if let Some(backend) = went.filter(|went| *went != to) {
                twin.receive(backend);
            }
        }
        twin.receive(pod(8, 8888, is_v6));
    }
}

#[test]
fn datagrams_give_the_same_verdict_and_show_the_same_sender() {
    check_datagrams(false);
    check_datagrams(true);
}

#[test]
fn an_unconnected_socket_stays_with_eight_services_and_forgets_the_oldest() {
    let mut builder = Builder::default();
    let last = u8::try_from(DATAGRAM_PEERS).unwrap() + 1;
    for number in 1..=last {
        let many: Vec<_> =
            (1..=32).map(|pod_number| pod(pod_number, 5000 + u16::from(number), false)).collect();
        builder.service(number.into(), vip(number, false), UDP, &many);
    }
    let mut rig = Rig::new();
    let mut twin = Twin::open(&mut rig, &builder.tables, UDP, false);
    let first: Vec<_> = (1..last).map(|number| twin.send(vip(number, false))).collect();
    let again: Vec<_> = (1..last).map(|number| twin.send(vip(number, false))).collect();
    assert_eq!(first, again, "eight services are remembered");
    let evicted = first[0].unwrap();
    twin.send(vip(last, false));
    twin.receive(evicted);
    twin.receive(first[1].unwrap());
}

#[test]
fn an_unconnected_socket_moves_when_its_endpoint_goes() {
    let mut builder = Builder::default();
    let many: Vec<_> = (1..=8).map(|number| pod(number, 53, false)).collect();
    builder.service(1, vip(1, false), UDP, &many);
    let mut rig = Rig::new();
    let mut twin = Twin::open(&mut rig, &builder.tables, UDP, false);
    let first = twin.send(vip(1, false)).unwrap();
    let left: Vec<_> = many.iter().copied().filter(|endpoint| *endpoint != first).collect();
    let mut changed = Builder { next_backend: 100, ..Builder::default() };
    changed.service(1, vip(1, false), UDP, &left);
    let Twin { rig, host, .. } = twin;
    rig.fill(&changed.tables);
    let mut twin = Twin { rig, tables: &changed.tables, host, is_v6: false };
    let second = twin.send(vip(1, false)).unwrap();
    assert!(left.contains(&second));
    assert_eq!(twin.send(vip(1, false)), Some(second));
}

/// A small generator of numbers; the same ones at every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u8) -> u8 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u8::try_from(self.0 % u64::from(bound)).expect("below 256")
    }
}

fn thrown(dice: &mut Dice) -> HostTables {
    let mut builder = Builder::default();
    for number in 1..=6 {
        let (is_v6, protocol) = (dice.below(2) == 1, [TCP, UDP][usize::from(dice.below(2))]);
        let endpoints: Vec<_> = (0..dice.below(5))
            .map(|index| pod(number * 8 + index, 1000 + u16::from(dice.below(9)), is_v6))
            .collect();
        builder.service(number.into(), vip(number, is_v6), protocol, &endpoints);
    }
    builder.tables
}

#[test]
fn generated_tables_and_calls_give_the_same_verdicts() {
    let (mut rig, mut dice) = (Rig::new(), Dice(0x5eed));
    for _ in 0..40 {
        let tables = thrown(&mut dice);
        for _ in 0..4 {
            let is_v6 = dice.below(2) == 1;
            let choice = kinds(is_v6);
            let (protocol, socket_v6) = choice[usize::from(dice.below(u8::try_from(choice.len()).unwrap()))];
            let mut twin = Twin::open(&mut rig, &tables, protocol, socket_v6);
            if protocol == TCP {
                twin.connect(vip(1 + dice.below(7), is_v6));
                continue;
            }
            for _ in 0..6 {
                let to = vip(1 + dice.below(7), is_v6);
                let went = twin.send(to);
                went.filter(|went| *went != to).into_iter().for_each(|backend| twin.receive(backend));
            }
        }
    }
}
