//! What must go after an endpoint: flows over UDP to it, and the memory of clients that had it. Done on a thread of its
//! own, because large tables take long to read. Flows that could not be removed are tried again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use tracing::{debug, warn};

use super::kernel::read_set;
use super::rule;
use super::sets::Set;
use super::wire::{Batch, Element, Place, Refused, Socket};
use crate::backend::conntrack::{Cleanup, Conntrack};
use crate::backend::{BackendError, chain};
use crate::desired::{Endpoint, Frontend, ServicePort};
use crate::model::{Family, Protocol, ServicePortName};

/// Wait before what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Clients that are forgotten at a time.
const SHARE: usize = 256;

/// Something to do.
enum Order {
    /// For a service port; `None`: nothing any more, it is gone.
    Clean(ServicePortName, Option<Cleanup>),
    /// Clients that are remembered under this number.
    Forget(Memory),
}

/// Whom to forget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) family: Family,
    pub(super) table: &'static str,
    pub(super) number: u32,
}

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
        let orders: Vec<Order> = over_udp
            .map(|(name, port)| Order::Clean(name.clone(), port.map(|port| cleanup(name, port))))
            .collect();
        self.order(orders);
    }

    /// Forgets the clients of endpoints that have gone.
    pub(super) fn forget(&self, memories: Vec<Memory>) {
        self.order(memories.into_iter().map(Order::Forget).collect());
    }

    fn order(&self, orders: Vec<Order>) {
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
        let orders: Vec<Order> = match more {
            Ok(first) => first.into_iter().chain(orders.try_iter().flatten()).collect(),
            Err(RecvTimeoutError::Timeout) => Vec::new(),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let mut memories = Vec::new();
        for order in orders {
            match order {
                Order::Clean(name, Some(cleanup)) => drop(waiting.insert(name, cleanup)),
                Order::Clean(name, None) => drop(waiting.remove(&name)),
                Order::Forget(memory) => memories.push(memory),
            }
        }
        clean(&mut waiting, removed);
        forget(&memories);
    }
}

/// A client may be back at a returned endpoint a little too early; that is not worth a second try.
fn forget(memories: &[Memory]) {
    for family in [Family::V4, Family::V6] {
        let own: Vec<&Memory> = memories.iter().filter(|memory| memory.family == family).collect();
        if let Some(first) = own.first()
            && let Err(error) =
                forget_in(first.table, family, &own.iter().map(|memory| memory.number).collect())
        {
            debug!(%error, "could not forget the clients of an endpoint that has gone");
        }
    }
}

fn forget_in(table: &str, family: Family, numbers: &BTreeSet<u32>) -> std::io::Result<()> {
    let place = Place { family: rule::tables(family), table };
    let mut socket = Socket::open()?;
    let set = Set::Affinity.name();
    let of_theirs = |element: &Element| {
        element.key.last_chunk::<4>().is_some_and(|number| numbers.contains(&u32::from_ne_bytes(*number)))
    };
    let found: Vec<Element> = read_set(&mut socket, place, set)?.into_iter().filter(of_theirs).collect();
    for share in found.chunks(SHARE) {
        if remove(&mut socket, place, set, share).is_err() {
            // One of them has ended meanwhile; that must not keep the others.
            share.iter().for_each(|one| drop(remove(&mut socket, place, set, std::slice::from_ref(one))));
        }
    }
    Ok(())
}

fn remove(socket: &mut Socket, place: Place<'_>, set: &str, elements: &[Element]) -> Result<(), Refused> {
    let mut batch = Batch::default();
    batch.delete_elements(place, set, elements.iter());
    socket.commit(batch)
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
            warn!(error = chain(&error), again_in = ?RETRY, "could not remove stale flows");
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
