//! The operator's verbs. They read snapshots from the daemon, or the pinned maps when there is none; only `cleanup`
//! writes.

pub mod cleanup;
pub mod flows;
pub mod probe;
pub mod services;
pub mod status;
pub(crate) mod table;

use std::io::{self, BufWriter, Write as _};

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

/// Whoever reads may have seen enough (`| head`): that is no error.
pub fn print(text: &str) -> anyhow::Result<()> {
    written(writeln!(io::stdout().lock(), "{}", text.trim_end()))
}

pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    let done = serde_json::to_writer_pretty(&mut out, value).map_err(io::Error::from);
    written(done.and_then(|()| writeln!(out)).and_then(|()| out.flush()))
}

pub(crate) fn print_yaml(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_norway::to_string(value)?)
}

fn written(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}
