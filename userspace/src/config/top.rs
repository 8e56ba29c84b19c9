//! Flags of `top`.

use std::time::Duration;

use clap::Args;

use super::PinDir;
use crate::inspect::top::{Sort, Wish};
use crate::inspect::{Output, answer};

/// Flags of `top`.
#[derive(Clone, Debug, Args)]
pub struct Top {
    /// Time between two readings, in seconds; the first page comes after it
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = answer::seconds)]
    pub interval: Duration,
    /// End after so many pages [default: never]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub iterations: Option<u64>,
    /// Which rows come first
    #[arg(long, value_name = "ORDER", default_value = "new")]
    pub sort: Sort,
    /// How to print; at a terminal, tables are live, and keys change their order
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
}

impl Top {
    /// What was asked for.
    pub fn wish(&self) -> Wish {
        let Self { interval, iterations, sort, output, pins } = self;
        let (interval, iterations, sort, output) = (*interval, *iterations, *sort, *output);
        Wish { pin_dir: pins.path(), interval, iterations, sort, output }
    }
}
