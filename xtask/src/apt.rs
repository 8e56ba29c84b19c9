//! Debian packages: which are missing, and getting them.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use anyhow::{Result, bail};

use crate::place::Place;
use crate::progress::{self, Stage};
use crate::run;

/// A package and what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    pub(crate) why: &'static str,
}

/// Whether this machine has Debian's package tools.
pub(crate) fn is_here() -> bool {
    Path::new("/usr/bin/dpkg-query").exists() && Path::new("/usr/bin/apt-get").exists()
}

/// Installs those of `wanted` that are missing, or says which command does.
pub(crate) fn ensure(place: &Place, wanted: &[Package]) -> Result<()> {
    if !is_here() {
        bail!("this is not a Debian machine; please install what Debian calls:\n{}", list(wanted));
    }
    let lacking = missing(wanted, &installed(wanted)?);
    if lacking.is_empty() {
        return Ok(());
    }
    if !run::is_root() {
        let names = names(&lacking).join(" ");
        bail!(
            "these Debian packages are missing:\n{}\nRun: sudo apt-get install --no-install-recommends {names}",
            list(&lacking)
        );
    }
    update(place);
    progress::say(&format!("missing Debian packages:\n{}", list(&lacking)));
    let log = progress::log_file(&place.target, "apt-install");
    let mut command = apt_get();
    command.args(["install", "--yes", "--no-install-recommends"]).args(names(&lacking));
    progress::slow("installing Debian packages", &log, Stage::Front, &mut command)
}

/// Fresh package lists, once a run. A mirror that fails in part may still have what we need.
fn update(place: &Place) {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let log = progress::log_file(&place.target, "apt-update");
        let what = "fetching Debian's package lists";
        if let Err(error) = progress::slow(what, &log, Stage::Front, apt_get().arg("update")) {
            progress::say(&format!("{error:#}\nxtask: going on with the lists that are here"));
        }
    });
}

fn apt_get() -> Command {
    let mut command = Command::new("/usr/bin/apt-get");
    // Another apt may hold the lock on a machine that has just started.
    command.args(["-q", "-o", "DPkg::Lock::Timeout=300"]);
    command.env("DEBIAN_FRONTEND", "noninteractive").env_remove("LD_LIBRARY_PATH");
    command
}

fn installed(wanted: &[Package]) -> Result<String> {
    let mut command = Command::new("/usr/bin/dpkg-query");
    command.args(["--show", "--showformat", "${Package} ${db:Status-Status}\\n"]).args(names(wanted));
    // It fails when it does not know a package, and still lists the others.
    let output = command.env_remove("LD_LIBRARY_PATH").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn missing(wanted: &[Package], listing: &str) -> Vec<Package> {
    let has = |package: &Package| listing.lines().any(|line| line == format!("{} installed", package.name));
    wanted.iter().filter(|package| !has(package)).copied().collect()
}

fn names(packages: &[Package]) -> Vec<&'static str> {
    packages.iter().map(|package| package.name).collect()
}

fn list(packages: &[Package]) -> String {
    let width = packages.iter().map(|package| package.name.len()).max().unwrap_or_default();
    let lines: Vec<String> =
        packages.iter().map(|package| format!("  {:width$}  {}", package.name, package.why)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NFT: Package = Package { name: "nftables", why: "rules" };
    const IP: Package = Package { name: "iproute2", why: "links" };

    #[test]
    fn a_package_that_is_not_listed_is_missing() {
        assert_eq!(missing(&[NFT, IP], "iproute2 installed\n"), [NFT]);
    }

    #[test]
    fn a_package_that_was_removed_is_missing() {
        assert_eq!(missing(&[NFT], "nftables config-files\n"), [NFT]);
    }

    #[test]
    fn a_package_whose_name_begins_alike_does_not_count() {
        assert_eq!(missing(&[IP], "iproute2-doc installed\n"), [IP]);
    }

    #[test]
    fn nothing_is_missing_when_all_are_installed() {
        assert_eq!(missing(&[NFT, IP], "iproute2 installed\nnftables installed\n"), []);
    }
}
