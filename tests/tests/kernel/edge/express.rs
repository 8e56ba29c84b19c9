//! The same packets before the stack: what the short cut does in the kernel is what it does on the host, and what it sends on is
//! what the longer way would have sent.

use dataplane_ebpf::abi::{COVERED, EdgeCounter, FRAMES, FRAMES_BACK};
use dataplane_ebpf::datapath::edge::checksum::of;
use dataplane_ebpf::datapath::edge::{Verdict, express};
use dataplane_ebpf::host_edge::HostPacket;

use super::draft::{TCP, Talk};
use super::node::{CLIENTS, SERVICES, ip};
use super::rig::{HOP, LOOPBACK};
use super::{ETHERNET, Twins, check_ends, framed, hex};

/// What a program returns: the stack gets the frame; it leaves by the device by which it came; it leaves by another.
const PASS: i32 = 2;
const BACK: i32 = 3;
const REDIRECT: i32 = 4;

impl Twins {
    /// Whether a frame takes the short cut, in both worlds.
    pub(super) fn is_express(&mut self, frame: &[u8]) -> bool {
        let (returned, bytes) = self.rig.run_frame(frame);
        let mut long = HostPacket::new(frame.to_vec());
        let expected = self.tables.clone().come_in(&mut long, ETHERNET);
        let mut packet = HostPacket::new(frame.to_vec());
        let verdict = express(&mut packet, &self.tables, ETHERNET);
        assert_eq!(hex(&bytes), hex(&packet.bytes), "over\n{}", hex(frame));
        if verdict != Verdict::Redirected {
            assert_eq!((returned, hex(&bytes)), (PASS, hex(frame)));
            return false;
        }
        assert_eq!((returned, expected), (REDIRECT, Verdict::Redirected), "over {}", hex(frame));
        assert_eq!(hex(&bytes), hex(&long.bytes), "over\n{}", hex(frame));
        true
    }
}

/// A frame of a flow whose next hop is remembered, and both worlds with it. So many bytes are carried.
fn known(payload: usize) -> (Twins, Vec<u8>) {
    let mut twins = Twins::new(true, ETHERNET, 4096, 6);
    let (from, to) = ((ip(false, CLIENTS, 1), 4000), (ip(false, SERVICES, 2), 80));
    let talk = Talk { protocol: TCP, from: from.into(), to: to.into() };
    twins.pass(talk.packet(64, |tcp| tcp.syn(), &[]), 0);
    (twins, framed(&talk.packet(64, |tcp| tcp.ack(1), &vec![5; payload])))
}

#[test]
fn edge_frames_before_the_stack_fare_as_on_the_host_and_as_by_the_longer_way() {
    let mut twins = Twins { express: true, ..Twins::new(true, ETHERNET, 4096, 7) };
    twins.run(5000);
    let short = twins.tables.counted.borrow().get(&EdgeCounter::Express).copied();
    assert!(short.is_some_and(|times| times > 50), "{short:?}");
    assert!(twins.given.iter().all(|times| *times > 10), "{:?}", twins.given);
}

#[test]
fn edge_checksums_before_the_stack_come_out_as_on_the_host() {
    check_ends(Twins { express: true, ..Twins::new(true, ETHERNET, 4096, 9) });
}

#[test]
fn edge_frames_whose_checksum_is_only_begun_stay_with_the_stack() {
    let (mut twins, mut frame) = known(10);
    assert_eq!(twins.rig.run_frame(&frame).0, REDIRECT);
    let ip = &mut frame[ETHERNET..];
    let length = u16::try_from(ip.len() - 20).expect("a short packet").to_be_bytes();
    let begun = !of(&[&ip[12..20], &[0, TCP], &length].concat());
    ip[20 + 16..20 + 18].copy_from_slice(&begun.to_ne_bytes());
    assert_eq!(twins.rig.run_frame(&frame), (PASS, frame));
}

#[test]
fn edge_frames_stay_with_the_stack_where_that_forwards() {
    let mut twins = Twins { express: true, ..Twins::new(false, ETHERNET, 4096, 8) };
    twins.run(500);
    assert_eq!(twins.tables.counted.borrow().get(&EdgeCounter::Express), None);
}

#[test]
fn edge_frames_leave_only_by_devices_that_take_them() {
    let (mut twins, frame) = known(10);
    for (here, there, expected) in [
        (HOP.device, COVERED | FRAMES, REDIRECT),
        (HOP.device, COVERED | FRAMES_BACK, PASS),
        (HOP.device, COVERED, PASS),
        (LOOPBACK, COVERED | FRAMES_BACK, BACK),
        (LOOPBACK, COVERED | FRAMES, REDIRECT),
        (LOOPBACK, COVERED | FRAMES | FRAMES_BACK, BACK),
        (LOOPBACK, COVERED, PASS),
    ] {
        twins.rig.set_devices(&[(here, there)]);
        twins.rig.lead_flows_to(here);
        let (returned, bytes) = twins.rig.run_frame(&frame);
        assert_eq!((returned, bytes != frame), (expected, expected != PASS), "{here} {there}");
    }
    twins.rig.set_devices(&[]);
    assert_eq!(twins.rig.run_frame(&frame), (PASS, frame));
}

#[test]
fn edge_frames_that_are_too_big_for_a_device_stay_with_the_stack() {
    for (payload, expected) in [(1460, REDIRECT), (1461, PASS)] {
        let (mut twins, frame) = known(payload);
        assert_eq!(frame.len(), ETHERNET + 40 + payload);
        assert_eq!(twins.rig.run_frame(&frame).0, expected);
    }
}

#[test]
fn edge_frames_with_a_tag_or_for_a_group_stay_with_the_stack() {
    let (mut twins, frame) = known(10);
    assert_eq!(twins.rig.run_frame(&frame).0, REDIRECT);
    let tagged = [&frame[..12], &[0x81, 0, 0, 7], &frame[12..]].concat();
    let group = [&[3], &frame[1..]].concat();
    let other = [&frame[..12], &[0x88, 0x47], &frame[14..]].concat();
    for frame in [tagged, group, other] {
        assert_eq!(twins.rig.run_frame(&frame), (PASS, frame));
    }
}
