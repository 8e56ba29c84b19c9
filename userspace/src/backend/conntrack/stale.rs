//! Which flows over UDP go on to an endpoint that is not there any more.
//!
//! A client that keeps its port keeps its flow alive, and with it the endpoint that was chosen when it began. TCP notices
//! that nobody answers; UDP does not, so such flows are forgotten and the next datagram is a new flow. One that was
//! never translated, because it began before its service was known, is forgotten in the same way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;

use super::entry::{Entry, Tuple};
use crate::model::{Family, Protocol};

/// One UDP port of a service in one family, and who serves it. Of each address and node port only one may speak.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleanup {
    /// The family of its addresses and endpoints.
    pub family: Family,
    /// Where it answers.
    pub frontends: BTreeSet<SocketAddr>,
    /// The port at which it answers on the node's own addresses.
    pub node_port: Option<NonZeroU16>,
    /// Whoever serves, also one that terminates or is far away: its flows stay. If nobody does, all flows stay: there
    /// is nobody else to go to.
    pub endpoints: BTreeSet<SocketAddr>,
}

/// What several [`Cleanup`]s say of any flow.
#[derive(Debug)]
pub(super) struct Stale<'a> {
    node: &'a BTreeSet<IpAddr>,
    frontends: BTreeMap<SocketAddr, &'a Cleanup>,
    node_ports: BTreeMap<(Family, u16), &'a Cleanup>,
}

impl<'a> Stale<'a> {
    pub(super) fn new(cleanups: &'a [Cleanup], node: &'a BTreeSet<IpAddr>) -> Self {
        let frontends = cleanups.iter().flat_map(|one| one.frontends.iter().map(move |at| (*at, one)));
        let node_ports = cleanups.iter().filter_map(|one| Some(((one.family, one.node_port?.get()), one)));
        Self { node, frontends: frontends.collect(), node_ports: node_ports.collect() }
    }

    /// The families in which a flow can be stale.
    pub(super) fn families(&self) -> BTreeSet<Family> {
        let all = self.frontends.values().chain(self.node_ports.values());
        all.filter(|cleanup| !cleanup.endpoints.is_empty()).map(|cleanup| cleanup.family).collect()
    }

    pub(super) fn holds(&self, entry: &Entry) -> bool {
        let Entry { protocol, original: Tuple { source: _, destination }, reply } = entry;
        if *protocol != Protocol::Udp.number() {
            return false;
        }
        // A flow that was never translated is answered by the address it asked for.
        self.asked(*destination).is_some_and(
            |Cleanup { family: _, frontends: _, node_port: _, endpoints }| {
                !endpoints.is_empty() && !endpoints.contains(&reply.source)
            },
        )
    }

    /// The service port that a client asks for at an address. One that has the address for itself goes before a node
    /// port, as in the dataplane. A node port at an address that is not the node's is traffic that only passes through.
    fn asked(&self, destination: SocketAddr) -> Option<&'a Cleanup> {
        let at_node = || {
            let port = (Family::of(destination.ip()), destination.port());
            self.node_ports.get(&port).filter(|_| self.node.contains(&destination.ip()))
        };
        self.frontends.get(&destination).or_else(at_node).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: u8 = 6;
    const UDP: u8 = 17;
    const SCTP: u8 = 132;

    const CLIENT: &str = "10.0.0.9:40000";
    const SERVICE: &str = "10.96.0.10:53";
    const EXTERNAL: &str = "192.0.2.1:53";
    const AT_NODE: &str = "10.0.0.1:30053";
    const SERVING: &str = "10.1.0.1:5353";
    const GONE: &str = "10.1.0.2:5353";

    #[test]
    fn only_udp_is_ever_stale() {
        for asked in [SERVICE, EXTERNAL, AT_NODE] {
            check(UDP, asked, GONE, true);
            check(TCP, asked, GONE, false);
            check(SCTP, asked, GONE, false);
        }
    }

    #[test]
    fn a_flow_to_an_endpoint_that_serves_stays() {
        for asked in [SERVICE, EXTERNAL, AT_NODE] {
            for protocol in [UDP, TCP, SCTP] {
                check(protocol, asked, SERVING, false);
            }
        }
    }

    #[test]
    fn an_endpoint_is_its_address_and_its_port() {
        check(UDP, SERVICE, "10.1.0.1:5354", true);
        check(UDP, AT_NODE, "10.1.0.1:5354", true);
    }

    #[test]
    fn a_flow_that_was_never_translated_is_stale() {
        check(UDP, SERVICE, SERVICE, true);
        check(UDP, EXTERNAL, EXTERNAL, true);
        check(UDP, AT_NODE, AT_NODE, true);
        check(TCP, SERVICE, SERVICE, false);
    }

