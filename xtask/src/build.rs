//! Building the workspace around the eBPF object.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::ebpf;
use crate::host::Host;
use crate::place::Place;
use crate::progress;
use crate::run;

/// Where tests and demo look for the daemon, and for the program that stands in a namespace and makes traffic.
const DAEMON: &str = "SLUICE_BIN";
const AGENT: &str = "LAB_AGENT_BIN";

/// Tests are quick to build; what is shown or measured is optimised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    Dev,
    Release,
}

impl Profile {
    fn directory(self) -> &'static str {
        match self {
            Self::Dev => "debug",
            Self::Release => "release",
        }
    }

    pub(crate) fn add_to(self, command: &mut Command) {
        match self {
            Self::Dev => {}
            Self::Release => {
                command.arg("--release");
            }
        }
    }
}

/// `cargo xtask build`.
pub(crate) fn everything(place: &Place, release: bool) -> Result<()> {
    let host = Host::ensure(place)?;
    let object = ebpf::build(place, &host)?;
    let profile = if release { Profile::Release } else { Profile::Dev };
    workspace(&host, profile, &object)?;
    progress::say(&format!("the daemon is {}", binary(place, profile, "sluice").display()));
    Ok(())
}

/// Every library, program and test, chosen together: another choice would mix features differently and compile the
/// dependencies again.
pub(crate) fn workspace(host: &Host, profile: Profile, object: &PathBuf) -> Result<()> {
    progress::say("building the workspace");
    let mut command = host.cargo("build");
    command.args(["--workspace", "--lib", "--bins", "--tests"]).env(ebpf::VARIABLE, object);
    profile.add_to(&mut command);
    run::run(&mut command)
}

/// The programs of some packages.
pub(crate) fn programs(host: &Host, profile: Profile, object: &PathBuf, packages: &[&str]) -> Result<()> {
    progress::say(&format!("building {}", packages.join(", ")));
    let mut command = host.cargo("build");
    command.arg("--bins").env(ebpf::VARIABLE, object);
    for package in packages {
        command.args(["--package", package]);
    }
    profile.add_to(&mut command);
    run::run(&mut command)
}

/// A program that was built.
pub(crate) fn binary(place: &Place, profile: Profile, name: &str) -> PathBuf {
    place.built(profile.directory()).join(name)
}

/// Tells a program where the others are.
pub(crate) fn point_out(command: &mut Command, place: &Place, profile: Profile) {
    command.env(DAEMON, binary(place, profile, "sluice")).env(AGENT, binary(place, profile, "lab-agent"));
    if let Some(object) = ebpf::existing(place) {
        command.env(ebpf::VARIABLE, object);
    }
}
