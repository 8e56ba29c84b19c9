//! The same tables and the same calls, through the programs and through the functions on the host: step by step the
//! same verdict, the same endpoint, and the same peer in the eyes of the caller.

use std::net::SocketAddr;

use dataplane_ebpf::abi::{DATAGRAM_PEERS, Endpoint};
use dataplane_ebpf::host::HostTables;

use crate::rig::Rig;
use crate::twin::{Builder, TCP, Twin, UDP, kinds, node_port, pod, vip};

fn one_of_each(is_v6: bool) -> HostTables {
    let mut builder = Builder::default();
    for (offset, protocol) in [(0, TCP), (10, UDP)] {
        builder.service(1 + offset, vip(1, is_v6), protocol, &[pod(1, 8080, is_v6)]);
        builder.service(2 + offset, vip(2, is_v6), protocol, &[]);
        let many: Vec<_> = (1..=5).map(|number| pod(number, 9000 + u16::from(number), is_v6)).collect();
        builder.service(3 + offset, vip(3, is_v6), protocol, &many);
        builder.dropped(5 + offset, vip(5, is_v6), protocol);
    }
    builder.tables
}

fn check_connect(is_v6: bool) {
    let (mut rig, tables) = (Rig::new(), one_of_each(is_v6));
    for (protocol, socket_v6) in kinds(is_v6) {
        let vips = [1, 2, 3, 4, 5].map(|number| vip(number, is_v6));
        for to in vips.into_iter().chain([pod(1, 8080, is_v6)]) {
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

fn for_outside(is_v6: bool) -> HostTables {
    let mut builder = Builder::default();
    let endpoints = [1, 2].map(|number| pod(number, 8080, is_v6));
    for (offset, protocol) in [(0, TCP), (10, UDP)] {
        for (number, count) in [(1, 2), (2, 1), (3, 0)] {
            builder.outside(offset + u32::from(number), vip(number, is_v6), protocol, &endpoints[..count]);
        }
    }
    let own = Endpoint::from(at(is_v6, 0)).address;
    builder.tables.node_addresses = [(own, if is_v6 { 6 } else { 4 })].into();
    builder.tables
}

/// A port of the node's own address.
fn at(is_v6: bool, port: u16) -> SocketAddr {
    let ip = if is_v6 { "fd00::77" } else { "10.0.0.77" };
    SocketAddr::new(ip.parse().expect("an address"), port)
}

/// From a pod and from the node: each has its own list at an address for outside, and at a node port.
fn check_outside(is_v6: bool) {
    let tables = for_outside(is_v6);
    let ends = |is_node: bool| {
        let mut rig = Rig::of(is_node);
        let mut ends = Vec::new();
        for (protocol, socket_v6) in kinds(is_v6) {
            let offset = if protocol == UDP { 10 } else { 0 };
            let own = |id| at(is_v6, node_port(id));
            let targets = [1_u8, 2, 3]
                .into_iter()
                .flat_map(|number| [vip(number, is_v6), own(offset + u32::from(number))]);
            for to in targets.chain([own(offset + 9)]) {
                ends.push(Twin::open(&mut rig, &tables, protocol, socket_v6).connect(to));
                if protocol == UDP {
                    ends.push(Twin::open(&mut rig, &tables, protocol, socket_v6).send(to));
                }
            }
        }
        ends
    };
    let [pods, nodes] = [false, true].map(ends);
    assert_eq!(pods[0], Some(pod(1, 8080, is_v6)));
    assert_eq!(nodes[0], Some(pod(2, 8080, is_v6)), "the node has a list of its own");
    assert_eq!((pods[1], nodes[1]), (pods[0], nodes[0]), "and so at node ports");
}

#[test]
fn pods_and_the_node_come_to_the_same_by_addresses_for_outside() {
    check_outside(false);
    check_outside(true);
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
        for to in [1, 2, 3, 3, 4, 5, 5].map(|number| vip(number, is_v6)).into_iter().chain([pod(9, 9, is_v6)])
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
    changed.tables.uses.swap(&builder.tables.uses);
    changed.tables.traffic.swap(&builder.tables.traffic);
    let mut twin = Twin { rig, tables: &changed.tables, host, is_v6: false };
    let second = twin.send(vip(1, false)).unwrap();
    assert!(left.contains(&second));
    assert_eq!(twin.send(vip(1, false)), Some(second));
}

#[test]
fn an_endpoint_is_used_until_its_sockets_are_closed_or_connected_elsewhere() {
    let tables = one_of_each(false);
    let mut rig = Rig::new();
    let used = |rig: &mut Rig| rig.counts().0.values().map(|uses| uses.open).sum::<u64>();
    Twin::open(&mut rig, &tables, TCP, false).connect(vip(1, false));
    assert_eq!(used(&mut rig), 1);
    let mut twin = Twin::open(&mut rig, &tables, UDP, false);
    assert_eq!(used(twin.rig), 0, "its socket is closed");
    twin.connect(vip(1, false));
    twin.connect(vip(3, false));
    assert_eq!(used(twin.rig), 1, "one socket, one endpoint");
    twin.connect(pod(9, 9, false));
    assert_eq!(used(twin.rig), 0, "and none elsewhere");
    let mut twin = Twin::open(&mut rig, &tables, UDP, false);
    twin.send(vip(1, false));
    twin.send(vip(3, false));
    assert_eq!(used(twin.rig), 2, "datagrams to two services");
    Twin::open(&mut rig, &tables, UDP, false);
    assert_eq!(used(&mut rig), 0);
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
        let address = vip(number, is_v6);
        match dice.below(4) {
            0 => builder.dropped(number.into(), address, protocol),
            1 => {
                builder.service(number.into(), address, protocol, &endpoints);
                builder.stick(number.into(), 10);
            }
            _ => builder.service(number.into(), address, protocol, &endpoints),
        }
    }
    builder.tables
}

#[test]
fn generated_tables_and_calls_give_the_same_verdicts() {
    let (mut rig, mut dice) = (Rig::new(), Dice(0x5eed));
    for _ in 0..40 {
        let tables = thrown(&mut dice);
        rig.forget_clients();
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
