//! The daemon with its dataplane of nftables.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use lab::{Node, Settings};

/// What it is called in rows.
pub(super) const NAME: &str = "nftables";
/// What chooses the dataplane, and how it is chosen.
const FLAG: &str = "--dataplane";
const CHOICE: &str = "--dataplane=nftables";

/// Whether the daemon has such a dataplane. If not, that is told: its rows will be missing.
pub(super) fn is_known(node: &Node) -> Result<bool> {
    let output = node.sluice(&["run", "--help"])?;
    let known = String::from_utf8_lossy(&output.stdout).contains(FLAG);
    if !known {
        eprintln!("subject {NAME} is missing: `sluice run` knows no {FLAG}");
    }
    Ok(known)
}

/// How it is started on a folder.
pub(super) fn settings(folder: &Path) -> Settings {
    Settings::folder(folder).with(&[CHOICE])
}

/// How many services of the usual shape its map has.
pub(super) fn services(node: &Node) -> Result<usize> {
    let mut nft = node.place().command("nft");
    nft.args(["list", "map", "ip", "sluice", "services"]);
    let output = nft.output().context("could not run nft (package nftables)")?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).matches(" . tcp . 80 ").count())
}
