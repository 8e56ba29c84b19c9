//! Where a comparison looks from: a node of the laboratory, its addresses, and sources of the three classes.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lab::Node;

/// One node, as the sources of new flows see it.
#[derive(Clone, Debug)]
pub(super) struct Viewpoint {
    /// The node's addresses.
    pub(super) own: BTreeSet<IpAddr>,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

/// Where a flow comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub(super) ip: IpAddr,
    /// The link it comes in by; empty for the node itself.
    pub(super) interface: &'static str,
}

impl Viewpoint {
    /// A node, with the addresses that it has beside its first ones.
    pub(super) fn of(node: &Node, further: &[IpAddr]) -> Self {
        Self::at(node.v4(), node.v6(), further)
    }

    /// The same for a node that need not be there.
    pub(super) fn at(v4: Ipv4Addr, v6: Ipv6Addr, further: &[IpAddr]) -> Self {
        let first = [IpAddr::V4(v4), IpAddr::V6(v6)];
        Self { own: first.into_iter().chain(further.iter().copied()).collect(), v4, v6 }
    }

    /// The node's addresses of one family.
    pub(super) fn of_family(&self, is_v4: bool) -> impl Iterator<Item = IpAddr> {
        self.own.iter().copied().filter(move |ip| ip.is_ipv4() == is_v4)
    }

    /// A pod of the node, the node, and somebody outside. The laboratory's links to pods are called `p2` and so on.
    pub(super) fn sources(&self, is_v4: bool) -> [Source; 3] {
        let number = self.number();
        let [pod, node, outside]: [IpAddr; 3] = if is_v4 {
            [[10, 1, number, 9].into(), self.v4.into(), [192, 0, 2, 77].into()]
        } else {
            let pod = [0xfd00, 1, number.into(), 0, 0, 0, 0, 9];
            [pod.into(), self.v6.into(), [0x2001, 0xdb8, 7, 0, 0, 0, 0, 0x77].into()]
        };
        let source = |ip, interface| Source { ip, interface };
        [source(pod, "p9"), source(node, ""), source(outside, "wire")]
    }

    /// Whether an endpoint is on this node: the scenario gives pods addresses by the number of their node.
    pub(super) fn is_here(&self, endpoint: IpAddr) -> bool {
        let number = self.number();
        match endpoint {
            IpAddr::V4(ip) => ip.octets()[..3] == [10, 1, number],
            IpAddr::V6(ip) => ip.segments()[..4] == [0xfd00, 1, number.into(), 0],
        }
    }

    fn number(&self) -> u8 {
        let [_, _, _, number] = self.v4.octets();
        number
    }
}
