//! What this machine can do, found out by trying. Nothing is left behind, and nothing that is in force changes.

use std::path::PathBuf;

use serde::Serialize;

use super::{ebpf, edge, nft};
use crate::privilege;

/// Where eBPF would be installed.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cgroup; `None`: no tree is mounted, and none was named.
    pub cgroup: Option<PathBuf>,
    /// The pin directory.
    pub pin_dir: PathBuf,
    /// Whether a bpf file system has to be mounted for it.
    pub must_mount: bool,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// What.
    pub feature: String,
    /// Whether it works.
    pub works: bool,
    /// Why it does not.
    pub why_not: Option<String>,
    /// What it is needed for.
    pub needed_for: &'static str,
}

/// What was found, by what needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Findings {
    /// What the process may do.
    pub capabilities: Vec<Finding>,
    /// What eBPF needs.
    pub ebpf: Vec<Finding>,
    /// What nftables needs.
    pub nft: Vec<Finding>,
    /// What the edge layer would use.
    pub edge: Vec<Finding>,
}

impl Finding {
    /// From what came of a trial.
    pub fn new(feature: impl Into<String>, needed_for: &'static str, outcome: Result<(), String>) -> Self {
        let (feature, works) = (feature.into(), outcome.is_ok());
        Self { feature, works, why_not: outcome.err(), needed_for }
    }
}

impl Findings {
    /// Everything, in the order of trying.
    pub fn all(&self) -> impl Iterator<Item = &Finding> {
        self.capabilities.iter().chain(&self.ebpf).chain(&self.nft).chain(&self.edge)
    }
}

/// Tries everything.
pub fn probe(place: &Place) -> Findings {
    let capabilities = privilege::needed().into_iter().map(|(name, why, has)| {
        let outcome = if has { Ok(()) } else { Err("this process does not have it".to_owned()) };
        Finding::new(name, why, outcome)
    });
    Findings {
        capabilities: capabilities.collect(),
        ebpf: ebpf::probe(place),
        nft: nft::probe(),
        edge: vec![edge::probe()],
    }
}

/// Whether all of it works; if not, what fails first.
pub fn verdict(findings: &[Finding]) -> Result<(), String> {
    let failed = findings.iter().find_map(|finding| Some((&finding.feature, finding.why_not.as_ref()?)));
    failed.map_or(Ok(()), |(feature, why_not)| Err(format!("{feature}: {why_not}")))
}

#[cfg(test)]
mod tests {
    use super::{Finding, verdict};

    #[test]
    fn the_first_thing_that_fails_is_the_reason() {
        let works = Finding::new("a", "x", Ok(()));
        let fails = |feature| Finding::new(feature, "x", Err("no".to_owned()));
        assert_eq!(verdict(std::slice::from_ref(&works)), Ok(()));
        assert_eq!(verdict(&[works, fails("b"), fails("c")]), Err("b: no".to_owned()));
    }
}
