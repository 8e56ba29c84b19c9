//! The daemon of one node, as a process, and what its own commands say about it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::mandate::Mandate;
use crate::process::{Process, program};
use crate::topology::Node;
use crate::wait;

/// Where the daemon's objects come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A folder of manifests.
    Folder(PathBuf),
    /// An API server.
    Kubeconfig(PathBuf),
}

/// How to start a daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where its objects come from.
    pub source: Source,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Capabilities it may keep, by number; `None` for all.
    pub capabilities: Option<Vec<u8>>,
    /// Who is asked about its calls of `bpf(2)`.
    pub mandate: Option<Mandate>,
    /// Where its log goes, if not to the test.
    pub log: Option<Arc<File>>,
    /// Its environment, besides the test's own.
    pub environment: Vec<(String, String)>,
}

impl Settings {
    /// A folder of manifests, and nothing special.
    pub fn folder(folder: &Path) -> Self {
        Self::of(Source::Folder(folder.to_owned()))
    }

    /// An API server, and nothing special.
    pub fn kubeconfig(file: &Path) -> Self {
        Self::of(Source::Kubeconfig(file.to_owned()))
    }

    fn of(source: Source) -> Self {
        let (arguments, environment) = (Vec::new(), Vec::new());
        Self { source, arguments, capabilities: None, mandate: None, log: None, environment }
    }

    /// Adds arguments.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }
}

/// One line of `sluice services -o json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port.
    pub port_name: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Addresses that answer.
    pub addresses: Vec<String>,
    /// `forward`, `reject` or `drop`.
    pub verdict: String,
    /// How many endpoints get new flows.
    pub endpoints: u32,
    /// How long a client keeps its endpoint.
    pub affinity_seconds: Option<u32>,
    /// Which list is valid.
    pub generation: u32,
    /// Its number in the kernel.
    pub id: u32,
}

/// One line of `sluice backends -o json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRow {
    /// Namespace of the Service.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Name of the port.
    pub port_name: String,
    /// `TCP` or `UDP`.
    pub protocol: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// Address and port.
    pub endpoint: String,
    /// `active` or `kept`.
    pub state: String,
    /// Its number in the kernel.
    pub id: u32,
}

/// A daemon that was started. It is killed on drop; what it pinned stays.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    settings: Settings,
    process: Process,
    /// Its log was handed to the test, which judges it.
    judged: bool,
}

/// How long a daemon may take for anything it does at once. Generous: other tests run beside this one.
const PATIENCE: Duration = Duration::from_secs(20);

impl Node {
    /// Starts a daemon and waits until it is synced.
    pub fn daemon(&self, settings: Settings) -> Result<Daemon> {
        let daemon = self.daemon_unsynced(settings)?;
        daemon.wait_synced()?;
        Ok(daemon)
    }

    /// Starts a daemon.
    pub fn daemon_unsynced(&self, settings: Settings) -> Result<Daemon> {
        let process = start(self, &settings)?;
        Ok(Daemon { node: self.clone(), settings, process, judged: false })
    }

    /// Runs `sluice VERB ...` on the node, for its daemon or what that left behind.
    pub fn sluice(&self, arguments: &[&str]) -> Result<Output> {
        self.sluice_command(arguments)?.output().context("could not run sluice")
    }

