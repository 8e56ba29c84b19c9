//! The cargo and the compiler that build the workspace itself.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::apt::{self, Package};
use crate::place::Place;
use crate::progress;
use crate::run;
use crate::version::Version;

/// What the workspace's `rust-version` asks for.
pub(crate) const NEEDED: Version = Version::new(1, 95);

const PACKAGES: [Package; 2] = [
    Package { name: "rustc-web", why: "a Rust compiler new enough for this workspace" },
    Package { name: "cargo-web", why: "the cargo that belongs to it" },
];

/// A cargo with its compiler.
#[derive(Debug)]
pub(crate) struct Host {
    cargo: OsString,
    /// Set where the compiler is not the one cargo would find by itself.
    rustc: Option<PathBuf>,
    target: PathBuf,
    root: PathBuf,
}

impl Host {
    /// The person's own Rust, or Debian's where that is too old.
    pub(crate) fn ensure(place: &Place) -> Result<Self> {
        let own = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = version_of(&own);
        if version.is_some_and(|version| version >= NEEDED) {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            return Ok(Self::new(place, cargo, None));
        }
        let found = version.map_or_else(|| "none".to_owned(), |version| version.to_string());
        progress::say(&format!("the workspace needs Rust {NEEDED}; found {found}, so Debian's is used"));
        Self::debian(place)
    }

    fn debian(place: &Place) -> Result<Self> {
        let rustc = Path::new("/usr/bin/rustc");
        if version_of(rustc.as_os_str()).is_none_or(|version| version < NEEDED) {
            apt::ensure(place, &PACKAGES)?;
        }
        match version_of(rustc.as_os_str()) {
            Some(version) if version >= NEEDED => {
                Ok(Self::new(place, "/usr/bin/cargo".into(), Some(rustc.to_owned())))
            }
            _ => bail!("Debian's Rust is too old as well; `rustup update stable` gets a newer one"),
        }
    }

    fn new(place: &Place, cargo: OsString, rustc: Option<PathBuf>) -> Self {
        Self { cargo, rustc, target: place.target.clone(), root: place.root.clone() }
    }

    /// Cargo in the workspace, with a clean environment.
    pub(crate) fn cargo(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.cargo);
        run::forget_cargo(&mut command);
        command.arg(verb).current_dir(&self.root).env("CARGO_TARGET_DIR", &self.target);
        // By itself cargo takes the first rustdoc on the path, which may be that of another compiler.
        let rustdoc = Path::new(&self.cargo).with_file_name("rustdoc");
        if rustdoc.is_absolute() && rustdoc.is_file() {
            command.env("RUSTDOC", rustdoc);
        }
        if let Some(rustc) = &self.rustc {
            command.env("RUSTC", rustc).env_remove("RUSTUP_TOOLCHAIN").env_remove("LD_LIBRARY_PATH");
        }
        command
    }
}

/// The version of a compiler, or nothing when it does not run.
pub(crate) fn version_of(rustc: &std::ffi::OsStr) -> Option<Version> {
    let text = run::ask(Command::new(rustc).arg("--version")).ok()?;
    Version::first_in(&text)
}
