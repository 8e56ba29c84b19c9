//! What a node does with new flows, found out by real packets: a probe is put in by one of three ways, and everything
//! that comes out of the node is looked at. It does not matter who serves the node.

mod crossroads;
mod fate;
mod probe;
mod sighting;
mod wires;

pub use crossroads::{Crossroads, Layout, MASQUERADE_V4, MASQUERADE_V6};
pub use fate::Fate;
pub use probe::{Class, Probe, Protocol};
pub use sighting::Answer;
