//! Whose a flow is: by where its client asked and who answers. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::backend::edge::service_number;
use crate::drain::{Asked, Layer, Subject};
use crate::model::{Family, Protocol, ServicePortName};

/// So many that were not named are taken in.
const MOST: usize = 4096;

/// Of which service port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whose {
    /// Of this one.
    Port(ServicePortName),
    /// Of one that only the edge layer remembers, by its number.
    Number(u32, Protocol),
}

/// Who gets new flows of a service port, and where it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Endpoints that get new flows.
    pub used: BTreeSet<SocketAddr>,
    /// Addresses.
    pub asked: Arc<Asked>,
}

/// One whose flows are counted.
#[derive(Clone, Debug)]
struct Wanted {
    whose: Whose,
    endpoint: SocketAddr,
    asked: Arc<Asked>,
}

/// Knows whose flows are counted. Who is not named, but has flows of a service port in whose list it is not, is taken in if the
/// lists are known; its place stays the same from look to look.
#[derive(Debug, Default)]
pub struct Finder {
    wanted: Vec<Wanted>,
    by_endpoint: BTreeMap<(u8, SocketAddr), Vec<usize>>,
    by_number: BTreeMap<(u32, SocketAddr), usize>,
    lists: BTreeMap<ServicePortName, List>,
    addresses: BTreeMap<(u8, SocketAddr), ServicePortName>,
    node_ports: BTreeMap<(u8, Family, u16), ServicePortName>,
    numbers: BTreeMap<u32, ServicePortName>,
    /// Whether others are taken in.
    is_open: bool,
}

impl Finder {
    /// For these only.
    pub fn of(subjects: impl IntoIterator<Item = Subject>) -> Self {
        let mut finder = Self::default();
        for Subject { port, endpoint, asked } in subjects {
            finder.want(Whose::Port(port), endpoint, asked);
        }
        finder
    }

    /// For others too, that have flows without being in these lists, which are all there are.
    #[must_use]
    pub fn with_lists(mut self, lists: BTreeMap<ServicePortName, List>) -> Self {
        for (port, List { used: _, asked }) in &lists {
            let protocol = port.protocol.number();
            let addresses = asked.addresses.iter().map(|at| ((protocol, *at), port.clone()));
            self.addresses.extend(addresses);
            let node_port = asked.node_port.map(|number| ((protocol, port.family, number), port.clone()));
            self.node_ports.extend(node_port);
            self.numbers.insert(service_number(port), port.clone());
        }
        self.lists = lists;
        self.is_open = true;
        self
    }

    /// Everybody, by place.
    pub fn all(&self) -> impl Iterator<Item = (usize, &Whose, SocketAddr)> {
        self.wanted.iter().enumerate().map(|(place, one)| (place, &one.whose, one.endpoint))
    }

    /// Who is at a place.
    pub(super) fn at(&self, place: usize) -> Option<(&Whose, SocketAddr)> {
        self.wanted.get(place).map(|one| (&one.whose, one.endpoint))
    }

    /// Whose a flow of the edge layer is, if it counts.
    pub(super) fn at_edge(&mut self, number: u32, protocol: Protocol, endpoint: SocketAddr) -> Option<usize> {
        if let Some(place) = self.by_number.get(&(number, endpoint)) {
            return Some(*place);
        }
        if !self.is_open {
            return None;
        }
        let Some(port) = self.numbers.get(&number).cloned() else {
            return self.take_in(Whose::Number(number, protocol), endpoint, Arc::default());
        };
        self.take_in_unless_used(port, endpoint)
    }

    /// Somebody has sockets.
    pub(super) fn at_socket(&mut self, port: &ServicePortName, endpoint: SocketAddr) {
        let is_known = self.by_number.contains_key(&(service_number(port), endpoint));
        if self.is_open && !is_known {
            self.take_in_unless_used(port.clone(), endpoint);
        }
    }

