//! Clients in pods: single calls, and loads.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::{Answer, Progress};
use crate::process::{Place, Process};
use crate::server::agent;
use crate::topology::{Node, Pod};
use crate::wait;

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A line over a connection.
    Tcp,
    /// HTTP/1.1.
    Http,
    /// A datagram from a socket that is not connected.
    Udp,
    /// A datagram from a connected socket.
    UdpConnected,
}

/// How hard a load presses.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// For how long, at most.
    pub limit: Duration,
    /// Requests a second, all workers together; 0 for as many as go.
    pub rate: f64,
    /// How many at a time.
    pub workers: u32,
    /// One socket a worker, instead of one a request.
    pub keep: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { limit: Duration::from_secs(60), rate: 500.0, workers: 2, keep: false }
    }
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tcp, Self::Http, Self::Udp, Self::UdpConnected];

    const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Udp => "udp",
            Self::UdpConnected => "udp-connected",
        }
    }
}

impl Pod {
    /// Asks once.
    pub fn call(&self, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
        call(&self.place(), protocol, to, 1, false)?.pop().context("no answer")
    }

    /// Asks once and waits no longer than this for an answer.
    pub fn call_within(&self, protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Answer> {
        within(&self.place(), protocol, to, limit)
    }

    /// Asks several times, each time over a new socket.
    pub fn calls(&self, protocol: Protocol, to: SocketAddr, count: u32) -> Result<Vec<Answer>> {
        call(&self.place(), protocol, to, count, false)
    }

    /// Asks several times over one socket.
    pub fn talk(&self, protocol: Protocol, to: SocketAddr, count: u32) -> Result<Vec<Answer>> {
        call(&self.place(), protocol, to, count, true)
    }

    /// The version that an API server says it has, asked by a process of this pod with a kubeconfig.
    pub fn api_version(&self, kubeconfig: &Path) -> Result<String> {
        let mut command = self.place().command(agent()?);
        let output = command.arg("api-version").arg(kubeconfig).output().context("could not run a client")?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the client failed: {complaint}");
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts a load.
    pub fn load(&self, protocol: Protocol, to: SocketAddr, pace: Pace) -> Result<Load> {
        Load::start(&self.place(), protocol, to, pace)
    }
}

impl Node {
    /// Asks once, as a process of the node itself does.
    pub fn call(&self, protocol: Protocol, to: SocketAddr) -> Result<Answer> {
        call(&self.place(), protocol, to, 1, false)?.pop().context("no answer")
    }

    /// The same, and waits no longer than this for an answer.
    pub fn call_within(&self, protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Answer> {
        within(&self.place(), protocol, to, limit)
    }
}

fn within(place: &Place, protocol: Protocol, to: SocketAddr, limit: Duration) -> Result<Answer> {
    let limit = limit.as_millis().to_string();
    ask(place, protocol, to, &["--timeout-ms", &limit])?.pop().context("no answer")
}

fn call(place: &Place, protocol: Protocol, to: SocketAddr, count: u32, keep: bool) -> Result<Vec<Answer>> {
    let count = count.to_string();
    let how = ["--count", &count, "--keep"];
    ask(place, protocol, to, if keep { &how } else { &how[..2] })
}

fn ask(place: &Place, protocol: Protocol, to: SocketAddr, how: &[&str]) -> Result<Vec<Answer>> {
    let mut command = place.command(agent()?);
    command.args(["call", protocol.word(), &to.to_string()]).args(how);
    let output = command.output().context("could not run a client")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the client failed: {complaint}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// A stream of requests that goes on until it is stopped, its time is over, or it is dropped.
#[derive(Debug)]
pub struct Load(Process);

impl Load {
    /// Starts one anywhere.
    pub fn start(place: &Place, protocol: Protocol, to: SocketAddr, pace: Pace) -> Result<Self> {
        let mut command = place.command(agent()?);
        let Pace { limit, rate, workers, keep } = pace;
        command.args(["load", protocol.word(), &to.to_string(), "--rate", &rate.to_string()]);
        command.args(["--seconds", &limit.as_secs_f64().to_string(), "--workers", &workers.to_string()]);
        command.args(keep.then_some("--keep")).stdin(Stdio::piped());
        Ok(Self(place.start(command)?))
    }

    /// How far it is.
    pub fn progress(&self) -> Progress {
        self.0.out.last().and_then(|line| serde_json::from_str(&line).ok()).unwrap_or_default()
    }

    /// Waits until it has done so many requests more than at the time of the call.
    pub fn more(&self, requests: u64) -> Result<Progress> {
        let goal = self.progress().requests + requests;
        wait::until("a load to go on", Duration::from_secs(20), || {
            let progress = self.progress();
            ensure!(progress.requests >= goal, "{} of {goal} requests; {progress:?}", progress.requests);
            Ok(progress)
        })
    }

    /// Ends it and says how it went.
    pub fn stop(mut self) -> Result<Progress> {
        // It may have come to its end by itself.
        let _ = self.0.tell("stop");
        self.finish(Duration::from_secs(10))
    }

    /// Waits for its end.
    pub fn finish(&mut self, limit: Duration) -> Result<Progress> {
        self.0.hush();
        self.0.end(limit)?;
        let progress = self.progress();
        ensure!(progress.done, "the load died: {progress:?}\n{}", self.0.err);
        Ok(progress)
    }
}
