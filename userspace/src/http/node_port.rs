//! Ports at which load balancers ask whether this node has endpoints of a Service (`spec.healthCheckNodePort`).
//!
//! A port answers alike whatever the path and the method. One that cannot be opened costs nobody else anything: it is tried
//! again, and `status` names it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::{debug, info};

use super::health;
use super::server::{Answers, Guests, listen, serve};
use super::{View, answer::Answer};
use crate::desired::NodePorts;
use crate::model::{Family, ObjectRef, Problem, ServiceName};
use crate::reconcile::outlet::Checks;

/// How often a port that could not be opened is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// A Service in one family.
type Key = (ServiceName, Family);

/// Where each of them should listen.
type Wishes = BTreeMap<Key, BTreeSet<SocketAddr>>;

/// A Service that listens.
struct Open {
    at: BTreeSet<SocketAddr>,
    servers: Vec<JoinHandle<()>>,
}

/// All that listen, and why others cannot.
struct Ports {
    view: View,
    guests: Guests,
    open: BTreeMap<Key, Open>,
    failed: BTreeMap<Key, Problem>,
}

/// Keeps the ports open that should be, until the loop has ended.
pub(super) async fn keep(view: View, problems: watch::Sender<Vec<Problem>>) {
    let mut checks = view.checks.clone();
    let mut ports = Ports { view, guests: Guests::default(), open: BTreeMap::new(), failed: BTreeMap::new() };
    loop {
        let now = checks.borrow_and_update().clone();
        ports.follow(wishes(&now, &own_addresses(&now))).await;
        let told = ports.failed.values().cloned().collect::<Vec<_>>();
        problems.send_if_modified(|before| std::mem::replace(before, told.clone()) != told);
        let again = async {
            match ports.failed.is_empty() {
                true => std::future::pending().await,
                false => tokio::time::sleep(AGAIN).await,
            }
        };
        tokio::select! {
            changed = checks.changed() => if changed.is_err() { return },
            () = again => {}
        }
    }
}

impl Ports {
    /// Closes before it opens: a port may go from one Service to another.
    async fn follow(&mut self, wishes: Wishes) {
        let is_stale = |key: &Key, open: &Open| wishes.get(key) != Some(&open.at);
        let stale: Vec<Key> =
            self.open.iter().filter(|(key, open)| is_stale(key, open)).map(|(key, _)| key.clone()).collect();
        for key in stale {
            if let Some(open) = self.open.remove(&key) {
                debug!(service = %key.0, "closing the port for health checks");
                open.close().await;
            }
        }
        self.failed.retain(|key, _| wishes.contains_key(key));
        for (key, at) in wishes {
            if !self.open.contains_key(&key) {
                self.open(key, at);
            }
        }
    }

    /// All of its addresses, or none.
    fn open(&mut self, key: Key, at: BTreeSet<SocketAddr>) {
        let listeners: Result<Vec<_>, _> = at.iter().map(|address| opened(*address)).collect();
        match listeners {
            Ok(listeners) => {
                if self.failed.remove(&key).is_some() {
                    info!(service = %key.0, "the port for health checks is open now");
                }
                let answers = answers(self.view.clone(), key.clone());
                let serve =
                    |listener| tokio::spawn(serve(listener, Arc::clone(&answers), self.guests.clone()));
                self.open.insert(key, Open { at, servers: listeners.into_iter().map(serve).collect() });
            }
            Err(error) => {
                let problem = Problem::new(ObjectRef::from(&key.0), "spec.healthCheckNodePort", error);
                self.failed.insert(key, problem);
            }
        }
    }
}

impl Open {
    /// The socket is closed when the task has gone, and not before.
    async fn close(self) {
        for server in self.servers {
            server.abort();
            let _ = server.await;
        }
    }
}

fn opened(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = listen(address, true).and_then(TcpListener::from_std);
    listener.map_err(|error: io::Error| format!("{address} cannot be opened: {error}; it is tried again"))
}

