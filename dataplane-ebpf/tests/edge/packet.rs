//! Packets: made with right checksums, read, and checked. Nothing here knows the datapath's own arithmetic: sums are taken
//! anew, byte by byte, as RFC 1071 says.

use std::net::{IpAddr, SocketAddr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
pub(crate) const SCTP: u8 = 132;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// Bytes of an Ethernet header.
pub(crate) const ETHERNET: usize = 14;
const HOPS: u8 = 64;

/// A datagram of UDP with right checksums, from the IP header on.
pub(crate) fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).expect("a short payload");
    let mut segment = [ports(from, to).as_slice(), &length.to_be_bytes(), &[0, 0], payload].concat();
    let sum = sum_up(from.ip(), to.ip(), UDP, &segment);
    // RFC 768: a computed zero is sent as all ones.
    put(&mut segment, 6, if sum == 0 { u16::MAX } else { sum });
    ip(from.ip(), to.ip(), UDP, &segment)
}

/// A segment of TCP.
pub(crate) fn tcp(from: SocketAddr, to: SocketAddr, bits: u8, payload: &[u8]) -> Vec<u8> {
    let rest = [1, 2, 3, 4, 5, 6, 7, 8, 0x50, bits, 0xff, 0xff, 0, 0, 0, 0];
    let mut segment = [ports(from, to).as_slice(), &rest, payload].concat();
    let sum = sum_up(from.ip(), to.ip(), TCP, &segment);
    put(&mut segment, 16, sum);
    ip(from.ip(), to.ip(), TCP, &segment)
}

/// A message of ICMP that quotes the beginning of a packet.
pub(crate) fn icmp(from: IpAddr, to: IpAddr, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let protocol = if from.is_ipv4() { ICMP } else { ICMPV6 };
    let mut message = [&[kind, code, 0, 0, 0, 0, 5, 0], quoted].concat();
    let sum = match protocol {
        ICMP => checksum(&[&message]),
        _ => sum_up(from, to, protocol, &message),
    };
    put(&mut message, 2, sum);
    ip(from, to, protocol, &message)
}

/// Anything behind an IP header.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> Vec<u8> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let [a, b] = u16::try_from(20 + segment.len()).expect("a short packet").to_be_bytes();
            let head = [0x45, 0, a, b, 0x12, 0x34, 0x40, 0, HOPS, protocol, 0, 0];
            let mut header = [head.as_slice(), &from.octets(), &to.octets()].concat();
            let sum = checksum(&[&header]);
            put(&mut header, 10, sum);
            [header, segment.to_vec()].concat()
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [a, b] = u16::try_from(segment.len()).expect("a short packet").to_be_bytes();
            let head = [0x60, 0, 0, 0, a, b, protocol, HOPS];
            [head.as_slice(), &from.octets(), &to.octets(), segment].concat()
        }
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// The same with so many hops left.
pub(crate) fn with_hops(mut ip: Vec<u8>, hops: u8) -> Vec<u8> {
    if ip[0] >> 4 == 6 {
        ip[7] = hops;
    } else {
        ip[8] = hops;
        seal(&mut ip);
    }
    ip
}

/// Adds the checksum of an IPv4 header up anew.
pub(crate) fn seal(ip: &mut [u8]) {
    put(ip, 10, 0);
    let length = usize::from(ip[0] & 15) * 4;
    let sum = checksum(&[&ip[..length]]);
    put(ip, 10, sum);
}

/// An Ethernet frame around a packet.
pub(crate) fn framed(ip: &[u8]) -> Vec<u8> {
    let kind = if ip.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [0x08, 0] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], kind.as_slice(), ip].concat()
}

fn ports(from: SocketAddr, to: SocketAddr) -> [u8; 4] {
    let ([a, b], [c, d]) = (from.port().to_be_bytes(), to.port().to_be_bytes());
    [a, b, c, d]
}

pub(crate) fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

pub(crate) fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// Where a plain packet's next header begins.
pub(crate) fn header_bytes(ip: &[u8]) -> usize {
    if ip[0] >> 4 == 6 { 40 } else { 20 }
}

pub(crate) fn protocol(ip: &[u8]) -> u8 {
    if ip[0] >> 4 == 6 { ip[6] } else { ip[9] }
}

/// Who sent a packet of plain shape, and whom it is for.
pub(crate) fn ends(ip: &[u8]) -> (SocketAddr, SocketAddr) {
    let (from, to) = addresses(ip);
    let start = header_bytes(ip);
    ((from, word(ip, start)).into(), (to, word(ip, start + 2)).into())
}

pub(crate) fn addresses(ip: &[u8]) -> (IpAddr, IpAddr) {
    if ip[0] >> 4 == 6 {
        let six = |at: usize| IpAddr::from(*ip[at..].first_chunk::<16>().expect("a whole header"));
        (six(8), six(24))
    } else {
        let four = |at: usize| IpAddr::from(*ip[at..].first_chunk::<4>().expect("a whole header"));
        (four(12), four(16))
    }
}

