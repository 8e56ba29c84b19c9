//! The demonstration: a node, real clients under load, and manifests that change under it. See `lab::demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lab::demo;

/// Runs the demonstration.
#[derive(Debug, Parser)]
struct Cli {
    /// Print the summary as one JSON object in the last line
    #[arg(long)]
    json: bool,
    /// Folder of the manifests to begin with
    #[arg(long, default_value = "examples/demo")]
    manifests: PathBuf,
}

#[expect(clippy::print_stderr, reason = "a failure is told where people look")]
fn main() -> ExitCode {
    let Cli { json, manifests } = Cli::parse();
    match demo::run(&manifests, json) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}
