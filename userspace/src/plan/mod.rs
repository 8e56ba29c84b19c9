//! From what is there to what should be: differences, numbers, and the order of steps. Pure.

#![forbid(unsafe_code)]

pub mod diff;
pub mod ids;
pub mod order;

pub use diff::{Diff, diff};
pub use ids::Ids;
pub use order::{ORDER, Step};
