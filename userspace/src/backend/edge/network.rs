//! The node's devices, addresses and default routes, as rtnetlink tells them.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;

use super::rtnl::{connect, exchange};

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Network {
    pub(super) devices: Vec<Device>,
    /// Addresses, with the device that has them.
    pub(super) addresses: Vec<(u32, IpAddr)>,
    /// Devices of default routes.
    pub(super) defaults: BTreeSet<u32>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: u32,
    pub(super) name: String,
    /// Packets begin with hardware addresses.
    pub(super) has_hardware_addresses: bool,
    /// It leads to this node itself.
    pub(super) is_loopback: bool,
    /// No hardware is behind it: a cable, a bridge, a bond, a tunnel.
    pub(super) is_software: bool,
}

/// Reads all of it in this network namespace.
pub(super) fn read() -> io::Result<Network> {
    let socket = connect()?;
    let mut network = Network::default();
    dump(&socket, RouteNetlinkMessage::GetLink(LinkMessage::default()), |message| {
        if let RouteNetlinkMessage::NewLink(link) = message {
            network.devices.push(device(&link));
        }
    })?;
    dump(&socket, RouteNetlinkMessage::GetAddress(AddressMessage::default()), |message| {
        if let RouteNetlinkMessage::NewAddress(found) = message {
            network.addresses.extend(address(&found).map(|address| (found.header.index, address)));
        }
    })?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
        dump(&socket, RouteNetlinkMessage::GetRoute(question), |message| {
            if let RouteNetlinkMessage::NewRoute(route) = message {
                network.defaults.extend(default_of(&route));
            }
        })?;
    }
    Ok(network)
}

/// The device by which packets to an address leave this node, asked of the kernel one by one. `None` if the address is the
/// node's own, or there is no way.
pub(super) struct Ways(Socket);

impl Ways {
    pub(super) fn new() -> io::Result<Self> {
        connect().map(Self)
    }

    pub(super) fn towards(&self, address: IpAddr) -> io::Result<Option<Device>> {
        let mut question = RouteMessage::default();
        let (family, bits, address) = match address {
            IpAddr::V4(v4) => (AddressFamily::Inet, 32, RouteAddress::Inet(v4)),
            IpAddr::V6(v6) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(v6)),
        };
        question.header.address_family = family;
        question.header.destination_prefix_length = bits;
        question.attributes.push(RouteAttribute::Destination(address));
        let mut index = None;
        self.ask(RouteNetlinkMessage::GetRoute(question), |answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer
                && route.header.kind == RouteType::Unicast
            {
                index = route.attributes.iter().find_map(|attribute| {
                    let RouteAttribute::Oif(index) = attribute else { return None };
                    Some(*index)
                });
            }
        })?;
        index.map_or(Ok(None), |index| self.device(index))
    }

    fn device(&self, index: u32) -> io::Result<Option<Device>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        let mut found = None;
        self.ask(RouteNetlinkMessage::GetLink(question), |answer| {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                found = Some(device(&link));
            }
        })?;
        Ok(found)
    }

    /// What the kernel does not find is no error.
    fn ask(&self, question: RouteNetlinkMessage, take: impl FnMut(RouteNetlinkMessage)) -> io::Result<()> {
        const MISSING: [i32; 5] =
            [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ENODEV, libc::EACCES, libc::EINVAL];
        match ask(&self.0, question, NLM_F_ACK, take) {
            Err(error) if error.raw_os_error().is_some_and(|code| MISSING.contains(&code)) => Ok(()),
            outcome => outcome,
        }
    }
}

fn device(link: &LinkMessage) -> Device {
    let name = link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::IfName(name) = attribute else { return None };
        Some(name.clone())
    });
    Device {
        index: link.header.index,
        name: name.unwrap_or_default(),
        has_hardware_addresses: link.header.link_layer_type == LinkLayerType::Ether,
        is_loopback: link.header.link_layer_type == LinkLayerType::Loopback,
        is_software: link.attributes.iter().any(has_kind),
    }
}

/// Whether it is of a kind that is made on demand.
fn has_kind(attribute: &LinkAttribute) -> bool {
    let LinkAttribute::LinkInfo(all) = attribute else { return false };
    all.iter().any(|info| matches!(info, LinkInfo::Kind(_)))
}

/// The address on this side; of a cable between two it is not the one that has the attribute's usual name.
fn address(message: &AddressMessage) -> Option<IpAddr> {
    let local = message.attributes.iter().find_map(|attribute| {
        let AddressAttribute::Local(address) = attribute else { return None };
        Some(*address)
    });
    let usual = || {
        message.attributes.iter().find_map(|attribute| {
            let AddressAttribute::Address(address) = attribute else { return None };
            Some(*address)
        })
    };
    local.or_else(usual)
}

/// Devices of a route to everywhere.
fn default_of(route: &RouteMessage) -> Vec<u32> {
    if route.header.destination_prefix_length != 0 || route.header.source_prefix_length != 0 {
        return Vec::new();
    }
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            devices.push(*index);
        }
        if let RouteAttribute::MultiPath(ways) = attribute {
            devices.extend(ways.iter().map(|way| way.interface_index));
        }
    }
    devices
}

fn dump(
    socket: &Socket,
    question: RouteNetlinkMessage,
    take: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    ask(socket, question, NLM_F_DUMP, take)
}

/// An exchange with messages of known types.
fn ask(
    socket: &Socket,
    question: RouteNetlinkMessage,
    flags: u16,
    mut take: impl FnMut(RouteNetlinkMessage),
) -> io::Result<()> {
    exchange(socket, question, flags, &mut |message| {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).map_err(io::Error::other)?;
        if let NetlinkPayload::InnerMessage(inner) = message.payload {
            take(inner);
        }
        Ok(())
    })
}
