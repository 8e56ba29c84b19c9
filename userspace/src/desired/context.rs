//! Everything besides the Service that the answer depends on: the node, seen through the operator's settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::settings::{Detector, NodePortAddress, Settings};
use crate::model::{Family, Kind, Node, ObjectRef, Problem};

/// The node's part of the answer. Where it changes, every Service is computed anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// The node's name.
    pub node: Arc<str>,
    /// Its zone.
    pub zone: Option<Arc<str>>,
    /// Whether all traffic to ClusterIPs is masqueraded.
    pub masquerade_all: bool,
    /// Whether `spec.externalIPs` are served.
    pub external_ips: bool,
    /// What is particular to IPv4.
    pub v4: FamilyContext,
    /// What is particular to IPv6.
    pub v6: FamilyContext,
}

/// The node in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyContext {
    /// How traffic from pods is told; `None`: it is not, and pods count as outside.
    pub pods: Option<Pods>,
    /// The node's first address.
    pub primary: Option<IpAddr>,
    /// Which of the node's addresses accept NodePorts.
    pub node_ports: NodePorts,
}

/// How traffic from pods is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// By its source address.
    Within(IpNet),
    /// By the interface it arrives on.
    Interface(Arc<str>),
    /// By the beginning of that interface's name.
    InterfacePrefix(Arc<str>),
}

/// Which of the node's addresses accept NodePorts. Loopback addresses never do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePorts {
    /// All.
    #[default]
    All,
    /// Those in one of these ranges, sorted.
    Within(Box<[IpNet]>),
}

impl Context {
    /// What is missing for the settings to mean something.
    pub fn problems(&self, settings: &Settings) -> Vec<Problem> {
        let blind =
            settings.detector == Detector::NodeCidr && self.v4.pods.is_none() && self.v6.pods.is_none();
        let object = ObjectRef::new(Kind::Node, "", self.node.clone());
        let message = "is missing, so detectLocalMode NodeCIDR cannot tell pods: they count as outside";
        blind.then(|| Problem::new(object, "spec.podCIDRs", message)).into_iter().collect()
    }

    /// The context of the node called `name`, of which more may be known.
    pub fn of(settings: &Settings, name: &Arc<str>, node: Option<&Node>) -> Self {
        let family = |family| FamilyContext::of(settings, node, family);
        Self {
            node: name.clone(),
            zone: node.and_then(|node| node.zone.clone()),
            masquerade_all: settings.masquerade_all,
            external_ips: settings.external_ips,
            v4: family(Family::V4),
            v6: family(Family::V6),
        }
    }

    /// What is particular to a family.
    pub fn family(&self, family: Family) -> &FamilyContext {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }
}

impl FamilyContext {
    /// Whether flows from the node itself look like flows from pods: its address is in their range.
    pub fn node_is_pod(&self) -> bool {
        match (&self.pods, self.primary) {
            (Some(Pods::Within(range)), Some(own)) => range.contains(&own),
            (Some(Pods::Within(_)), None)
            | (Some(Pods::Interface(_) | Pods::InterfacePrefix(_)) | None, _) => false,
        }
    }

    fn of(settings: &Settings, node: Option<&Node>, family: Family) -> Self {
        let Settings { detector, masquerade_all: _, node_port_addresses, external_ips: _, bind_address } =
            settings;
        let stated = bind_address.filter(|address| Family::of(*address) == family);
        let own = || node?.addresses.iter().copied().find(|address| Family::of(*address) == family);
        let primary = stated.or_else(own);
        Self {
            pods: pods(detector, node, family),
            primary,
            node_ports: NodePorts::of(node_port_addresses, primary, family),
        }
    }
}

/// Only the first range of a family counts.
fn pods(detector: &Detector, node: Option<&Node>, family: Family) -> Option<Pods> {
    match detector {
        Detector::ClusterCidr { v4, v6 } => match family {
            Family::V4 => v4.map(|range| Pods::Within(range.into())),
            Family::V6 => v6.map(|range| Pods::Within(range.into())),
        },
        Detector::NodeCidr => {
            let ranges = node.map(|node| &*node.pod_cidrs).unwrap_or_default();
            ranges.iter().find(|range| Family::of(range.addr()) == family).map(|range| Pods::Within(*range))
        }
        Detector::BridgeInterface(name) => Some(Pods::Interface(name.clone())),
        Detector::InterfaceNamePrefix(prefix) => Some(Pods::InterfacePrefix(prefix.clone())),
    }
}

impl NodePorts {
    /// A family that the list does not speak of accepts on all addresses, as with kube-proxy.
    fn of(list: &[NodePortAddress], primary: Option<IpAddr>, family: Family) -> Self {
        let ranges = list.iter().filter_map(|entry| range(*entry, primary, family));
        let mut ranges: Vec<IpNet> = ranges.collect();
        if ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0) {
            return Self::All;
        }
        ranges.sort_unstable();
        ranges.dedup();
        Self::Within(ranges.into())
    }

    /// Whether NodePorts are served at this address of the node.
    pub fn accepts(&self, address: IpAddr) -> bool {
        let within = match self {
            Self::All => true,
            Self::Within(ranges) => ranges.iter().any(|range| range.contains(&address)),
        };
        within && !address.is_loopback()
    }
}

