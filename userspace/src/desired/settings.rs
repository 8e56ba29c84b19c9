//! What the operator decided, as far as it changes what this node does for a Service.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The operator's decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How traffic from pods is told.
    pub detector: Detector,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// Which of the node's addresses accept NodePorts; empty: all.
    pub node_port_addresses: Vec<NodePortAddress>,
    /// Whether `spec.externalIPs` are served.
    pub external_ips: bool,
    /// An address that stands for the node's own of its family, and decides which family comes first. Never an
    /// unspecified one.
    pub bind_address: Option<IpAddr>,
}

/// How traffic from pods is told from other traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detector {
    /// By its source: the pods of the whole cluster have addresses in these ranges.
    ClusterCidr {
        /// Of IPv4 pods.
        v4: Option<Ipv4Net>,
        /// Of IPv6 pods.
        v6: Option<Ipv6Net>,
    },
    /// By its source: the pods of this node have addresses in the Node's `spec.podCIDRs`.
    NodeCidr,
    /// By the interface it arrives on.
    BridgeInterface(Arc<str>),
    /// By the beginning of the name of the interface it arrives on.
    InterfaceNamePrefix(Arc<str>),
}

/// One entry of the list of addresses that accept NodePorts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NodePortAddress {
    /// The node's first address of each family.
    Primary,
    /// Loopback addresses.
    Localhost,
    /// All addresses.
    All,
    /// Addresses in this range.
    Cidr(IpNet),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            detector: Detector::ClusterCidr { v4: None, v6: None },
            masquerade_all: false,
            node_port_addresses: Vec::new(),
            external_ips: true,
            bind_address: None,
        }
    }
}
