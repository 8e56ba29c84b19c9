//! Single calls on single sockets, one word of outcome for each: `ok`, the name of an error, or an address.
//!
//! ```text
//! open tcp4|tcp6|udp4|udp6    a new socket in place of the last
//! connect ADDRESS
//! send ADDRESS                one datagram
//! write                       one datagram, to wherever the socket is connected
//! peername
//! whither KIND ADDRESS        opens a socket and connects it, and does not wait; where the kernel says it leads
//! inject ADDRESS              a datagram from ADDRESS to the socket; who it says it is from
//! ```

use std::io::{BufRead as _, Error, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, connect, getpeername, getsockname,
    send, sendto, socket,
};
use nix::sys::stat::fstat;

use crate::exchange::name_of;

pub(crate) fn run() -> anyhow::Result<()> {
    let mut held = None;
    println!("ready");
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (verb, object) = line.split_once(' ').unwrap_or((&line, ""));
        println!("{}", act(&mut held, verb, object).unwrap_or_else(|error| name_of(&error)));
    }
    Ok(())
}

fn act(held: &mut Option<OwnedFd>, verb: &str, object: &str) -> Result<String> {
    if verb == "open" {
        *held = Some(open(object)?);
        return Ok("ok".to_owned());
    }
    if verb == "whither" {
        let (kind, to) = object.split_once(' ').ok_or_else(|| Error::other("whither KIND ADDRESS"))?;
        return whither(kind, &address(to)?);
    }
    let Some(held) = held else { return Err(Error::other("no socket is open")) };
    match verb {
        "connect" => connect(held.as_raw_fd(), &address(object)?)?,
        "send" => sendto(held.as_raw_fd(), b"?", &address(object)?, MsgFlags::empty()).map(drop)?,
        "write" => write(held)?,
        "peername" => return Ok(plain(&getpeername(held.as_raw_fd())?)?.to_string()),
        "inject" => return inject(held, parse(object)?),
        _ => return Err(Error::other("no such verb")),
    }
    Ok("ok".to_owned())
}

fn whither(kind: &str, to: &SockaddrStorage) -> Result<String> {
    let made = open(kind)?;
    fcntl(&made, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    match connect(made.as_raw_fd(), to) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let inode = fstat(&made)?.st_ino.to_string();
    let table = std::fs::read_to_string(format!("/proc/self/net/{}", kind.trim_end_matches('4')))?;
    // Columns of /proc/net/tcp: place, own address, the other's, ..., and in the tenth the inode.
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found =
        rows.filter(|row| row.get(9) == Some(&inode.as_str())).filter_map(|row| remote(row.get(2)?));
    found.next().map(|to| to.to_string()).ok_or_else(|| Error::other("not in the table"))
}

/// Reads an address of these tables: words as the machine stores them, in hexadecimal digits, and the port.
fn remote(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let words: Vec<[u8; 4]> = (0..address.len()).step_by(8).map(word).collect::<Option<_>>()?;
    let ip: IpAddr = match *words.as_slice() {
        [v4] => Ipv4Addr::from(v4).into(),
        [..] => Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical(),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The first try may only report that nobody listened to an earlier datagram.
fn write(held: &OwnedFd) -> nix::Result<()> {
    let once = || send(held.as_raw_fd(), b"?", MsgFlags::empty()).map(drop);
    once().or_else(|_| once())
}

fn open(kind: &str) -> Result<OwnedFd> {
    let (family, kind) = match kind {
        "tcp4" => (AddressFamily::Inet, SockType::Stream),
        "tcp6" => (AddressFamily::Inet6, SockType::Stream),
        "udp4" => (AddressFamily::Inet, SockType::Datagram),
        "udp6" => (AddressFamily::Inet6, SockType::Datagram),
        _ => return Err(Error::other("no such kind of socket")),
    };
    let made = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if kind == SockType::Datagram {
        let any: IpAddr = if family == AddressFamily::Inet {
            Ipv4Addr::UNSPECIFIED.into()
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        bind(made.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, 0)))?;
    }
    Ok(made)
}

/// Sends from `from`, an address of this namespace, to wherever the socket is bound.
fn inject(held: &OwnedFd, from: SocketAddr) -> Result<String> {
    let receiver = UdpSocket::from(held.as_fd().try_clone_to_owned()?);
    let mut home = plain(&getsockname(held.as_raw_fd())?)?;
    if home.ip().is_unspecified() {
        home.set_ip(if from.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    home.set_ip(home.ip().to_canonical());
    UdpSocket::bind(from)?.send_to(b"!", home)?;
    receiver.set_read_timeout(Some(Duration::from_secs(1)))?;
    // Errors of earlier sends (nobody listens at most endpoints) come first; each is reported once.
    for _ in 0..32 {
        match receiver.recv_from(&mut [0; 16]) {
            Ok((_, sender)) => return Ok(sender.to_string()),
            Err(error) if error.raw_os_error() == Some(libc::ECONNREFUSED) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::other("only errors"))
}

fn parse(text: &str) -> Result<SocketAddr> {
    text.parse().map_err(Error::other)
}

fn address(text: &str) -> Result<SockaddrStorage> {
    Ok(SockaddrStorage::from(parse(text)?))
}

fn plain(address: &SockaddrStorage) -> Result<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| SocketAddr::V4((*v4).into()));
    let v6 = address.as_sockaddr_in6().map(|v6| SocketAddr::V6((*v6).into()));
    v4.or(v6).ok_or_else(|| Error::other("not an internet address"))
}
