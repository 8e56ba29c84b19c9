//! The edge's programs in the kernel, run over packets that nobody sent. On the host, the same tables and the same packets give
//! the same verdicts, bytes, flows and counts.

mod draft;
mod express;
#[path = "../../../../dataplane-ebpf/tests/edge/mutate.rs"]
mod mutate;
mod node;
mod rig;

use dataplane_ebpf::abi::{Flow, TRUSTS_STACK};
use dataplane_ebpf::datapath::edge::{Verdict, Way};
use dataplane_ebpf::host_edge::{EdgeTables, HostPacket};

use draft::{Drafts, TCP, Talk, UDP};
use mutate::{Dice, mend, mutate};
use node::{CLIENTS, SERVICES, ip, relist, tables};
use rig::{EdgeRig, HOOKED, HOP};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// What a program returns: whoever comes next sees the packet; it is dropped; it leaves by a device.
const NEXT: i32 = -1;
const DROP: i32 = 2;
const REDIRECT: i32 = 7;

/// Both worlds.
struct Twins {
    rig: EdgeRig,
    tables: EdgeTables,
    at: usize,
    drafts: Drafts,
    /// Whether frames may take the short cut before the stack.
    express: bool,
    /// How often each verdict was given on the host.
    given: [u32; 4],
}

impl Twins {
    fn new(redirect: bool, at: usize, room: u32, seed: u64) -> Self {
        let (mut rig, tables) = (EdgeRig::new(room), tables(redirect));
        tables.room.set(room as usize);
        rig.fill(&tables);
        Self { rig, tables, at, drafts: Drafts::new(seed), express: false, given: [0; 4] }
    }

    /// One packet of the dice comes in or leaves, in both worlds.
    fn step(&mut self) {
        let hooks = if self.at == ETHERNET { 3 } else { 2 };
        let (ip, out) = (self.drafts.throw(), self.drafts.below(hooks));
        self.pass(ip, out);
    }

    fn pass(&mut self, ip: Vec<u8>, out: u8) {
        let frame = if self.at == ETHERNET { framed(&ip) } else { ip };
        if self.express && out == 0 && self.is_express(&frame) {
            self.given[3] += 1;
            return;
        }
        let hook = HOOKED[usize::from(out)][usize::from(self.at == 0)];
        let (returned, bytes) = self.rig.run(hook, &frame);
        let mut packet =
            HostPacket { way: Way::To(HOP), way_back: Some(HOP.device), ..HostPacket::new(frame.clone()) };
        let deed = match out {
            0 => EdgeTables::come_in,
            1 => EdgeTables::go_out,
            _ => EdgeTables::come_back,
        };
        let verdict = deed(&self.tables, &mut packet, self.at);
        let (expected, place) = match verdict {
            Verdict::Left => (NEXT, 0),
            Verdict::Passed => (NEXT, 1),
            Verdict::Dropped => (DROP, 2),
            Verdict::Redirected => (REDIRECT, 3),
        };
        assert_eq!(returned, expected, "{hook} over {frame:02x?}");
        assert_eq!(hex(&bytes), hex(&packet.bytes), "{hook} over\n{}", hex(&frame));
        self.given[place] += 1;
        if place % 2 == 1 {
            self.drafts.remember(&packet.bytes[self.at..]);
        }
    }

    /// Packets that were made worse, as the fuzzer of the host's functions makes them.
    fn suffer(&mut self, seed: u64, packets: u32) {
        let (mut dice, mut other) = (Dice::new(seed), self.drafts.throw());
        for _ in 0..packets {
            let mut ip = self.drafts.throw();
            for _ in 0..*dice.pick(&[1, 1, 2, 4]) {
                mutate(&mut dice, &mut ip, &other);
            }
            if dice.below(2) == 0 {
                mend(&mut ip);
            }
            // The kernel (6.18) runs no program over a part of an IP header.
            ip.resize(ip.len().clamp(40, 1000), 0);
            if has_a_way_back(&ip) {
                let out = self.drafts.below(2);
                self.pass(ip.clone(), out);
                other = ip;
            }
        }
        self.compare();
    }

    /// Flows and counts are the same.
    fn compare(&mut self) {
        let flows = self.tables.flows.borrow().clone();
        let flows = flows.into_iter().map(|(key, flow)| (key, Flow { seen: 0, ..flow })).collect();
        assert_eq!(self.rig.flows(), flows);
        assert_eq!(self.rig.counted(), self.tables.counted.borrow().clone());
        assert_eq!(self.rig.traffic(), self.tables.traffic.borrow().clone());
    }

    /// Packets, and other lists and routes in between.
    fn run(&mut self, packets: u32) {
        for number in 0..packets {
            if number % 100 == 99 {
                relist(&mut self.tables, number, 1 + self.drafts.below(4));
                self.tables.epoch.set(number);
                self.rig.fill(&self.tables);
            }
            self.step();
        }
        self.compare();
    }
}

/// Whether the answer would take the one way there is: not to the node itself, to one cable, or to many.
fn has_a_way_back(ip: &[u8]) -> bool {
    match ip[0] >> 4 {
        4 => ip[12] != 127 && ip[12..14] != [10, 9],
        6 => !matches!(ip[8], 0 | 0xfe | 0xff) && ip[8..12] != [0xfd, 0, 0, 9],
        _ => true,
    }
}

