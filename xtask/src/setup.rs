//! What this machine lacks for a purpose, found or installed. Saying it twice does nothing the second time.

use std::str::FromStr;

use anyhow::{Error, Result, bail};

use crate::apt::{self, Package};
use crate::compiler::Compiler;
use crate::host::Host;
use crate::linker;
use crate::parts;
use crate::place::Place;
use crate::progress;
use crate::run;

const NAMESPACES: (&str, Package) =
    ("ip", Package { name: "iproute2", why: "`ip`: makes the namespaces and links of the lab" });
const RIVAL: (&str, Package) =
    ("nft", Package { name: "nftables", why: "`nft`: kube-proxy, which we compare with, calls it" });

const RUNTIME: (&str, Package) =
    ("crun", Package { name: "crun", why: "runs the daemon's image as a container, as a cluster would" });

/// What the commands of `docs/` call besides ours.
const PAGES: [(&str, Package); 3] = [
    ("jq", Package { name: "jq", why: "commands in docs/ call it, and a test runs them" }),
    ("curl", Package { name: "curl", why: "commands in docs/ call it, and a test runs them" }),
    ("man", Package { name: "man-db", why: "commands in docs/ call it, and a test runs them" }),
];

/// What a person wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Unit tests: nothing beyond Rust.
    Host,
    /// See the main job: eBPF and namespaces.
    Demo,
    /// All tests: the Kubernetes parts too, and what kube-proxy calls.
    Test,
    /// Measure: the same.
    Bench,
}

impl FromStr for Need {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "host" => Ok(Self::Host),
            "demo" => Ok(Self::Demo),
            "test" => Ok(Self::Test),
            "bench" => Ok(Self::Bench),
            other => bail!("there is no setup for `{other}`: host, demo, test or bench"),
        }
    }
}

/// Everything for `need`, in the foreground.
pub(crate) fn all(place: &Place, need: Need) -> Result<()> {
    let host = Host::ensure(place)?;
    match need {
        Need::Host => {}
        Need::Demo => lab(place, &host)?,
        Need::Test | Need::Bench => {
            lab(place, &host)?;
            pages(place)?;
            runtime(place)?;
            parts::ensure(place)?;
        }
    }
    progress::say("everything that is needed is here");
    Ok(())
}

/// What programs in a kernel need: a compiler and a linker for them, and `ip`.
pub(crate) fn lab(place: &Place, host: &Host) -> Result<()> {
    Compiler::ensure(place)?;
    linker::ensure(place, host)?;
    program(place, NAMESPACES)
}

/// What kube-proxy calls.
pub(crate) fn rival(place: &Place) -> Result<()> {
    program(place, RIVAL)
}

/// What runs containers.
pub(crate) fn runtime(place: &Place) -> Result<()> {
    program(place, RUNTIME)
}

/// What commands in `docs/` call: `nft` too.
pub(crate) fn pages(place: &Place) -> Result<()> {
    rival(place)?;
    PAGES.into_iter().try_for_each(|wanted| program(place, wanted))
}

fn program(place: &Place, (program, package): (&str, Package)) -> Result<()> {
    // Not on every person's PATH.
    let system = ["/usr/sbin".into(), "/sbin".into()];
    match run::find(program, &system) {
        Some(_) => Ok(()),
        None => apt::ensure(place, &[package]),
    }
}
