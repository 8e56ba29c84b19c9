//! What the elements of our tables mean, for lists. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::chains::fixed;
use super::image::{Slot, Value};
use super::sets::{Field, Set, address_key, port_key, read_address};
use super::wire::Data;
use crate::backend::ebpf::Verdict;
use crate::backend::held::Held;
use crate::desired::Caller;
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// What a service port has in the packet filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Addresses that answer; a node port as `*:30080`.
    pub addresses: BTreeSet<String>,
    /// What becomes of new flows to its first address.
    pub verdict: Verdict,
    /// Endpoints that get new flows, from wherever.
    pub endpoints: BTreeSet<SocketAddr>,
    /// For how many seconds after its last new flow a client gets the same endpoint.
    pub affinity: Option<NonZeroU32>,
}

/// A key without the number behind it: family, whether it begins with an address, bytes.
type Head = (Family, bool, Box<[u8]>);

/// Every service port that has an address in these elements.
pub(super) fn describe(elements: &BTreeMap<Slot, Value>) -> BTreeMap<ServicePortName, Described> {
    let mut names: BTreeMap<Head, ServicePortName> = BTreeMap::new();
    let mut ports: BTreeMap<ServicePortName, Described> = BTreeMap::new();
    for ((family, set, key), value) in elements {
        let Some(name) = value.comment.as_deref().and_then(|label| read_name(label, *family, key)) else {
            continue;
        };
        names.insert((*family, begins_with_address(*set), key.clone()), name.clone());
        let nothing = || Described {
            addresses: BTreeSet::new(),
            verdict: Verdict::Reject,
            endpoints: BTreeSet::new(),
            affinity: None,
        };
        let port = ports.entry(name).or_insert_with(nothing);
        port.addresses.extend(address(*family, key));
        port.verdict(&value.data);
    }
    for ((family, set, key), value) in elements {
        let Data::Bytes(bytes) = &value.data else { continue };
        let head = key.get(..key.len().saturating_sub(4)).unwrap_or_default();
        let name = names.get(&(*family, begins_with_address(*set), head.into()));
        if let (Some(name), Some(endpoint)) = (name, endpoint(*family, bytes))
            && let Some(port) = ports.get_mut(name)
        {
            port.endpoints.insert(endpoint);
        }
    }
    ports
}

impl Described {
    /// Forwarding to one address counts more than refusing at another.
    fn verdict(&mut self, data: &Data) {
        let Data::Goto(chain) = data else { return };
        match &**chain {
            fixed::REFUSE => {}
            fixed::DISCARD if self.verdict == Verdict::Reject => self.verdict = Verdict::Drop,
            fixed::DISCARD => {}
            chain => {
                self.verdict = Verdict::Forward;
                self.affinity = self.affinity.or_else(|| seconds(chain));
            }
        }
    }
}

/// What callers meet at an address. `is_own`: node ports answer there. Whether a source range lets them in is not asked.
pub(super) fn held_at(
    elements: &BTreeMap<Slot, Value>,
    address: SocketAddr,
    protocol: Protocol,
    is_own: bool,
    caller: Caller,
) -> Option<Held> {
    let by_address = Way {
        key: address_key(address, protocol),
        maps: [Set::Services, Set::ServicesFiltered, Set::ServicesInside, Set::ServicesOutside],
        lists: [Set::Endpoints, Set::EndpointsLocal],
    };
    let by_port = Way {
        key: port_key(address.port(), protocol).into(),
        maps: [Set::NodePorts, Set::NodePorts, Set::NodePortsInside, Set::NodePortsOutside],
        lists: [Set::NodePortEndpoints, Set::NodePortEndpointsLocal],
    };
    let family = Family::of(address.ip());
    let ways = [Some(by_address), is_own.then_some(by_port)];
    ways.into_iter().flatten().find_map(|way| way.held(elements, family, caller))
}

/// How a flow finds its service.
struct Way {
    key: Vec<u8>,
    /// First map, behind source ranges, for callers of this cluster, for others.
    maps: [Set; 4],
    lists: [Set; 2],
}

impl Way {
    fn held(&self, elements: &BTreeMap<Slot, Value>, family: Family, caller: Caller) -> Option<Held> {
        let [first, filtered, inside, outside] = self.maps;
        let found = |set: Set| elements.get(&(family, set, self.key.as_slice().into()));
        let name = found(first)?.comment.as_deref().and_then(|label| read_name(label, family, &self.key))?;
        let chain = |set: Set| match &found(set)?.data {
            Data::Goto(chain) => Some(&**chain),
            Data::None | Data::Drop | Data::Bytes(_) => None,
        };
        let mut goes = chain(first)?;
        if goes == fixed::FILTERED {
            goes = chain(filtered)?;
        }
        let by_source = [fixed::BY_SOURCE, fixed::NODE_PORT_BY_SOURCE].contains(&goes);
        if by_source {
            goes = chain(if caller == Caller::Outside { outside } else { inside })?;
        }
        let verdict = match goes {
            fixed::REFUSE => Verdict::Reject,
            fixed::DISCARD => Verdict::Drop,
            _ => Verdict::Forward,
        };
        // With affinity the name does not say which list: by source it is this node's for callers from outside.
        let is_local = goes.contains("local") || (by_source && caller == Caller::Outside);
        let endpoints =
            if verdict == Verdict::Forward { self.listed(elements, family, is_local) } else { Vec::new() };
        let masquerade =
            ["-masquerade-unless-pod", "-masquerade"].into_iter().find(|end| goes.ends_with(end));
        let masquerade = masquerade.map(|end| end.trim_start_matches('-'));
        Some(Held { port: name, verdict, endpoints, affinity: seconds(goes), masquerade })
    }

