//! `cargo xtask VERB`: set up, build, test, lint, measure and show.
//!
//! The code keeps to what Rust 1.85 compiles, so that an older compiler than the workspace asks for can still run it
//! and be told what to do.

mod apt;
mod book;
mod build;
mod clippy;
mod compiler;
mod ebpf;
mod go;
mod handover;
mod host;
mod image;
mod licences;
mod linker;
mod lints;
mod operators;
mod parts;
mod place;
mod progress;
mod report;
mod rings;
mod run;
mod setup;
mod spdx;
mod tidy;
mod verbs;
mod version;

use std::process::ExitCode;

use anyhow::Result;

use place::Place;
use verbs::Verb;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let verb = match Verb::parse(&arguments) {
        Ok(verb) => verb,
        Err(complaint) => {
            eprintln!("{complaint}\n\n{}", verbs::HELP);
            return ExitCode::from(2);
        }
    };
    match act(verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn act(verb: Verb) -> Result<ExitCode> {
    if verb == Verb::Help {
        println!("{}", verbs::HELP);
        return Ok(ExitCode::SUCCESS);
    }
    let place = Place::find()?;
    match verb {
        Verb::Help => {}
        Verb::Setup(need) => setup::all(&place, need)?,
        Verb::Build { release } => build::everything(&place, release)?,
        Verb::Test { rings, filter } => return rings::run(&place, &rings, filter.as_deref()),
        Verb::Ci { lints_only } => return lints::ci(&place, lints_only),
        Verb::Tidy => tidy::run(&place)?,
        Verb::Deny => licences::run(&place)?,
        Verb::Book => book::build(&place)?,
        Verb::Bench(arguments) => return handover::bench(&place, &arguments),
        Verb::Fuzz(seconds) => handover::fuzz(&place, seconds)?,
        Verb::Image(profile) => drop(image::make(&place, profile)?),
        Verb::Demo(arguments) => return handover::demo(&place, &arguments),
    }
    Ok(ExitCode::SUCCESS)
}
