//! The rules of the house that no compiler holds: which room may speak of what, and how files begin and are named.

mod files;
mod paths;
mod rooms;
mod source;

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::place::Place;
use crate::progress;
use crate::run;

/// One thing that is not in order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Complaint {
    file: String,
    line: usize,
    text: String,
}

/// Reads every file git knows or would take, and fails if one is not in order.
pub(crate) fn run(place: &Place) -> Result<()> {
    progress::say("tidy");
    let mut complaints = Vec::new();
    for file in listed(place)? {
        // A listed file may be deleted and not yet committed; what is no text has no lines to judge.
        let Ok(text) = fs::read_to_string(place.root.join(&file)) else { continue };
        complaints.extend(judge(&file, &text));
    }
    complaints.sort();
    for Complaint { file, line, text } in &complaints {
        eprintln!("{file}:{line}: {text}");
    }
    match complaints.len() {
        0 => Ok(()),
        count => bail!("{count} things are not tidy"),
    }
}

fn judge(file: &str, text: &str) -> Vec<Complaint> {
    let mut found = files::judge(file, text);
    if file.ends_with(".rs") {
        found.extend(rooms::judge(file, text));
    }
    found
}

fn listed(place: &Place) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // A clone may belong to another user than the one who tests it.
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let text =
        run::ask(git.current_dir(&place.root)).context("tidy asks git which files belong to the tree")?;
    Ok(text.split('\0').filter(|file| !file.is_empty()).map(str::to_owned).collect())
}