    fn listed(&self, elements: &BTreeMap<Slot, Value>, family: Family, is_local: bool) -> Vec<SocketAddr> {
        let [cluster, local] = self.lists.map(|set| {
            let own = elements.iter().filter(|((of, known, key), _)| {
                (*of, *known) == (family, set)
                    && key.strip_prefix(self.key.as_slice()).is_some_and(|rest| rest.len() == 4)
            });
            let bytes = own.filter_map(|(_, value)| match &value.data {
                Data::Bytes(bytes) => endpoint(family, bytes),
                Data::None | Data::Drop | Data::Goto(_) => None,
            });
            bytes.collect::<BTreeSet<_>>()
        });
        if is_local || cluster.is_empty() { local } else { cluster }.into_iter().collect()
    }
}

/// `affine-HASH-SECONDS`, and perhaps more.
fn seconds(chain: &str) -> Option<NonZeroU32> {
    chain.strip_prefix("affine-")?.split('-').nth(1)?.parse().ok()
}

fn begins_with_address(set: Set) -> bool {
    set.fields().first() == Some(&Field::To)
}

/// The protocol stands before the port, and that at the end.
fn read_name(label: &str, family: Family, key: &[u8]) -> Option<ServicePortName> {
    let (namespace, rest) = label.split_once('/')?;
    let (name, port) = rest.split_once(':').unwrap_or((rest, ""));
    let protocol = match *key.get(key.len().checked_sub(8)?)? {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        132 => Protocol::Sctp,
        _ => return None,
    };
    Some(ServicePortName { service: ServiceName::new(namespace, name), port: port.into(), protocol, family })
}

fn address(family: Family, key: &[u8]) -> Option<String> {
    let port = u16::from_be_bytes(*key.get(key.len().checked_sub(4)?..)?.first_chunk::<2>()?);
    match key.len() {
        8 => Some(format!("*:{port}")),
        _ => Some(SocketAddr::new(read_address(key, family)?, port).to_string()),
    }
}

pub(super) fn endpoint(family: Family, bytes: &[u8]) -> Option<SocketAddr> {
    let port = bytes.get(Field::To.length(family) as usize..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(read_address(bytes, family)?, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::backend::nft::image::Image;
    use crate::desired::routes::{Lists, Sources, external, internal};
    use crate::desired::{Action, Endpoint, Frontend, Routes, ServicePort, Uses};
    use crate::model::Policy;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// At every address every caller is found to get what was decided for it.
    fn check(policy: Policy, here: &[bool], affinity: Option<NonZeroU32>) {
        let endpoint = |(place, here): (usize, &bool)| {
            let address = SocketAddr::from(([10, 1, 0, place as u8], 80));
            Endpoint::new(address, Uses { cluster: true, local: *here, here: *here })
        };
        let lists =
            Lists { cluster: !here.is_empty(), local: here.contains(&true), reachable: !here.is_empty() };
        let sources = Sources { pods_known: true, node_is_pod: false, masquerade_all: false };
        let port = ServicePort {
            frontends: Box::new([
                Frontend::ClusterIp(at("10.96.0.1:80")),
                Frontend::NodePort(NonZeroU16::new(30_080).unwrap()),
                Frontend::LoadBalancer(at("192.0.2.1:80")),
            ]),
            internal: internal(policy, lists, sources),
            external: external(policy, lists, sources),
            sources: Some(Box::new(["203.0.113.0/24".parse().unwrap()])),
            affinity,
            endpoints: here.iter().enumerate().map(endpoint).collect(),
        };
        let name = ServicePortName {
            service: ServiceName::new("default", "web"),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let mut image = Image::default();
        image.add(&name, &port);
        let found =
            |text: &str, is_own: bool, caller| held_at(&image.own, at(text), Protocol::Tcp, is_own, caller);
        for caller in [Caller::Pod, Caller::Node, Caller::Outside] {
            for (text, is_own, routes) in [
                ("10.96.0.1:80", false, &port.internal),
                ("10.0.0.1:30080", true, &port.external),
                ("192.0.2.1:80", false, &port.external),
            ] {
                let held = found(text, is_own, caller).unwrap();
                assert_eq!(held.port, name);
                let found = (held.verdict, held.endpoints);
                assert_eq!(
                    found,
                    decided(&port, routes, caller),
                    "{policy:?} {here:?} {affinity:?} {caller:?} {text}"
                );
            }
            assert_eq!(found("10.0.0.1:30080", false, caller), None, "no address of the node's");
            assert_eq!(found("10.96.0.1:81", true, caller), None);
        }
    }

    fn decided(port: &ServicePort, routes: &Routes, caller: Caller) -> (Verdict, Vec<SocketAddr>) {
        match routes.of(caller) {
            Action::Forward(list, _) => (Verdict::Forward, port.list(list).collect()),
            Action::Reject => (Verdict::Reject, Vec::new()),
            Action::Drop => (Verdict::Drop, Vec::new()),
        }
    }

    #[test]
    fn each_address_and_caller_has_what_was_decided() {
        for policy in [Policy::Cluster, Policy::Local] {
            for here in [&[][..], &[false, false], &[true, false, true]] {
                for affinity in [None, NonZeroU32::new(60)] {
                    check(policy, here, affinity);
                }
            }
        }
    }
}