    /// Whose a tracked flow is, and by which way it came. One that was not translated may be of several service ports.
    pub(super) fn tracked(
        &mut self,
        protocol: u8,
        asked: SocketAddr,
        answers: SocketAddr,
    ) -> Vec<(usize, Layer)> {
        let known = self.by_endpoint.get(&(protocol, answers)).map(Vec::as_slice).unwrap_or_default();
        if asked == answers {
            return known.iter().map(|place| (*place, Layer::Direct)).collect();
        }
        let asked_here = |place: &&usize| self.wanted.get(**place).is_some_and(|one| one.asked.holds(&asked));
        let ours: Vec<_> = known.iter().filter(asked_here).map(|place| (*place, Layer::Nftables)).collect();
        if !ours.is_empty() || !self.is_open {
            return ours;
        }
        let found = self.port_at(protocol, asked).and_then(|port| self.take_in_unless_used(port, answers));
        found.into_iter().map(|place| (place, Layer::Nftables)).collect()
    }

    /// A Service's own address goes before a node port.
    fn port_at(&self, protocol: u8, asked: SocketAddr) -> Option<ServicePortName> {
        let by_port = || self.node_ports.get(&(protocol, Family::of(asked.ip()), asked.port()));
        self.addresses.get(&(protocol, asked)).or_else(by_port).cloned()
    }

    fn take_in_unless_used(&mut self, port: ServicePortName, endpoint: SocketAddr) -> Option<usize> {
        let list = self.lists.get(&port)?;
        if list.used.contains(&endpoint) {
            return None;
        }
        let asked = Arc::clone(&list.asked);
        self.take_in(Whose::Port(port), endpoint, asked)
    }

    fn take_in(&mut self, whose: Whose, endpoint: SocketAddr, asked: Arc<Asked>) -> Option<usize> {
        (self.wanted.len() < 2 * MOST).then(|| self.want(whose, endpoint, asked))
    }

