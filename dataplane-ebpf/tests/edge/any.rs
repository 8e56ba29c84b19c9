//! Whatever comes: nothing panics, what is left is unchanged, and what is changed is as right or wrong as it was.

use std::net::{IpAddr, SocketAddr};

use dataplane_ebpf::abi::{FORWARD, MASQUERADE};
use dataplane_ebpf::datapath::edge::{
    Step, Verdict, Way, again, back, egress, error, express, ingress, open, send,
};
use dataplane_ebpf::host_edge::{EdgeTables, HostPacket};
use proptest::prelude::*;

use crate::packet::{self, ETHERNET, SCTP, TCP, UDP, ends, icmp, ip, is_right, with_hops};
use crate::world::Who::{Here, Near, There, Vip};
use crate::world::{ALL, HOP, KINDS, Kind, Who, World, check_change};

/// A packet that may or may not be of a flow.
#[derive(Clone, Debug)]
struct Draft {
    protocol: u8,
    from: (Who, u16),
    to: (Who, u16),
    bits: u8,
    payload: Vec<u8>,
    hops: u8,
    /// It is quoted by this message, from the first to the second.
    error: Option<(u8, Who, Who)>,
    /// Bytes that are quoted, or that are there of the packet.
    cut: usize,
    /// Bytes behind it.
    trailer: usize,
    /// Bytes that are changed.
    noise: Vec<(usize, u8)>,
    tagged: bool,
    out: bool,
}

fn who() -> impl Strategy<Value = Who> {
    prop::sample::select(ALL.to_vec())
}

fn port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![80, 81, 8080, 4000, 4001, 50_000, 50_001])
}

fn draft() -> impl Strategy<Value = Draft> {
    let protocol = prop::sample::select(vec![TCP, UDP, TCP, UDP, TCP, UDP, SCTP, 1, 58]);
    let bits = prop_oneof![Just(packet::SYN), Just(packet::ACK), any::<u8>()];
    let payload = prop::collection::vec(any::<u8>(), 0..12);
    let hops = prop::sample::select(vec![0, 1, 2, 64, 255]);
    let error = prop::option::of((prop::sample::select(vec![1, 2, 3, 4, 5, 11, 128]), who(), who()));
    let cut = prop_oneof![Just(1500), 0..80_usize];
    let trailer = prop_oneof![Just(0), 0..40_usize];
    let noise = prop_oneof![3 => Just(vec![]), 1 => prop::collection::vec((0..100_usize, any::<u8>()), 1..3)];
    let flags = (prop::bool::weighted(0.03), any::<bool>());
    let ends = ((who(), port()), (who(), port()));
    (protocol, ends, bits, payload, hops, error, cut, trailer, noise, flags).prop_map(
        |(protocol, (from, to), bits, payload, hops, error, cut, trailer, noise, (tagged, out))| Draft {
            protocol,
            from,
            to,
            bits,
            payload,
            hops,
            error,
            cut,
            trailer,
            noise,
            tagged,
            out,
        },
    )
}

impl Draft {
    fn bytes(&self, kind: Kind) -> Vec<u8> {
        let (from, to) = (kind.at(self.from.0, self.from.1), kind.at(self.to.0, self.to.1));
        let plain = match self.protocol {
            TCP => packet::tcp(from, to, self.bits, &self.payload),
            UDP => packet::udp(from, to, &self.payload),
            other => ip(from.ip(), to.ip(), other, &[self.payload.as_slice(), &[0; 8]].concat()),
        };
        let plain = with_hops(plain, self.hops);
        let cut = &plain[..self.cut.min(plain.len())];
        let bytes = match self.error {
            None => cut.to_vec(),
            Some((error, from, to)) => icmp(kind.ip(from), kind.ip(to), error, 0, cut),
        };
        let mut bytes = [bytes, vec![0xa5; self.trailer]].concat();
        for (at, value) in &self.noise {
            if let Some(place) = bytes.get_mut(*at) {
                *place = *value;
            }
        }
        bytes
    }
}

/// A world in which some flows of both protocols are under way.
fn world(kind: Kind, stack: bool, way: Way, at: usize) -> World {
    let made = if stack { World::stack } else { World::new };
    let mut world = made(kind, &[Here, There, Near]);
    for protocol in [TCP, UDP] {
        for port in [4000, 4001] {
            let _ = world.come_in(&Kind { protocol, ..kind }.first((Who::Client, port), (Vip, 80)));
            let _ = world.come_in(&Kind { protocol, ..kind }.first((Who::Stranger, port), (Who::Twin, 80)));
        }
    }
    world.rules(Who::Node, FORWARD | MASQUERADE);
    (world.way, world.at) = (way, at);
    world
}

fn any_world() -> impl Strategy<Value = World> {
    let kind = prop::sample::select(KINDS.to_vec());
    let way = prop::sample::select(vec![Way::To(HOP), Way::To(HOP), Way::Ask(HOP.device), Way::Stack]);
    let at = prop::sample::select(vec![ETHERNET, ETHERNET, 0]);
    (kind, any::<bool>(), way, at).prop_map(|(kind, stack, way, at)| world(kind, stack, way, at))
}