/// The checksum of TCP or UDP in a plain packet.
fn checksum(v6: bool, protocol: u8, ip: &[u8]) -> u16 {
    let at = if v6 { 40 } else { 20 } + if protocol == TCP { 16 } else { 6 };
    u16::from_be_bytes([ip[at], ip[at + 1]])
}

fn framed(ip: &[u8]) -> Vec<u8> {
    let kind = if ip[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3], kind.as_slice(), ip].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn edge_packets_past_the_stack_fare_as_on_the_host() {
    let mut twins = Twins::new(true, ETHERNET, 4096, 1);
    twins.run(1500);
    // Of every sort enough to mean something.
    assert!(twins.given.iter().all(|times| *times > 10), "{:?}", twins.given);
}

#[test]
fn edge_packets_to_endpoints_here_that_are_backed_and_not_fare_as_on_the_host() {
    let mut twins = Twins::new(true, ETHERNET, 4096, 6);
    for side in &mut twins.tables.sides {
        side.forwarding &= !TRUSTS_STACK;
    }
    twins.rig.fill(&twins.tables);
    twins.run(1000);
    assert!(twins.given.iter().all(|times| *times > 10), "{:?}", twins.given);
}

#[test]
fn edge_packets_through_the_stack_fare_as_on_the_host() {
    let mut twins = Twins::new(false, ETHERNET, 4096, 2);
    twins.run(1500);
    assert!(twins.given[..3].iter().all(|times| *times > 10), "{:?}", twins.given);
}

#[test]
fn edge_packets_without_hardware_addresses_fare_as_on_the_host() {
    let mut twins = Twins::new(true, 0, 4096, 3);
    twins.run(1000);
    assert!(twins.given[..3].iter().all(|times| *times > 10), "{:?}", twins.given);
}

#[test]
fn edge_packets_of_a_full_table_fare_as_on_the_host() {
    let mut twins = Twins::new(true, ETHERNET, 24, 4);
    twins.run(1000);
    let counted = twins.tables.counted.borrow();
    assert!(
        counted.get(&dataplane_ebpf::abi::EdgeCounter::TableFull).is_some_and(|times| *times > 10),
        "{counted:?}"
    );
}

#[test]
fn edge_checksums_of_zero_and_all_ones_come_out_as_on_the_host() {
    check_ends(Twins::new(true, ETHERNET, 4096, 5));
}

/// Flows of both protocols and families, and of all payloads of two bytes those that give such a checksum, before or after.
fn check_ends(mut twins: Twins) {
    let is_end = |checksum: u16| checksum == 0 || checksum == u16::MAX;
    let mut found = 0;
    for (v6, protocol) in [(false, TCP), (false, UDP), (true, TCP), (true, UDP)] {
        let talk =
            Talk { protocol, from: (ip(v6, CLIENTS, 1), 4000).into(), to: (ip(v6, SERVICES, 2), 80).into() };
        twins.pass(talk.packet(64, |tcp| tcp.syn(), &[]), 0);
        for payload in 0..=u16::MAX {
            let forth = talk.packet(64, |tcp| tcp.ack(1), &payload.to_be_bytes());
            let mut packet = HostPacket {
                way: Way::To(HOP),
                way_back: Some(HOP.device),
                ..HostPacket::new(framed(&forth))
            };
            let verdict = twins.tables.clone().come_in(&mut packet, ETHERNET);
            assert_eq!(verdict, Verdict::Redirected);
            let after = checksum(v6, protocol, &packet.bytes[ETHERNET..]);
            if is_end(checksum(v6, protocol, &forth)) || is_end(after) {
                found += 1;
                // One of the two is a bundle, whose checksum is mended another way.
                twins.pass(forth.clone(), 0);
                twins.pass(forth, 0);
            }
        }
    }
    assert!(found >= 8, "{found}");
    twins.compare();
}

/// A device that listens to everything has packets of others, too.
#[test]
fn edge_packets_for_other_hosts_and_for_several_are_left() {
    let mut twins = Twins::new(true, ETHERNET, 4096, 10);
    let talk = Talk {
        protocol: UDP,
        from: (ip(false, CLIENTS, 1), 4000).into(),
        to: (ip(false, SERVICES, 2), 80).into(),
    };
    let frame = framed(&talk.packet(64, |tcp| tcp, &[]));
    for [first, last] in [[2, 9], [3, 1], [0xff, 1]] {
        let other = [&[first, 0, 0, 0, 0, last], &frame[6..]].concat();
        assert_eq!(twins.rig.run(HOOKED[0][0], &other), (NEXT, other));
    }
    assert_eq!(twins.rig.flows().len(), 0);
    assert_eq!(twins.rig.run(HOOKED[0][0], &frame).0, REDIRECT);
}

#[test]
fn edge_packets_that_are_hostile_fare_as_on_the_host() {
    for (redirect, at, seed) in [(true, ETHERNET, 6), (false, ETHERNET, 7), (true, 0, 8)] {
        let mut twins = Twins::new(redirect, at, 4096, seed);
        twins.suffer(seed, 2000);
        assert!(twins.given[..2].iter().all(|times| *times > 50), "{:?}", twins.given);
    }
}
