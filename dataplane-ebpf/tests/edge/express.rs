//! The short cut before the stack: the same packets as by the longer way, and nothing else touched.

use dataplane_ebpf::abi::{EdgeCounter, Flow, FlowKey, REDIRECT};
use dataplane_ebpf::datapath::edge::checksum::{difference, mend_or_none, of, plus};
use dataplane_ebpf::datapath::edge::{Verdict, express};
use dataplane_ebpf::host_edge::HostPacket;
use proptest::prelude::*;

use crate::packet::{self, ETHERNET, TCP, UDP, is_right, with_hops};
use crate::world::Who::{self, Client, Here, Near, Node, Stranger, There, Vip};
use crate::world::{HOP, KINDS, Kind, World};

/// Every flow, and all that was counted.
type State = (Vec<(FlowKey, Flow)>, Vec<(EdgeCounter, u64)>);

fn state(world: &World) -> State {
    let flows = world.tables.flows.borrow();
    (flows.iter().map(|(key, flow)| (*key, *flow)).collect(), world.counted())
}

fn run(world: &World, before: &HostPacket) -> (Verdict, HostPacket) {
    let mut after = before.clone();
    let verdict = express(&mut after, &world.tables, ETHERNET);
    (verdict, after)
}

/// A world in which the client speaks with an endpoint on another node, and both next hops are remembered.
fn speaking(kind: Kind) -> (World, [Vec<u8>; 2]) {
    let world = World::new(kind, &[There]);
    let (forth, back) = (kind.next((Client, 4000), (Vip, 80)), kind.next((There, 8080), (Node, 50_000)));
    for ip in [&kind.first((Client, 4000), (Vip, 80)), &back, &forth] {
        assert_eq!(world.come_in(ip).0, Verdict::Redirected);
    }
    (world, [forth, back])
}

/// It is left as it came, and nothing is written down.
#[track_caller]
fn check_left(world: &World, packet: &HostPacket) {
    let before = state(world);
    let (verdict, after) = run(world, packet);
    assert_eq!((verdict, &after), (Verdict::Left, packet), "{:?}", world.kind);
    assert_eq!(state(world), before, "{:?}", world.kind);
}

#[track_caller]
fn check_left_after(change: impl Fn(&mut World, &mut HostPacket)) {
    for kind in KINDS {
        let (world, packets) = speaking(kind);
        for ip in packets {
            let (mut world, mut packet) = (world.clone(), world.wrapped(&ip));
            assert_eq!(run(&world, &packet).0, Verdict::Redirected, "{kind:?}: what is not changed goes");
            change(&mut world, &mut packet);
            check_left(&world, &packet);
        }
    }
}

/// As a program on this machine leaves it to a device: the field holds the sum of what the checksum covers besides the segment.
fn half(ip: &mut [u8]) {
    let (start, segment) = (packet::header_bytes(ip), ip.len() - packet::header_bytes(ip));
    let (from, to) = packet::addresses(ip);
    let octets = |ip: std::net::IpAddr| match ip {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u16::try_from(segment).expect("a short packet").to_be_bytes();
    let kind = [0, packet::protocol(ip)];
    let sum = !of(&[octets(from).as_slice(), &octets(to), &length, &kind].concat());
    let at = start + if packet::protocol(ip) == TCP { 16 } else { 6 };
    ip[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
}

#[test]
fn a_known_flow_leaves_as_it_would_by_the_longer_way_and_is_followed_alike() {
    for kind in KINDS {
        let (short, packets) = speaking(kind);
        let long = short.clone();
        for world in [&short, &long] {
            world.tables.seconds.set(9);
        }
        for (number, ip) in (1..).zip(packets) {
            let (verdict, after) = run(&short, &short.wrapped(&ip));
            assert_eq!((verdict, after.leaves), (Verdict::Redirected, Some((HOP.device, true))));
            assert_eq!(after.asked.get(), 0);
            let mut packet = long.wrapped(&ip);
            assert_eq!(long.tables.come_in(&mut packet, ETHERNET), Verdict::Redirected);
            assert_eq!(after.bytes, packet.bytes, "{kind:?}");
            assert!(is_right(&after.bytes[ETHERNET..]));
            assert_eq!(short.tables.flows, long.tables.flows);
            assert_eq!(short.count(EdgeCounter::Redirected), long.count(EdgeCounter::Redirected));
            assert_eq!([short.count(EdgeCounter::Express), long.count(EdgeCounter::Express)], [number, 0]);
        }
    }
}

#[test]
fn the_end_of_a_connection_is_noticed() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == TCP) {
        let (short, _) = speaking(kind);
        let long = short.clone();
        for (from, to) in [((Client, 4000), (Vip, 80)), ((There, 8080), (Node, 50_000))] {
            let end = kind.packet(from, to, packet::FIN | packet::ACK);
            assert_eq!(run(&short, &short.wrapped(&end)).0, Verdict::Redirected);
            assert_eq!(long.come_in(&end).0, Verdict::Redirected);
            assert_eq!(short.tables.flows, long.tables.flows);
        }
    }
}

