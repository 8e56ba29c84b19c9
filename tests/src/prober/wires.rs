//! The sockets by which packets are put into a namespace and seen in it. A socket stays in the namespace in which it was
//! opened, whoever uses it.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context, Result};
use etherparse::IpNumber;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::{Ipv6RecvPacketInfo, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6,
    SockaddrLike, SockaddrStorage, bind, recv, recvmsg, send, sendto, setsockopt, socket,
};

use super::sighting::{Sighting, of_packet, of_transport};

/// Room for the packets of a whole batch, small as they are: the kernel counts about a kilobyte for each.
const ROOM: usize = 64 << 20;
/// An Ethernet header.
const ETHERNET: usize = 14;
/// Longer than any packet here: errors carry 1280 bytes at most.
const LONGEST: usize = 2048;

/// One end of a cable, as frames go in and out. It does not see what it has sent itself.
#[derive(Debug)]
pub(super) struct Cable {
    socket: OwnedFd,
    /// Who is at the other end.
    far: [u8; 6],
}

/// What processes of the node send.
#[derive(Debug)]
pub(super) struct Mouth {
    v4: OwnedFd,
    v6: OwnedFd,
}

/// What is delivered to the node itself. The kernel hands a packet to these sockets behind all of netfilter, and before
/// it answers that nobody listens.
#[derive(Debug)]
pub(super) struct Ears {
    /// Errors first: when one is read, the packet that it is about has been there before.
    v4: Vec<OwnedFd>,
    v6: Vec<(IpNumber, OwnedFd)>,
}

impl Cable {
    /// The end of this name in the calling thread's namespace.
    pub(super) fn open(link: &str, far: [u8; 6]) -> Result<Self> {
        let socket = open(AddressFamily::Packet, SockProtocol::EthAll)?;
        bind(socket.as_raw_fd(), &address_of(link)?)
            .with_context(|| format!("could not listen at {link}"))?;
        Ok(Self { socket, far })
    }

    pub(super) fn send(&self, packet: &[u8]) -> Result<()> {
        let kind: [u8; 2] = if is_v4(packet) { [0x08, 0x00] } else { [0x86, 0xdd] };
        let frame = [&self.far, [2, 0, 0, 0, 0, 1].as_slice(), &kind, packet].concat();
        send(self.socket.as_raw_fd(), &frame, MsgFlags::empty()).context("could not send a frame")?;
        Ok(())
    }

    /// Everything that has come since.
    pub(super) fn read(&self, mut see: impl FnMut(Sighting)) -> Result<()> {
        let mut frame = [0; LONGEST];
        while let Some(length) = received(recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT))?
        {
            frame.get(ETHERNET..length).and_then(of_packet).into_iter().for_each(&mut see);
        }
        Ok(())
    }
}

impl Mouth {
    /// In the calling thread's namespace.
    pub(super) fn open() -> Result<Self> {
        let open = |family| open(family, SockProtocol::Raw);
        Ok(Self { v4: open(AddressFamily::Inet)?, v6: open(AddressFamily::Inet6)? })
    }

    /// A refusal may come back as an error of the very call; that is for the ears.
    pub(super) fn send(&self, packet: &[u8], to: IpAddr) -> Result<()> {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        let to = SockaddrStorage::from(SocketAddr::new(to, 0));
        match sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()) {
            Ok(_) | Err(Errno::EPERM | Errno::ECONNREFUSED) => Ok(()),
            Err(error) => Err(error).with_context(|| format!("could not send from the node to {to}")),
        }
    }
}

impl Ears {
    /// In the calling thread's namespace.
    pub(super) fn open() -> Result<Self> {
        let protocols = [SockProtocol::Tcp, SockProtocol::Udp, SockProtocol::Sctp];
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for protocol in [SockProtocol::Icmp].into_iter().chain(protocols) {
            v4.push(open(AddressFamily::Inet, protocol)?);
        }
        for protocol in [SockProtocol::IcmpV6].into_iter().chain(protocols) {
            let socket = open(AddressFamily::Inet6, protocol)?;
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            v6.push((IpNumber(u8::try_from(protocol as i32)?), socket));
        }
        Ok(Self { v4, v6 })
    }

    /// Everything that has come since.
    pub(super) fn read(&self, mut see: impl FnMut(Sighting)) -> Result<()> {
        let mut packet = [0; LONGEST];
        for socket in &self.v4 {
            while let Some(length) = received(recv(socket.as_raw_fd(), &mut packet, MsgFlags::MSG_DONTWAIT))?
            {
                packet.get(..length).and_then(of_packet).into_iter().for_each(&mut see);
            }
        }
        for (protocol, socket) in &self.v6 {
            while let Some(seen) = read_v6(socket, *protocol)? {
                seen.into_iter().for_each(&mut see);
            }
        }
        Ok(())
    }
}

/// A raw socket of IPv6 gives what follows the header; the addresses come beside it. `None`: nothing is there.
fn read_v6(socket: &OwnedFd, protocol: IpNumber) -> Result<Option<Option<Sighting>>> {
    let mut transport = [0; LONGEST];
    let mut parts = [IoSliceMut::new(&mut transport)];
    let mut beside = nix::cmsg_space!(libc::in6_pktinfo);
    let message =
        recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut beside), MsgFlags::MSG_DONTWAIT);
    let Some(message) = received(message)? else { return Ok(None) };
    // There is one, of the kind that was asked for.
    let mut to = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::Ipv6PacketInfo(info) = part {
            to = Some(Ipv6Addr::from(info.ipi6_addr.s6_addr));
        }
    }
    let (source, length) = (message.address.map(|address| address.ip()), message.bytes);
    let (Some(source), Some(to)) = (source, to) else { return Ok(Some(None)) };
    Ok(Some(of_transport(source.into(), to.into(), protocol, &transport[..length])))
}

fn open(family: AddressFamily, protocol: SockProtocol) -> Result<OwnedFd> {
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .context("could not open a raw socket (are you root?)")?;
    setsockopt(&socket, RcvBufForce, &ROOM).context("could not make room for packets")?;
    Ok(socket)
}

fn address_of(link: &str) -> Result<LinkAddr> {
    let index = if_nametoindex(link).with_context(|| format!("no link {link}"))?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = u32::try_from(size_of_val(&address))?;
    // SAFETY: it points to a whole sockaddr_ll of that length.
    unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) }
        .context("not an address of a link")
}

fn received<T>(result: nix::Result<T>) -> Result<Option<T>> {
    match result {
        Ok(received) => Ok(Some(received)),
        Err(Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error).context("could not read packets"),
    }
}

fn is_v4(packet: &[u8]) -> bool {
    packet.first().is_some_and(|first| first >> 4 == 4)
}
