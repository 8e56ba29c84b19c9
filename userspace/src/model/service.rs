//! A Service that is ours to serve.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;

use super::{Family, Protocol, ServiceName};

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// When it was created, in seconds since 1970; the older of two Services keeps an address that both ask for.
    pub created: Option<i64>,
    /// Its ClusterIPs, at most one a family, at least one.
    pub addresses: Box<[IpAddr]>,
    /// Its ports; names, numbers and node ports are unique within a protocol.
    pub ports: Box<[ServicePort]>,
    /// Which endpoints traffic to the ClusterIP may reach.
    pub internal_policy: Policy,
    /// Which endpoints traffic from outside to the other addresses may reach. `Local` only where the type of the
    /// Service lets anybody in from outside.
    pub external_policy: Policy,
    /// For how many seconds after its last new flow a client gets the same endpoint.
    pub affinity: Option<NonZeroU32>,
    /// Addresses besides the ClusterIP, and what is for them alone. Few Services have any.
    pub external: Option<Box<External>>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty for an unnamed one.
    pub name: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number at the Service's addresses.
    pub port: NonZeroU16,
    /// Its number at the nodes' addresses.
    pub node_port: Option<NonZeroU16>,
}

/// Which endpoints traffic may reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Policy {
    /// Those of the whole cluster.
    #[default]
    Cluster,
    /// Those on the node that handles the traffic.
    Local,
}

/// Addresses besides the ClusterIP, of both families; each list sorted, each entry once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct External {
    /// `spec.externalIPs`.
    pub external_ips: Box<[IpAddr]>,
    /// Ingress addresses of the load balancer that the node serves itself.
    pub load_balancer: Box<[IpAddr]>,
    /// Ingress addresses that are left to the load balancer (`ipMode: Proxy`, KEP-1860).
    pub proxied: Box<[IpAddr]>,
    /// `spec.loadBalancerSourceRanges`; empty: everybody.
    pub source_ranges: Box<[IpNet]>,
    /// Where the load balancer asks whether this node has endpoints.
    pub health_check_port: Option<NonZeroU16>,
}

impl Service {
    /// Its ClusterIP of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|&address| Family::of(address) == family)
    }
}
