//! What both sides are brought to: for every address, protocol and port, what becomes of a new flow from each kind of
//! source.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

/// Everything that one side does on one node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Rows that leave every flow alone are not in it.
    pub(super) rows: BTreeMap<Key, Row>,
    /// Addresses whose other ports are refused.
    pub(super) cluster_ips: BTreeSet<IpAddr>,
    /// Where addresses are that nobody has; flows to them vanish.
    pub(super) unallocated: Ranges,
}

/// A destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) ip: IpAddr,
    /// `tcp`, `udp` or `sctp`.
    pub(super) protocol: String,
    pub(super) port: u16,
}

/// What becomes of a new flow to a destination, by the class of its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) pod: Deed,
    pub(super) node: Deed,
    pub(super) outside: Deed,
    /// The only sources that are let in; all others vanish before.
    pub(super) sources: Option<Ranges>,
}

/// What becomes of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Nothing: it goes where it is addressed to.
    Pass,
    /// It goes to one of these.
    Forward { endpoints: BTreeSet<SocketAddr>, masquerade: Masquerade, affinity: Option<u64> },
    /// It is told that nobody is there.
    Reject,
    /// It vanishes.
    Drop,
}

/// When a forwarded flow gets an address of the node as its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Masquerade {
    Always,
    /// When one of these, which are the list's endpoints on this node, reaches itself.
    Hairpin(BTreeSet<SocketAddr>),
}

impl Row {
    /// Whether it leaves every flow alone.
    pub(super) fn is_idle(&self) -> bool {
        [&self.pod, &self.node, &self.outside].into_iter().all(|deed| *deed == Deed::Pass)
    }
}

/// Ranges of addresses, in order and apart from each other, whatever pieces they were written in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<(IpAddr, IpAddr)>);

impl Ranges {
    /// Joins what overlaps or touches.
    pub(super) fn of(pieces: impl IntoIterator<Item = (IpAddr, IpAddr)>) -> Self {
        let mut pieces: Vec<_> = pieces.into_iter().collect();
        pieces.sort_unstable();
        let mut joined: Vec<(IpAddr, IpAddr)> = Vec::new();
        for (first, last) in pieces {
            match joined.last_mut() {
                Some(before) if touches(before.1, first) => before.1 = before.1.max(last),
                Some(_) | None => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// From prefixes as the API writes them.
    pub(super) fn parse<'a>(prefixes: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let pieces: Result<Vec<_>> = prefixes.into_iter().map(parse_prefix).collect();
        Ok(Self::of(pieces?))
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|(first, last)| *first <= ip && ip <= *last)
    }

    /// First and last addresses.
    pub(super) fn pieces(&self) -> &[(IpAddr, IpAddr)] {
        &self.0
    }
}

/// The first and the last address of a prefix.
pub(super) fn prefix(ip: IpAddr, length: u32) -> Result<(IpAddr, IpAddr)> {
    let (width, number) = number(ip);
    ensure!(length <= width, "{ip}/{length} is no prefix");
    let hosts = 1_u128.checked_shl(width - length).map_or(u128::MAX, |size| size - 1);
    Ok((address(ip, number & !hosts), address(ip, number | hosts)))
}

fn parse_prefix(text: &str) -> Result<(IpAddr, IpAddr)> {
    let (ip, length) = text.split_once('/').with_context(|| format!("{text} is no prefix"))?;
    prefix(ip.parse()?, length.parse()?)
}

fn touches(last: IpAddr, first: IpAddr) -> bool {
    last.is_ipv4() == first.is_ipv4() && number(first).1 <= number(last).1.saturating_add(1)
}

fn number(ip: IpAddr) -> (u32, u128) {
    match ip {
        IpAddr::V4(ip) => (32, ip.to_bits().into()),
        IpAddr::V6(ip) => (128, ip.to_bits()),
    }
}

/// The address with this number, of the family of another one.
fn address(like: IpAddr, number: u128) -> IpAddr {
    let low = u32::try_from(number & u128::from(u32::MAX)).unwrap_or(u32::MAX);
    match like {
        IpAddr::V4(_) => IpAddr::V4(low.into()),
        IpAddr::V6(_) => IpAddr::V6(number.into()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", SocketAddr::new(self.ip, self.port), self.protocol)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pod, node, outside, sources } = self;
        write!(f, "pod: {pod}; node: {node}; outside: {outside}")?;
        sources.as_ref().map_or(Ok(()), |sources| write!(f, "; only from {sources}"))
    }
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => write!(f, "pass"),
            Self::Reject => write!(f, "reject"),
            Self::Drop => write!(f, "drop"),
            Self::Forward { endpoints, masquerade, affinity } => {
                write!(f, "to {}, {masquerade}", list(endpoints))?;
                affinity.map_or(Ok(()), |seconds| write!(f, ", sticky {seconds} s"))
            }
        }
    }
}

impl fmt::Display for Masquerade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => write!(f, "masqueraded"),
            Self::Hairpin(own) if own.is_empty() => write!(f, "not masqueraded"),
            Self::Hairpin(own) => write!(f, "masqueraded from {}", list(own)),
        }
    }
}

impl fmt::Display for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(|(first, last)| format!("{first}-{last}")).collect();
        write!(f, "[{}]", texts.join(" "))
    }
}

fn list(all: &BTreeSet<SocketAddr>) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(prefixes: &[&str], expected: &str) {
        assert_eq!(Ranges::parse(prefixes.iter().copied()).unwrap().to_string(), expected, "{prefixes:?}");
    }

    #[test]
    fn ranges_are_the_same_however_they_were_cut() {
        check(&["10.0.0.0/25", "10.0.0.128/25", "10.0.0.7/32"], "[10.0.0.0-10.0.0.255]");
        check(&["10.0.0.1/32", "10.0.0.3/32"], "[10.0.0.1-10.0.0.1 10.0.0.3-10.0.0.3]");
        check(
            &["::/0", "255.255.255.255/32"],
            "[255.255.255.255-255.255.255.255 ::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]",
        );
        check(&["0.0.0.0/0", "fd00::/127"], "[0.0.0.0-255.255.255.255 fd00::-fd00::1]");
    }
}
