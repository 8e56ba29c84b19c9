//! What happens to one `connect()` or one datagram. Plain functions for steps, two narrow traits for sequences.
//!
//! No maps, no contexts, no `unsafe`, no loop without a bound, no panic.

#![forbid(unsafe_code)]

pub mod affinity;
pub mod choose;
pub mod edge;
pub mod holds;
pub mod socket;
pub mod tables;
pub mod verdict;

pub use tables::{Deed, Holder, List, Socket, Tables, Way};
pub use verdict::Verdict;
