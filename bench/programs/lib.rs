//! What generator and bench agree on: which frames are sent, and how they are written and turned round.
//!
//! The programs beside this file run in the kernel and move frames; the suite `packets` tells them which.

#![no_std]

#[cfg(test)]
extern crate std;

use core::net::{Ipv4Addr, SocketAddrV4};

/// Headers of Ethernet, IPv4 without options and UDP, as 16-bit words that lie as on the wire: every field begins at an
/// even place, and checksums are sums of such words.
pub type Head = [u16; 21];

/// Bytes of a frame, without the four of its check sequence.
pub const FRAME: usize = 60;
/// The first of the addresses that send: 198.18.0.0/15 is set aside for measuring (RFC 2544).
pub const SOURCES: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// How many addresses send.
pub const SENDERS: u32 = 256;
/// The lowest port that sends.
const LOWEST: u32 = 1024;
/// More flows than this have no port left to send from.
pub const MOST: u32 = SENDERS * (65_536 - LOWEST);

/// Places of the fields.
const TO: usize = 0;
const FROM: usize = 3;
const KIND: usize = 6;
const VERSION: usize = 7;
const LENGTH: usize = 8;
const LIFE: usize = 11;
const SUM: usize = 12;
const SOURCE: usize = 13;
const TARGET: usize = 15;
const SOURCE_PORT: usize = 17;
const TARGET_PORT: usize = 18;
const DATAGRAM: usize = 19;
const DATAGRAM_SUM: usize = 20;

/// IPv4 in Ethernet; a header of twenty bytes; time to live 64 and UDP.
const IPV4: u16 = 0x0800;
const PLAIN: u16 = 0x4500;
const UDP: u16 = 0x4011;

/// What is sent. The bench writes it, the generator counts in it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Course {
    /// The head of every frame, with a source of zeros.
    pub head: Head,
    /// Other than zero: the far end sends every frame back.
    pub reflects: u16,
    /// The link into which frames are put.
    pub link: u32,
    /// How many flows take turns.
    pub flows: u32,
    /// The flow of the next frame.
    pub next: u32,
}

const _: () = assert!(size_of::<Course>() == 42 + 2 + 3 * 4, "implicit padding");

// SAFETY: repr(C), plain fields, and no byte is padding: asserted above.
#[cfg(not(target_arch = "bpf"))]
unsafe impl aya::Pod for Course {}

/// What is counted, and its place in the map of counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Count {
    /// Frames that the generator has made.
    Sent,
    /// Frames that have arrived at the far end.
    Arrived,
    /// Frames that have come back.
    Returned,
}

impl Count {
    /// How many there are.
    pub const ALL: usize = 3;
}

/// The head of frames from one Ethernet address to another and to an IPv4 address, without a source.
pub fn head(from: [u8; 6], to: [u8; 6], target: SocketAddrV4) -> Head {
    let mut head = [0; 21];
    for (place, bytes) in [(TO, to), (FROM, from)] {
        let [a, b, c, d, e, f] = bytes;
        let words = [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes);
        head[place..place + 3].copy_from_slice(&words);
    }
    let whole = (FRAME - 14) as u16;
    let [high, low] = halves(*target.ip());
    for (place, value) in [
        (KIND, IPV4),
        (VERSION, PLAIN),
        (LENGTH, whole),
        (LIFE, UDP),
        (TARGET, high),
        (TARGET + 1, low),
        (TARGET_PORT, target.port()),
        (DATAGRAM, whole - 20),
    ] {
        head[place] = value.to_be();
    }
    head[SUM] = checksum(0, &[PLAIN, whole, UDP, high, low]);
    // Addresses, protocol and length stand before the datagram, for the sum only; its own head has the length again.
    let pseudo = [high, low, UDP & 0xff, whole - 20];
    head[DATAGRAM_SUM] =
        checksum(0, &[pseudo[0], pseudo[1], pseudo[2], pseudo[3], target.port(), whole - 20]);
    head
}

/// Address and port from which a flow is sent. Neighbours in number differ in address.
#[inline(always)]
pub fn source(flow: u32) -> SocketAddrV4 {
    let address = Ipv4Addr::from_bits(SOURCES.to_bits() + flow % SENDERS);
    SocketAddrV4::new(address, (LOWEST + flow / SENDERS) as u16)
}

