//! Who leaves the lists of new flows when a Service comes out anew.

use std::net::SocketAddr;

use super::PortId;
use super::port::{Endpoint, Frontend, ServicePort};
use crate::model::{ServiceName, ServicePortName};

/// Endpoints that got new flows of a service port, and get none any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Departed {
    /// The service port.
    pub port: ServicePortName,
    /// Where it answered when they had it.
    pub frontends: Box<[Frontend]>,
    /// Who has left; sorted, never empty.
    pub endpoints: Vec<SocketAddr>,
}

/// Compares what a Service had with what it has. Ports are sorted.
pub(super) fn between<'a>(
    service: &'a ServiceName,
    before: &'a [(PortId, ServicePort)],
    after: &'a [(PortId, ServicePort)],
) -> impl Iterator<Item = Departed> + 'a {
    before.iter().filter_map(|(id, had)| {
        let has = after.binary_search_by(|(other, _)| other.cmp(id)).ok().and_then(|place| after.get(place));
        let stay: Vec<SocketAddr> = has.into_iter().flat_map(|(_, port)| used(port)).collect();
        let left = |address: &SocketAddr| stay.binary_search(address).is_err();
        let endpoints: Vec<SocketAddr> = used(had).filter(left).collect();
        let is_any = !endpoints.is_empty();
        is_any.then(|| Departed { port: id.of(service), frontends: had.frontends.clone(), endpoints })
    })
}

/// Who gets new flows, sorted.
fn used(port: &ServicePort) -> impl Iterator<Item = SocketAddr> {
    let in_a_list = |endpoint: &&Endpoint| endpoint.uses.cluster || endpoint.uses.local;
    port.endpoints.iter().filter(in_a_list).map(Endpoint::address)
}
