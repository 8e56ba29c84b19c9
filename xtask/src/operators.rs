//! What operators' tools make of `deploy/`: one Go program around the packages of kustomize, Helm and containerd.
//!
//! Helm's own program would take as long as the API server and several times its room; its engine does not.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::go;
use crate::place::Place;
use crate::progress::{self, Stage};

/// The program's name, beside the Kubernetes parts.
const NAME: &str = "operators";

/// Builds it below `into`.
pub(crate) fn make(place: &Place, go: &Path, into: &Path, stage: Stage) -> Result<()> {
    let log = progress::log_file(&place.target, NAME);
    let what = "building what renders deploy/: kustomize's and Helm's engines";
    let mut command = go::command(go);
    // As for the other parts: what both use is compiled once.
    command.args(["build", "-trimpath", "-ldflags", "-s -w", "-o"]).arg(into.join(NAME)).arg(".");
    progress::slow(what, &log, stage, command.current_dir(source(place)))?;
    Ok(fs::write(stamp_file(into), stamp(place)?)?)
}

/// Whether what lies in `into` was built from what is here.
pub(crate) fn is_fresh(place: &Place, into: &Path) -> bool {
    let same = match (fs::read_to_string(stamp_file(into)), stamp(place)) {
        (Ok(old), Ok(new)) => old == new,
        _ => false,
    };
    same && into.join(NAME).exists()
}

/// Everything the program depends on, as text.
fn stamp(place: &Place) -> Result<String> {
    let read = |name: &str| {
        let file = source(place).join(name);
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
    };
    Ok(["main.go", "go.mod", "go.sum"].map(read).into_iter().collect::<Result<Vec<_>>>()?.join("\n"))
}

fn stamp_file(into: &Path) -> PathBuf {
    into.join("operators.stamp")
}

fn source(place: &Place) -> PathBuf {
    place.root.join("tests/parts/operators")
}
