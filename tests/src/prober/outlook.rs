//! Who may come from where: what the classes of sources mean on one node, and addresses for each.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::plan::{Action, Plan};
use super::probe::Class;

/// How a node tells pods from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// By their addresses.
    In(Vec<IpNet>),
    /// By the link they come by, or not at all: their addresses do not matter.
    Anywhere,
}

/// The classes of sources on one node.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// How pods are told.
    pub pods: Pods,
    /// Addresses of the node, by which its own flows go out.
    pub own: Vec<IpAddr>,
    /// Endpoints that are pods of this node.
    pub here: BTreeSet<IpAddr>,
    /// Whether flows to ClusterIPs that nobody has are expected to vanish.
    pub drops_unallocated: bool,
    /// Whether endpoints on this node get to see who comes from outside, also where a plan lets a dataplane hide that.
    pub shows_clients: bool,
    /// Addresses that no source may have.
    avoided: BTreeSet<IpAddr>,
    /// Sources given away so far: with affinity, an old one would tell nothing about new endpoints.
    given: u128,
}

/// Where pods are if it does not matter.
const PODS: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(10, 244, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0xfd44, 0, 0, 0, 0, 0, 0, 0)), 64),
];
/// Where the world outside is, if it does not matter.
const OUTSIDE: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(100, 65, 0, 0)), 16),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x65, 0, 0, 0, 0, 0)), 64),
];
/// Odd and large: steps of this length go everywhere in a range before they come back.
const STEP: u128 = 2_654_435_761;
/// So many steps for one source, before a range is given up: all of it is avoided.
const TRIES: usize = 64;

impl Outlook {
    /// A node with these addresses of its own.
    pub fn new(pods: Pods, own: &[IpAddr], here: BTreeSet<IpAddr>) -> Self {
        let own = own.to_vec();
        let avoided = BTreeSet::new();
        Self { pods, own, here, drops_unallocated: true, shows_clients: false, avoided, given: 0 }
    }

    /// No source shall be an address that a plan speaks of.
    pub(super) fn avoid(&mut self, plan: &Plan) {
        self.avoided = self.own.iter().copied().collect();
        for address in plan.services.iter().flat_map(|port| &port.addresses) {
            self.avoided.insert(address.ip);
            for action in [&address.from.pod, &address.from.node, &address.from.outside] {
                if let Action::Forward { endpoints, masquerade: _ } = action {
                    self.avoided.extend(endpoints.iter().map(std::net::SocketAddr::ip));
                }
            }
        }
    }

    /// Sources of a class, of the family of `to`. The node has no more than it has.
    pub(super) fn usual(&mut self, from: Class, to: IpAddr, count: usize) -> Vec<IpAddr> {
        let is_family = |ip: IpAddr| ip.is_ipv4() == to.is_ipv4();
        let usual = |ranges: [(IpAddr, u8); 2]| {
            let ours = ranges.into_iter().find(|(ip, _)| is_family(*ip));
            ours.and_then(|(ip, length)| IpNet::new(ip, length).ok())
        };
        let range = match from {
            Class::Node => return self.own.iter().copied().filter(|ip| is_family(*ip)).collect(),
            Class::Outside => usual(OUTSIDE),
            Class::Pod => self.pod_range(to.is_ipv4()).or_else(|| usual(PODS)),
        };
        range.map(|range| self.take(range, count, |_, _| true)).unwrap_or_default()
    }

    /// Sources of a class in a range; none if there are none.
    pub(super) fn within(&mut self, from: Class, range: IpNet, count: usize) -> Vec<IpAddr> {
        let range = match (from, self.pod_range(range.addr().is_ipv4())) {
            (Class::Node, _) => return Vec::new(),
            (Class::Pod, Some(pods)) if range.contains(&pods) => pods,
            (Class::Pod | Class::Outside, _) => range,
        };
        self.take(range, count, |this, ip| this.class(ip) == from || this.pods == Pods::Anywhere)
    }

    /// Addresses of a range that nobody has.
    pub(super) fn unused(&mut self, range: IpNet) -> Vec<IpAddr> {
        self.take(range, 1, |_, _| true)
    }

    /// Of which class an address is, if it comes by the cable where it belongs.
    pub(super) fn class(&self, ip: IpAddr) -> Class {
        let is_pod = match &self.pods {
            Pods::In(ranges) => ranges.iter().any(|range| range.contains(&ip)),
            Pods::Anywhere => self.here.contains(&ip),
        };
        if self.own.contains(&ip) {
            Class::Node
        } else if is_pod {
            Class::Pod
        } else {
            Class::Outside
        }
    }

    fn pod_range(&self, is_v4: bool) -> Option<IpNet> {
        match &self.pods {
            Pods::In(ranges) => ranges.iter().copied().find(|range| range.addr().is_ipv4() == is_v4),
            Pods::Anywhere => None,
        }
    }

    fn take(&mut self, range: IpNet, count: usize, fits: impl Fn(&Self, IpAddr) -> bool) -> Vec<IpAddr> {
        let (mut all, mut left) = (Vec::new(), count * TRIES);
        while all.len() < count && left > 0 {
            (self.given, left) = (self.given + 1, left - 1);
            let ip = at(range, self.given * STEP);
            if !self.avoided.contains(&ip) && is_ordinary(ip) && fits(self, ip) {
                all.push(ip);
            }
            if size(range) == 1 && !all.is_empty() {
                break;
            }
        }
        all
    }
}

/// How many hosts a range has; the first and the last address are none.
fn size(range: IpNet) -> u128 {
    let width = u32::from(range.max_prefix_len() - range.prefix_len());
    let all = 1_u128.checked_shl(width).unwrap_or(u128::MAX);
    if all > 2 { all - 2 } else { all }
}

fn at(range: IpNet, number: u128) -> IpAddr {
    let first = u128::from(size(range) > 2);
    let offset = first + number % size(range);
    match range.network() {
        IpAddr::V4(ip) => {
            IpAddr::V4((u128::from(ip.to_bits()) + offset).try_into().map_or(ip, Ipv4Addr::from_bits))
        }
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits().wrapping_add(offset))),
    }
}

/// Not one that every kernel refuses as a source.
fn is_ordinary(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => (1..=223).contains(&ip.octets()[0]) && !ip.is_loopback() && !ip.is_link_local(),
        IpAddr::V6(ip) => {
            !ip.is_multicast() && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outlook() -> Outlook {
        Outlook::new(
            Pods::In(vec!["10.1.0.0/24".parse().unwrap()]),
            &["10.0.0.1".parse().unwrap()],
            BTreeSet::new(),
        )
    }

    #[test]
    fn sources_are_of_their_class_and_new_each_time() {
        let mut outlook = outlook();
        for from in [Class::Pod, Class::Outside] {
            let all = outlook.usual(from, Ipv4Addr::UNSPECIFIED.into(), 200);
            assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 200, "{from:?}");
            assert!(all.iter().all(|ip| outlook.class(*ip) == from), "{from:?} {all:?}");
        }
    }

    #[test]
    fn a_range_gives_to_each_class_what_is_its_own() {
        let check = |range: &str, pods: usize, outside: usize| {
            let range = range.parse().unwrap();
            let count = |from| outlook().within(from, range, 5).len();
            assert_eq!((count(Class::Pod), count(Class::Outside)), (pods, outside), "{range}");
        };
        check("10.1.0.128/25", 5, 0);
        check("10.0.0.0/8", 5, 5);
        check("192.0.2.0/24", 0, 5);
        check("192.0.2.7/32", 0, 1);
        check("0.0.0.0/1", 5, 5);
    }
}
