//! `docs/` as a book, built by mdBook.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::linker;
use crate::place::Place;
use crate::progress::{self, Stage};
use crate::run;
use crate::version::Version;

const WANTED: Version = Version::new(0, 5);
const EXACT: &str = "0.5.4";

/// Pictures that pages show and that lie elsewhere in the tree; the book has them where the pages' links lead.
const PICTURES: &str = "bench/results";

/// `cargo xtask book`: pages in HTML below the target directory.
pub(crate) fn build(place: &Place) -> Result<()> {
    let mdbook = ensure(place, &Host::ensure(place)?)?;
    let book = place.built("book");
    let pages = book.join("docs");
    progress::say("docs/ as a book");
    run::run(Command::new(mdbook).arg("build").arg(place.root.join("docs")).arg("--dest-dir").arg(&pages))?;
    copy(&place.root.join(PICTURES), &book.join(PICTURES))?;
    progress::say(&format!("the book begins at {}", pages.join("index.html").display()));
    Ok(())
}

fn copy(from: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into).with_context(|| format!("could not make {}", into.display()))?;
    for entry in fs::read_dir(from).with_context(|| format!("could not list {}", from.display()))? {
        let entry = entry?;
        fs::copy(entry.path(), into.join(entry.file_name()))?;
    }
    Ok(())
}

fn find() -> Option<PathBuf> {
    run::candidates("mdbook", &linker::places()).into_iter().find(|mdbook| {
        let text = run::ask(Command::new(mdbook).arg("--version"));
        text.ok().and_then(|text| Version::first_in(&text)) == Some(WANTED)
    })
}

fn ensure(place: &Place, host: &Host) -> Result<PathBuf> {
    if let Some(mdbook) = find() {
        return Ok(mdbook);
    }
    let log = progress::log_file(&place.target, "mdbook");
    let what =
        format!("building mdBook {EXACT}: makes a book of docs/; two minutes and a half, once a machine");
    let mut command = host.cargo("install");
    command.args(["mdbook", "--version", EXACT, "--locked", "--force"]);
    command.args(["--no-default-features", "--features", "search"]);
    // As for the linker: Cargo's default place, and a directory that goes away.
    command.env_remove("CARGO_TARGET_DIR").current_dir("/");
    progress::slow(&what, &log, Stage::Front, &mut command)?;
    match find() {
        Some(mdbook) => Ok(mdbook),
        None => bail!("mdBook {EXACT} was installed but does not run from {:?}", linker::places()),
    }
}
