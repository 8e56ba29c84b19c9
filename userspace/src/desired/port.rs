//! What this node does for one service port in one family: the value that every dataplane is computed from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// What this node does for one service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Addresses that answer, sorted, each once.
    pub frontends: Box<[Frontend]>,
    /// What becomes of a new flow to the ClusterIP.
    pub internal: Routes,
    /// What becomes of a new flow to any other address.
    pub external: Routes,
    /// The only sources whose flows to a LoadBalancer address are let in; all others are dropped, whatever `external`
    /// says. `None`: everybody is let in. Sorted.
    pub sources: Option<Box<[IpNet]>>,
    /// For how many seconds after its last new flow a client gets the same endpoint. `None`: each flow is spread.
    pub affinity: Option<NonZeroU32>,
    /// Endpoints that get new flows or keep those they have; sorted by address, each once.
    pub endpoints: Box<[Endpoint]>,
}

/// One address of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Frontend {
    /// The ClusterIP.
    ClusterIp(SocketAddr),
    /// This port, at whichever of the node's addresses accept NodePorts.
    NodePort(NonZeroU16),
    /// One of `spec.externalIPs`.
    ExternalIp(SocketAddr),
    /// An ingress address of the load balancer.
    LoadBalancer(SocketAddr),
}

/// What becomes of a new flow, by where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routes {
    /// From a pod, as the local-traffic detector sees it. Without a detector the same as `outside`.
    pub pod: Action,
    /// From an address of this node.
    pub node: Action,
    /// From anywhere else.
    pub outside: Action,
}

/// Where a flow comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Caller {
    /// A pod, as the local-traffic detector sees it.
    Pod,
    /// An address of this node.
    Node,
    /// Anywhere else.
    Outside,
}

impl Routes {
    /// What becomes of a flow from there.
    pub const fn of(&self, caller: Caller) -> Action {
        match caller {
            Caller::Pod => self.pod,
            Caller::Node => self.node,
            Caller::Outside => self.outside,
        }
    }
}

/// What becomes of one new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes to one of this list, which is not empty, chosen uniformly.
    Forward(List, Masquerade),
    /// It is answered as unreachable: nobody serves.
    Reject,
    /// It vanishes, so that its sender tries elsewhere: others serve, but not here.
    Drop,
}

/// Lists of endpoints that a service port can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum List {
    /// Endpoints of the whole cluster, as far as topology hints let them be used here.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// When the source of a forwarded flow becomes an address of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    /// Only if the chosen endpoint is the source itself.
    Hairpin,
    /// Always.
    Always,
}

/// One endpoint, and what it is used for. There may be very many: its address is kept without padding.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// IPv6 address, or IPv4 as IPv4-mapped; network order.
    ip: [u8; 16],
    port: u16,
    /// What it is used for.
    pub uses: Uses,
}

/// What an endpoint is used for. In no list: it gets no new flows, but still serves those it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// It is in [`List::Cluster`].
    pub cluster: bool,
    /// It is in [`List::Local`].
    pub local: bool,
    /// It is on this node.
    pub here: bool,
}

impl ServicePort {
    /// The endpoints of a list, sorted.
    pub fn list(&self, list: List) -> impl Iterator<Item = SocketAddr> {
        self.endpoints.iter().filter(move |endpoint| endpoint.uses.is_in(list)).map(Endpoint::address)
    }
}

impl Endpoint {
    /// From where it listens and what it is used for.
    pub fn new(address: SocketAddr, uses: Uses) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        Self { ip: ip.octets(), port: address.port(), uses }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(Ipv6Addr::from(self.ip).to_canonical(), self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.address(), self.uses)
    }
}

impl Uses {
    /// Whether it is in this list.
    pub const fn is_in(self, list: List) -> bool {
        match list {
            List::Cluster => self.cluster,
            List::Local => self.local,
        }
    }
}

impl Frontend {
    /// Its address, unless it is a port of every address.
    pub const fn address(self) -> Option<SocketAddr> {
        match self {
            Self::ClusterIp(address) | Self::ExternalIp(address) | Self::LoadBalancer(address) => {
                Some(address)
            }
            Self::NodePort(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_and_a_frontend_stay_small() {
        assert!(size_of::<Endpoint>() <= 22 && size_of::<Frontend>() <= 36, "there may be very many");
    }

    #[test]
    fn an_endpoint_gives_its_address_back() {
        for address in ["10.1.0.5:80", "[fd00::5]:65535"] {
            let address: SocketAddr = address.parse().unwrap();
            assert_eq!(Endpoint::new(address, Uses::default()).address(), address);
        }
    }
}
