//! The `sluice` binary: arguments, logging, one verb, an exit code.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context;
use sluice::backend::nft::{self, Marks, NOTRACK_BIT};
use sluice::config::{self, Form, PlanForm, Refused, Run, Task};
use sluice::dry_run::Orders;
use sluice::explain::Question;
use sluice::inspect::Output;
use sluice::inspect::audit::Outcome;
use sluice::model::{Change, Origin};
use sluice::settings::Effective;
use sluice::settings::print::{self, Own};
use sluice::{dry_run, inspect, logging, privilege, run, source};
use tracing::{info, warn};

/// Wrong usage, by custom.
const USAGE: u8 = 2;
/// `status`: no daemon, or not synced.
const NOT_SYNCED: u8 = 3;
/// `explain`: the kernel is not as computed.
const NOT_AS_COMPUTED: u8 = 4;

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the command line answers here")]
fn main() -> ExitCode {
    match config::parse(std::env::args_os()) {
        Ok(task) => dispatch(task).unwrap_or_else(|error| {
            eprintln!("sluice: {error:#}");
            if let Some(advice) = inspect::advice::next(&error) {
                eprintln!("sluice: {advice}");
            }
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

fn dispatch(task: Task) -> anyhow::Result<ExitCode> {
    match task {
        Task::Run(flags, effective) => daemon(&flags, &effective)?,
        Task::PrintConfig(effective, own, form) => print_config(&effective, &own, form)?,
        Task::WriteConfig(path, effective) => write_config(&path, &effective)?,
        Task::InitOnly => init_only(),
        Task::Status(flags) => {
            let synced = inspect::status::run(&flags.socket.socket, &flags.pins.path(), &flags.show)?;
            return Ok(if synced { ExitCode::SUCCESS } else { ExitCode::from(NOT_SYNCED) });
        }
        Task::Services(flags) => inspect::services::services(&flags.pins.path(), &flags.show)?,
        Task::Backends(flags) => inspect::services::backends(&flags.pins.path(), &flags.show)?,
        Task::Flows(flags) => {
            let config::Listing { show, pins } = &flags.listing;
            inspect::flows::run(&pins.path(), flags.service.as_ref(), show)?;
        }
        Task::Drain(flags) => {
            let config::Drain { service, wait, show, pins, socket } = &flags;
            inspect::drain::run(service.as_ref(), *wait, &socket.socket, &pins.path(), show)?;
        }
        Task::Top(flags) => inspect::top::run(&flags.wish())?,
        Task::Plan(flags, effective) => return plan(&flags, *effective),
        Task::Diff(flags, effective) => return Ok(diff(flags, effective)),
        Task::Audit(flags) => return Ok(audit(&flags)),
        Task::Probe(flags) => {
            let works = inspect::probe::run(flags.dataplane, flags.nftables, &flags.place(), flags.output)?;
            return Ok(if works { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Task::Explain(flags) => {
            let question = Question { source: flags.source, target: flags.target };
            let agrees =
                inspect::explain::run(&question, &flags.socket.socket, &flags.pins.path(), flags.output)?;
            return Ok(if agrees { ExitCode::SUCCESS } else { ExitCode::from(NOT_AS_COMPUTED) });
        }
        Task::Cleanup(flags) => inspect::cleanup::run(&flags.path())?,
        Task::Completions(shell) => inspect::manual::completions(config::command(), shell)?,
        Task::Man(directory) => inspect::manual::man(config::command(), directory.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The objects, and what to plan for.
fn asked(
    from: &config::Objects,
    effective: &Effective,
    explain: bool,
) -> anyhow::Result<(Vec<Change>, dry_run::Question)> {
    let objects = match &from.source {
        Some(folder) => {
            source::folder::once(folder).with_context(|| format!("--source {}", folder.display()))?
        }
        None => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(dry_run::fetch(effective))?,
    };
    let question = dry_run::Question {
        node: effective.node.clone(),
        origin: if from.source.is_some() { Origin::Folder } else { Origin::Server },
        addresses: from.node_address.clone(),
        settings: effective.settings.clone(),
        explain,
    };
    Ok((objects, question))
}

/// As diff(1).
fn audit(flags: &config::Audit) -> ExitCode {
    let config::Audit { fix, output, pins, socket } = flags;
    match inspect::audit::run(*fix, &socket.socket, &pins.path(), *output) {
        Ok(Outcome::Clean) => ExitCode::SUCCESS,
        Ok(Outcome::Differs) => ExitCode::FAILURE,
        Ok(Outcome::Unknown) => ExitCode::from(USAGE),
        Err(error) => failed(&error),
    }
}

/// As diff(1): its own code where it failed.
fn diff(flags: config::Diff, effective: Box<Effective>) -> ExitCode {
    let (flags, effective, settings) = match settled(flags, effective) {
        Ok(settled) => settled,
        Err(error) => return failed(&error),
    };
    let orders = || {
        let (objects, question) = asked(&flags.objects, &effective, false)?;
        Ok(dry_run::orders(&question, objects))
    };
    match inspect::diff::run(orders, settings, &flags.socket.socket, &flags.pins.path(), flags.output) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

/// The settings to compare with, and where they are from: a file, else the running daemon, else the defaults.
fn settled(
    mut flags: config::Diff,
    effective: Box<Effective>,
) -> anyhow::Result<(config::Diff, Box<Effective>, String)> {
    if let Some(file) = &flags.objects.config {
        let settings = format!("--config {}", file.display());
        return Ok((flags, effective, settings));
    }
    let Some(told) = inspect::diff::told(&flags.socket.socket) else {
        return Ok((flags, effective, "defaults: there is no --config, and no daemon answers".to_owned()));
    };
    let effective = match flags.as_told(&told) {
        Some(Ok(effective)) => effective,
        Some(Err(wrong)) => anyhow::bail!("{}", wrong.join("; ")),
        None => effective,
    };
    Ok((flags, effective, "those of the running daemon".to_owned()))
}

#[expect(clippy::print_stderr, reason = "standard output is for differences")]
fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("sluice: {error:#}");
    if let Some(advice) = inspect::advice::next(error) {
        eprintln!("sluice: {advice}");
    }
    ExitCode::from(USAGE)
}

/// Fails only if asked to: a plan with problems is a plan.
#[expect(clippy::print_stderr, reason = "standard output is the plan's")]
fn plan(flags: &config::Plan, effective: Effective) -> anyhow::Result<ExitCode> {
    for warning in &effective.warnings {
        eprintln!("sluice: configuration: {warning}");
    }
    let (objects, question) = asked(&flags.objects, &effective, flags.explain)?;
    let output = match flags.output {
        PlanForm::Table => Output::Table,
        PlanForm::Wide => Output::Wide,
        PlanForm::Json => Output::Json,
        PlanForm::Yaml => Output::Yaml,
        PlanForm::Nft => {
            let marks = Marks { masquerade: effective.masquerade_bit, notrack: NOTRACK_BIT, ports: None };
            let Orders { context, cluster_ranges, ports } = dry_run::orders(&question, objects);
            inspect::print(&nft::ruleset(marks, &context, &cluster_ranges, &ports))?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let well = dry_run::show(&dry_run::plan(&question, objects), output)?;
    Ok(if well || !flags.strict { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "printing is what was asked for")]
fn print_config(effective: &Effective, own: &[Own], form: Form) -> anyhow::Result<()> {
    match form {
        Form::Table => print!("{}", print::table(effective, own)),
        Form::Json => println!("{}", serde_json::to_string_pretty(&print::json(effective, own))?),
        Form::Yaml => print!("{}", serde_norway::to_string(&print::json(effective, own))?),
    }
    Ok(())
}

fn write_config(path: &Path, effective: &Effective) -> anyhow::Result<()> {
    let text = serde_norway::to_string(&print::file(&effective.fields))?;
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

#[expect(clippy::print_stdout, reason = "the answer to a question")]
fn init_only() {
    println!("nothing to prepare: the daemon needs its capabilities all the time and does everything itself");
}

fn daemon(flags: &Run, effective: &Effective) -> anyhow::Result<()> {
    let log = logging::start(effective.detail, effective.log_format);
    let result = logged(flags, effective, log.lost());
    log.end();
    result
}

fn logged(flags: &Run, effective: &Effective, lost: impl Fn() -> u64 + Send + 'static) -> anyhow::Result<()> {
    for warning in &effective.warnings {
        warn!(warning, "configuration");
    }
    for note in &effective.notes {
        info!(note, "configuration");
    }
    set_oom_score(effective);
    // Two threads: one for the loop, one for whatever else; the work is small and the node belongs to others.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(run::run(flags, effective, lost));
    // Whoever is still at work need not finish: the kernel's state is whole after every step.
    runtime.shutdown_background();
    result
}

/// Nobody need act when the default could not be had.
fn set_oom_score(effective: &Effective) {
    let score = effective.oom_score_adj;
    match privilege::set_oom_score(score) {
        Ok(()) => {}
        Err(error) if effective.is_default("oomScoreAdj") => {
            info!(%error, score, "could not set oom_score_adj")
        }
        Err(error) => warn!(%error, score, "could not set oom_score_adj"),
    }
}
