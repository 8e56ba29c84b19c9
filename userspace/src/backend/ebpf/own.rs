//! The node's own addresses where node ports answer: read from the kernel, written for the programs, and followed as they
//! come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::Path;

use dataplane_ebpf::abi;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use tracing::{info, warn};

use super::audit::row_of_address;
use super::set;
use super::table::Table;
use crate::backend::difference::{Difference, Kind};
use crate::backend::findings::Findings;
use crate::backend::{BackendError, chain};
use crate::desired::Context;
use crate::model::Family;

/// `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 0x10 | 0x100;
/// Room for one announcement. What it says is not read: the addresses are.
const PIECE: usize = 1 << 14;

/// What the map holds, and what it should.
pub(super) struct Own {
    table: Table<[u8; 16], u32>,
    news: Socket,
    context: Context,
    written: BTreeSet<IpAddr>,
    /// What is written may not be what there is: it could not be read or written the last time.
    is_stale: bool,
}

impl Own {
    /// Opens the map, and begins to listen: from then on nothing is missed.
    pub(super) fn open(shared: &Path) -> Result<Self, BackendError> {
        let table: Table<[u8; 16], u32> = set::table(shared, abi::NODE_ADDRESSES)?;
        let written = read(shared)?;
        let news = listen().map_err(BackendError::Network)?;
        Ok(Self { table, news, context: Context::default(), written, is_stale: false })
    }

    /// Takes which of the node's addresses accept node ports. Returns whether the kernel is behind now.
    pub(super) fn surround(&mut self, context: &Context) -> bool {
        let before = [&self.context.v4.node_ports, &self.context.v6.node_ports];
        let is_new = before != [&context.v4.node_ports, &context.v6.node_ports];
        self.context = context.clone();
        is_new
    }

    /// Writes the addresses there are. Where that fails, the packet filter answers at those that are missing, so it is tried
    /// again and nobody else's affair.
    pub(super) fn refresh(&mut self) {
        let done = self.write();
        self.is_stale = done.is_err();
        if let Err(error) = done {
            warn!(error = chain(&error), "could not follow the node's addresses; trying again");
        }
    }

    /// New ones first.
    fn write(&mut self) -> Result<(), BackendError> {
        let found = getifaddrs().map_err(|errno| BackendError::Network(errno.into()))?;
        let found = found.filter_map(|interface| ip(&interface.address?));
        let wanted = accepting(&self.context, found, self.table.capacity() as usize);
        if wanted == self.written {
            return Ok(());
        }
        let new: Vec<_> = wanted.difference(&self.written).map(|address| entry(*address)).collect();
        let gone: Vec<_> = self.written.difference(&wanted).map(|address| entry(*address).0).collect();
        self.table.put(&new)?;
        self.table.remove(&gone)?;
        info!(
            new = new.len(),
            gone = gone.len(),
            "node ports answer at the node's addresses as they are now"
        );
        self.written = wanted;
        Ok(())
    }

    /// Does that again if addresses have changed. Cheap as long as nothing has.
    pub(super) fn follow(&mut self) {
        if has_news(&self.news) {
            self.refresh();
        }
    }

    /// Compares the map with what has been written there.
    pub(super) fn audit(&mut self, heal: bool, findings: &mut Findings) -> Result<(), BackendError> {
        let found: BTreeMap<[u8; 16], u32> = self.table.dump()?.into_iter().collect();
        let want: BTreeMap<[u8; 16], u32> = self.written.iter().map(|address| entry(*address)).collect();
        let wrong = want.iter().filter(|(key, value)| found.get(*key) != Some(*value));
        let wrong: Vec<_> = wrong.map(|(key, value)| (*key, *value)).collect();
        let foreign: Vec<_> = found.keys().filter(|key| !want.contains_key(*key)).copied().collect();
        findings.extend("ebpf", wrong.iter().map(|(key, _)| row_of_address(address(*key), Kind::Missing)));
        findings.extend("ebpf", foreign.iter().map(|key| row_of_address(address(*key), Kind::Foreign)));
        if heal && !(wrong.is_empty() && foreign.is_empty()) {
            self.table.put(&wrong)?;
            self.table.remove(&foreign)?;
            findings.heal("ebpf");
        }
        Ok(())
    }

