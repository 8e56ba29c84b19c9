//! Licences and sources of the dependencies: by cargo-deny, or by a smaller check of the same list.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host::Host;
use crate::place::Place;
use crate::progress;
use crate::run;
use crate::spdx;

/// `cargo xtask deny`.
pub(crate) fn run(place: &Place) -> Result<()> {
    if run::ask(Command::new("cargo-deny").arg("--version")).is_ok() {
        progress::say("deny");
        let mut command = Command::new("cargo-deny");
        return run::run(command.args(["check", "licenses", "bans", "sources"]).current_dir(&place.root));
    }
    progress::say("deny: cargo-deny is not installed, so only licences and sources are checked");
    let policy = place.root.join("deny.toml");
    let policy =
        fs::read_to_string(&policy).with_context(|| format!("could not read {}", policy.display()))?;
    let complaints = complaints(&metadata(place)?, &allowed(&policy));
    if !complaints.is_empty() {
        bail!("deny.toml does not permit:\n{}", complaints.join("\n"));
    }
    Ok(())
}

fn metadata(place: &Place) -> Result<Value> {
    let host = Host::ensure(place)?;
    let mut command = host.cargo("metadata");
    command.args(["--format-version", "1", "--filter-platform", "x86_64-unknown-linux-gnu"]);
    serde_json::from_str(&run::ask(&mut command)?).context("cargo metadata is not JSON")
}

/// The quoted words of the list `allow = [...]`.
fn allowed(policy: &str) -> Vec<String> {
    let code: Vec<&str> = policy.lines().map(|line| line.split('#').next().unwrap_or_default()).collect();
    let code = code.join("\n");
    let list = code.split_once("\nallow = [").and_then(|(_, rest)| rest.split_once(']'));
    let words = list.map(|(list, _)| list.split('"').skip(1).step_by(2));
    words.into_iter().flatten().map(str::to_owned).collect()
}

fn complaints(metadata: &Value, allowed: &[String]) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    // Packages of this workspace have no source.
    let foreign = packages.filter(|package| package["source"].is_string());
    foreign.filter_map(|package| complaint(package, allowed)).collect()
}

fn complaint(package: &Value, allowed: &[String]) -> Option<String> {
    let name = format!("  {} {}", text(package, "name"), text(package, "version"));
    if text(package, "source").starts_with("git+") {
        return Some(format!("{name}: comes from git, not from a registry"));
    }
    let licence = text(package, "license");
    if licence.is_empty() {
        return Some(format!("{name}: names no licence"));
    }
    match spdx::permits(licence, allowed) {
        Ok(true) => None,
        Ok(false) => Some(format!("{name}: {licence}")),
        Err(error) => Some(format!("{name}: {error}")),
    }
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const POLICY: &str = "[licenses]\nallow = [\n  \"MIT\",\n  # \"GPL-3.0-only\",\n  \"ISC\",\n]\n";

    #[track_caller]
    fn check(package: Value, expected: Option<&str>) {
        let found = complaints(&json!({ "packages": [package] }), &allowed(POLICY));
        match expected {
            None => assert_eq!(found, Vec::<String>::new()),
            Some(part) => assert!(found[0].contains(part), "{found:?}"),
        }
    }

    #[test]
    fn the_list_leaves_out_what_is_commented_out() {
        assert_eq!(allowed(POLICY), ["MIT", "ISC"]);
    }

    #[test]
    fn a_licence_outside_the_list_is_told() {
        check(json!({"name": "a", "version": "1", "source": "registry+x", "license": "MIT"}), None);
        check(
            json!({"name": "a", "version": "1", "source": "registry+x", "license": "GPL-3.0-only"}),
            Some("GPL"),
        );
        check(json!({"name": "a", "version": "1", "source": "registry+x"}), Some("names no licence"));
    }

    #[test]
    fn a_package_from_git_is_told() {
        check(json!({"name": "a", "version": "1", "source": "git+x", "license": "MIT"}), Some("git"));
    }

    #[test]
    fn our_own_packages_are_not_judged() {
        check(json!({"name": "a", "version": "1", "source": null}), None);
    }
}
