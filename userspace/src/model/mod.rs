//! The cluster as typed facts: what the API says, checked once at the door.
//!
//! Pure: no I/O, no clock, no task. Only `parse` knows the API's types; inside, a port is a port and an
//! address an address. What could not be understood is a [`Problem`] beside the value, never an error instead
//! of it.

#![forbid(unsafe_code)]

pub mod address;
pub mod cluster;
pub mod endpoint;
mod interner;
pub mod name;
pub mod node;
pub mod parse;
pub mod problem;
#[cfg(test)]
pub(crate) mod sample;
pub mod service;

pub use cluster::{Applied, Change, Cluster, Counts, Origin};
pub use endpoint::{Conditions, Endpoint, Hints, Place, Slice, SlicePort, Trigger};
pub use name::{Family, Protocol, ServiceName, ServicePortName};
pub use node::{Node, ServiceCidr};
pub use parse::Parsed;
pub use problem::{Kind, ObjectRef, Problem};
pub use service::{External, Policy, Service, ServicePort};
