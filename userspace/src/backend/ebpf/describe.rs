//! What the entries of a service port mean, for lists. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use dataplane_ebpf::abi::{Backend, DROP, Endpoint, Extent, INSIDE, ServiceKey};

use super::image::{Entries, in_force};
use super::read::Installed;
use crate::backend::held::Held;
use crate::desired::Caller;
use crate::model::{Family, Protocol};

/// What a service port with its entries does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Addresses that answer; a node port as `*:30080`.
    pub addresses: Vec<String>,
    /// What becomes of new flows. Forwarding to one address counts more than dropping, and that more than refusing at
    /// another.
    pub verdict: Verdict,
    /// Endpoints that get new flows, by whichever address.
    pub active: Vec<SocketAddr>,
    /// Endpoints that only keep the flows they have.
    pub kept: Vec<SocketAddr>,
    /// For how many seconds after its last new flow a client gets the same endpoint.
    pub affinity: Option<NonZeroU32>,
}

/// What becomes of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// They go to an endpoint.
    Forward,
    /// They are refused.
    Reject,
    /// They are left untranslated, for a packet filter to drop.
    Drop,
}

impl Verdict {
    /// As people and programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

/// Reads the entries of a service port.
pub fn describe(entries: &Entries) -> Summary {
    let lists = in_force(&entries.state);
    let is_in_force = |generation| lists.iter().any(|extent| extent.generation == generation);
    let listed: BTreeSet<u32> = entries
        .slots
        .iter()
        .filter(|(key, _)| is_in_force(key.generation))
        .map(|(_, slot)| slot.backend)
        .collect();
    let (active, kept): (Vec<_>, Vec<_>) = entries.backends.iter().partition(|(id, _)| listed.contains(id));
    Summary {
        addresses: entries.services.iter().map(|(key, _)| address_of(key)).collect(),
        verdict: verdict(&lists, &listed),
        active: addresses(active),
        kept: addresses(kept),
        affinity: NonZeroU32::new(entries.state.timeout),
    }
}

/// What callers on this node meet at an address, at the socket. `is_own`: node ports answer there.
pub fn held_at(
    installed: &Installed,
    address: SocketAddr,
    protocol: Protocol,
    is_own: bool,
    caller: Caller,
) -> Option<Held> {
    let number = protocol.number();
    let plain = ServiceKey::new(&Endpoint::from(address), number);
    let family = Family::of(address.ip()).number();
    let node_port = ServiceKey::node_port(address.port().to_be_bytes(), number, family);
    // A Service's own address comes before a node port.
    let keys = [Some(plain), is_own.then_some(node_port)];
    keys.into_iter().flatten().find_map(|key| {
        installed.ports.iter().find_map(|(port, entries)| {
            let (_, service) = entries.services.iter().find(|(known, _)| *known == key)?;
            let extent = match (service.side == INSIDE, caller) {
                (true, _) => entries.state.inside(),
                (false, Caller::Node) => entries.state.node,
                (false, Caller::Pod | Caller::Outside) => entries.state.pod,
            };
            let (verdict, endpoints) = in_list(entries, extent);
            let affinity = NonZeroU32::new(entries.state.timeout);
            Some(Held { port: port.clone(), verdict, endpoints, affinity, masquerade: None })
        })
    })
}

pub(super) fn in_list(entries: &Entries, extent: Extent) -> (Verdict, Vec<SocketAddr>) {
    let places = entries.slots.iter().filter(|(key, _)| key.generation == extent.generation);
    let listed: BTreeSet<u32> =
        places.filter(|_| extent.generation != 0).map(|(_, slot)| slot.backend).collect();
    let backends = entries.backends.iter().filter(|(id, _)| listed.contains(id));
    let mut endpoints = addresses(backends.collect());
    endpoints.sort_unstable();
    (verdict(&[extent], &listed), endpoints)
}

fn verdict(lists: &[Extent], listed: &BTreeSet<u32>) -> Verdict {
    if listed.iter().any(|backend| *backend != DROP) {
        return Verdict::Forward;
    }
    if lists.iter().any(|extent| extent.slots != 0) { Verdict::Drop } else { Verdict::Reject }
}

fn addresses(backends: Vec<&(u32, Backend)>) -> Vec<SocketAddr> {
    backends.into_iter().map(|(_, backend)| backend.endpoint.into()).collect()
}

pub(super) fn address_of(key: &ServiceKey) -> String {
    let ServiceKey { address, port, protocol: _, node } = *key;
    match node {
        0 => SocketAddr::from(Endpoint { address, port }).to_string(),
        _ => format!("*:{}", u16::from_be_bytes(port)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ebpf::image::{Numbers, entries};
    use crate::backend::ebpf::sample::{at, endpoint, everywhere, name, port};
    use crate::desired::{Action, Frontend, List, Masquerade, Routes, ServicePort};

    /// What callers get at these addresses of a service port: `192.0.2.9:80` from outside the cluster, node port 30080, and the
    /// ClusterIP.
    fn check(
        want: &ServicePort,
        caller: Caller,
        text: &str,
        is_own: bool,
        expected: Option<(Verdict, &[u8])>,
    ) {
        let mut numbers = Numbers::beside(std::iter::empty::<&Entries>(), 100);
        let entries = entries(&name(1), want, &Entries::default(), &mut numbers);
        let installed = Installed { ports: [(name(1), entries)].into(), ..Installed::default() };
        let held = held_at(&installed, at(text), Protocol::Tcp, is_own, caller);
        let found = held.map(|held| (held.verdict, held.endpoints));
        let expected =
            expected.map(|(verdict, last)| (verdict, last.iter().copied().map(endpoint).collect()));
        assert_eq!(found, expected, "{caller:?} {text}");
    }

    #[test]
    fn each_address_and_caller_has_the_list_that_counts_there() {
        let frontends = ["10.96.0.1:80", "192.0.2.9:80"].map(at);
        let external = Routes {
            pod: Action::Drop,
            node: Action::Forward(List::Cluster, Masquerade::Always),
            outside: Action::Drop,
        };
        let want = ServicePort {
            frontends: Box::new([
                Frontend::ClusterIp(frontends[0]),
                Frontend::NodePort(std::num::NonZeroU16::new(30_080).unwrap()),
                Frontend::ExternalIp(frontends[1]),
            ]),
            internal: everywhere(Action::Forward(List::Cluster, Masquerade::Hairpin)),
            external,
            ..port(1, &[1, 2], &[3])
        };
        let all = Some((Verdict::Forward, [1, 2].as_slice()));
        check(&want, Caller::Pod, "10.96.0.1:80", false, all);
        check(&want, Caller::Pod, "192.0.2.9:80", false, Some((Verdict::Drop, &[])));
        check(&want, Caller::Node, "192.0.2.9:80", false, all);
        check(&want, Caller::Node, "10.0.0.1:30080", true, all);
        check(&want, Caller::Node, "10.0.0.1:30080", false, None);
        check(&want, Caller::Node, "10.96.0.1:81", true, None);
        check(&port(1, &[], &[3]), Caller::Pod, "10.96.0.1:80", false, Some((Verdict::Reject, &[])));
    }
}
