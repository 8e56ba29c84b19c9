//! What of a packet's headers decides, read in one go.

use super::frame::Frame;
use crate::abi::{Address, FlowKey};

/// IP protocol numbers.
pub const TCP: u32 = 6;
/// See above.
pub const UDP: u32 = 17;
/// ICMP over IPv4.
pub const ICMP: u32 = 1;
/// ICMP over IPv6.
pub const ICMPV6: u32 = 58;

/// Bits of TCP's header.
pub const FIN: u32 = 0x01;
/// See above.
pub const SYN: u32 = 0x02;
/// See above.
pub const RST: u32 = 0x04;
/// See above.
pub const ACK: u32 = 0x10;

/// Third word of an IPv4-mapped address.
pub const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

/// Which internet protocol a packet is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4 without options.
    V4,
    /// IPv6 without extension headers.
    V6,
}

/// The header of a whole packet (no fragment) of TCP, UDP or ICMP, of plain shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which.
    pub version: Version,
    /// IP protocol number.
    pub protocol: u32,
    /// How many more hops it may take.
    pub hops: u32,
    /// Bits of TCP's header; zero for others.
    pub bits: u32,
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub target: Address,
    /// Both ports. For ICMP: type, code and checksum.
    pub ports: u32,
}

impl Version {
    /// Bytes of the header.
    pub const fn bytes(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }
}

impl Header {
    /// What packets of this direction bear.
    #[inline(always)]
    pub fn key(&self) -> FlowKey {
        FlowKey { source: self.source, target: self.target, ports: self.ports, protocol: self.protocol }
    }

    /// Whether it may be the first of a flow.
    #[inline(always)]
    pub fn opens(&self) -> bool {
        self.protocol == UDP || self.protocol == TCP && self.bits & (SYN | ACK | RST | FIN) == SYN
    }

    /// Whether it is ICMP of its version.
    #[inline(always)]
    pub fn is_icmp(&self) -> bool {
        match self.version {
            Version::V4 => self.protocol == ICMP,
            Version::V6 => self.protocol == ICMPV6,
        }
    }
}

/// The two ports of a pair.
#[inline(always)]
pub const fn split(ports: u32) -> [u32; 2] {
    let [a, b, c, d] = ports.to_ne_bytes();
    [u16::from_ne_bytes([a, b]) as u32, u16::from_ne_bytes([c, d]) as u32]
}

/// A pair of two ports.
#[inline(always)]
pub const fn pair(source: u32, target: u32) -> u32 {
    let ([a, b], [c, d]) = ((source as u16).to_ne_bytes(), (target as u16).to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The same pair seen from the other side.
#[inline(always)]
pub const fn swapped(ports: u32) -> u32 {
    ports.rotate_left(16)
}

/// Reads the header at `at`. `None` for what this layer does not do: other protocols, fragments, options, extension
/// headers, what is cut short. `whole`: a packet that was not quoted by an error message, so that TCP's bits are there.
#[inline(always)]
pub fn read(frame: &impl Frame, at: usize, whole: bool) -> Option<Header> {
    match version(frame, at)? {
        Version::V4 => read_v4(frame, at, whole),
        Version::V6 => read_v6(frame, at, whole),
    }
}

/// Which internet protocol the packet at `at` is of; `None` for others, and for IPv4 with options.
#[inline(always)]
pub fn version(frame: &impl Frame, at: usize) -> Option<Version> {
    let [first] = frame.words::<1>(at)?;
    match first.to_ne_bytes()[0] {
        0x45 => Some(Version::V4),
        first if first >> 4 == 6 => Some(Version::V6),
        _ => None,
    }
}

/// IPv4.
#[inline(always)]
pub fn read_v4(frame: &impl Frame, at: usize, whole: bool) -> Option<Header> {
    let [identity, kind, source, target, ports] = frame.words::<5>(at + 4)?;
    // More fragments, or an offset.
    if identity & u32::from_ne_bytes([0, 0, 0x3f, 0xff]) != 0 {
        return None;
    }
    let [hops, protocol, _, _] = kind.to_ne_bytes().map(u32::from);
    let bits = bits(frame, at + 20, protocol, ICMP, whole)?;
    let [source, target] = [source, target].map(|word| [0, 0, MAPPED, word]);
    Some(Header { version: Version::V4, protocol, hops, bits, source, target, ports })
}

/// IPv6.
#[inline(always)]
pub fn read_v6(frame: &impl Frame, at: usize, whole: bool) -> Option<Header> {
    let [kind, a, b, c, d, e, f, g, h, ports] = frame.words::<10>(at + 4)?;
    let [_, _, protocol, hops] = kind.to_ne_bytes().map(u32::from);
    let bits = bits(frame, at + 40, protocol, ICMPV6, whole)?;
    let (source, target) = ([a, b, c, d], [e, f, g, h]);
    Some(Header { version: Version::V6, protocol, hops, bits, source, target, ports })
}

/// Where the packet at `at` ends, as it says itself. A frame may have more bytes.
#[inline(always)]
pub fn end(frame: &impl Frame, at: usize, version: Version) -> Option<usize> {
    Some(match version {
        Version::V4 => {
            let [_, _, a, b] = frame.words::<1>(at)?[0].to_ne_bytes();
            at + u16::from_be_bytes([a, b]) as usize
        }
        Version::V6 => {
            let [a, b, _, _] = frame.words::<1>(at + 4)?[0].to_ne_bytes();
            at + version.bytes() + u16::from_be_bytes([a, b]) as usize
        }
    })
}

/// TCP's bits; `None` for a protocol of which nothing is known here, and for a header that is cut short.
#[inline(always)]
fn bits(frame: &impl Frame, at: usize, protocol: u32, icmp: u32, whole: bool) -> Option<u32> {
    if protocol == TCP && whole {
        // The last word of the fixed part is there, too.
        let [word, _] = frame.words::<2>(at + 12)?;
        let [_, bits, _, _] = word.to_ne_bytes();
        return Some(u32::from(bits));
    }
    let known = protocol == TCP || protocol == UDP || protocol == icmp;
    // What is quoted has eight bytes at least.
    frame.words::<2>(at).filter(|_| known).map(|_| 0)
}
