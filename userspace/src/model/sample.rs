//! Facts in short form, for tests: a port is `http:80/UDP`, an endpoint `10.1.0.5=rs` (ready, serving,
//! terminating), `10.1.0.5=rs@n1^a` (on node n1, hinted for zone a), `10.1.0.5@n1~n1` (hinted for node n1).

use std::num::NonZeroU16;
use std::sync::Arc;

use super::{
    Applied, Change, Conditions, Endpoint, Hints, Kind, ObjectRef, Parsed, Place, Policy, Protocol, Service,
    ServiceName, ServicePort, Slice, SlicePort,
};

/// A Service in namespace `default`.
pub(crate) fn service(name: &str, addresses: &str, ports: &str) -> Service {
    let addresses = addresses.split_whitespace().map(|address| address.parse().unwrap()).collect();
    let ports = ports.split_whitespace().map(port);
    let ports = ports.map(|(name, port, protocol)| ServicePort { name, protocol, port, node_port: None });
    Service {
        name: ServiceName::new("default", name),
        created: None,
        addresses,
        ports: ports.collect(),
        internal_policy: Policy::Cluster,
        external_policy: Policy::Cluster,
        affinity: None,
        external: None,
    }
}

/// A slice in namespace `default`.
pub(crate) fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> Slice {
    let ports = ports.split_whitespace().map(port);
    let ports = ports.map(|(name, port, protocol)| SlicePort { name, protocol, port }).collect();
    let endpoints = endpoints.split_whitespace().map(endpoint).collect();
    Slice {
        name: name.into(),
        service: ServiceName::new("default", service),
        ports,
        endpoints,
        triggered: None,
    }
}

/// The name of a Service in namespace `default`.
pub(crate) fn name(name: &str) -> ServiceName {
    ServiceName::new("default", name)
}

/// It is applied.
pub(crate) fn apply_service(value: Service) -> Change {
    let object = ObjectRef::from(&value.name);
    Change::Service(Applied { object, value: Parsed::Keep(value), problems: Vec::new() })
}

/// It is applied.
pub(crate) fn apply_slice(value: Slice) -> Change {
    let object = ObjectRef::new(Kind::EndpointSlice, value.service.namespace.clone(), value.name.clone());
    Change::Slice(Applied { object, value: Parsed::Keep(value), problems: Vec::new() })
}

/// An object of namespace `default` is gone.
pub(crate) fn delete(kind: Kind, name: &str) -> Change {
    Change::Deleted(ObjectRef::new(kind, "default", name))
}

fn port(text: &str) -> (Arc<str>, NonZeroU16, Protocol) {
    let (name, rest) = text.split_once(':').unwrap();
    let (number, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
    (name.into(), number.parse().unwrap(), protocol.parse().unwrap())
}

fn endpoint(text: &str) -> Endpoint {
    let (rest, node_hints) = cut(text, '~');
    let (rest, zone_hints) = cut(rest, '^');
    let (rest, node) = cut(rest, '@');
    let (address, letters) = rest.split_once('=').unwrap_or((rest, "rs"));
    let conditions = Conditions::new(letters.contains('r'), letters.contains('s'), letters.contains('t'));
    let names = |list: Option<&str>| {
        list.unwrap_or_default().split(',').filter(|one| !one.is_empty()).map(Arc::from).collect()
    };
    let hints = Hints { zones: names(zone_hints), nodes: names(node_hints) };
    let hints = (hints != Hints::default()).then_some(hints);
    Endpoint::new(address.parse().unwrap(), conditions, Place { node: node.map(Arc::from), hints })
}

fn cut(text: &str, mark: char) -> (&str, Option<&str>) {
    text.split_once(mark).map_or((text, None), |(rest, part)| (rest, Some(part)))
}
