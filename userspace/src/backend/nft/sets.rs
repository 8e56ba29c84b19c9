//! The sets and maps of one table: names, fields, and how an element's key is put together. Pure.

use std::net::{IpAddr, SocketAddr};

use super::typeof_data::{Typeof, userdata};
use super::wire::SetShape;
use super::wire::uapi::set as flag;
use crate::model::{Family, Protocol};

/// Most clients whose endpoints are remembered, in each family, unless the operator chooses another number: what is
/// beyond is spread as if nobody had come before.
pub const AFFINITY_CLIENTS: u32 = 1 << 20;

/// A set or map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Set {
    /// Addresses of service ports: what becomes of a flow.
    Services,
    /// Of those under a local policy: what becomes of a flow from a pod or this node.
    ServicesInside,
    /// The same from anywhere else.
    ServicesOutside,
    /// Of those with source ranges: what becomes of a flow that was let in.
    ServicesFiltered,
    /// Node ports, likewise.
    NodePorts,
    /// Node ports under a local policy, from a pod or this node.
    NodePortsInside,
    /// The same from anywhere else.
    NodePortsOutside,
    /// Endpoints of the whole cluster, by an address of their service and a number.
    Endpoints,
    /// Endpoints on this node, likewise.
    EndpointsLocal,
    /// Endpoints of the whole cluster, by a node port and a number.
    NodePortEndpoints,
    /// Endpoints on this node, likewise.
    NodePortEndpointsLocal,
    /// Which sources may come to which addresses.
    Sources,
    /// Cluster addresses.
    ClusterIps,
    /// Ranges that cluster addresses are given out from.
    ClusterRanges,
    /// Addresses that accept node ports.
    NodePortAddresses,
    /// Endpoints here, as source and destination of a flow that comes back to where it began.
    Hairpins,
    /// Who has been at which endpoint lately.
    Affinity,
}

/// A field of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The address a packet goes to.
    To,
    /// The address it comes from.
    From,
    /// Its transport protocol.
    Protocol,
    /// The port it goes to.
    Port,
    /// A number.
    Number,
}

/// What an element says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    /// Nothing.
    Nothing,
    /// What becomes of a flow.
    Verdict,
    /// An address and a port.
    Endpoint,
}

impl Set {
    /// All, in the order in which they are made.
    pub(super) const ALL: [Self; 17] = [
        Self::Services,
        Self::ServicesInside,
        Self::ServicesOutside,
        Self::ServicesFiltered,
        Self::NodePorts,
        Self::NodePortsInside,
        Self::NodePortsOutside,
        Self::Endpoints,
        Self::EndpointsLocal,
        Self::NodePortEndpoints,
        Self::NodePortEndpointsLocal,
        Self::Sources,
        Self::ClusterIps,
        Self::ClusterRanges,
        Self::NodePortAddresses,
        Self::Hairpins,
        Self::Affinity,
    ];

    /// Its name in the kernel.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::ServicesInside => "services-inside",
            Self::ServicesOutside => "services-outside",
            Self::ServicesFiltered => "services-filtered",
            Self::NodePorts => "node-ports",
            Self::NodePortsInside => "node-ports-inside",
            Self::NodePortsOutside => "node-ports-outside",
            Self::Endpoints => "endpoints",
            Self::EndpointsLocal => "endpoints-local",
            Self::NodePortEndpoints => "node-port-endpoints",
            Self::NodePortEndpointsLocal => "node-port-endpoints-local",
            Self::Sources => "sources",
            Self::ClusterIps => "cluster-ips",
            Self::ClusterRanges => "cluster-ranges",
            Self::NodePortAddresses => "node-port-addresses",
            Self::Hairpins => "hairpins",
            Self::Affinity => "affinity",
        }
    }

    /// Whether it holds what belongs to the node, not to a Service, or is filled by packets.
    pub(super) const fn is_apart(self) -> bool {
        matches!(self, Self::ClusterRanges | Self::NodePortAddresses | Self::Affinity)
    }

    pub(super) const fn fields(self) -> &'static [Field] {
        use Field::{From, Number, Port, Protocol, To};
        match self {
            Self::Services | Self::ServicesInside | Self::ServicesOutside | Self::ServicesFiltered => {
                &[To, Protocol, Port]
            }
            Self::NodePorts | Self::NodePortsInside | Self::NodePortsOutside => &[Protocol, Port],
            Self::Endpoints | Self::EndpointsLocal => &[To, Protocol, Port, Number],
            Self::NodePortEndpoints | Self::NodePortEndpointsLocal => &[Protocol, Port, Number],
            Self::Sources => &[To, Protocol, Port, From],
            Self::ClusterIps | Self::ClusterRanges | Self::NodePortAddresses => &[To],
            Self::Hairpins => &[From, To],
            Self::Affinity => &[From, Number],
        }
    }

    pub(super) const fn says(self) -> Says {
        match self {
            Self::Services
            | Self::ServicesInside
            | Self::ServicesOutside
            | Self::ServicesFiltered
            | Self::NodePorts
            | Self::NodePortsInside
            | Self::NodePortsOutside => Says::Verdict,
            Self::Endpoints
            | Self::EndpointsLocal
            | Self::NodePortEndpoints
            | Self::NodePortEndpointsLocal => Says::Endpoint,
            Self::Sources
            | Self::ClusterIps
            | Self::ClusterRanges
            | Self::NodePortAddresses
            | Self::Hairpins
            | Self::Affinity => Says::Nothing,
        }
    }

    /// Whether its elements are ranges.
    pub(super) const fn has_ranges(self) -> bool {
        matches!(self, Self::Sources | Self::ClusterRanges | Self::NodePortAddresses)
    }

    /// The set as the kernel wants it described. `clients`: how many are remembered at most.
    pub(super) fn shape(self, family: Family, clients: u32) -> SetShape {
        let fields = self.fields();
        SetShape {
            name: self.name(),
            flags: self.flags(),
            key_type: concatenation(fields.iter().map(|field| field.number(family))),
            fields: fields.iter().map(|field| field.length(family)).collect(),
            data: match self.says() {
                Says::Nothing => None,
                Says::Verdict => Some((flag::VERDICT, 0)),
                Says::Endpoint => Some((endpoint_type(family), Field::To.length(family) + 4)),
            },
            size: (self == Self::Affinity).then_some(clients),
            userdata: userdata(self.described(), family),
        }
    }

    const fn flags(self) -> u32 {
        let map = match self.says() {
            Says::Nothing => 0,
            Says::Verdict | Says::Endpoint => flag::MAP,
        };
        let ranges = if self.has_ranges() { flag::INTERVAL } else { 0 };
        let concat = if self.has_ranges() && self.fields().len() > 1 { flag::CONCAT } else { 0 };
        let dynamic = if matches!(self, Self::Affinity) { flag::TIMEOUT | flag::EVAL } else { 0 };
        map | ranges | concat | dynamic
    }

    /// For nft: by expressions where a plain number takes part, which has no type of its own.
    fn described(self) -> Typeof {
        let fields = self.fields();
        match self.says() {
            Says::Endpoint => Typeof::Map(fields),
            Says::Verdict => Typeof::VerdictMap { several: fields.len() > 1 },
            Says::Nothing if fields.contains(&Field::Number) => Typeof::Set(fields),
            Says::Nothing => Typeof::Named { several: fields.len() > 1 },
        }
    }
}