fn range(entry: NodePortAddress, primary: Option<IpAddr>, family: Family) -> Option<IpNet> {
    let (loopback, all) = match family {
        Family::V4 => (
            Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
            Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0).into(),
        ),
        Family::V6 => (
            Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
            Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into(),
        ),
    };
    match entry {
        NodePortAddress::Primary => primary.filter(|own| !own.is_loopback()).map(IpNet::from),
        NodePortAddress::Localhost => Some(loopback),
        NodePortAddress::All => Some(all),
        NodePortAddress::Cidr(range) => (Family::of(range.addr()) == family).then_some(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_entries_every_address_accepts_node_ports() {
        check("", "10.0.0.1", "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1");
    }

    #[test]
    fn primary_means_the_first_address_of_each_family() {
        check("primary", "10.0.0.1 fd00::1", "10.0.0.1 fd00::1");
    }

    #[test]
    fn a_family_that_the_list_does_not_speak_of_accepts_everywhere() {
        check("primary", "10.0.0.1", "10.0.0.1 fd00::1");
        check("primary", "", "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1");
        check("192.0.2.0/24", "10.0.0.1", "192.0.2.1 fd00::1");
    }

    #[test]
    fn a_primary_address_on_loopback_is_as_good_as_none() {
        check("primary", "127.0.0.1", "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1");
    }

    #[test]
    fn a_range_of_length_zero_overrides_the_others() {
        check("192.0.2.0/24 0.0.0.0/0", "10.0.0.1", "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1");
        check("all 192.0.2.0/24", "10.0.0.1", "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1");
        check("::/0 192.0.2.0/24", "10.0.0.1", "192.0.2.1 fd00::1");
    }

    #[test]
    fn loopback_never_accepts() {
        check("localhost", "10.0.0.1", "");
        check("127.0.0.0/8 ::1/128", "10.0.0.1", "");
        check("localhost primary", "10.0.0.1", "10.0.0.1");
        check("64.0.0.0/2", "10.0.0.1", "fd00::1");
    }

    #[test]
    fn an_address_matched_by_no_range_is_left_alone() {
        check("198.51.100.0/24 fd01::/16", "10.0.0.1", "");
    }

    #[test]
    fn only_the_first_pod_range_of_a_family_counts() {
        let node = Node {
            pod_cidrs: ["fd00:1::/64", "10.1.0.0/24", "10.2.0.0/24"]
                .map(|range| range.parse().unwrap())
                .into(),
            ..Node::default()
        };
        let settings = Settings { detector: Detector::NodeCidr, ..Settings::default() };
        let context = Context::of(&settings, &"n1".into(), Some(&node));
        let within = |range: &str| Some(Pods::Within(range.parse().unwrap()));
        assert_eq!((context.v4.pods, context.v6.pods), (within("10.1.0.0/24"), within("fd00:1::/64")));
        let context = Context::of(&settings, &"n1".into(), None);
        assert_eq!((context.v4.pods, context.v6.pods), (None, None));
    }

    #[test]
    fn interfaces_tell_pods_of_both_families() {
        let detector = Detector::InterfaceNamePrefix("veth".into());
        let context = Context::of(&Settings { detector, ..Settings::default() }, &"n1".into(), None);
        assert_eq!(context.v4.pods, Some(Pods::InterfacePrefix("veth".into())));
        assert_eq!(context.v4.pods, context.v6.pods);
    }

    #[test]
    fn a_bind_address_stands_for_the_nodes_own_of_its_family() {
        let node = Node {
            addresses: ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into(),
            ..Node::default()
        };
        let settings = Settings { bind_address: "10.0.0.9".parse().ok(), ..Settings::default() };
        let context = Context::of(&settings, &"n1".into(), Some(&node));
        let primary = [context.v4.primary, context.v6.primary].map(|one| one.unwrap().to_string());
        assert_eq!(primary, ["10.0.0.9", "fd00::1"]);
    }

    /// Which of some addresses accept NodePorts on a node with these addresses.
    fn check(list: &str, node: &str, accepted: &str) {
        let entry = |word: &str| match word {
            "primary" => NodePortAddress::Primary,
            "localhost" => NodePortAddress::Localhost,
            "all" => NodePortAddress::All,
            range => NodePortAddress::Cidr(range.parse().unwrap()),
        };
        let settings = Settings {
            node_port_addresses: list.split_whitespace().map(entry).collect(),
            ..Settings::default()
        };
        let addresses = node.split_whitespace().map(|address| address.parse().unwrap()).collect();
        let node = Node { addresses, ..Node::default() };
        let context = Context::of(&settings, &"n1".into(), Some(&node));
        let all: Vec<IpAddr> = ["10.0.0.1", "10.0.0.2", "192.0.2.1", "127.0.0.1", "fd00::1", "::1"]
            .map(|address| address.parse().unwrap())
            .into();
        let found = all.into_iter().filter(|one| context.family(Family::of(*one)).node_ports.accepts(*one));
        assert_eq!(found.map(|one| one.to_string()).collect::<Vec<_>>().join(" "), accepted, "{list}");
    }
}
