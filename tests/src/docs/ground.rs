//! The stage of one page: a node `n1` with pods, a daemon, a folder in which the files lie that the page names, and a
//! shell that runs the page's commands in their order.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::said::is_as_told;
use super::{Command, listed, world};
use crate::control_plane::{ControlPlane, part};
use crate::process::{Process, program};
use crate::server::{Ports, Server};
use crate::topology::{Lab, Node};
use crate::wait;

/// How long a command may take, and how long one that lasts is watched.
const PATIENCE: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_secs(2);

/// What a shell says of a command that SIGINT ended.
const INTERRUPTED: i32 = 130;

/// The stage.
#[derive(Debug)]
pub struct Ground {
    work: PathBuf,
    node: Node,
    /// As the page has it, so that it can be started again.
    daemon: Option<(String, Process)>,
    last: String,
    _servers: Vec<Server>,
    _lab: Lab,
}

/// What came of a command.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ground {
    /// One node and a folder of manifests.
    pub fn of_a_node() -> Result<Self> {
        let this = Self::on(Lab::new()?)?;
        world::lay_out(&this.work, &world::objects(&this.node)?)?;
        Ok(Self { last: "sluice run --source DIR".to_owned(), ..this })
    }

    /// The same with an API server, which knows the same objects.
    pub fn of_a_cluster(plane: &ControlPlane) -> Result<Self> {
        let this = Self::on(Lab::on(plane.wire())?)?;
        let all = world::objects(&this.node)?;
        world::lay_out(&this.work, &all)?;
        let objects = plane.objects();
        let token = objects.token("kube-system", "sluice")?;
        fs::write(this.work.join("FILE"), plane.kubeconfig(&token))?;
        fs::write(this.work.join("admin"), plane.admin_kubeconfig())?;
        for tool in ["kubectl", "kube-proxy"] {
            symlink(part(tool)?, this.work.join("bin").join(tool))?;
        }
        this.sweep()?;
        // The ranges of a node never change, and the page before had another of this name.
        for node in all.iter().filter(|object| object["kind"] == "Node" && objects.get(object).is_ok()) {
            objects.delete(node)?;
        }
        objects.apply(&world::more_of_a_cluster()?)?;
        objects.apply_with_status(&all)?;
        Ok(Self { last: "sluice run --kubeconfig FILE".to_owned(), ..this })
    }

    /// What the page before left, which no kubelet ends and no collector gathers.
    fn sweep(&self) -> Result<()> {
        let script = "kubectl -n kube-system delete daemonsets,pods --all --force --grace-period=0";
        let mut sweeper = self.shell(script)?;
        let status = sweeper.end(PATIENCE)?;
        ensure!(status.success(), "{}", sweeper.err);
        Ok(())
    }

    fn on(lab: Lab) -> Result<Self> {
        let node = lab.node("n1")?;
        let _client = node.pod("client")?;
        let servers = ["a", "b"].map(|name| serve(&node, name)).into_iter().collect::<Result<_>>()?;
        let work = lab.folder().join("work");
        fs::create_dir_all(work.join("bin"))?;
        symlink(program("SLUICE_BIN", "sluice")?, work.join("bin/sluice"))?;
        furnish(&node, &work)?;
        Ok(Self { work, node, daemon: None, last: String::new(), _servers: servers, _lab: lab })
    }

    /// Runs a page's commands; says what was wrong with any of them.
    pub fn tell(&mut self, commands: &[Command]) -> Vec<String> {
        let complaint = |command: &Command, error| {
            format!("{}:{}: {}\n  {error:#}", command.page, command.line, command.text)
        };
        let mut wrong: Vec<String> = commands
            .iter()
            .filter_map(|command| self.one(command).err().map(|error| complaint(command, error)))
            .collect();
        wrong.extend(self.stop_daemon().err().map(|error| format!("{error:#}")));
        wrong
    }

    fn one(&mut self, command: &Command) -> Result<()> {
        if command.is_daemon() {
            self.stop_daemon()?;
            return self.start_daemon(&command.text);
        }
        match (command.wants_no_daemon(), self.daemon.is_some()) {
            (true, true) => self.stop_daemon()?,
            (false, false) => self.start_daemon(&self.last.clone())?,
            (true, false) | (false, true) => {}
        }
        let Some(told) = &command.answer else { return self.ended_well(command).map(drop) };
        wait::until("what the page says", Duration::from_secs(20), || {
            let outcome = self.ended_well(command)?;
            ensure!(is_as_told(told, &outcome.out), "it says:\n{}", outcome.out);
            std::thread::sleep(Duration::from_millis(100));
            Ok(())
        })
    }

    fn ended_well(&self, command: &Command) -> Result<Outcome> {
        let outcome = self.run(command)?;
        let wanted = listed::code(command);
        let is_good = outcome.code == Some(wanted) || command.lasts() && outcome.code == Some(INTERRUPTED);
        ensure!(is_good, "exit code {:?}, not {wanted}\n{}{}", outcome.code, outcome.out, outcome.err);
        Ok(outcome)
    }

    fn run(&self, command: &Command) -> Result<Outcome> {
        let before = self.members()?;
        let mut process = self.shell(&format!("set -euo pipefail\n{}", command.text))?;
        let ended = process.end(if command.lasts() { GLANCE } else { PATIENCE });
        let status = match (ended, command.lasts()) {
            (Ok(status), _) => status,
            (Err(error), false) => return Err(error),
            (Err(_), true) => {
                self.interrupt(&before, process.pid())?;
                process.end(PATIENCE)?
            }
        };
        let text =
            |lines: &crate::process::Lines| lines.all().iter().map(|line| format!("{line}\n")).collect();
        Ok(Outcome { code: status.code(), out: text(&process.out), err: text(&process.err) })
    }

    /// As a person's Ctrl-C does, for what the shell has started; those that only read from it then end by themselves.
    fn interrupt(&self, before: &BTreeSet<i32>, shell: Pid) -> Result<()> {
        let started =
            self.members()?.into_iter().filter(|pid| !before.contains(pid) && *pid != shell.as_raw());
        let is_reader = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            ["jq", "bash"].contains(&name.trim())
        };
        for pid in started.filter(|pid| !is_reader(pid)) {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        Ok(())
    }

    /// The processes of the node.
    fn members(&self) -> Result<BTreeSet<i32>> {
        let text = fs::read_to_string(self.node.cgroup().path().join("cgroup.procs"))?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn shell(&self, script: &str) -> Result<Process> {
        let place = self.node.place();
        let mut shell = place.command("bash");
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}:/usr/sbin:/sbin", self.work.join("bin").display());
        shell.args(["-c", script]).current_dir(&self.work).env("PATH", path);
        shell.env("SLUICE_CGROUP", self.node.cgroup().path()).env("SLUICE_PIN_DIR", self.node.pin_dir());
        shell.env("SLUICE_SOCKET", self.node.socket()).env("NODE_NAME", self.node.name());
        shell.env("KUBECONFIG", self.work.join("admin")).env("HOME", &self.work);
        shell.env("TERM", "dumb").env("LC_ALL", "C.UTF-8");
        place.start(shell)
    }

    fn start_daemon(&mut self, text: &str) -> Result<()> {
        let process = self.shell(&format!("exec {text}"))?;
        let (_, process) = self.daemon.insert((text.to_owned(), process));
        let log = process.err.clone();
        text.clone_into(&mut self.last);
        wait::until("the daemon to be synced", PATIENCE, || {
            let mut asked = self.shell("sluice status")?;
            let code = asked.end(PATIENCE)?.code();
            ensure!(code == Some(0), "{code:?}: {}\nits log:\n{log}", asked.out);
            Ok(())
        })
    }

    fn stop_daemon(&mut self) -> Result<()> {
        let Some((text, mut process)) = self.daemon.take() else { return Ok(()) };
        process.signal(Signal::SIGTERM)?;
        process.end(PATIENCE)?;
        match process.err.all().into_iter().find(|line| line.contains("ERROR")) {
            Some(line) => bail!("{text}: {line}"),
            None => Ok(()),
        }
    }
}

fn serve(node: &Node, name: &str) -> Result<Server> {
    let ports = Ports { tcp: vec![8080], udp: vec![5353, 8080], grace: Duration::ZERO };
    node.pod(name)?.serve_on(&ports)
}

/// Lays over the machine's folders what the pages expect there, or write to; only this test sees it.
fn furnish(node: &Node, work: &Path) -> Result<()> {
    for folder in ["/var/lib", "/usr/local/share"] {
        mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
            .with_context(|| format!("could not lay a folder over {folder}"))?;
    }
    world::node_files(Path::new("/var/lib"))?;
    fs::create_dir_all("/usr/local/share/man/man1")?;
    let hosts = work.join("hosts");
    fs::write(&hosts, format!("127.0.0.1 localhost\n::1 localhost\n{} NODE n1\n", node.v4()))?;
    let none = None::<&str>;
    mount(Some(&hosts), "/etc/hosts", none, MsFlags::MS_BIND, none)
        .context("could not lay a file over /etc/hosts")
}