impl Field {
    /// nft's number of the type.
    const fn number(self, family: Family) -> u32 {
        match self {
            Self::To | Self::From => match family {
                Family::V4 => 7,
                Family::V6 => 8,
            },
            Self::Protocol => 12,
            Self::Port => SERVICE,
            Self::Number => 4,
        }
    }

    /// Bytes, unpadded.
    pub(super) const fn length(self, family: Family) -> u32 {
        match self {
            Self::To | Self::From => match family {
                Family::V4 => 4,
                Family::V6 => 16,
            },
            Self::Protocol => 1,
            Self::Port => 2,
            Self::Number => 4,
        }
    }
}

/// nft's number of a port (`inet_service`).
const SERVICE: u32 = 13;
/// Bits of a type in the number of a concatenation of types.
const TYPE_BITS: u32 = 6;

fn concatenation(types: impl Iterator<Item = u32>) -> u32 {
    types.fold(0, |all, one| (all << TYPE_BITS) | one)
}

fn endpoint_type(family: Family) -> u32 {
    concatenation([Field::To.number(family), SERVICE].into_iter())
}

/// The key of an address of a service port.
pub(super) fn address_key(address: SocketAddr, protocol: Protocol) -> Vec<u8> {
    let mut key = octets(address.ip());
    key.extend(port_key(address.port(), protocol));
    key
}

/// The key of a node port.
pub(super) fn port_key(port: u16, protocol: Protocol) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
}

/// The key with a number behind it, in the machine's byte order: the packet filter computes with it.
pub(super) fn numbered(key: &[u8], number: u32) -> Box<[u8]> {
    [key, &number.to_ne_bytes()].concat().into()
}

/// An endpoint as a map says it.
pub(super) fn endpoint_data(endpoint: SocketAddr) -> Box<[u8]> {
    let mut data = octets(endpoint.ip());
    data.extend(endpoint.port().to_be_bytes());
    data.extend([0, 0]);
    data.into()
}

/// An address in network order.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// An address from the first bytes of a key.
pub(super) fn read_address(bytes: &[u8], family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => bytes.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        Family::V6 => bytes.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_a_key_are_padded_to_four_bytes() {
        let key = address_key("10.96.0.10:80".parse().unwrap(), Protocol::Tcp);
        assert_eq!(key, [10, 96, 0, 10, 6, 0, 0, 0, 0, 80, 0, 0]);
        let key = address_key("[fd00::10]:53".parse().unwrap(), Protocol::Udp);
        assert_eq!(key[12..], [0, 0, 0, 16, 17, 0, 0, 0, 0, 53, 0, 0]);
    }

    #[test]
    fn types_are_put_together_as_nft_does() {
        let keys = |set: Set, family| set.shape(family, AFFINITY_CLIENTS).key_type;
        assert_eq!(keys(Set::Services, Family::V4), 0x730d);
        assert_eq!(keys(Set::Endpoints, Family::V4), 0x1c_c344);
        assert_eq!(keys(Set::Endpoints, Family::V6), 0x20_c344);
        assert_eq!(Set::Endpoints.shape(Family::V6, AFFINITY_CLIENTS).data, Some((0x20d, 20)));
    }

    #[test]
    fn no_two_sets_have_one_name() {
        let names: std::collections::BTreeSet<_> = Set::ALL.iter().map(|set| set.name()).collect();
        assert_eq!(names.len(), Set::ALL.len());
    }
}
