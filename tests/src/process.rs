//! Processes in their places: a network namespace, a control group, and an end together with the thread that started
//! them.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cgroup::Cgroup;
use crate::netns::Netns;
use crate::wait;

/// Where a process runs.
#[derive(Clone, Debug)]
pub struct Place {
    netns: Netns,
    cgroup: Option<Arc<Cgroup>>,
}

impl Place {
    /// A network namespace, and the control group of the caller.
    pub fn new(netns: &Netns) -> Self {
        Self { netns: netns.clone(), cgroup: None }
    }

    /// The same in a control group. A socket belongs to the group that its maker was in, so the process must be in
    /// before its first instruction.
    pub fn within(netns: &Netns, cgroup: &Arc<Cgroup>) -> Self {
        Self { netns: netns.clone(), cgroup: Some(Arc::clone(cgroup)) }
    }

    /// A command that will run there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let netns = self.netns.clone();
        let door = self.cgroup.as_ref().map(|group| group.door());
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        // SAFETY: the closure only makes system calls, on descriptors that it owns.
        unsafe { command.pre_exec(move || move_in(&netns, door.as_ref())) };
        command
    }

    /// Starts a command made by [`Place::command`], and listens to it.
    pub fn start(&self, command: Command) -> Result<Process> {
        self.start_with(command, Stdio::piped())
    }

    /// The same with somebody else who hears its complaints.
    pub(crate) fn start_with(&self, mut command: Command, complaints: Stdio) -> Result<Process> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdout(Stdio::piped()).stderr(complaints);
        let mut child = command.spawn().with_context(|| format!("could not start {name}"))?;
        let (out, err) = (Lines::default(), Lines::default());
        child.stdout.take().into_iter().for_each(|pipe| out.follow(pipe));
        child.stderr.take().into_iter().for_each(|pipe| err.follow(pipe));
        Ok(Process { child, name, out, err, _cgroup: self.cgroup.clone() })
    }
}

fn move_in(netns: &Netns, door: Option<&Result<OwnedFd>>) -> std::io::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    match door {
        None => {}
        Some(Ok(door)) => nix::unistd::write(door, b"0").map(drop)?,
        Some(Err(_)) => return Err(std::io::Error::from_raw_os_error(libc::ENOENT)),
    }
    Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?)
}

/// A running child. It is killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    /// What it prints.
    pub out: Lines,
    /// What it complains about.
    pub err: Lines,
    _cgroup: Option<Arc<Cgroup>>,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal. A process that has ended and was waited for is not signalled: its number may be another's.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            kill(self.pid(), signal).with_context(|| format!("could not signal {}", self.name))?;
        }
        Ok(())
    }

    /// Writes one line to its standard input, if that is open.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let Some(stdin) = self.child.stdin.as_mut() else { bail!("{} has no standard input", self.name) };
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Closes its standard input.
    pub fn hush(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end.
    pub fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.name);
        let status = wait::until(&what, limit, || self.child.try_wait()?.context("it still runs"))?;
        self.out.until_closed();
        self.err.until_closed();
        Ok(status)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it prints a line that `is_it` accepts, and returns that line.
    pub fn line(&mut self, limit: Duration, is_it: impl Fn(&str) -> bool) -> Result<String> {
        let found = self.out.wait(limit, |lines| lines.iter().find(|line| is_it(line)).cloned());
        found.with_context(|| {
            let status = self.child.try_wait().ok().flatten().map(describe).unwrap_or("it runs".to_owned());
            format!(
                "{} did not say what was waited for ({status}); it said:\n{}{}",
                self.name, self.out, self.err
            )
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Lines that arrive from a child.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<Heard>, Condvar)>);

#[derive(Debug, Default)]
struct Heard {
    lines: Vec<String>,
    closed: bool,
}

impl Lines {
    fn follow(&self, pipe: impl Read + Send + 'static) {
        let this = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                this.lock().lines.push(line);
                this.0.1.notify_all();
            }
            this.lock().closed = true;
            this.0.1.notify_all();
        });
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All so far.
    pub fn all(&self) -> Vec<String> {
        self.lock().lines.clone()
    }

    /// The last one so far.
    pub fn last(&self) -> Option<String> {
        self.lock().lines.last().cloned()
    }

    /// Waits until `find` finds something; `None` when the time is up, or when no more lines can come.
    pub fn wait<T>(&self, limit: Duration, find: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let end = Instant::now() + limit;
        let mut heard = self.lock();
        loop {
            if let Some(found) = find(&heard.lines) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || heard.closed {
                return None;
            }
            heard = self.0.1.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A grandchild may hold the pipe open, so this is not for ever.
    fn until_closed(&self) {
        let end = Instant::now() + Duration::from_secs(1);
        let mut heard = self.lock();
        while !heard.closed && Instant::now() < end {
            let pause = Duration::from_millis(50);
            heard = self.0.1.wait_timeout(heard, pause).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl std::fmt::Display for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.all().iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Finds one of our own programs: by an environment variable, else beside the running one.
pub fn program(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("could not find the running program")?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("no program {name} beside {}; build it or set {variable}", own.display()))
}