/// Writes the head of one flow's frame.
#[inline(always)]
pub fn write(course: &Course, flow: u32, head: &mut Head) {
    let source = source(flow);
    let [high, low] = halves(*source.ip());
    *head = course.head;
    head[SUM] = checksum(!course.head[SUM], &[high, low]);
    let sum = checksum(!course.head[DATAGRAM_SUM], &[high, low, source.port()]);
    // Zero means "no checksum" for UDP over IPv4; a computed zero is sent as 0xffff (RFC 768).
    head[DATAGRAM_SUM] = if sum == 0 { 0xffff } else { sum };
    head[SOURCE] = high.to_be();
    head[SOURCE + 1] = low.to_be();
    head[SOURCE_PORT] = source.port().to_be();
}

/// Sends a frame back where it came from. No sum changes: they do not depend on the order of what is summed.
#[inline(always)]
pub fn turn_round(head: &mut Head) {
    for (one, other) in [
        (TO, FROM),
        (TO + 1, FROM + 1),
        (TO + 2, FROM + 2),
        (SOURCE, TARGET),
        (SOURCE + 1, TARGET + 1),
        (SOURCE_PORT, TARGET_PORT),
    ] {
        head.swap(one, other);
    }
}

/// Whether a frame is a datagram over IPv4: the only kind that is sent here. The time to live is another after a router.
#[inline(always)]
pub fn is_datagram(head: &Head) -> bool {
    head[KIND] == IPV4.to_be()
        && head[VERSION] == PLAIN.to_be()
        && u16::from_be(head[LIFE]) & 0xff == UDP & 0xff
}

#[inline(always)]
fn halves(address: Ipv4Addr) -> [u16; 2] {
    let bits = address.to_bits();
    [(bits >> 16) as u16, bits as u16]
}

/// The internet checksum of words in host order added to a sum in network order, in network order.
#[inline(always)]
fn checksum(start: u16, words: &[u16]) -> u16 {
    let mut sum = u32::from(u16::from_be(start));
    for word in words {
        sum += u32::from(*word);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn course() -> Course {
        let target = SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 2), 53);
        let head = head([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], target);
        Course { head, reflects: 0, link: 1, flows: 1, next: 0 }
    }

    fn written(flow: u32) -> Head {
        let mut frame = [0xaaaa; 21];
        write(&course(), flow, &mut frame);
        frame
    }

    /// The sum over everything that a receiver sums: all ones where nothing is wrong.
    fn received(words: &[u16]) -> u16 {
        !u16::from_be(checksum(0, &std::vec::Vec::from_iter(words.iter().map(|word| u16::from_be(*word)))))
    }

    #[test]
    fn every_flow_has_valid_checksums_there_and_back() {
        for flow in (0..MOST).step_by(9_973).chain(0..2_000) {
            let mut frame = written(flow);
            for _ in 0..2 {
                assert_eq!(received(&frame[VERSION..VERSION + 10]), 0xffff, "IPv4 of flow {flow}");
                let pseudo = [frame[SOURCE], frame[SOURCE + 1], frame[TARGET], frame[TARGET + 1]];
                let rest = [17_u16.to_be(), frame[DATAGRAM]];
                let all = [&pseudo[..], &rest, &frame[SOURCE_PORT..]].concat();
                assert_eq!(received(&all), 0xffff, "UDP of flow {flow}");
                assert_ne!(frame[DATAGRAM_SUM], 0, "flow {flow}");
                turn_round(&mut frame);
            }
            assert_eq!(frame, written(flow));
        }
    }

    #[test]
    fn a_frame_lies_as_on_the_wire() {
        let bytes: std::vec::Vec<u8> = written(257).iter().flat_map(|word| word.to_ne_bytes()).collect();
        let [ethernet, ip, udp] = [&bytes[..14], &bytes[14..34], &bytes[34..]];
        assert_eq!(ethernet, [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(ip[..10], [0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
        assert_eq!(ip[12..], [198, 18, 0, 1, 203, 0, 113, 2]);
        assert_eq!(udp[..6], [4, 1, 0, 53, 0, 26]);
    }

    #[test]
    fn no_two_flows_share_their_source() {
        let flows = 200_000;
        assert_eq!((0..flows).map(source).collect::<BTreeSet<_>>().len(), flows as usize);
        assert_eq!(source(MOST - 1), SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 255), 65_535));
    }

    #[test]
    fn only_datagrams_are_taken_for_datagrams() {
        let mut routed = written(1);
        routed[LIFE] = 0x3f11_u16.to_be();
        assert!(is_datagram(&routed));
        for (place, value) in [(KIND, 0x0806_u16), (VERSION, 0x4600), (LIFE, 0x4006)] {
            let mut other = written(1);
            other[place] = value.to_be();
            assert!(!is_datagram(&other), "{place}");
        }
    }
}
