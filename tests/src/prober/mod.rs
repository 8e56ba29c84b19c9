//! What a node does with new flows, found out by real packets: a probe is put in by one of three ways, and everything
//! that comes out of the node is looked at. It does not matter who serves the node.

mod asker;
mod claim;
mod crossroads;
mod fate;
mod outlook;
mod plan;
mod probe;
mod sighting;
mod wires;

pub use asker::{Answer, Question, Source, ask};
pub use claim::{Claim, Expected, claims, contradictions};
pub use crossroads::{Crossroads, Layout, MASQUERADE_V4, MASQUERADE_V6};
pub use fate::Fate;
pub use outlook::{Outlook, Pods};
pub use plan::{Action, Address, From, Masquerade, Plan, ServicePort};
pub use probe::{Class, Probe, Protocol};
pub use sighting::Refusal;
