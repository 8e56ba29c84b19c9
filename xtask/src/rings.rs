//! The four rings of tests, from what needs nothing to what needs a cluster.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use serde_json::Value;

use crate::build::{self, Profile};
use crate::ebpf;
use crate::host::Host;
use crate::image;
use crate::parts::{self, Parts};
use crate::place::Place;
use crate::progress;
use crate::report::{self, Outcome, Report};
use crate::run;
use crate::setup;

/// Tests of the lab that run side by side. Most of their time is waiting, so more than there are cores.
const SIDE_BY_SIDE: &str = "4";

/// One ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Needs nothing.
    Host,
    /// Root and one kernel: programs load, and agree with the host.
    Kernel,
    /// Root: namespaces, cgroups and traffic.
    Lab,
    /// Root, and a real API server.
    Cluster,
}

impl Ring {
    pub(crate) const ALL: [Self; 4] = [Self::Host, Self::Kernel, Self::Lab, Self::Cluster];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Kernel => "kernel",
            Self::Lab => "lab",
            Self::Cluster => "cluster",
        }
    }

    /// Traffic is timed, and must not compete with a compiler.
    fn needs_quiet(self) -> bool {
        match self {
            Self::Host | Self::Kernel => false,
            Self::Lab | Self::Cluster => true,
        }
    }

    fn needs_kernel(self) -> bool {
        match self {
            Self::Host => false,
            Self::Kernel | Self::Lab | Self::Cluster => true,
        }
    }
}

impl FromStr for Ring {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|ring| ring.name() == text) {
            Some(ring) => Ok(ring),
            None => bail!("there is no ring `{text}`: host, kernel, lab or cluster"),
        }
    }
}

/// Everything a ring's tests are started with.
struct Round<'a> {
    place: &'a Place,
    host: Host,
    parts: Option<PathBuf>,
    /// The daemon's image, for the cluster ring.
    image: Option<PathBuf>,
    /// Why nothing could be prepared for the rings that need a kernel.
    unready: Option<String>,
    filter: Option<&'a str>,
}

