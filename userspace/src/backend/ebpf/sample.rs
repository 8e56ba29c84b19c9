//! Service ports in short form, for tests.

use std::net::SocketAddr;

use crate::desired::{Action, Endpoint, Frontend, List, Masquerade, Routes, ServicePort, Uses};
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// An address and a port.
pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// Endpoint number `last`.
pub(super) fn endpoint(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 8080))
}

/// Service port number `number`.
pub(super) fn name(number: u8) -> ServicePortName {
    ServicePortName {
        service: ServiceName::new("default", format!("s{number}")),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

/// What to do for it: these endpoints get new flows, those keep what they have. Without any new flows are rejected.
pub(super) fn port(number: u8, listed: &[u8], kept: &[u8]) -> ServicePort {
    let uses = |cluster| Uses { cluster, local: false, here: false };
    let all = listed.iter().map(|one| (one, true)).chain(kept.iter().map(|one| (one, false)));
    let mut endpoints: Vec<_> =
        all.map(|(one, cluster)| Endpoint::new(endpoint(*one), uses(cluster))).collect();
    endpoints.sort_unstable_by_key(|one| one.address());
    let action =
        if listed.is_empty() { Action::Reject } else { Action::Forward(List::Cluster, Masquerade::Hairpin) };
    ServicePort {
        frontends: Box::new([Frontend::ClusterIp(SocketAddr::from(([10, 96, 0, number], 80)))]),
        internal: everywhere(action),
        external: everywhere(action),
        sources: None,
        affinity: None,
        endpoints: endpoints.into(),
    }
}

/// The same for every source.
pub(super) fn everywhere(action: Action) -> Routes {
    Routes { pod: action, node: action, outside: action }
}
