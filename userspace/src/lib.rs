//! Sluice: the daemon that makes the addresses of Kubernetes Services answer on one node.
//!
//! Data runs one way: API objects ([`source`]) to facts ([`model`]) to what this node should do ([`desired`]) to a list
//! of changes ([`plan`]) to the kernel ([`backend`]). One loop ([`reconcile`]) owns all state. [`dry_run`] stops before the
//! kernel, and prints. Who has left and still has flows is in [`drain`]; what all of it counts is in [`metrics`].

pub mod backend;
pub mod config;
pub mod desired;
pub mod drain;
pub mod dry_run;
pub mod explain;
pub mod http;
pub mod inspect;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod notify;
pub mod plan;
pub mod privilege;
pub mod reconcile;
pub mod run;
pub mod serve;
pub mod settings;
pub mod source;
