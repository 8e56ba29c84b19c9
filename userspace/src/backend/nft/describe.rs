//! What the elements of our tables mean, for lists. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::NonZeroU32;

use super::chains::fixed;
use super::image::{Slot, Value};
use super::sets::{Field, Set, read_address};
use super::wire::Data;
use crate::backend::ebpf::Verdict;
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

fn endpoint(family: Family, bytes: &[u8]) -> Option<SocketAddr> {
    let port = bytes.get(Field::To.length(family) as usize..)?.first_chunk::<2>()?;
    Some(SocketAddr::new(read_address(bytes, family)?, u16::from_be_bytes(*port)))
}
