//! A Service that is ours to serve.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::{Family, Protocol, ServiceName};

/// One Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// When it was created, as RFC 3339 text; the older of two Services keeps an address that both ask for.
    pub created: Option<String>,
    /// Its ClusterIPs, at most one a family.
    pub addresses: Vec<IpAddr>,
    /// Its ports; names and numbers are unique within a protocol.
    pub ports: Vec<ServicePort>,
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
}

impl Service {
    /// Its ClusterIP of one family.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|&address| Family::of(address) == family)
    }
}