/// Prepares, builds and runs the rings; a failing ring does not stop the next.
pub(crate) fn run(place: &Place, rings: &[Ring], filter: Option<&str>) -> Result<ExitCode> {
    if rings.iter().all(|ring| ring.needs_kernel()) && !run::is_root() {
        bail!("these tests make namespaces and load eBPF programs: please run them as root");
    }
    let mut round =
        Round { place, host: Host::ensure(place)?, parts: None, image: None, unready: None, filter };
    let mut parts = round.prepare(rings);
    let mut reports = Vec::new();
    for ring in rings {
        if let Some(parts) = parts.take_if(|_| ring.needs_quiet()) {
            round.parts = arrived(parts);
        }
        reports.push(round.ring(*ring));
    }
    report::print(&reports);
    Ok(if reports.iter().all(Report::is_good) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn started(parts: Result<Parts>) -> Option<Parts> {
    parts.map_err(|error| progress::say(&format!("{error:#}"))).ok()
}

fn arrived(parts: Parts) -> Option<PathBuf> {
    parts.wait().map_err(|error| progress::say(&format!("{error:#}"))).ok()
}

impl Round<'_> {
    /// Tools and builds. What fails here stops the rings that need a kernel, and no other.
    fn prepare(&mut self, rings: &[Ring]) -> Option<Parts> {
        if !run::is_root() || !rings.iter().any(|ring| ring.needs_kernel()) {
            return None;
        }
        // The Kubernetes parts take longest and are started first.
        let parts = if rings.contains(&Ring::Cluster) { started(Parts::start(self.place)) } else { None };
        if let Err(error) = self.tools_and_programs(rings) {
            progress::say(&format!("{error:#}"));
            self.unready = Some("what it needs could not be installed or built (see above)".to_owned());
        }
        parts
    }

    fn tools_and_programs(&mut self, rings: &[Ring]) -> Result<()> {
        setup::lab(self.place, &self.host)?;
        if rings.iter().any(|ring| ring.needs_quiet()) {
            setup::pages(self.place)?;
        }
        if rings.contains(&Ring::Cluster) {
            setup::runtime(self.place)?;
            // Before the workspace, which then puts the ordinary daemon back in its place.
            self.image = Some(image::make(self.place, Profile::Dev)?);
        }
        let object = ebpf::build(self.place, &self.host)?;
        build::workspace(&self.host, Profile::Dev, &object)
    }

    fn ring(&self, ring: Ring) -> Report {
        progress::say(&format!("--- ring {} ---", ring.name()));
        let began = Instant::now();
        let outcome = match self.obstacle(ring) {
            Some(obstacle) => {
                progress::say(&obstacle);
                Outcome::impossible(obstacle)
            }
            None => self.outcome(ring),
        };
        Report { ring, outcome, elapsed: began.elapsed() }
    }

    fn obstacle(&self, ring: Ring) -> Option<String> {
        if ring.needs_kernel() && !run::is_root() {
            return Some(format!("the {} ring needs root", ring.name()));
        }
        if let Some(why) = self.unready.as_ref().filter(|_| ring.needs_kernel()) {
            return Some(format!("the {} ring could not run: {why}", ring.name()));
        }
        if ring == Ring::Cluster && self.parts.is_none() {
            return Some(
                "the cluster ring needs the Kubernetes parts, which could not be built (see above)"
                    .to_owned(),
            );
        }
        None
    }

    fn outcome(&self, ring: Ring) -> Outcome {
        let commands = self.commands(ring).context("could not list the tests");
        let commands = match commands {
            Ok(commands) => commands,
            Err(error) => return Outcome::impossible(format!("{error:#}")),
        };
        commands
            .into_iter()
            .map(|mut command| report::follow(&mut command))
            .fold(Outcome::default(), Outcome::and)
    }

    fn commands(&self, ring: Ring) -> Result<Vec<Command>> {
        match ring {
            Ring::Host => self.host_tests(),
            // Of the laboratory and of the daemon, whose tests are passed over where nobody asks for them.
            Ring::Kernel => Ok(vec![self.target("kernel", &["--include-ignored"])]),
            Ring::Lab => self.lab_tests(),
            Ring::Cluster => Ok(vec![self.target("cluster", &Self::threads())]),
        }
    }

    /// All that needs neither root nor eBPF: libraries, programs, documentation, and integration tests outside the lab.
    fn host_tests(&self) -> Result<Vec<Command>> {
        let mut tests = self.cargo_test();
        tests.args(["--lib", "--bins"]);
        let all = integration_tests(&self.host, Home::Elsewhere)?;
        for name in all.iter().filter(|name| !has_a_ring(name)) {
            tests.args(["--test", name]);
        }
        let mut examples = self.cargo_test();
        examples.arg("--doc");
        Ok(vec![self.filtered(tests, &[]), self.filtered(examples, &[])])
    }

    /// Every test of the lab that is not a ring of its own, so that none is forgotten; those with a daemon a second time
    /// with the packet filter alone.
    fn lab_tests(&self) -> Result<Vec<Command>> {
        let all = integration_tests(&self.host, Home::Lab)?;
        let names = all.iter().filter(|name| !has_a_ring(name));
        let mut commands: Vec<Command> = names.map(|name| self.target(name, &Self::threads())).collect();
        // The edge layer is there with eBPF only.
        let harness = [&Self::threads()[..], &["--skip", "edge"]].concat();
        let mut again = self.target(Ring::Lab.name(), &harness);
        again.env("SLUICE_DATAPLANE", "nftables");
        commands.push(again);
        Ok(commands)
    }

    fn target(&self, name: &str, harness: &[&str]) -> Command {
        let mut command = self.cargo_test();
        command.args(["--test", name]);
        self.filtered(command, harness)
    }

    fn cargo_test(&self) -> Command {
        let mut command = self.host.cargo("test");
        command.args(["--workspace", "--no-fail-fast"]);
        build::point_out(&mut command, self.place, Profile::Dev);
        if let Some(parts) = &self.parts {
            command.env(parts::VARIABLE, parts);
        }
        if let Some(image) = &self.image {
            command.env(image::VARIABLE, image);
        }
        command
    }

    fn filtered(&self, mut command: Command, harness: &[&str]) -> Command {
        command.args(self.filter);
        if !harness.is_empty() {
            command.arg("--").args(harness);
        }
        command
    }

    fn threads() -> Vec<&'static str> {
        match std::env::var_os("RUST_TEST_THREADS") {
            Some(_) => Vec::new(),
            None => vec!["--test-threads", SIDE_BY_SIDE],
        }
    }
}

/// Where an integration test belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    Lab,
    Elsewhere,
}

/// Whether these tests are a ring of their own.
fn has_a_ring(name: &str) -> bool {
    [Ring::Kernel, Ring::Cluster].map(Ring::name).contains(&name)
}

/// The names of all integration tests there.
fn integration_tests(host: &Host, home: Home) -> Result<Vec<String>> {
    let text = run::ask(host.cargo("metadata").args(["--no-deps", "--format-version", "1"]))?;
    Ok(named_tests(&serde_json::from_str(&text)?, home))
}

fn named_tests(metadata: &Value, home: Home) -> Vec<String> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let there = packages.filter(|package| (package["name"] == "lab") == (home == Home::Lab));
    let targets = there.filter_map(|package| package["targets"].as_array()).flatten();
    let tests = targets.filter(|target| target["kind"][0] == "test");
    tests.filter_map(|target| target["name"].as_str()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tests_of_the_lab_are_told_from_all_others() {
        let metadata = json!({ "packages": [
            { "name": "lab", "targets": [{ "kind": ["lib"], "name": "lab" }, { "kind": ["test"], "name": "kernel" }] },
            { "name": "sluice", "targets": [{ "kind": ["bin"], "name": "sluice" }, { "kind": ["test"], "name": "cli" }] },
        ]});
        assert_eq!(named_tests(&metadata, Home::Lab), ["kernel"]);
        assert_eq!(named_tests(&metadata, Home::Elsewhere), ["cli"]);
    }
}