/// Each function over a packet, as if it were the first.
fn each(world: &World, before: &HostPacket) -> Vec<(HostPacket, Verdict)> {
    let verdict = |step: Step| match step {
        Step::Done(verdict) => verdict,
        Step::Recall | Step::Begin | Step::Again | Step::Open | Step::Send | Step::Error | Step::Fragment => {
            Verdict::Left
        }
    };
    let (tables, at) = (&world.tables, world.at);
    let deeds: [&dyn Fn(&mut HostPacket) -> Verdict; 10] = [
        &|packet| verdict(ingress(packet, tables, at)),
        &|packet| verdict(again(packet, tables, at)),
        &|packet| verdict(open(packet, tables, at)),
        &|packet| verdict(back(packet, tables, at)),
        &|packet| send(packet, tables, at),
        &|packet| verdict(egress(packet, tables, at)),
        &|packet| error::incoming(packet, tables, at),
        &|packet| error::outgoing(packet, tables, at),
        &|packet| error::answering(packet, tables, at),
        &|packet| express(packet, tables, at),
    ];
    let run = |deed: &dyn Fn(&mut HostPacket) -> Verdict| {
        let mut after = before.clone();
        let verdict = deed(&mut after);
        (after, verdict)
    };
    deeds.into_iter().map(run).collect()
}

/// As the programs go, in or out.
fn pass(world: &World, before: &HostPacket, out: bool) -> (HostPacket, Verdict) {
    let mut after = before.clone();
    let deed = if out { EdgeTables::go_out } else { EdgeTables::come_in };
    let verdict = deed(&world.tables, &mut after, world.at);
    (after, verdict)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_is_left_is_unchanged_and_what_is_changed_is_as_right_as_it_was(
        world in any_world(),
        drafts in prop::collection::vec(draft(), 1..10),
    ) {
        for draft in drafts {
            let mut packet = world.wrapped(&draft.bytes(world.kind));
            packet.tagged = draft.tagged;
            let (after, verdict) = pass(&world, &packet, draft.out);
            // Where another length is said than that of the packet, its sums say nothing.
            if draft.noise.iter().all(|(at, _)| *at >= 6) {
                check_change(&packet, &after, verdict, world.at);
            }
            for (after, verdict) in each(&world, &packet).into_iter().chain([(after, verdict)]) {
                prop_assert_eq!(after.bytes.len(), packet.bytes.len());
                prop_assert!(verdict != Verdict::Left || after.bytes == packet.bytes);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_packet_are_no_danger(
        world in any_world(),
        start in prop::sample::select(vec![vec![], vec![0x45], vec![0x60]]),
        bytes in prop::collection::vec(any::<u8>(), 0..150),
        out in any::<bool>(),
    ) {
        let packet = world.wrapped(&[start, bytes].concat());
        for (after, verdict) in each(&world, &packet).into_iter().chain([pass(&world, &packet, out)]) {
            prop_assert_eq!(after.bytes.len(), packet.bytes.len());
            prop_assert!(verdict != Verdict::Left || after.bytes == packet.bytes);
        }
    }

    #[test]
    fn a_packet_forth_and_its_answer_back_give_the_client_its_own_addresses(
        kind in prop::sample::select(KINDS.to_vec()),
        four in any::<[u8; 4]>(),
        six in any::<[u8; 16]>(),
        port in any::<u16>(),
        known in prop::option::of(who()),
        redirect in any::<bool>(),
        random in any::<u32>(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let world = (if redirect { World::new } else { World::stack })(kind, &[Here, There, Near]);
        world.tables.random.set(random);
        let ip = known.map_or(if kind.v6 { IpAddr::from(six) } else { four.into() }, |who| kind.ip(who));
        let (client, service) = (SocketAddr::from((ip, port)), kind.at(Vip, 80));
        let made = |from, to, bits| match kind.protocol {
            TCP => packet::tcp(from, to, bits, &payload),
            _ => packet::udp(from, to, &payload),
        };
        let (verdict, there) = world.come_in(&made(client, service, packet::SYN));
        if verdict == Verdict::Left {
            let own = [Who::Node, Who::Quiet].map(|who| kind.ip(who)).contains(&ip);
            prop_assert!(own || !redirect, "left");
            return Ok(());
        }
        prop_assert!(is_right(&there));
        let (from, to) = ends(&there);
        let answer = made(to, from, packet::SYN | packet::ACK);
        let masqueraded = from.ip() == kind.ip(Who::Node);
        let (verdict, back) = if masqueraded { world.come_in(&answer) } else { world.go_out(&answer) };
        prop_assert_ne!(verdict, Verdict::Left);
        prop_assert!(is_right(&back));
        prop_assert_eq!(ends(&back), (service, client));
        let (_, again) = world.come_in(&made(client, service, packet::ACK));
        prop_assert_eq!(ends(&again), (from, to));
    }
}
