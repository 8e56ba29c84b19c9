//! What goes over a namespace's loopback: the destination of each packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use lab::netns::Netns;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};

/// A packet socket.
pub(crate) struct Wire(OwnedFd);

impl Wire {
    pub(crate) fn listen(netns: &Netns) -> Self {
        let made = netns.run(|| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            Ok(socket(AddressFamily::Packet, SockType::Datagram, flags, SockProtocol::EthAll)?)
        });
        Self(made.expect("a packet socket"))
    }

    /// Drops what came so far.
    pub(crate) fn forget(&self) {
        while self.packet().is_some() {}
    }

    /// Where the first connection attempt or datagram went. Loopback delivers before the call returns, so there is
    /// nothing to wait for.
    pub(crate) fn first(&self) -> Option<SocketAddr> {
        std::iter::from_fn(|| self.packet()).find_map(|packet| destination(&packet))
    }

    fn packet(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 2048];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(length) => {
                buffer.truncate(length);
                Some(buffer)
            }
            Err(Errno::EAGAIN) => None,
            Err(error) => panic!("packet socket: {error}"),
        }
    }
}

/// Protocol numbers that this laboratory knows.
const TRANSPORTS: [u8; 2] = [6, 17];

fn destination(packet: &[u8]) -> Option<SocketAddr> {
    let (address, protocol, header): (IpAddr, u8, usize) = match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            (Ipv4Addr::from(octets).into(), *packet.get(9)?, usize::from(packet[0] & 15) * 4)
        }
        6 => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(octets).into(), *packet.get(6)?, 40)
        }
        _ => return None,
    };
    let port: [u8; 2] = packet.get(header + 2..header + 4)?.try_into().ok()?;
    TRANSPORTS.contains(&protocol).then(|| SocketAddr::new(address, u16::from_be_bytes(port)))
}
