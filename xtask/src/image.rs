//! `cargo xtask image`: the daemon as an OCI image archive, without a base image.
//!
//! The daemon is linked against the C library's static archive, so the image holds no other program and no library. Only
//! its last step differs from an ordinary build: everything below it is compiled once for both.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::build::{self, Profile};
use crate::ebpf;
use crate::host::Host;
use crate::place::Place;
use crate::progress;
use crate::run;

/// Where tests look for the archive.
pub(crate) const VARIABLE: &str = "SLUICE_IMAGE";

/// Builds the archive and says where it is, and under which digest.
pub(crate) fn make(place: &Place, profile: Profile) -> Result<PathBuf> {
    let host = Host::ensure(place)?;
    let object = ebpf::build(place, &host)?;
    progress::say("linking the daemon for the image");
    let mut command = host.cargo("rustc");
    command.args(["--package", "sluice", "--bin", "sluice"]).env(ebpf::VARIABLE, object);
    profile.add_to(&mut command);
    command.args(["--", "-C", "target-feature=+crt-static", "-C", "strip=debuginfo"]);
    run::run(&mut command)?;
    let answer = run::ask(&mut packer(place, &host, profile)?)?;
    progress::say(answer.trim());
    let path = answer.trim().split_once("  ").map(|(_, path)| PathBuf::from(path));
    path.context("the packer named no archive")
}

fn packer(place: &Place, host: &Host, profile: Profile) -> Result<Command> {
    let mut command = host.cargo("run");
    command.args(["--quiet", "--package", "image", "--"]);
    command.arg("--binary").arg(build::binary(place, profile, "sluice"));
    command.arg("--out").arg(place.built(folder(profile)));
    command.args(["--revision", &revision(place), "--created", &created(place)?]);
    Ok(command)
}

fn folder(profile: Profile) -> &'static str {
    match profile {
        Profile::Dev => "image-debug",
        Profile::Release => "image",
    }
}

/// The commit, and whether the tree is another one.
fn revision(place: &Place) -> String {
    let commit = git(place, &["rev-parse", "HEAD"]).unwrap_or_else(|_| "unknown".to_owned());
    let clean = git(place, &["status", "--porcelain"]).is_ok_and(|changes| changes.is_empty());
    if clean { commit } else { format!("{commit}-dirty") }
}

/// The time of everything in the image: by the reproducible-builds convention, else that of the commit.
fn created(place: &Place) -> Result<String> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(seconds) => Ok(seconds),
        Err(_) => git(place, &["log", "-1", "--format=%ct"])
            .context("without git, SOURCE_DATE_EPOCH must say which time stands in the image"),
    }
}

fn git(place: &Place, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new("git");
    // A clone may belong to another user than the one who builds from it.
    command.args(["-c", "safe.directory=*"]).args(arguments).current_dir(&place.root);
    Ok(run::ask(&mut command)?.trim().to_owned())
}
