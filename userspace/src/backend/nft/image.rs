//! What a table should hold for one service port. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::sync::Arc;

use ipnet::IpNet;

use super::chains::{Affinity, By, Chain, Mark, endpoints_of, fixed};
use super::sets::{Set, address_key, endpoint_data, numbered, octets, port_key};
use super::wire::Data;
use crate::desired::{Action, Frontend, Masquerade, Routes, ServicePort};
use crate::model::{Family, ServicePortName};

/// Where an element is: family, set, key.
pub(super) type Slot = (Family, Set, Box<[u8]>);

/// What is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    /// The last key of a range.
    pub(super) end: Option<Box<[u8]>>,
    /// What it says.
    pub(super) data: Data,
    /// Whose it is.
    pub(super) comment: Option<Box<str>>,
}

/// Elements and chains that some service ports need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Image {
    /// Elements that belong to one of them alone.
    pub(super) own: BTreeMap<Slot, Value>,
    /// Elements that others may need as well; how often each is needed.
    pub(super) shared: BTreeMap<Slot, usize>,
    /// Chains that others may need as well, likewise.
    pub(super) chains: BTreeMap<(Family, Chain), usize>,
}

/// What is decided for a flow to an address.
enum Fate {
    Same(Action, Mark),
    BySource { inside: Action, outside: Action },
}

impl Image {
    /// Adds what a service port needs.
    pub(super) fn add(&mut self, name: &ServicePortName, port: &ServicePort) {
        let mut drawing = Drawing { image: self, name, port, comment: label(name).into() };
        port.frontends.iter().for_each(|frontend| drawing.frontend(*frontend));
        drawing.hairpins();
    }
}

struct Drawing<'a> {
    image: &'a mut Image,
    name: &'a ServicePortName,
    port: &'a ServicePort,
    comment: Box<str>,
}

