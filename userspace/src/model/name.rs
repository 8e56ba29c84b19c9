//! What things are called: Services, their ports, protocols and address families.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

/// Transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Identity of one port of one Service in one family. The port goes by its name, which may be empty; its
/// number may change without making it another port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServicePortName {
    /// The Service.
    pub service: ServiceName,
    /// Name of the port; empty for an unnamed one.
    pub port: Arc<str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// The family of its addresses and endpoints.
    pub family: Family,
}

impl ServicePortName {
    /// What a collection has of one Service, without a look at the others.
    pub fn all_of<'a, T>(
        all: &'a BTreeMap<Self, T>,
        service: &'a ServiceName,
    ) -> impl Iterator<Item = (&'a Self, &'a T)> {
        // No name of this Service comes before it.
        let first = Self {
            service: service.clone(),
            port: Arc::from(""),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        all.range(first..).take_while(move |(name, _)| name.service == *service)
    }
}

/// The text is no protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProtocol;

impl ServiceName {
    /// From a namespace and a name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// 4 or 6.
    pub const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// As the API writes it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

impl FromStr for Protocol {
    type Err = UnknownProtocol;

    fn from_str(text: &str) -> Result<Self, UnknownProtocol> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|one| one.as_str() == text).ok_or(UnknownProtocol)
    }
}

impl fmt::Display for UnknownProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a protocol (TCP, UDP or SCTP)")
    }
}

impl std::error::Error for UnknownProtocol {}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for ServicePortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { service, port, protocol: _, family: _ } = self;
        match &**port {
            "" => write!(f, "{service}"),
            port => write!(f, "{service}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unnamed_port_goes_by_the_name_of_its_service() {
        check("", "default/web");
    }

    #[test]
    fn a_named_port_is_written_after_a_colon() {
        check("http", "default/web:http");
    }

    #[test]
    fn a_protocol_is_read_as_the_api_writes_it_and_in_no_other_way() {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            assert_eq!(protocol.as_str().parse(), Ok(protocol));
        }
        assert_eq!("tcp".parse::<Protocol>(), Err(UnknownProtocol));
    }

    fn check(port: &str, text: &str) {
        let service = ServiceName::new("default", "web");
        let name =
            ServicePortName { service, port: port.into(), protocol: Protocol::Tcp, family: Family::V4 };
        assert_eq!(name.to_string(), text);
    }
}
