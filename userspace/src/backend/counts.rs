//! How much each service port is used from this node, by whichever layer counts it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, thread};

use dataplane_ebpf::abi::Traffic;
use serde::Serialize;
use tracing::warn;

use super::ebpf::{self, Counts, Pins, read_counts};
use super::edge::{self, Pair, State};
use super::{BackendError, chain};
use crate::model::ServicePortName;

/// A layer that counts. nftables does not: connection tracking knows flows, but not what was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// eBPF at sockets: callers on this node.
    Socket,
    /// eBPF at the node's outside devices: callers from outside.
    Edge,
}

/// What one layer has counted for one service port since its maps were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// Connections, and flows of datagrams, that got an endpoint.
    pub connections: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Those that found nobody here who may serve them, and are dropped.
    pub dropped: u64,
    /// How many of the first are open; unknown where their end is not seen.
    pub open: Option<u64>,
}

/// One endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointUse {
    /// Its id.
    pub id: u32,
    /// Where it listens.
    pub address: SocketAddr,
    /// Connections, and flows of datagrams, that it ever got.
    pub opened: u64,
    /// How many of them are open; unknown where their end is not seen.
    pub open: Option<u64>,
}

/// One service port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortUse {
    /// By layer.
    pub layers: BTreeMap<Layer, Tally>,
    /// Endpoints that were ever used, by id; also such that have left, while they are in use.
    pub endpoints: Vec<EndpointUse>,
}

/// Everything that is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By service port: those that were ever asked for, and no others.
    pub ports: BTreeMap<ServicePortName, PortUse>,
    /// Whether the end of each connection is seen.
    pub sees_ends: bool,
}

impl Layer {
    /// Name in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Edge => "edge",
        }
    }
}

impl Tally {
    /// Both together. What is open is known if both know it.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            refused: self.refused + other.refused,
            dropped: self.dropped + other.dropped,
            open: self.open.zip(other.open).map(|(one, other)| one + other),
        }
    }
}

impl Usage {
    /// All layers together for a service port. What nobody has asked for has been counted, too: nothing.
    pub fn of(&self, name: &ServicePortName) -> Tally {
        let nothing = Tally { open: self.open(0), ..Tally::default() };
        let layers = self.ports.get(name).into_iter().flat_map(|port| port.layers.values());
        layers.fold(nothing, |sum, tally| sum.plus(*tally))
    }

    /// The endpoints of a service port that were ever used.
    pub fn endpoints(&self, name: &ServicePortName) -> &[EndpointUse] {
        self.ports.get(name).map_or(&[], |port| &port.endpoints)
    }

    /// So many are open, as far as that can be known.
    pub fn open(&self, many: u64) -> Option<u64> {
        self.sees_ends.then_some(many)
    }
}

/// Whether the table of flows is gone through for those that are open at the edge: it may hold millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flows {
    /// What is open there is not known then.
    Skipped,
    /// For somebody who waits for it.
    Counted,
}

/// Reads what is pinned, with or without the daemon; nothing where nobody counts.
pub fn read(pin_dir: &Path, flows: Flows) -> Result<Option<Usage>, BackendError> {
    let Some(counts) = read_counts(&Pins::new(pin_dir))? else { return Ok(None) };
    let mut usage = at_sockets(&counts);
    if let Some(traffic) = edge::read_traffic(pin_dir)? {
        let open = match flows {
            Flows::Skipped => None,
            Flows::Counted => edge::read_flows(pin_dir)?.as_deref().map(open_flows),
        };
        add_edge(&mut usage, counts.names.values(), &traffic, open.as_ref());
    }
    Ok(Some(usage))
}

/// Flows that have not ended, by number of the service port.
fn open_flows(flows: &[Pair]) -> BTreeMap<u32, u64> {
    let mut open = BTreeMap::new();
    for flow in flows.iter().filter(|flow| flow.state != State::Closed) {
        *open.entry(flow.service).or_default() += 1;
    }
    open
}

