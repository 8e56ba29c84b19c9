//! The configuration: kube-proxy's file and flags, and what they mean here.
//!
//! Everything in this room is a function of its arguments, but for `watch`: reading the file, the environment and the
//! host's name is done outside.

pub mod duration;
mod effective;
pub mod fields;
pub mod file;
pub mod flags;
pub mod gates;
pub mod listen;
pub mod merge;
mod node;
mod notes;
mod number;
pub mod print;
mod validate;
pub mod value;
pub mod watch;

pub use effective::{Detail, Effective, File, Input, LogFormat, resolve};
pub use merge::Flags;

/// What a configuration file with this text means on node n1; without text, what no file means.
#[cfg(test)]
pub(crate) fn of_text(text: &str) -> Result<crate::desired::Settings, Vec<String>> {
    let file = File { path: "config.yaml".into(), bytes: text.as_bytes().to_vec() };
    let file = (!text.is_empty()).then_some(&file);
    let (flags, environment) = (Flags::new(), std::collections::BTreeMap::new());
    resolve(Input { flags: &flags, file, environment: &environment, host_name: "n1" }).map(|all| all.settings)
}
