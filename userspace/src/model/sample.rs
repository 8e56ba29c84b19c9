//! Facts in short form, for tests: a port is `http:80/UDP`, an endpoint `10.1.0.5=rs` (ready, serving,
//! terminating).

use std::num::NonZeroU16;
use std::sync::Arc;

use super::{
    Applied, Change, Conditions, Endpoint, Kind, ObjectRef, Parsed, Protocol, Service, ServiceName,
    ServicePort, Slice, SlicePort,
};

/// A Service in namespace `default`.
pub(crate) fn service(name: &str, addresses: &str, ports: &str) -> Service {
    let addresses = addresses.split_whitespace().map(|address| address.parse().unwrap()).collect();
    let ports = ports.split_whitespace().map(port);
    let ports = ports.map(|(name, port, protocol)| ServicePort { name, protocol, port }).collect();
    Service { name: ServiceName::new("default", name), created: None, addresses, ports }
}

/// A slice in namespace `default`.
pub(crate) fn slice(name: &str, service: &str, ports: &str, endpoints: &str) -> Slice {
    let ports = ports.split_whitespace().map(port);
    let ports = ports.map(|(name, port, protocol)| SlicePort { name, protocol, port }).collect();
    let endpoints = endpoints.split_whitespace().map(endpoint).collect();
    Slice { name: name.into(), service: ServiceName::new("default", service), ports, endpoints }
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
    let (address, letters) = text.split_once('=').unwrap_or((text, "rs"));
    let conditions = Conditions::new(letters.contains('r'), letters.contains('s'), letters.contains('t'));
    Endpoint { address: address.parse().unwrap(), conditions, node: None }
}