#[test]
fn first_packets_and_what_belongs_to_no_flow_are_left() {
    for kind in KINDS {
        let (world, _) = speaking(kind);
        let of: [(Who, u16); 3] = [(Stranger, 4000), (Client, 4001), (There, 4000)];
        for from in of {
            check_left(&world, &world.wrapped(&kind.next(from, (Vip, 80))));
            check_left(&world, &world.wrapped(&kind.first(from, (Vip, 80))));
        }
        if kind.protocol == TCP {
            check_left(&world, &world.wrapped(&kind.first((Client, 4000), (Vip, 80))));
        }
        let report =
            packet::icmp(kind.ip(Stranger), kind.ip(Node), 3, 1, &kind.next((Node, 50_000), (There, 8080)));
        check_left(&world, &world.wrapped(&report));
    }
}

#[test]
fn a_next_hop_that_is_not_known_or_not_of_now_is_left() {
    check_left_after(|world, _| world.tables.epoch.set(2));
    check_left_after(|world, _| {
        world.tables.epoch.set(0);
        world.tables.flows.borrow_mut().values_mut().for_each(|flow| flow.epoch = 0);
    });
}

#[test]
fn what_a_device_cannot_carry_and_the_last_hop_are_left() {
    check_left_after(|_, packet| packet.fits = false);
    for hops in [1, 0] {
        check_left_after(|_, packet| {
            let ip = with_hops(packet.bytes.split_off(ETHERNET), hops);
            packet.bytes.extend(ip);
        });
    }
}

#[test]
fn frames_with_a_tag_are_left() {
    check_left_after(|_, packet| packet.tagged = true);
}

#[test]
fn all_is_left_where_packets_go_through_the_stack() {
    check_left_after(|world, _| world.side().forwarding &= !REDIRECT);
}

#[test]
fn datagrams_are_left_as_soon_as_the_list_has_changed_and_their_answers_go() {
    for kind in KINDS {
        let (mut world, [forth, back]) = speaking(kind);
        world.list(2, &[Here], &[]);
        assert_eq!(run(&world, &world.wrapped(&back)).0, Verdict::Redirected);
        if kind.protocol == UDP {
            check_left(&world, &world.wrapped(&forth));
        } else {
            assert_eq!(run(&world, &world.wrapped(&forth)).0, Verdict::Redirected);
        }
    }
}

#[test]
fn a_checksum_that_is_only_begun_is_left() {
    check_left_after(|_, packet| half(&mut packet.bytes[ETHERNET..]));
}

#[test]
fn datagrams_without_a_checksum_stay_so() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == UDP) {
        let (world, packets) = speaking(kind);
        for mut ip in packets {
            let at = packet::header_bytes(&ip) + 6;
            packet::put(&mut ip, at, 0);
            let (verdict, after) = run(&world, &world.wrapped(&ip));
            assert_eq!((verdict, packet::word(&after.bytes[ETHERNET..], at)), (Verdict::Redirected, 0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_checksum_mended_is_that_of_all_of_it_taken_anew(
        mut words in prop::collection::vec(prop_oneof![Just(0), Just(u32::MAX), any::<u32>()], 6..12),
        new in prop::array::uniform3(prop_oneof![Just(0), Just(u32::MAX), any::<u32>()]),
    ) {
        let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
        let unless_zero = |sum: u16| if sum == 0 { u16::MAX } else { sum };
        let before = unless_zero(of(&bytes(&words)));
        let [a, b, c] = new;
        let addresses = difference(&[words[0], words[1]], &[a, b]);
        let rest = difference(&[words[2]], &[c]);
        words[..3].copy_from_slice(&new);
        let mended = mend_or_none(before, plus(addresses, rest));
        // All words zero have two checksums.
        let zeros = words.iter().all(|word| *word == 0);
        prop_assert!(mended == unless_zero(of(&bytes(&words))) || zeros);
        prop_assert_ne!(mended, 0);
    }

    #[test]
    fn what_goes_is_right_and_hardly_any_whole_checksum_is_taken_for_one_that_is_begun(
        kind in prop::sample::select(KINDS.to_vec()),
        payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 1..8),
        local in any::<bool>(),
    ) {
        let world = World::new(kind, &[if local { Near } else { There }]);
        let (from, to) = (kind.at(Client, 4000), kind.at(Vip, 80));
        let made = |bits, payload: &[u8]| match kind.protocol {
            TCP => packet::tcp(from, to, bits, payload),
            _ => packet::udp(from, to, payload),
        };
        prop_assert_eq!(world.come_in(&made(packet::SYN, &[])).0, Verdict::Redirected);
        let mut left = 0;
        for payload in payloads {
            let mut ip = made(packet::ACK, &payload);
            let (verdict, after) = run(&world, &world.wrapped(&ip));
            left += u32::from(verdict == Verdict::Left);
            prop_assert!(verdict == Verdict::Left || is_right(&after.bytes[ETHERNET..]));
            half(&mut ip);
            prop_assert_eq!(run(&world, &world.wrapped(&ip)).0, Verdict::Left);
        }
        prop_assert!(left < 2, "{left}");
    }
}
