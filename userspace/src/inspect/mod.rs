//! The operator's verbs. They read snapshots from the daemon, or the pinned maps when there is none; only `cleanup`
//! writes.

pub mod advice;
pub mod answer;
pub mod audit;
pub mod cleanup;
mod colour;
mod daemon;
pub mod diff;
pub mod drain;
pub mod explain;
pub mod flows;
pub mod manual;
pub mod probe;
pub mod services;
pub mod status;
pub(crate) mod table;
pub mod top;

pub use self::answer::{Answer, Output, Show, present, print};