impl Drawing<'_> {
    fn frontend(&mut self, frontend: Frontend) {
        match frontend {
            Frontend::ClusterIp(address) => {
                let slot = (self.name.family, Set::ClusterIps, octets(address.ip()).into());
                *self.image.shared.entry(slot).or_default() += 1;
                self.address(Set::Services, address, &self.port.internal);
            }
            Frontend::ExternalIp(address) => self.address(Set::Services, address, &self.port.external),
            Frontend::LoadBalancer(address) => match &self.port.sources {
                None => self.address(Set::Services, address, &self.port.external),
                Some(sources) => self.filtered(address, sources),
            },
            Frontend::NodePort(port) => self.node_port(port),
        }
    }

    fn address(&mut self, set: Set, address: SocketAddr, routes: &Routes) {
        let key = address_key(address, self.name.protocol);
        let data = match fate(routes) {
            Fate::Same(action, mark) => self.verdict(&key, By::Address, action, mark),
            Fate::BySource { inside, outside } => {
                let inside = self.verdict(&key, By::Address, inside, Mark::Never);
                let outside = self.verdict(&key, By::Address, outside, Mark::Never);
                self.put(Set::ServicesInside, key.clone().into(), inside);
                self.put(Set::ServicesOutside, key.clone().into(), outside);
                goto(fixed::BY_SOURCE)
            }
        };
        self.put(set, key.into(), data);
    }

    fn filtered(&mut self, address: SocketAddr, sources: &[IpNet]) {
        self.address(Set::ServicesFiltered, address, &self.port.external);
        let key = address_key(address, self.name.protocol);
        self.put(Set::Services, key.clone().into(), goto(fixed::FILTERED));
        // Ranges in one set must not overlap.
        for range in IpNet::aggregate(&sources.to_vec()) {
            let with = |address| -> Box<[u8]> { [key.clone(), octets(address)].concat().into() };
            let value = Value { end: Some(with(range.broadcast())), data: Data::None, comment: None };
            let slot = (self.name.family, Set::Sources, with(range.network()));
            self.image.own.insert(slot, value);
        }
    }

    fn node_port(&mut self, port: NonZeroU16) {
        let key = port_key(port.get(), self.name.protocol);
        let data = match fate(&self.port.external) {
            Fate::Same(action, mark) => self.verdict(&key, By::NodePort, action, mark),
            Fate::BySource { inside, outside } => {
                let inside = self.verdict(&key, By::NodePort, inside, Mark::Never);
                let outside = self.verdict(&key, By::NodePort, outside, Mark::Never);
                self.put(Set::NodePortsInside, key.into(), inside);
                self.put(Set::NodePortsOutside, key.into(), outside);
                goto(fixed::NODE_PORT_BY_SOURCE)
            }
        };
        self.put(Set::NodePorts, key.into(), data);
    }

    /// What leads to an action; what it needs is added.
    fn verdict(&mut self, key: &[u8], by: By, action: Action, mark: Mark) -> Data {
        let list = match action {
            Action::Reject => return goto(fixed::REFUSE),
            Action::Drop => return goto(fixed::DISCARD),
            Action::Forward(list, _) => list,
        };
        let endpoints: Vec<SocketAddr> = self.port.list(list).collect();
        // With affinity the chain knows the endpoints; the list is there for whoever reads the tables.
        self.list(endpoints_of(list, by), key, &endpoints);
        let chain = match self.port.affinity {
            Some(seconds) => self.affine(&endpoints, mark, seconds.get()),
            None => Chain::Spread { list, by, mark, count: endpoints.len() as u32 },
        };
        let data = goto(&chain.name());
        self.need(chain);
        data
    }

    fn list(&mut self, set: Set, key: &[u8], endpoints: &[SocketAddr]) {
        for (number, endpoint) in (0..).zip(endpoints) {
            let value = Value { end: None, data: Data::Bytes(endpoint_data(*endpoint)), comment: None };
            self.image.own.insert((self.name.family, set, numbered(key, number)), value);
        }
    }

    fn affine(&self, endpoints: &[SocketAddr], mark: Mark, seconds: u32) -> Chain {
        let protocol = self.name.protocol;
        let port = format!("{}/{}", self.comment, protocol.as_str());
        let one = |endpoint: &SocketAddr| Affinity::new(&port, *endpoint, protocol, seconds);
        let endpoints: Arc<[Affinity]> = endpoints.iter().map(one).collect();
        Chain::Affine { mark, endpoints }
    }

    /// Notes that a chain is needed, and those that it leads to.
    fn need(&mut self, chain: Chain) {
        let mut waiting = vec![chain];
        while let Some(chain) = waiting.pop() {
            waiting.extend(chain.leads_to());
            *self.image.chains.entry((self.name.family, chain)).or_default() += 1;
        }
    }

    /// Endpoints here that may reach themselves.
    fn hairpins(&mut self) {
        let here = self.port.endpoints.iter();
        let here = here.filter(|one| one.uses.here && (one.uses.cluster || one.uses.local));
        let addresses: BTreeSet<_> = here.map(|endpoint| endpoint.address().ip()).collect();
        for address in addresses {
            let key = [octets(address), octets(address)].concat().into();
            *self.image.shared.entry((self.name.family, Set::Hairpins, key)).or_default() += 1;
        }
    }

    fn put(&mut self, set: Set, key: Box<[u8]>, data: Data) {
        let comment = Some(self.comment.clone());
        self.image.own.insert((self.name.family, set, key), Value { end: None, data, comment });
    }
}

/// Whether all sources get the same, and who of them is masqueraded.
fn fate(routes: &Routes) -> Fate {
    let Routes { pod, node, outside } = *routes;
    match (pod, node, outside) {
        (Action::Forward(a, pods), Action::Forward(b, _), Action::Forward(c, others)) if a == b && b == c => {
            match (pods, others) {
                (Masquerade::Always, _) => Fate::Same(pod, Mark::Always),
                (Masquerade::Hairpin, Masquerade::Always) => Fate::Same(pod, Mark::UnlessPod),
                (Masquerade::Hairpin, Masquerade::Hairpin) => Fate::Same(pod, Mark::Never),
            }
        }
        (_, Action::Reject | Action::Drop, _) if pod == node && node == outside => {
            Fate::Same(node, Mark::Never)
        }
        (_, inside, outside) => Fate::BySource { inside, outside },
    }
}

fn goto(chain: &str) -> Data {
    Data::Goto(chain.into())
}

/// What people see beside an element, and what tells after a restart whose it is.
pub(super) fn label(name: &ServicePortName) -> String {
    let service = format!("{}/{}", name.service.namespace, name.service.name);
    if name.port.is_empty() { service } else { format!("{service}:{}", name.port) }
}
