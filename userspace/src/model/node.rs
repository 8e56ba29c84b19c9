//! The Node we run on, and the ranges that ClusterIPs come from.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

/// What counts of our Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Arc<str>,
    /// Its zone: the label `topology.kubernetes.io/zone`, if it says anything.
    pub zone: Option<Arc<str>>,
    /// Its addresses: InternalIPs, then ExternalIPs, each once, in the order of the API. The first one of a family
    /// stands for the node.
    pub addresses: Box<[IpAddr]>,
    /// `spec.podCIDRs`, in the order of the API.
    pub pod_cidrs: Box<[IpNet]>,
    /// Whether it is about to go: it is being deleted, or the cluster autoscaler has marked it.
    pub leaving: bool,
}

/// One ServiceCIDR object (KEP-1880).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its ranges.
    pub cidrs: Box<[IpNet]>,
}
