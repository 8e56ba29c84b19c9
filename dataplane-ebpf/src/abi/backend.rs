//! Endpoints, and the address-and-port pair that everything is made of.

use super::abi;

abi! {
    /// An address and a port.
    pub struct Endpoint: 18 {
        /// IPv6 address, or IPv4 as IPv4-mapped; network order.
        pub address: [u8; 16],
        /// Port, network order.
        pub port: [u8; 2],
    }
}

abi! {
    /// One endpoint of one service port. It is present for as long as flows may stay with it: while it is in the
    /// list, and while it terminates but still serves.
    pub struct Backend: 24 {
        /// Where it listens.
        pub endpoint: Endpoint,
        /// Always zero.
        pub zero: [u8; 2],
        /// Id of the service port it belongs to.
        pub service: u32,
    }
}

/// First twelve bytes of an IPv4-mapped address.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

impl Endpoint {
    /// From an IPv4 address and a port, both in network order.
    #[inline(always)]
    pub const fn v4(address: [u8; 4], port: [u8; 2]) -> Self {
        // Arithmetic on words: an array of bytes would be filled by a loop.
        let mapped = (0xffff_u128 << 32) | u32::from_be_bytes(address) as u128;
        Self { address: mapped.to_be_bytes(), port }
    }

    /// From an IPv6 address and a port, both in network order.
    #[inline(always)]
    pub const fn v6(address: [u8; 16], port: [u8; 2]) -> Self {
        Self { address, port }
    }

    /// The IPv4 address, if it is one.
    #[inline(always)]
    pub fn as_v4(&self) -> Option<[u8; 4]> {
        let [head @ .., a, b, c, d] = self.address;
        (head == MAPPED).then_some([a, b, c, d])
    }
}

#[cfg(not(target_arch = "bpf"))]
mod host {
    use std::net::{IpAddr, Ipv6Addr, SocketAddr};

    use super::Endpoint;

    impl From<SocketAddr> for Endpoint {
        fn from(address: SocketAddr) -> Self {
            let port = address.port().to_be_bytes();
            match address.ip() {
                IpAddr::V4(ip) => Self::v4(ip.octets(), port),
                IpAddr::V6(ip) => Self::v6(ip.octets(), port),
            }
        }
    }

    impl From<Endpoint> for SocketAddr {
        fn from(endpoint: Endpoint) -> Self {
            let ip = Ipv6Addr::from(endpoint.address).to_canonical();
            Self::new(ip, u16::from_be_bytes(endpoint.port))
        }
    }
}