    fn want(&mut self, whose: Whose, endpoint: SocketAddr, asked: Arc<Asked>) -> usize {
        let place = self.wanted.len();
        let (protocol, number) = match &whose {
            Whose::Port(port) => (port.protocol, service_number(port)),
            Whose::Number(number, protocol) => (*protocol, *number),
        };
        self.by_endpoint.entry((protocol.number(), endpoint)).or_default().push(place);
        self.by_number.insert((number, endpoint), place);
        self.wanted.push(Wanted { whose, endpoint, asked });
        place
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceName;

    const TCP: u8 = 6;
    const UDP: u8 = 17;

    fn port(name: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn asked(address: &str, node_port: Option<u16>) -> Arc<Asked> {
        Arc::new(Asked { addresses: [at(address)].into(), node_port })
    }

    fn subject(name: &str, address: &str, endpoint: &str) -> Subject {
        Subject { port: port(name), endpoint: at(endpoint), asked: asked(address, Some(30_080)) }
    }

    /// `web` and `api` have lost the same endpoint; `web` still has another one.
    fn finder(is_open: bool) -> Finder {
        let finder = Finder::of([
            subject("web", "10.96.0.10:80", "10.1.0.1:8080"),
            subject("api", "10.96.0.11:80", "10.1.0.1:8080"),
        ]);
        let list = |address| List { used: [at("10.1.0.2:8080")].into(), asked: asked(address, None) };
        let lists = [(port("web"), list("10.96.0.10:80")), (port("more"), list("10.96.0.12:80"))];
        if is_open { finder.with_lists(lists.into()) } else { finder }
    }

    #[track_caller]
    fn check(is_open: bool, protocol: u8, [from, to]: [&str; 2], expected: &[(usize, Layer)]) {
        assert_eq!(finder(is_open).tracked(protocol, at(from), at(to)), expected, "{from} {to}");
    }

    #[test]
    fn a_translated_flow_is_of_the_service_that_was_asked() {
        for is_open in [false, true] {
            check(is_open, TCP, ["10.96.0.10:80", "10.1.0.1:8080"], &[(0, Layer::Nftables)]);
            check(is_open, TCP, ["10.96.0.11:80", "10.1.0.1:8080"], &[(1, Layer::Nftables)]);
            check(
                is_open,
                TCP,
                ["10.0.0.1:30080", "10.1.0.1:8080"],
                &[(0, Layer::Nftables), (1, Layer::Nftables)],
            );
            check(is_open, UDP, ["10.96.0.10:80", "10.1.0.1:8080"], &[]);
            check(is_open, TCP, ["192.0.2.1:443", "10.1.0.1:8080"], &[]);
        }
    }

    #[test]
    fn a_flow_straight_to_the_endpoint_may_be_of_any_of_its_services() {
        let both = [(0, Layer::Direct), (1, Layer::Direct)];
        check(false, TCP, ["10.1.0.1:8080", "10.1.0.1:8080"], &both);
        check(true, TCP, ["10.1.0.1:8081", "10.1.0.1:8081"], &[]);
    }

    #[test]
    fn who_is_in_no_list_and_has_flows_is_taken_in_once() {
        check(false, TCP, ["10.96.0.10:80", "10.1.0.9:8080"], &[]);
        let mut finder = finder(true);
        let mut found = |from: &str, to: &str| finder.tracked(TCP, at(from), at(to));
        assert_eq!(found("10.96.0.10:80", "10.1.0.2:8080"), [], "it is in the list");
        for _ in 0..2 {
            assert_eq!(found("10.96.0.10:80", "10.1.0.9:8080"), [(2, Layer::Nftables)]);
        }
        assert_eq!(found("10.96.0.12:80", "10.1.0.1:8080"), [(3, Layer::Nftables)], "another's Service");
        assert_eq!(finder.all().count(), 4);
    }

    #[test]
    fn the_edge_layer_goes_by_numbers() {
        let mut finder = finder(true);
        let [web, more] = ["web", "more"].map(|name| service_number(&port(name)));
        let mut found = |number, to: &str| finder.at_edge(number, Protocol::Tcp, at(to));
        assert_eq!(found(web, "10.1.0.1:8080"), Some(0));
        assert_eq!(found(web, "10.1.0.2:8080"), None);
        assert_eq!(found(more, "10.1.0.3:8080"), Some(2));
        assert_eq!((found(7, "10.1.0.3:8080"), found(7, "10.1.0.3:8080")), (Some(3), Some(3)));
        assert_eq!(finder.at(3), Some((&Whose::Number(7, Protocol::Tcp), at("10.1.0.3:8080"))));
        let mut closed = super::tests::finder(false);
        assert_eq!(closed.at_edge(7, Protocol::Tcp, at("10.1.0.3:8080")), None);
    }

    #[test]
    fn who_is_in_no_list_and_has_sockets_is_taken_in_once() {
        let mut finder = finder(true);
        for endpoint in ["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.9:8080", "10.1.0.9:8080"] {
            finder.at_socket(&port("web"), at(endpoint));
        }
        finder.at_socket(&port("nobody"), at("10.1.0.9:8080"));
        let all: Vec<SocketAddr> = finder.all().map(|(_, _, endpoint)| endpoint).collect();
        assert_eq!(all, ["10.1.0.1:8080", "10.1.0.1:8080", "10.1.0.9:8080"].map(at));
        let mut closed = super::tests::finder(false);
        closed.at_socket(&port("web"), at("10.1.0.9:8080"));
        assert_eq!(closed.all().count(), 2);
    }

    #[test]
    fn no_more_are_taken_in_than_there_is_room_for() {
        let mut finder = Finder::default().with_lists(BTreeMap::new());
        for number in 0..20_000_u32 {
            let endpoint = SocketAddr::from((std::net::Ipv4Addr::from(number), 80));
            finder.at_edge(7, Protocol::Tcp, endpoint);
        }
        assert_eq!(finder.all().count(), 2 * MOST);
    }
}
