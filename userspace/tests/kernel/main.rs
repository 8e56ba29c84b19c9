//! Ring 1: what the daemon's library does to a real kernel, in network namespaces of its own. Needs root, so these
//! tests are passed over unless they are asked for: `cargo xtask test kernel`.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails: a panic has a stack")]

mod conntrack;
mod flows;
mod netns;
mod survey;
