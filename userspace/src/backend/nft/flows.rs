//! Flows over UDP whose endpoint has gone: removed from the kernel's table on a thread of its own, because a large table
//! takes long to read. What fails is tried again; nothing is forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tracing::{debug, warn};

use crate::backend::BackendError;
use crate::backend::conntrack::{Cleanup, Conntrack};
use crate::desired::{Endpoint, Frontend, ServicePort};
use crate::model::{Protocol, ServicePortName};

/// Wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is to be cleaned for a service port; `None`: nothing any more, it is gone.
type Order = (ServicePortName, Option<Cleanup>);

/// The thread, and how much it has done.
#[derive(Debug)]
pub(super) struct Flows {
    orders: Sender<Vec<Order>>,
    removed: Arc<AtomicU64>,
}

impl Flows {
    /// Starts the thread, in the network namespace of the caller.
    pub(super) fn start() -> Self {
        let (orders, received) = channel();
        let removed = Arc::new(AtomicU64::new(0));
        let count = removed.clone();
        std::thread::spawn(move || work(&received, &count));
        Self { orders, removed }
    }

    /// Flows removed so far.
    pub(super) fn removed(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Looks after the flows of service ports that have changed; new flows must already go where they should.
    pub(super) fn look_after<'a>(
        &self,
        changed: impl Iterator<Item = (&'a ServicePortName, Option<&'a ServicePort>)>,
    ) {
        let over_udp = changed.filter(|(name, _)| name.protocol == Protocol::Udp);
        let orders: Vec<Order> =
            over_udp.map(|(name, port)| (name.clone(), port.map(|port| cleanup(name, port)))).collect();
        if !orders.is_empty() {
            // The thread ends with this sender only.
            let _ = self.orders.send(orders);
        }
    }
}

fn cleanup(name: &ServicePortName, port: &ServicePort) -> Cleanup {
    let node_port = |frontend: &Frontend| match frontend {
        Frontend::NodePort(port) => Some(*port),
        Frontend::ClusterIp(_) | Frontend::ExternalIp(_) | Frontend::LoadBalancer(_) => None,
    };
    Cleanup {
        family: name.family,
        frontends: port.frontends.iter().filter_map(|frontend| frontend.address()).collect(),
        node_port: port.frontends.iter().find_map(node_port),
        endpoints: port.endpoints.iter().map(Endpoint::address).collect(),
    }
}

fn work(orders: &Receiver<Vec<Order>>, removed: &AtomicU64) {
    let mut waiting: BTreeMap<ServicePortName, Cleanup> = BTreeMap::new();
    loop {
        let more = if waiting.is_empty() {
            orders.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            orders.recv_timeout(RETRY)
        };
        match more {
            Ok(first) => orders.try_iter().fold(first, |mut all, next| {
                all.extend(next);
                all
            }),
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        .into_iter()
        .for_each(|(name, cleanup)| take(&mut waiting, name, cleanup));
        clean(&mut waiting, removed);
    }
}

fn take(waiting: &mut BTreeMap<ServicePortName, Cleanup>, name: ServicePortName, cleanup: Option<Cleanup>) {
    match cleanup {
        Some(cleanup) => waiting.insert(name, cleanup),
        None => waiting.remove(&name),
    };
}

fn clean(waiting: &mut BTreeMap<ServicePortName, Cleanup>, removed: &AtomicU64) {
    if waiting.is_empty() {
        return;
    }
    let cleanups: Vec<Cleanup> = waiting.values().cloned().collect();
    match attempt(&cleanups) {
        Ok(count) => {
            removed.fetch_add(count as u64, Ordering::Relaxed);
            debug!(count, "removed flows over UDP whose endpoint has gone");
            waiting.clear();
        }
        Err(error) => {
            warn!(error = &error as &dyn std::error::Error, again_in = ?RETRY, "could not remove stale flows");
        }
    }
}

fn attempt(cleanups: &[Cleanup]) -> Result<usize, BackendError> {
    Conntrack::open()?.clean(cleanups, &own_addresses())
}

/// The node's own addresses; those of the loopback device count, for a node port never answers there.
fn own_addresses() -> BTreeSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .collect()
}
