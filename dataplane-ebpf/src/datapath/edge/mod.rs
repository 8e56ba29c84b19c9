//! What happens to one packet at the edge of the node: to a service's address from outside, and back.

pub mod checksum;
pub mod error;
mod express;
pub mod fragment;
pub mod frame;
pub mod hash;
pub mod header;
pub mod life;
pub mod open;
mod pass;
pub mod rewrite;

pub use express::express;
pub use frame::{Added, Frame, Hop, Tables, Way};
pub use pass::{Step, Verdict, again, back, egress, ingress, open, recall, send};