/// Adds what the edge layer has counted. It calls a service port by a number that is made of its name.
fn add_edge<'a>(
    usage: &mut Usage,
    names: impl Iterator<Item = &'a ServicePortName>,
    traffic: &BTreeMap<u32, Traffic>,
    open: Option<&BTreeMap<u32, u64>>,
) {
    for name in names {
        let number = edge::service_number(name);
        let Some(Traffic { opened, refused, left }) = traffic.get(&number).copied() else { continue };
        let open = open.map(|open| open.get(&number).copied().unwrap_or(0));
        let tally = Tally { connections: opened, refused, dropped: left, open };
        usage.ports.entry(name.clone()).or_default().layers.insert(Layer::Edge, tally);
    }
}

/// Reads again and again, on a thread of its own that ends with the process: neither the loop nor whoever wants the metrics waits
/// for it.
pub fn follow(
    pin_dir: PathBuf,
    pause: Duration,
    mut tell: impl FnMut(&Usage) + Send + 'static,
) -> io::Result<()> {
    let look = move || {
        let mut failed = false;
        loop {
            let usage = read(&pin_dir, Flows::Skipped);
            let failed_before = std::mem::replace(&mut failed, usage.is_err());
            match usage {
                Ok(usage) => usage.iter().for_each(&mut tell),
                Err(error) if !failed_before => {
                    warn!(error = chain(&error), "could not read what is counted for Services");
                }
                Err(_) => {}
            }
            thread::sleep(pause);
        }
    };
    thread::Builder::new().name("sluice-counts".to_owned()).spawn(look).map(drop)
}

/// What the socket layer has counted.
fn at_sockets(counts: &Counts) -> Usage {
    let Counts { names, sees_ends, ports, endpoints } = counts;
    let mut usage = Usage { ports: BTreeMap::new(), sees_ends: *sees_ends };
    for (id, traffic) in ports {
        let Some(name) = names.get(id) else { continue };
        let Traffic { opened, refused, left } = *traffic;
        let tally = Tally { connections: opened, refused, dropped: left, open: usage.open(0) };
        usage.ports.entry(name.clone()).or_default().layers.insert(Layer::Socket, tally);
    }
    for (id, endpoint) in endpoints {
        let ebpf::Endpoint { address, service, opened, open } = *endpoint;
        let open = usage.open(open);
        let Some(port) = names.get(&service).and_then(|name| usage.ports.get_mut(name)) else { continue };
        port.endpoints.push(EndpointUse { id: *id, address, opened, open });
        if let Some(tally) = port.layers.get_mut(&Layer::Socket) {
            tally.open = tally.open.zip(open).map(|(sum, open)| sum + open);
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol, ServiceName};

    fn name(name: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn counts(sees_ends: bool) -> Counts {
        let endpoint = |service, last: u8, opened, open| ebpf::Endpoint {
            address: SocketAddr::from(([10, 1, 0, last], 80)),
            service,
            opened,
            open,
        };
        Counts {
            names: [(1, name("web")), (2, name("api"))].into(),
            sees_ends,
            ports: [
                (1, Traffic { opened: 7, refused: 2, left: 1 }),
                (9, Traffic { opened: 5, ..Traffic::NONE }),
            ]
            .into(),
            endpoints: [(4, endpoint(1, 4, 3, 2)), (6, endpoint(1, 6, 4, 1)), (8, endpoint(9, 8, 5, 5))]
                .into(),
        }
    }

    #[test]
    fn a_service_port_has_its_own_counts_and_those_of_its_endpoints() {
        let usage = at_sockets(&counts(true));
        let expected = Tally { connections: 7, refused: 2, dropped: 1, open: Some(3) };
        assert_eq!(usage.of(&name("web")), expected);
        let endpoints: Vec<_> =
            usage.endpoints(&name("web")).iter().map(|one| (one.id, one.opened, one.open)).collect();
        assert_eq!(endpoints, [(4, 3, Some(2)), (6, 4, Some(1))]);
        assert_eq!(usage.ports.len(), 1, "neither what nobody asked for, nor what has no name");
    }

    #[test]
    fn where_no_end_is_seen_nothing_is_said_of_what_is_open() {
        let usage = at_sockets(&counts(false));
        let PortUse { layers, endpoints } = &usage.ports[&name("web")];
        assert_eq!(layers[&Layer::Socket].open, None);
        assert!(endpoints.iter().all(|endpoint| endpoint.open.is_none()));
        assert_eq!((usage.of(&name("web")).open, usage.of(&name("api")).open), (None, None));
    }
}
