//! One probe: the first packet of a flow, written so that it can be told again after somebody has translated it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

/// Where a flow comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// By the cable to the pods.
    Pod,
    /// From a process of the node itself.
    Node,
    /// By the cable to the outside.
    Outside,
}

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A SYN.
    Tcp,
    /// A datagram.
    Udp,
    /// An INIT.
    Sctp,
    /// An echo request; its ports mean nothing.
    Icmp,
}

/// The first packet of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Where it starts.
    pub from: Class,
    /// What it speaks.
    pub protocol: Protocol,
    /// What it says it comes from.
    pub source: SocketAddr,
    /// Where it wants to go.
    pub to: SocketAddr,
}

/// First number of all probes: far from those that anything else in a namespace begins with.
pub(super) const FIRST: u32 = 0x5EED_0000;
/// Follows the number where there is room, so that nothing else is taken for a probe.
const MAGIC: [u8; 8] = *b"a probe.";
const HOPS: u8 = 64;
const WINDOW: u16 = 64_240;

impl Class {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Pod, Self::Node, Self::Outside];
}

impl Protocol {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Udp, Self::Sctp, Self::Icmp];
    /// Those that Services know.
    pub const OF_SERVICES: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];
}

impl Probe {
    /// The whole packet, beginning with its IP header.
    pub(super) fn packet(&self, number: u32) -> Result<Vec<u8>> {
        let payload = [number.to_be_bytes().as_slice(), &MAGIC].concat();
        let (ip, mut packet) = (self.header()?, Vec::new());
        let (from, to) = (self.source.port(), self.to.port());
        match (self.protocol, self.to.is_ipv4()) {
            (Protocol::Tcp, _) => ip.tcp(from, to, number, WINDOW).syn().write(&mut packet, &[])?,
            (Protocol::Udp, _) => ip.udp(from, to).write(&mut packet, &payload)?,
            (Protocol::Sctp, _) => ip.write(&mut packet, IpNumber::SCTP, &init(from, to, number))?,
            (Protocol::Icmp, true) => ip.icmpv4_echo_request(from, to).write(&mut packet, &payload)?,
            (Protocol::Icmp, false) => ip.icmpv6_echo_request(from, to).write(&mut packet, &payload)?,
        }
        Ok(packet)
    }

    fn header(&self) -> Result<PacketBuilderStep<etherparse::IpHeaders>> {
        match (self.source.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => Ok(PacketBuilder::ipv4(from.octets(), to.octets(), HOPS)),
            (IpAddr::V6(from), IpAddr::V6(to)) => Ok(PacketBuilder::ipv6(from.octets(), to.octets(), HOPS)),
            (from, to) => bail!("a probe from {from} to {to} has two families"),
        }
    }
}

/// An SCTP packet with one INIT chunk (RFC 9260, sections 3 and 3.3.2). The number is the initiate tag.
fn init(from: u16, to: u16, number: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(from.to_be_bytes());
    packet.extend(to.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([1, 0, 0, 20]);
    packet.extend(number.to_be_bytes());
    packet.extend(u32::from(WINDOW).to_be_bytes());
    packet.extend([0, 8, 0, 8]);
    packet.extend(number.to_be_bytes());
    let checksum = crc32c::crc32c(&packet);
    packet[8..12].copy_from_slice(&checksum.to_le_bytes());
    packet
}

/// The number of a probe, from what follows the IP header, which may be cut off.
pub(super) fn number(protocol: Protocol, transport: &[u8]) -> Option<u32> {
    match protocol {
        Protocol::Tcp => word(transport, 4),
        Protocol::Udp | Protocol::Icmp => {
            word(transport, 8).filter(|_| transport.get(12..20) == Some(&MAGIC))
        }
        Protocol::Sctp => word(transport, 16),
    }
}

/// Four bytes in the order of the network.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_an_init_is_the_one_of_its_packet_without_a_checksum() {
        let mut packet = init(1, 2, 3);
        let told: [u8; 4] = packet[8..12].try_into().unwrap();
        packet[8..12].fill(0);
        assert_eq!(crc32c::crc32c(&packet), u32::from_le_bytes(told));
    }

    #[test]
    fn every_probe_has_its_number_in_it() {
        for (source, to) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp] {
                let (source, to): (SocketAddr, SocketAddr) = (source.parse().unwrap(), to.parse().unwrap());
                let probe = Probe { from: Class::Pod, protocol, source, to };
                let packet = probe.packet(FIRST + 5).unwrap();
                let transport = &packet[if to.is_ipv4() { 20 } else { 40 }..];
                assert_eq!(number(protocol, transport), Some(FIRST + 5), "{probe:?}");
            }
        }
    }
}
