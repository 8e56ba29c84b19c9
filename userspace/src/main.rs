//! The `sluice` binary: arguments, logging, one verb, an exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use sluice::config::{self, LogFormat, Refused, Run, Verb};
use sluice::{inspect, run};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Wrong usage, by custom.
const USAGE: u8 = 2;
/// `status`: no daemon, or not synced.
const NOT_SYNCED: u8 = 3;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line answers here")]
fn main() -> ExitCode {
    match config::parse(std::env::args_os()) {
        Ok(cli) => dispatch(cli.verb).unwrap_or_else(|error| {
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }),
        Err(Refused::Asked(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(Refused::Wrong(complaints)) => {
            for complaint in complaints {
                eprintln!("sluice: {complaint}");
            }
            eprintln!("sluice: see `sluice help`");
            ExitCode::from(USAGE)
        }
    }
}

fn dispatch(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Run(flags) => daemon(&flags)?,
        Verb::Status(flags) => {
            let synced = inspect::status::run(&flags.socket.socket, &flags.pins.path(), flags.output)?;
            return Ok(if synced { ExitCode::SUCCESS } else { ExitCode::from(NOT_SYNCED) });
        }
        Verb::Services(flags) => inspect::services::services(&flags.pins.path(), flags.output)?,
        Verb::Backends(flags) => inspect::services::backends(&flags.pins.path(), flags.output)?,
        Verb::Cleanup(flags) => inspect::cleanup::run(&flags.path())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn daemon(flags: &Run) -> anyhow::Result<()> {
    let level = match flags.verbosity {
        0 => LevelFilter::INFO,
        1 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    // The client reports every failed request as an error, though it is tried again; the watches say it better.
    let filter = Targets::new().with_default(level).with_target("kube_client", level.min(LevelFilter::OFF));
    let colour = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(std::io::stderr);
    match flags.log_format {
        LogFormat::Text => tracing_subscriber::registry().with(layer.with_filter(filter)).init(),
        LogFormat::Json => tracing_subscriber::registry().with(layer.json().with_filter(filter)).init(),
    }
    // Two threads: one for the loop, one for whatever else; the work is small and the node belongs to others.
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(run::run(flags))
}
