//! The operator's verbs. They read snapshots from the daemon, or the pinned maps when there is none; only `cleanup`
//! writes.

pub mod cleanup;
pub mod services;
pub mod status;
pub(crate) mod table;

use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

#[expect(clippy::print_stdout, reason = "printing is what these verbs are for")]
pub(crate) fn print(text: &str) {
    println!("{}", text.trim_end());
}

pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?);
    Ok(())
}

pub(crate) fn print_yaml(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_norway::to_string(value)?);
    Ok(())
}