    /// Does it again if it came to nothing.
    pub(super) fn retry(&mut self) {
        if self.is_stale {
            self.refresh();
        }
    }
}

fn listen() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Reads all that has been announced. Where more was than there was room for, that is news too.
fn has_news(socket: &Socket) -> bool {
    let mut buffer = [0; PIECE];
    let mut any = false;
    loop {
        match socket.recv(&mut &mut buffer[..], 0) {
            Ok(_) => any = true,
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => any = true,
            Err(_) => return any,
        }
    }
}

/// Those of the node's addresses that answer at node ports. Addresses that mean something on one cable only are left out:
/// another network namespace may mean another cable.
fn accepting(context: &Context, found: impl Iterator<Item = IpAddr>, most: usize) -> BTreeSet<IpAddr> {
    let accepts = |address: &IpAddr| {
        context.family(Family::of(*address)).node_ports.accepts(*address) && !is_of_one_cable(*address)
    };
    let accepted: BTreeSet<IpAddr> = found.filter(accepts).collect();
    accepted.into_iter().take(most).collect()
}

const fn is_of_one_cable(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
}

fn entry(address: IpAddr) -> ([u8; 16], u32) {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    (octets, u32::from(Family::of(address).number()))
}

/// Where the map does not hold the addresses there are.
pub(super) fn differences(shared: &Path, context: &Context) -> Result<Vec<Difference>, BackendError> {
    let table: Table<[u8; 16], u32> = set::table(shared, abi::NODE_ADDRESSES)?;
    let found = getifaddrs().map_err(|errno| BackendError::Network(errno.into()))?;
    let found = found.filter_map(|interface| ip(&interface.address?));
    let wanted = accepting(context, found, table.capacity() as usize);
    let written = read(shared)?;
    let missing = wanted.difference(&written).map(|address| row_of_address(*address, Kind::Missing));
    let foreign = written.difference(&wanted).map(|address| row_of_address(*address, Kind::Foreign));
    Ok(missing.chain(foreign).collect())
}

/// What the map holds.
pub(super) fn read(shared: &Path) -> Result<BTreeSet<IpAddr>, BackendError> {
    let table: Table<[u8; 16], u32> = set::table(shared, abi::NODE_ADDRESSES)?;
    Ok(table.dump()?.iter().map(|(octets, _)| address(*octets)).collect())
}

fn address(octets: [u8; 16]) -> IpAddr {
    std::net::Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::{FamilyContext, NodePorts};

    const ALL: &str = "10.0.0.1 127.0.0.1 169.254.1.1 192.0.2.7 ::1 fd00::1 fe80::1";

    #[test]
    fn everything_accepts_but_loopback_and_what_means_something_on_one_cable() {
        check(NodePorts::All, 9, "10.0.0.1 192.0.2.7 fd00::1");
    }

    #[test]
    fn only_what_is_in_the_ranges_accepts() {
        let ranges = ["10.0.0.0/8", "127.0.0.0/8"].map(|range| range.parse().unwrap());
        check(NodePorts::Within(ranges.into()), 9, "10.0.0.1 fd00::1");
    }

    #[test]
    fn no_more_than_there_is_room_for() {
        check(NodePorts::All, 2, "10.0.0.1 192.0.2.7");
    }

    #[test]
    fn an_address_is_read_back() {
        for address in addresses(ALL) {
            assert_eq!(super::address(entry(address).0), address);
        }
        assert_eq!(entry("10.0.0.1".parse().unwrap()).1, 4);
        assert_eq!(entry("fd00::1".parse().unwrap()).1, 6);
    }

    fn check(v4: NodePorts, most: usize, expected: &str) {
        let v4 = FamilyContext { node_ports: v4, ..FamilyContext::default() };
        let context = Context { v4, ..Context::default() };
        let found = accepting(&context, addresses(ALL).into_iter(), most);
        assert_eq!(found, addresses(expected).into_iter().collect());
    }

    fn addresses(list: &str) -> Vec<IpAddr> {
        list.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }
}
