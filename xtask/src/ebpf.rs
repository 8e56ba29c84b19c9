//! The eBPF object: the kernel's half of the datapath, compiled and linked.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::compiler::{self, Compiler, TARGET};
use crate::host::Host;
use crate::linker;
use crate::place::Place;
use crate::progress;
use crate::run;

/// Where the daemon's build script looks for the object.
pub(crate) const VARIABLE: &str = "SLUICE_EBPF_OBJECT";

/// Builds the object and says where it is.
pub(crate) fn build(place: &Place, host: &Host) -> Result<PathBuf> {
    let compiler = Compiler::ensure(place)?;
    let linker = linker::ensure(place, host)?;
    progress::say(&format!("building the eBPF object with {}", compiler.name()));
    let mut command = compiler.cargo("build");
    arguments(&mut command, place, &linker);
    run::run(&mut command)?;
    match existing(place) {
        Some(object) => Ok(object),
        None => bail!("cargo built no eBPF object at {}", object(place).display()),
    }
}

/// The object of an earlier build.
pub(crate) fn existing(place: &Place) -> Option<PathBuf> {
    Some(object(place)).filter(|object| object.exists())
}

/// Clippy over the programs, where the compiler has one.
pub(crate) fn clippy(place: &Place, host: &Host) -> Result<()> {
    let compiler = Compiler::ensure(place)?;
    let Some(mut command) = compiler.clippy() else {
        progress::say(&format!("clippy for eBPF is skipped: {} has none here", compiler.name()));
        return Ok(());
    };
    compiler::announce(compiler);
    arguments(&mut command, place, &linker::ensure(place, host)?);
    run::run(command.args(["--", "-D", "warnings"]))
}

fn object(place: &Place) -> PathBuf {
    place.built("ebpf").join(TARGET).join("release/dataplane")
}

fn arguments(command: &mut Command, place: &Place, linker: &Path) {
    command.args(["--release", "--target", TARGET, "--package", "dataplane-ebpf", "--bin", "dataplane"]);
    command.current_dir(&place.root).env("CARGO_TARGET_DIR", place.built("ebpf"));
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    // Types and lines for the verifier's log and for the kernel's own records of the maps.
    command.env("RUSTFLAGS", "-C link-arg=--btf -C debuginfo=2");
}
