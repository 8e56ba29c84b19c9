//! What a change must pass besides tests, in the order of their speed.

use std::process::ExitCode;

use anyhow::Result;

use crate::clippy;
use crate::host::Host;
use crate::licences;
use crate::place::Place;
use crate::progress;
use crate::rings::{self, Ring};
use crate::run;
use crate::tidy;

/// `cargo xtask ci`.
pub(crate) fn ci(place: &Place, lints_only: bool) -> Result<ExitCode> {
    let lints = lints(place)?;
    if lints_only {
        return Ok(lints);
    }
    let tests = rings::run(place, &Ring::ALL, None)?;
    Ok(if lints == ExitCode::SUCCESS { tests } else { lints })
}

fn lints(place: &Place) -> Result<ExitCode> {
    let host = Host::ensure(place)?;
    let results = [
        ("fmt", format(&host)),
        ("tidy", tidy::run(place)),
        ("clippy", clippy::run(place, &host)),
        ("deny", licences::run(place)),
    ];
    let mut code = ExitCode::SUCCESS;
    for (name, result) in results {
        match result {
            Ok(()) => progress::say(&format!("{name}: ok")),
            Err(error) => {
                progress::say(&format!("{name}: FAILED: {error:#}"));
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

fn format(host: &Host) -> Result<()> {
    progress::say("fmt");
    run::run(host.cargo("fmt").args(["--all", "--check"]))
}