    /// The same, not started yet.
    pub fn sluice_command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.place().command(sluice()?);
        command.args(arguments);
        let verb = arguments.first().copied().unwrap_or_default();
        if !["man", "completions"].contains(&verb) {
            command.arg("--pin-dir").arg(self.pin_dir());
        }
        if ["status", "explain", "diff", "audit", "drain"].contains(&verb) {
            command.arg("--socket").arg(self.socket());
        }
        Ok(command)
    }

    /// What `sluice probe` says on the node, and whether it says that a dataplane can run. Capabilities as for
    /// [`Settings`].
    pub fn probe(&self, capabilities: Option<Vec<u8>>, arguments: &[&str]) -> Result<(bool, Value)> {
        let mut command = self.place().command(sluice()?);
        // The ring may be running for one dataplane; a probe is asked about all.
        command.env_remove("SLUICE_DATAPLANE").args(["probe", "-o", "json"]).args(arguments);
        command.arg("--cgroup").arg(self.cgroup().path()).arg("--pin-dir").arg(self.pin_dir());
        if let Some(kept) = capabilities {
            keep_only(&mut command, kept);
        }
        let output = command.output().context("could not run sluice probe")?;
        Ok((output.status.success(), parse(&output)?))
    }

    /// Runs `sluice plan ...` on the node, as somebody who may do nothing.
    pub fn plan(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.place().command(sluice()?);
        command.arg("plan").args(arguments).args(["--node", self.name()]);
        become_nobody(&mut command);
        command.output().context("could not run sluice plan")
    }

    /// The plan for this node as a document, and nothing wrong with asking for it.
    pub fn plan_document(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.plan(&[arguments, &["-o", "json"]].concat())?;
        ensure!(output.status.success(), "sluice plan failed: {}", String::from_utf8_lossy(&output.stderr));
        parse(&output)
    }

    /// What is programmed, service by service.
    pub fn services(&self) -> Result<Vec<ServiceRow>> {
        self.read(&["services", "-o", "json"])
    }

    /// What is programmed, endpoint by endpoint.
    pub fn backends(&self) -> Result<Vec<BackendRow>> {
        self.read(&["backends", "-o", "json"])
    }

    /// `sluice status -o json`, whatever its exit code.
    pub fn status(&self) -> Result<Value> {
        let output = self.sluice(&["status", "-o", "json"])?;
        parse(&output)
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, arguments: &[&str]) -> Result<T> {
        let output = self.sluice(arguments)?;
        ensure!(
            output.status.success(),
            "sluice {arguments:?} failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        parse(&output)
    }

    /// Waits until `count` endpoints of a Service get new flows, all its ports and families together.
    pub fn wait_endpoints(&self, namespace: &str, name: &str, count: u32) -> Result<()> {
        wait::until(&format!("{count} endpoints of {namespace}/{name}"), PATIENCE, || {
            let services = self.services()?;
            let rows = services.iter().filter(|row| row.namespace == namespace && row.name == name);
            let found = rows.map(|row| row.endpoints).reduce(|all, some| all + some);
            ensure!(found == Some(count), "{found:?} in {services:?}");
            Ok(())
        })
    }

    /// Waits until all ports of a Service do this with new flows: `forward`, `reject` or `drop`.
    pub fn wait_verdict(&self, namespace: &str, name: &str, verdict: &str) -> Result<()> {
        self.wait_rows(verdict, namespace, name, |row| row.verdict == verdict)
    }

    /// Waits until clients keep their endpoint for so many seconds at all ports of a Service.
    pub fn wait_affinity(&self, namespace: &str, name: &str, seconds: Option<u32>) -> Result<()> {
        let what = format!("affinity for {seconds:?} seconds");
        self.wait_rows(&what, namespace, name, |row| row.affinity_seconds == seconds)
    }

    fn wait_rows(
        &self,
        what: &str,
        namespace: &str,
        name: &str,
        is_it: impl Fn(&ServiceRow) -> bool,
    ) -> Result<()> {
        wait::until(&format!("{what} at {namespace}/{name}"), PATIENCE, || {
            let services = self.services()?;
            let ours = |row: &&ServiceRow| row.namespace == namespace && row.name == name;
            let rows: Vec<_> = services.iter().filter(ours).collect();
            ensure!(!rows.is_empty() && rows.iter().all(|row| is_it(row)), "{services:?}");
            Ok(())
        })
    }

    /// Waits until just these addresses are endpoints of a Service that get new flows, whatever the port.
    pub fn wait_active(&self, namespace: &str, name: &str, addresses: &[IpAddr]) -> Result<()> {
        let wanted: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        wait::until(&format!("{wanted:?} for {namespace}/{name}"), PATIENCE, || {
            let backends = self.backends()?;
            let rows = backends.iter().filter(|row| row.namespace == namespace && row.name == name);
            let active = rows.filter(|row| row.state == "active");
            let found = active.map(|row| Ok(row.endpoint.parse::<SocketAddr>()?.ip()));
            ensure!(found.collect::<Result<BTreeSet<_>>>()? == wanted, "{backends:?}");
            Ok(())
        })
    }

    /// How often the kernel has counted something.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        status["kernel"]["counters"][name].as_u64().with_context(|| format!("no counter {name}: {status:#}"))
    }

    /// Waits until a Service is not programmed at all.
    pub fn wait_gone(&self, namespace: &str, name: &str) -> Result<()> {
        wait::until(&format!("the end of {namespace}/{name}"), PATIENCE, || {
            let services = self.services()?;
            ensure!(
                !services.iter().any(|row| row.namespace == namespace && row.name == name),
                "{services:?}"
            );
            Ok(())
        })
    }

    /// Waits until `status` shows a problem of this object and field, and returns its message.
    pub fn wait_problem(&self, object: &str, field: &str) -> Result<String> {
        wait::until(&format!("a problem of {object} in {field}"), PATIENCE, || {
            let status = self.status()?;
            let problems = status["problems"].as_array().context("status without problems")?;
            let found =
                problems.iter().find(|problem| problem["object"] == object && problem["field"] == field);
            let found = found.with_context(|| format!("the problems are {problems:#?}"))?;
            Ok(found["message"].as_str().unwrap_or_default().to_owned())
        })
    }
}

fn parse<T: for<'de> Deserialize<'de>>(output: &Output) -> Result<T> {
    serde_json::from_slice(&output.stdout).with_context(|| {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        format!("not the JSON that was expected: {out}\n{err}")
    })
}

fn sluice() -> Result<PathBuf> {
    program("SLUICE_BIN", "sluice")
}

fn start(node: &Node, settings: &Settings) -> Result<Process> {
    let place = node.place();
    let mut command = place.command(sluice()?);
    command.arg("run").args(arguments(node, settings));
    command.envs(settings.environment.iter().map(|(name, value)| (name, value)));
    if let Some(kept) = &settings.capabilities {
        keep_only(&mut command, kept.clone());
    }
    if settings.mandate.is_some() {
        Mandate::bind(&mut command);
    }
    let log = match &settings.log {
        Some(file) => Stdio::from(file.try_clone()?),
        None => Stdio::piped(),
    };
    let process = place.start_with(command, log)?;
    if let Some(mandate) = &settings.mandate {
        mandate.keep(process.pid())?;
    }
    Ok(process)
}

