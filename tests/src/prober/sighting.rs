//! What a captured packet tells about a probe: that it went by, or how it was answered.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, LaxIpSlice};

use super::probe::{Protocol, number, word};

/// One packet that has to do with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    /// The number of the probe.
    pub(super) number: u32,
    pub(super) what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// The probe itself, with the addresses that it had then.
    Probe { source: IpAddr, to: SocketAddr },
    /// An answer to it.
    Refusal(Refusal),
}

/// How somebody says that a flow is not wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// An ICMP message: nobody listens at this port.
    PortUnreachable,
    /// An ICMP message: nobody speaks this protocol.
    ProtocolUnreachable,
    /// A TCP reset.
    Reset,
    /// Another ICMP error, by type and code.
    Other(u8, u8),
}

/// A packet that begins with its IP header.
pub(super) fn of_packet(packet: &[u8]) -> Option<Sighting> {
    let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
    let carried = ip.payload();
    of_transport(ip.source_addr(), ip.destination_addr(), carried.ip_number, carried.payload)
}

/// What follows an IP header.
pub(super) fn of_transport(
    source: IpAddr,
    to: IpAddr,
    protocol: IpNumber,
    transport: &[u8],
) -> Option<Sighting> {
    match protocol {
        IpNumber::ICMP => of_icmp(source, to, transport, &V4),
        IpNumber::IPV6_ICMP => of_icmp(source, to, transport, &V6),
        IpNumber::TCP if flags(transport)? & RST != 0 => reset(transport),
        other => itself(source, to, speaks(other)?, transport),
    }
}

/// The numbers of ICMP that matter here, in one family.
struct Icmp {
    echo: u8,
    /// Types of errors: they carry what they are about.
    errors: std::ops::RangeInclusive<u8>,
    port_unreachable: (u8, u8),
    protocol_unreachable: (u8, u8),
}

const V4: Icmp = Icmp { echo: 8, errors: 3..=5, port_unreachable: (3, 3), protocol_unreachable: (3, 2) };
const V6: Icmp = Icmp { echo: 128, errors: 1..=4, port_unreachable: (1, 4), protocol_unreachable: (4, 1) };

const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

fn of_icmp(source: IpAddr, to: IpAddr, message: &[u8], icmp: &Icmp) -> Option<Sighting> {
    let [kind, code] = *message.get(..2)? else { return None };
    if kind == icmp.echo {
        return itself(source, to, Protocol::Icmp, message);
    }
    if !icmp.errors.contains(&kind) {
        return None;
    }
    let about = about(message.get(8..)?)?;
    let refusal = match (kind, code) {
        both if both == icmp.port_unreachable => Refusal::PortUnreachable,
        both if both == icmp.protocol_unreachable => Refusal::ProtocolUnreachable,
        (kind, code) => Refusal::Other(kind, code),
    };
    Some(Sighting { number: about, what: What::Refusal(refusal) })
}

/// The number of the probe that an error is about.
fn about(packet: &[u8]) -> Option<u32> {
    let (ip, _) = LaxIpSlice::from_slice(packet).ok()?;
    number(speaks(ip.payload().ip_number)?, ip.payload().payload)
}

fn itself(source: IpAddr, to: IpAddr, protocol: Protocol, transport: &[u8]) -> Option<Sighting> {
    if protocol == Protocol::Tcp && flags(transport)? & (SYN | ACK) != SYN {
        return None;
    }
    let number = number(protocol, transport)?;
    let port = match protocol {
        Protocol::Icmp => 0,
        Protocol::Tcp | Protocol::Udp | Protocol::Sctp => {
            u16::from_be_bytes(transport.get(2..4)?.try_into().ok()?)
        }
    };
    Some(Sighting { number, what: What::Probe { source, to: SocketAddr::new(to, port) } })
}

/// A reset acknowledges the SYN that it answers.
fn reset(transport: &[u8]) -> Option<Sighting> {
    let number = word(transport, 8)?.wrapping_sub(1);
    Some(Sighting { number, what: What::Refusal(Refusal::Reset) })
}

fn flags(transport: &[u8]) -> Option<u8> {
    transport.get(13).copied()
}

fn speaks(protocol: IpNumber) -> Option<Protocol> {
    let known = [
        (IpNumber::TCP, Protocol::Tcp),
        (IpNumber::UDP, Protocol::Udp),
        (IpNumber::SCTP, Protocol::Sctp),
        (IpNumber::ICMP, Protocol::Icmp),
        (IpNumber::IPV6_ICMP, Protocol::Icmp),
    ];
    known.into_iter().find(|(number, _)| *number == protocol).map(|(_, protocol)| protocol)
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::super::probe::{Class, FIRST, Probe};
    use super::*;

    const PROTOCOLS: [Protocol; 4] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];

    fn probe(protocol: Protocol) -> Probe {
        let port = if protocol == Protocol::Icmp { 0 } else { 80 };
        let to = SocketAddr::new([10, 96, 0, 10].into(), port);
        Probe { from: Class::Pod, protocol, source: "10.1.0.9:4000".parse().unwrap(), to }
    }

    #[test]
    fn a_probe_is_seen_with_the_addresses_it_has() {
        for protocol in PROTOCOLS {
            let probe = probe(protocol);
            let seen = of_packet(&probe.packet(FIRST).unwrap()).unwrap();
            let what = What::Probe { source: probe.source.ip(), to: probe.to };
            assert_eq!(seen, Sighting { number: FIRST, what }, "{protocol:?}");
        }
    }

    #[test]
    fn an_error_names_the_probe_that_it_carries() {
        for protocol in PROTOCOLS {
            let carried = probe(protocol).packet(FIRST + 1).unwrap();
            let mut packet = Vec::new();
            let answer = PacketBuilder::ipv4([10, 0, 0, 1], [10, 1, 0, 9], 64);
            answer.icmpv4_raw(3, 3, [0; 4]).write(&mut packet, &carried).unwrap();
            let what = What::Refusal(Refusal::PortUnreachable);
            assert_eq!(of_packet(&packet).unwrap(), Sighting { number: FIRST + 1, what }, "{protocol:?}");
        }
    }

    #[test]
    fn a_reset_names_the_syn_that_it_acknowledges() {
        let mut packet = Vec::new();
        let answer = PacketBuilder::ipv4([10, 96, 0, 10], [10, 1, 0, 9], 64);
        answer.tcp(80, 4000, 0, 0).rst().ack(FIRST + 3).write(&mut packet, &[]).unwrap();
        let what = What::Refusal(Refusal::Reset);
        assert_eq!(of_packet(&packet).unwrap(), Sighting { number: FIRST + 2, what });
    }

    #[test]
    fn what_is_no_probe_is_not_seen() {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1, 2)
            .write(&mut packet, b"hello there!")
            .unwrap();
        assert_eq!(of_packet(&packet), None);
    }
}
