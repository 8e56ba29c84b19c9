//! Verbs that prepare and then become another program, so that signals and the exit code are its own.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::build::{self, Profile};
use crate::ebpf;
use crate::host::Host;
use crate::parts::{self, Parts};
use crate::place::Place;
use crate::run;
use crate::setup;

/// `cargo xtask demo`.
pub(crate) fn demo(place: &Place, arguments: &[String]) -> Result<ExitCode> {
    needs_root("demo")?;
    let host = Host::ensure(place)?;
    setup::lab(place, &host)?;
    let object = ebpf::build(place, &host)?;
    build::programs(&host, Profile::Release, &object, &["sluice", "lab"])?;
    become_program(place, "lab-demo", |command| command.args(arguments))
}

/// `cargo xtask fuzz`: one test of the datapath, for longer than among the others.
pub(crate) fn fuzz(place: &Place, seconds: u64) -> Result<()> {
    let mut command = Host::ensure(place)?.cargo("test");
    command.args(["--package", "dataplane-ebpf", "--test", "edge", "--", "--nocapture", "fuzz"]);
    run::run(command.env("SLUICE_FUZZ_SECONDS", seconds.to_string()))
}

/// `cargo xtask bench`.
pub(crate) fn bench(place: &Place, arguments: &[String]) -> Result<ExitCode> {
    needs_root("bench")?;
    let host = Host::ensure(place)?;
    setup::lab(place, &host)?;
    setup::rival(place)?;
    let parts = Parts::start(place)?;
    let (object, frames) = (ebpf::build(place, &host)?, ebpf::build_frames(place, &host)?);
    build::programs(&host, Profile::Release, &object, &["sluice", "lab", "bench"])?;
    let parts = parts.wait()?;
    become_program(place, "bench", |command| {
        command.args(arguments).env(ebpf::FRAMES_VARIABLE, frames).env(parts::VARIABLE, parts)
    })
}

fn become_program(
    place: &Place,
    name: &str,
    add: impl FnOnce(&mut Command) -> &mut Command,
) -> Result<ExitCode> {
    let program = build::binary(place, Profile::Release, name);
    let mut command = Command::new(&program);
    run::forget_cargo(&mut command);
    build::point_out(&mut command, place, Profile::Release);
    add(command.current_dir(&place.root));
    let error = command.exec();
    Err(error).with_context(|| format!("could not start {}", program.display()))
}

fn needs_root(verb: &str) -> Result<()> {
    if !run::is_root() {
        bail!("`{verb}` makes network namespaces and loads eBPF programs: please run it as root");
    }
    Ok(())
}