    #[test]
    fn flows_that_ask_for_something_else_are_not_ours() {
        check(UDP, "10.96.0.10:54", GONE, false);
        check(UDP, "10.96.0.11:53", GONE, false);
        check(UDP, "10.0.0.1:30054", GONE, false);
        check(UDP, "10.0.0.1:53", GONE, false);
        check(UDP, GONE, GONE, false);
    }

    #[test]
    fn a_node_port_is_one_at_the_nodes_own_addresses_only() {
        check(UDP, "203.0.113.7:30053", "203.0.113.7:30053", false);
        check(UDP, "10.1.0.2:30053", "10.1.0.2:30053", false);
        check(UDP, "10.96.0.10:30053", GONE, false);
    }

    #[test]
    fn while_nobody_serves_all_flows_stay() {
        let nobody = Cleanup { endpoints: BTreeSet::new(), ..service() };
        for asked in [SERVICE, EXTERNAL, AT_NODE] {
            check_by(std::slice::from_ref(&nobody), UDP, asked, GONE, false);
        }
        assert_eq!(Stale::new(&[nobody], &node()).families(), BTreeSet::new());
    }

    #[test]
    fn each_flow_is_judged_by_the_service_that_it_asked_for() {
        let other = Cleanup {
            frontends: all("10.96.0.20:53"),
            node_port: NonZeroU16::new(30_054),
            endpoints: all(GONE),
            ..service()
        };
        let both = [service(), other];
        check_by(&both, UDP, SERVICE, GONE, true);
        check_by(&both, UDP, "10.96.0.20:53", GONE, false);
        check_by(&both, UDP, "10.96.0.20:53", SERVING, true);
        check_by(&both, UDP, "10.0.0.1:30054", GONE, false);
        check_by(&both, UDP, "10.0.0.1:30054", SERVING, true);
    }

    #[test]
    fn an_address_of_a_service_goes_before_a_node_port_of_another() {
        let external =
            Cleanup { frontends: all(AT_NODE), node_port: None, endpoints: all(GONE), ..service() };
        for both in [[service(), external.clone()], [external.clone(), service()]] {
            check_by(&both, UDP, AT_NODE, GONE, false);
            check_by(&both, UDP, AT_NODE, SERVING, true);
        }
        let nobody = Cleanup { endpoints: BTreeSet::new(), ..external };
        check_by(&[service(), nobody], UDP, AT_NODE, GONE, false);
    }

    #[test]
    fn the_families_do_not_mix() {
        let six = Cleanup {
            family: Family::V6,
            frontends: all("[fd00::a]:53"),
            node_port: NonZeroU16::new(30_053),
            endpoints: all("[fd00:1::1]:53"),
        };
        let only_six = std::slice::from_ref(&six);
        check_by(only_six, UDP, "[fd00::a]:53", "[fd00:1::2]:53", true);
        check_by(only_six, UDP, "[fd00::a]:53", "[fd00:1::1]:53", false);
        check_by(only_six, UDP, "[fd00::1]:30053", "[fd00:1::2]:53", true);
        check_by(only_six, UDP, AT_NODE, GONE, false);
        assert_eq!(Stale::new(only_six, &node()).families(), [Family::V6].into());
        let both = [service(), six];
        assert_eq!(Stale::new(&both, &node()).families(), [Family::V4, Family::V6].into());
    }

    fn service() -> Cleanup {
        Cleanup {
            family: Family::V4,
            frontends: all("10.96.0.10:53 192.0.2.1:53"),
            node_port: NonZeroU16::new(30_053),
            endpoints: all("10.1.0.1:5353 10.1.0.3:5353"),
        }
    }

    fn node() -> BTreeSet<IpAddr> {
        ["10.0.0.1", "fd00::1"].map(|address| address.parse().unwrap()).into()
    }

    fn all(addresses: &str) -> BTreeSet<SocketAddr> {
        addresses.split(' ').map(|address| address.parse().unwrap()).collect()
    }

    #[track_caller]
    fn check(protocol: u8, asked: &str, answers: &str, stale: bool) {
        check_by(&[service()], protocol, asked, answers, stale);
    }

    #[track_caller]
    fn check_by(cleanups: &[Cleanup], protocol: u8, asked: &str, answers: &str, stale: bool) {
        let [client, asked, answers] = [CLIENT, asked, answers].map(|address| address.parse().unwrap());
        let original = Tuple { source: client, destination: asked };
        let entry = Entry { protocol, original, reply: Tuple { source: answers, destination: client } };
        assert_eq!(Stale::new(cleanups, &node()).holds(&entry), stale, "{entry:?}");
    }
}
