//! bpf-linker, which makes one eBPF object of what the compiler leaves.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Package};
use crate::host::Host;
use crate::place::Place;
use crate::progress::{self, Stage};
use crate::run;
use crate::version::Version;

const WANTED: Version = Version::new(0, 13);
const EXACT: &str = "0.13.0";
const LLVM: &str = "/usr/lib/llvm-22";

const PACKAGES: [Package; 1] = [Package {
    name: "llvm-22-dev",
    why: "LLVM, which bpf-linker is built around (as new as the compiler's)",
}];

/// The linker that is here.
pub(crate) fn find() -> Option<PathBuf> {
    run::candidates("bpf-linker", &places()).into_iter().find(|linker| {
        let text = run::ask(Command::new(linker).arg("--version"));
        text.ok().and_then(|text| Version::first_in(&text)) == Some(WANTED)
    })
}

/// Finds the linker or builds it.
pub(crate) fn ensure(place: &Place, host: &Host) -> Result<PathBuf> {
    if let Some(linker) = find() {
        return Ok(linker);
    }
    if !Path::new(LLVM).join("lib/libLLVM.so").exists() {
        apt::ensure(place, &PACKAGES).with_context(advice)?;
    }
    let log = progress::log_file(&place.target, "bpf-linker");
    let what = format!(
        "building bpf-linker {EXACT}: links eBPF programs; about a minute and a half, once a machine"
    );
    progress::slow(&what, &log, Stage::Front, &mut install(host)).with_context(advice)?;
    match find() {
        Some(linker) => Ok(linker),
        None => bail!("bpf-linker {EXACT} was installed but does not run from {:?}", places()),
    }
}

fn install(host: &Host) -> Command {
    let mut command = host.cargo("install");
    command.args(["bpf-linker", "--version", EXACT, "--locked", "--force"]);
    command.args(["--no-default-features", "--features", "llvm-22"]);
    // Cargo's default place, so that the next clone on this machine finds it; built in a directory that goes away.
    command.env("LLVM_PREFIX", LLVM).env_remove("CARGO_TARGET_DIR").current_dir("/");
    command
}

/// Where Cargo puts what it installs.
pub(crate) fn places() -> Vec<PathBuf> {
    let root = std::env::var_os("CARGO_INSTALL_ROOT").map(PathBuf::from);
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let user = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    [root, home, user].into_iter().flatten().map(|place| place.join("bin")).collect()
}

fn advice() -> String {
    format!("bpf-linker {WANTED} is missing; its project also offers ready-made binaries: put one on PATH")
}