fn answers(view: View, (service, family): Key) -> Answers {
    Arc::new(move |_: &str| -> Answer {
        let checks = view.checks.borrow().services.get(&service).cloned().unwrap_or_default();
        view.look().service(&service, health::endpoints(&checks, family))
    })
}

/// Where each Service should listen on a node with these addresses.
fn wishes(checks: &Checks, own: &BTreeSet<IpAddr>) -> Wishes {
    let Checks { services, v4, v6 } = checks;
    let all = services.iter().flat_map(|(name, checks)| checks.iter().map(move |check| (name, check)));
    let wish = |(name, check): (&ServiceName, &crate::desired::HealthCheck)| {
        let node_ports = match check.family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        ((name.clone(), check.family), sockets(node_ports, check.family, check.port, own))
    };
    all.map(wish).collect()
}

fn sockets(
    node_ports: &NodePorts,
    family: Family,
    port: NonZeroU16,
    own: &BTreeSet<IpAddr>,
) -> BTreeSet<SocketAddr> {
    let every: IpAddr = match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = |address| SocketAddr::new(address, port.get());
    match node_ports {
        NodePorts::All => BTreeSet::from([socket(every)]),
        NodePorts::Within(ranges) => {
            let within = |address: &&IpAddr| {
                Family::of(**address) == family && ranges.iter().any(|range| range.contains(*address))
            };
            own.iter().filter(within).copied().map(socket).collect()
        }
    }
}

/// The node's addresses, if any of them counts by itself.
fn own_addresses(checks: &Checks) -> BTreeSet<IpAddr> {
    if checks.services.is_empty() || (&checks.v4, &checks.v6) == (&NodePorts::All, &NodePorts::All) {
        return BTreeSet::new();
    }
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    interfaces.filter_map(|interface| address(&interface.address?)).collect()
}

fn address(stated: &nix::sys::socket::SockaddrStorage) -> Option<IpAddr> {
    let v4 = stated.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| stated.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::HealthCheck;

    #[test]
    fn all_addresses_of_a_family_are_one_socket() {
        check("", "10.0.0.1 fd00::1", "0.0.0.0:32000 [::]:32000");
    }

    #[test]
    fn of_chosen_addresses_each_has_its_own() {
        check(
            "10.0.0.0/24",
            "10.0.0.1 10.0.0.2 192.0.2.1 fd00::1",
            "10.0.0.1:32000 10.0.0.2:32000 [::]:32000",
        );
        check("10.0.0.0/24 fd00::/64", "10.0.0.1 fd00::1 fd01::1", "10.0.0.1:32000 [fd00::1]:32000");
        check("192.0.2.0/24", "10.0.0.1", "[::]:32000");
    }

    /// Where a dual-stack Service listens on a node with these addresses and these nodePortAddresses.
    #[track_caller]
    fn check(ranges: &str, own: &str, expected: &str) {
        let within = |family| {
            let ranges = ranges.split_whitespace().map(|range| range.parse::<ipnet::IpNet>().unwrap());
            let ranges: Box<[_]> = ranges.filter(|range| Family::of(range.addr()) == family).collect();
            if ranges.is_empty() { NodePorts::All } else { NodePorts::Within(ranges) }
        };
        let one = |family| HealthCheck { family, port: NonZeroU16::new(32_000).unwrap(), local_endpoints: 1 };
        let name = ServiceName { namespace: "default".into(), name: "web".into() };
        let services = BTreeMap::from([(name, Box::from([one(Family::V4), one(Family::V6)]))]);
        let checks = Checks { services, v4: within(Family::V4), v6: within(Family::V6) };
        let own = own.split_whitespace().map(|address| address.parse().unwrap()).collect();
        let found: Vec<String> =
            wishes(&checks, &own).into_values().flatten().map(|at| at.to_string()).collect();
        assert_eq!(found.join(" "), expected, "{ranges}");
    }
}
