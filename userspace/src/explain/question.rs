//! The question: from where, and to what.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::desired::Caller;
use crate::model::{Protocol, ServiceName};

/// From where, and to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who calls.
    pub source: Source,
    /// What it names.
    pub target: Target,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Any of a kind.
    Any(Caller),
    /// This one.
    Address(IpAddr),
}

/// What is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An address.
    Address(SocketAddr, Protocol),
    /// All addresses of a port of a Service.
    Service(ServiceName, String, Protocol),
}

impl FromStr for Source {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pod" => Ok(Self::Any(Caller::Pod)),
            "node" => Ok(Self::Any(Caller::Node)),
            "outside" => Ok(Self::Any(Caller::Outside)),
            address => address
                .parse()
                .map(|ip: IpAddr| Self::Address(ip.to_canonical()))
                .map_err(|_| format!("{text} is no address, and not `pod`, `node` or `outside`")),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = protocol(text);
        if let Ok(at) = rest.parse::<SocketAddr>() {
            return Ok(Self::Address(SocketAddr::new(at.ip().to_canonical(), at.port()), protocol));
        }
        let service = rest.rsplit_once(':').and_then(|(service, port)| {
            let (namespace, name) = service.split_once('/')?;
            let is_name = |part: &str| {
                !part.is_empty() && !part.contains(|c: char| "/:".contains(c) || c.is_whitespace())
            };
            let fits = is_name(namespace)
                && is_name(name)
                && !port.contains(|c: char| c == '/' || c.is_whitespace());
            fits.then(|| Self::Service(ServiceName::new(namespace, name), port.to_owned(), protocol))
        });
        service.ok_or_else(|| {
            format!("{text} is no target: write 10.96.0.1:80, [fd00::1]:53/udp, or namespace/service:port")
        })
    }
}

/// What is written behind the last slash, if that is a protocol; else TCP.
fn protocol(text: &str) -> (&str, Protocol) {
    let known = text.rsplit_once('/').and_then(|(rest, word)| {
        let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        Some((rest, all.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(word))?))
    });
    known.unwrap_or((text, Protocol::Tcp))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any(Caller::Pod) => f.write_str("pod"),
            Self::Any(Caller::Node) => f.write_str("node"),
            Self::Any(Caller::Outside) => f.write_str("outside"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(at, protocol) => write!(f, "{at}/{}", protocol.as_str().to_lowercase()),
            Self::Service(ServiceName { namespace, name }, port, protocol) => {
                write!(f, "{namespace}/{name}:{port}/{}", protocol.as_str().to_lowercase())
            }
        }
    }
}

impl FromStr for Question {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let (source, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(Self { source: source.parse()?, target: target.parse()? })
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, target } = self;
        write!(f, "{source} {target}")
    }
}

#[cfg(test)]
mod tests {
    use super::Question;

    /// The question is understood as this, and written so that it is understood again.
    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = text.parse::<Question>();
        match found {
            Ok(question) => {
                assert_eq!(question.to_string(), expected);
                assert_eq!(question.to_string().parse(), Ok(question));
            }
            Err(wrong) => assert!(wrong.contains(expected), "{wrong}"),
        }
    }

    #[test]
    fn sources_are_kinds_or_addresses_and_targets_addresses_or_services() {
        check("pod 10.96.0.1:80", "pod 10.96.0.1:80/tcp");
        check("outside [fd00::1]:53/UDP", "outside [fd00::1]:53/udp");
        check("::ffff:10.0.0.1 10.96.0.1:9/sctp", "10.0.0.1 10.96.0.1:9/sctp");
        check("node default/web:http", "node default/web:http/tcp");
        check("node default/dns:53/udp", "node default/dns:53/udp");
        check("node default/unnamed:", "node default/unnamed:/tcp");
    }

    #[test]
    fn what_is_not_understood_is_said_with_examples() {
        check("somebody 10.96.0.1:80", "somebody is no address");
        for target in ["10.96.0.1", "web:80", "default/web", "default/web:80/icmp", "a/b/c:1", ""] {
            check(&format!("pod {target}"), "write 10.96.0.1:80");
        }
    }
}
