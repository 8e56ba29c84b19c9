//! The compiler for the eBPF target: Debian's, which carries `core` for it, or a nightly that builds `core` itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Package};
use crate::host;
use crate::place::Place;
use crate::progress;
use crate::run;

pub(crate) const TARGET: &str = "bpfel-unknown-none";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

const PACKAGES: [Package; 3] = [
    Package { name: "rustc-web", why: "the Rust compiler that knows the eBPF target" },
    Package { name: "cargo-web", why: "the cargo that belongs to it" },
    Package { name: "libstd-rust-web-dev-bpf", why: "Rust's core library for eBPF programs" },
];

/// A compiler that can make eBPF programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// `/usr/bin/rustc` with `core` ready for the target.
    Debian,
    /// rustup's nightly with `rust-src`.
    Nightly,
}

impl Compiler {
    /// The first that is here.
    pub(crate) fn find() -> Option<Self> {
        [Self::Debian, Self::Nightly].into_iter().find(|compiler| compiler.works())
    }

    /// Finds one or installs Debian's.
    pub(crate) fn ensure(place: &Place) -> Result<Self> {
        if let Some(found) = Self::find() {
            return Ok(found);
        }
        if apt::is_here() {
            apt::ensure(place, &PACKAGES).context("no compiler for eBPF programs is here")?;
        }
        match Self::find() {
            Some(found) => Ok(found),
            None => bail!(
                "no compiler for eBPF programs is here, and none could be installed.\n\
                 On Debian: apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf\n\
                 Elsewhere: rustup toolchain install nightly --component rust-src"
            ),
        }
    }

    fn works(self) -> bool {
        match self {
            Self::Debian => {
                let rustc = Path::new(DEBIAN_RUSTC);
                Path::new(DEBIAN_CARGO).exists()
                    && host::version_of(rustc.as_os_str()).is_some_and(|version| version >= host::NEEDED)
                    && sysroot(&mut self.rustc()).is_some_and(|sysroot| has_core(&sysroot))
            }
            Self::Nightly => sysroot(&mut self.rustc())
                .is_some_and(|sysroot| sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").exists()),
        }
    }

    fn rustc(self) -> Command {
        match self {
            Self::Debian => bare(DEBIAN_RUSTC),
            Self::Nightly => {
                let mut command = bare("rustup");
                command.args(["run", "nightly", "rustc"]);
                command
            }
        }
    }

    /// Cargo with this compiler, and nothing of the caller's Rust in its environment.
    pub(crate) fn cargo(self, verb: &str) -> Command {
        match self {
            Self::Debian => {
                let mut command = bare(DEBIAN_CARGO);
                // Targets without a place in stable Rust are closed to a stable compiler without this.
                command.arg(verb).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
            Self::Nightly => {
                let mut command = bare("rustup");
                command.args(["run", "nightly", "cargo", verb, "-Z", "build-std=core"]);
                command
            }
        }
    }

    /// Clippy beside this compiler's cargo, where it is installed.
    pub(crate) fn clippy(self) -> Option<Command> {
        match self {
            Self::Debian => {
                let clippy = Path::new("/usr/bin/cargo-clippy");
                if !clippy.exists() {
                    return None;
                }
                let mut command = bare("/usr/bin/cargo-clippy");
                command.arg("clippy").env("CARGO", DEBIAN_CARGO);
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                Some(command)
            }
            Self::Nightly => {
                let here = run::ask(bare("rustup").args(["run", "nightly", "cargo", "clippy", "--version"]));
                here.ok().map(|_| self.cargo("clippy"))
            }
        }
    }

    /// The name for people.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian's rustc",
            Self::Nightly => "rustup's nightly",
        }
    }
}

/// Says which compiler will be used.
pub(crate) fn announce(compiler: Compiler) {
    progress::say(&format!("eBPF compiler: {}", compiler.name()));
}

fn bare(program: &str) -> Command {
    let mut command = Command::new(program);
    run::forget_cargo(&mut command);
    for name in [
        "RUSTUP_TOOLCHAIN",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_INCREMENTAL",
        // The caller's cargo puts its own compiler's libraries here.
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    command
}

fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let text = run::ask(rustc.args(["--print", "sysroot"])).ok()?;
    Some(PathBuf::from(text.trim()))
}

fn has_core(sysroot: &Path) -> bool {
    let Ok(entries) = sysroot.join("lib/rustlib").join(TARGET).join("lib").read_dir() else { return false };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        name.starts_with("libcore-") && name.ends_with(".rlib")
    })
}