fn arguments(node: &Node, settings: &Settings) -> Vec<OsString> {
    let (flag, place) = match &settings.source {
        Source::Folder(folder) => ("--source", folder),
        Source::Kubeconfig(file) => ("--kubeconfig", file),
    };
    let mut all: Vec<OsString> = vec![flag.into(), place.into()];
    all.extend(["--node-name".into(), node.name().into(), "--cgroup".into(), node.cgroup().path().into()]);
    all.extend(["--pin-dir".into(), node.pin_dir().into(), "--socket".into(), node.socket().into()]);
    all.extend(["--log-format", "json"].map(OsString::from));
    // What is told about from a folder is told layer by layer: the edge layer is there where a test asks for it.
    if let Source::Folder(_) = &settings.source
        && !settings.arguments.iter().any(|argument| argument.starts_with("--edge="))
    {
        all.push("--edge=off".into());
    }
    // A table of flows as big as a machine's memory suggests, for each of a hundred daemons, would be more than that.
    if !settings.arguments.iter().any(|argument| argument.starts_with("--edge-flows")) {
        all.push("--edge-flows=16384".into());
    }
    all.extend(settings.arguments.iter().map(OsString::from));
    all
}

/// Number after the last capability there is.
const CAPABILITIES: u8 = 41;

/// Takes all other capabilities away. The bounding set is what root gets at exec().
fn keep_only(command: &mut Command, kept: Vec<u8>) {
    use std::os::unix::process::CommandExt as _;
    let drop_others = move || {
        for capability in (0..CAPABILITIES).filter(|capability| !kept.contains(capability)) {
            // SAFETY: takes plain numbers.
            if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(drop_others) };
}

/// By custom, the user and the group that own nothing.
const NOBODY: u32 = 65_534;

/// Has a command give up all rights at the last moment: the namespaces are entered before.
pub fn become_nobody(command: &mut Command) {
    use std::os::unix::process::CommandExt as _;
    let change = || {
        nix::unistd::setgroups(&[])?;
        nix::unistd::setgid(NOBODY.into())?;
        Ok(nix::unistd::setuid(NOBODY.into())?)
    };
    // SAFETY: the closure only makes system calls.
    unsafe { command.pre_exec(change) };
}

impl Daemon {
    /// Waits until it says that it is synced.
    pub fn wait_synced(&self) -> Result<()> {
        wait::until("the daemon to be synced", PATIENCE, || {
            let output = self.node.sluice(&["status", "-o", "json"])?;
            let text = || String::from_utf8_lossy(&output.stdout).into_owned();
            ensure!(output.status.success(), "{}\n{}\nits log:\n{}", output.status, text(), self.process.err);
            Ok(())
        })
    }

    /// The node it is on.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Kills it without warning.
    pub fn kill9(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.end(PATIENCE).map(drop)
    }

    /// Asks it to end, and waits.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.end(PATIENCE)
    }

    /// Starts it again, after it has ended, and waits until it is synced.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(!self.process.is_running(), "the daemon still runs");
        self.process = start(&self.node, &self.settings)?;
        self.wait_synced()
    }

    /// Waits for its end, when it is expected to give up. Whoever gets its log judges it.
    pub fn gives_up(&mut self) -> Result<(Option<i32>, String)> {
        self.judged = true;
        let status = self.process.end(PATIENCE)?;
        Ok((status.code(), self.process.err.to_string()))
    }

    /// Its log so far.
    pub fn log(&self) -> Vec<String> {
        self.process.err.all()
    }

    /// Waits for a line of its log that contains one of `words`.
    pub fn wait_log(&self, words: &[&str]) -> Result<String> {
        let heard = |lines: &[String]| {
            lines.iter().find(|line| words.iter().any(|word| line.contains(word))).cloned()
        };
        let found = self.process.err.wait(PATIENCE, heard);
        found.with_context(|| format!("none of {words:?} in its log:\n{}", self.process.err))
    }

    /// The errors that it has logged so far. Whoever gets them judges them.
    pub fn errors(&mut self) -> Vec<String> {
        self.judged = true;
        self.log().into_iter().filter(|line| is_error(line)).collect()
    }

    /// Fails if it has logged an error.
    pub fn no_errors(&self) -> Result<()> {
        match self.log().iter().find(|line| is_error(line)) {
            Some(line) => bail!("the daemon logged an error: {line}"),
            None => Ok(()),
        }
    }
}

/// An error in the log fails the test that sees it, also one that looks elsewhere.
impl Drop for Daemon {
    fn drop(&mut self) {
        if !self.judged
            && let Err(error) = self.no_errors()
            && !std::thread::panicking()
        {
            panic!("{error:#}");
        }
    }
}

fn is_error(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|event| event["level"] == "ERROR")
}
