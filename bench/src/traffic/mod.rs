//! Clients and servers that do nothing but the one thing that is measured. Each is a process of its own, because a
//! program on a control group sees processes.

mod client;
mod server;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lab::process::{Place, Process};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// First argument of such a process.
pub(crate) const VERB: &str = "traffic";
/// Where short connections are served.
pub(crate) const SHORT: u16 = 8080;
/// Where long streams are swallowed.
pub(crate) const STREAM: u16 = 8081;
/// Where nobody listens; only named, never sent to.
pub(crate) const NOBODY: u16 = 9;

/// Core of the clients.
pub(crate) const CLIENT_CORE: usize = 0;
/// Core of the servers, if there are two.
pub(crate) const SERVER_CORE: usize = 1;

/// What a client is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// Connect, ask, be answered, close; over and over for a while. Connections a second.
    Rate(Duration),
    /// Send as much as goes for a while. Gbit a second.
    Bulk(Duration),
    /// `connect()` one datagram socket so many times. Nanoseconds a call.
    Datagram(u32),
    /// Open, `connect()` and close so many datagram sockets. Nanoseconds a socket.
    Fresh(u32),
}

/// Plays client or server, as the arguments say.
pub(crate) fn play(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    match arguments.next().as_deref() {
        Some("client") => client::run(),
        Some("server") => server::run(arguments.next().context("no core")?.parse()?),
        other => bail!("no such part: {other:?}"),
    }
}

/// A server of everything that is measured, on a core.
pub(crate) fn serve(place: &Place, core: usize) -> Result<Process> {
    let mut command = place.command(std::env::current_exe()?);
    command.args([VERB, "server", &core.to_string()]);
    let mut server = place.start(command)?;
    server.line(Duration::from_secs(10), |line| line == "ready")?;
    Ok(server)
}

/// A client that waits for orders.
pub(crate) struct Client {
    process: Process,
    answers: usize,
}

impl Client {
    /// Starts one.
    pub(crate) fn start(place: &Place) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        command.args([VERB, "client"]).stdin(Stdio::piped());
        Ok(Self { process: place.start(command)?, answers: 0 })
    }

    /// Does one thing, and says how it went, in the deed's own unit.
    pub(crate) fn measure(&mut self, deed: Deed, to: SocketAddr) -> Result<f64> {
        let order = match deed {
            Deed::Rate(time) => format!("rate {to} {}", time.as_millis()),
            Deed::Bulk(time) => format!("bulk {to} {}", time.as_millis()),
            Deed::Datagram(calls) => format!("datagram {to} {calls}"),
            Deed::Fresh(sockets) => format!("fresh {to} {sockets}"),
        };
        self.order(&order)
    }

    /// Moves into a control group: sockets made from now on belong to it.
    pub(crate) fn enter(&mut self, group: &Path) -> Result<()> {
        self.order(&format!("enter {}", group.display())).map(drop)
    }

    fn order(&mut self, order: &str) -> Result<f64> {
        self.process.tell(order)?;
        let (place, limit) = (self.answers, Duration::from_secs(30));
        let answer = self.process.out.wait(limit, |lines| lines.get(place).cloned());
        let answer = answer.with_context(|| format!("no answer to `{order}`:\n{}", self.process.err))?;
        self.answers += 1;
        answer.parse().with_context(|| format!("`{order}` was answered by `{answer}`"))
    }
}

/// Keeps the calling thread, and what it starts, on one core, if there are several.
pub(crate) fn stay_on(core: usize) -> Result<()> {
    if std::thread::available_parallelism()?.get() <= core {
        return Ok(());
    }
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores).context("could not stay on one core")
}

fn anywhere(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}