/// Whether a packet is one of several fragments of IPv4, but not the first.
pub(crate) fn is_rest(ip: &[u8]) -> bool {
    ip[0] >> 4 == 4 && word(ip, 6) & 0x1fff != 0
}

/// A packet in fragments that carry so many bytes each, a multiple of eight; with this number.
pub(crate) fn fragments(ip: &[u8], bytes: usize, number: u16) -> Vec<Vec<u8>> {
    let start = header_bytes(ip);
    let pieces: Vec<&[u8]> = ip[start..].chunks(bytes).collect();
    let last = pieces.len() - 1;
    let cut = |(index, piece): (usize, &&[u8])| {
        let offset = u16::try_from(index * bytes / 8).expect("a short packet");
        let more = index != last;
        let mut part = ip[..start].to_vec();
        if start == 40 {
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            let [c, d] = number.to_be_bytes();
            part.extend([ip[6], 0, a, b, 7, 7, c, d]);
            part[6] = 44;
        }
        part.extend_from_slice(piece);
        let length = u16::try_from(part.len()).expect("a short packet");
        if start == 40 {
            put(&mut part, 4, length - 40);
        } else {
            put(&mut part, 2, length);
            put(&mut part, 4, number);
            put(&mut part, 6, offset | if more { 0x2000 } else { 0 });
            seal(&mut part);
        }
        part
    };
    pieces.iter().enumerate().map(cut).collect()
}

/// The packet that some fragments make, in their order.
pub(crate) fn joined(parts: &[Vec<u8>]) -> Vec<u8> {
    let start = header_bytes(&parts[0]);
    let behind = if start == 40 { 48 } else { 20 };
    let mut ip = parts[0][..start].to_vec();
    parts.iter().for_each(|part| ip.extend_from_slice(&part[behind..]));
    let length = u16::try_from(ip.len()).expect("a short packet");
    if start == 40 {
        ip[6] = parts[0][40];
        put(&mut ip, 4, length - 40);
    } else {
        put(&mut ip, 2, length);
        put(&mut ip, 6, 0);
        seal(&mut ip);
    }
    ip
}

/// How far each checksum of a packet is from being right, modulo 65,535; `None` where the packet says that it has none (over
/// IPv6, too, where it may not). First the IP header's, then that of what it carries, both over as much as is there.
pub(crate) fn errors(ip: &[u8]) -> [Option<u32>; 2] {
    let start = header_bytes(ip);
    let (from, to) = addresses(ip);
    let said =
        if start == 40 { usize::from(word(ip, 4)) } else { usize::from(word(ip, 2)).saturating_sub(20) };
    let segment = &ip[start..(start + said).min(ip.len())];
    let protocol = protocol(ip);
    let none = protocol == UDP && !is_rest(ip) && segment.len() >= 8 && word(segment, 6) == 0;
    let carried = match protocol {
        _ if none || is_rest(ip) => None,
        ICMP => Some(total(&[segment]) % 0xffff),
        TCP | UDP | ICMPV6 => Some(total(&[&pseudo(from, to, protocol, said), segment]) % 0xffff),
        _ => None,
    };
    [(start == 20).then(|| total(&[&ip[..20]]) % 0xffff), carried]
}

/// Whether all checksums are right.
pub(crate) fn is_right(ip: &[u8]) -> bool {
    errors(ip).into_iter().flatten().all(|error| error == 0)
}

/// What the checksum of TCP, UDP and ICMPv6 covers besides the segment (RFC 793, RFC 8200). Lengths of both families give the
/// same sum.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u32::try_from(length).expect("a short packet").to_be_bytes();
    [octets(from), octets(to), length.to_vec(), vec![0, 0, 0, protocol]].concat()
}

fn sum_up(from: IpAddr, to: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    checksum(&[&pseudo(from, to, protocol, segment.len()), segment])
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = total(parts);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// The sum of all pairs of bytes; a missing last byte is zero. Only the last part may have an odd length.
fn total(parts: &[&[u8]]) -> u32 {
    let pairs = parts.iter().flat_map(|part| part.chunks(2));
    pairs.map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0))).sum()
}

#[test]
fn what_the_builders_make_is_right_and_a_changed_bit_is_found() {
    for (from, to) in [("192.0.2.1:9", "10.0.0.1:80"), ("[2001:db8::1]:9", "[fd00::1]:80")] {
        let (from, to) = (from.parse().expect("an address"), to.parse().expect("an address"));
        let one = udp(from, to, b"odd");
        for ip in [tcp(from, to, SYN, b"four"), icmp(from.ip(), to.ip(), 3, 1, &one), one] {
            assert!(is_right(&ip), "{ip:x?}");
            for bit in 0..8 {
                let mut wrong = ip.clone();
                *wrong.last_mut().expect("a byte") ^= 1 << bit;
                assert!(!is_right(&wrong), "{wrong:x?}");
            }
        }
    }
}

#[test]
fn the_sums_are_those_of_a_packet_from_a_book() {
    // The IPv4 header that RFC 1071's algorithm is usually shown with; its checksum is 0xb861.
    let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    assert_eq!(checksum(&[&header]), 0xb861);
}
