//! Echo servers in pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{Process, program};
use crate::topology::Pod;

/// What a server listens on, on every address of its pod.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// For connections: a line is answered by a line, an HTTP request by an HTTP answer.
    pub tcp: Vec<u16>,
    /// For datagrams.
    pub udp: Vec<u16>,
    /// How long open connections, and datagrams, are still served after SIGTERM.
    pub grace: Duration,
}

/// A running server. It is killed on drop.
#[derive(Debug)]
pub struct Server(Process);

impl Pod {
    /// Starts a server that answers with the pod's name, on one port for both protocols.
    pub fn serve(&self, port: u16) -> Result<Server> {
        self.serve_on(&Ports { tcp: vec![port], udp: vec![port], grace: Duration::ZERO })
    }

    /// Starts a server that answers with the pod's name.
    pub fn serve_on(&self, ports: &Ports) -> Result<Server> {
        let place = self.place();
        let mut agent = place.command(agent()?);
        agent
            .args(["serve", "--name", self.name()])
            .args(["--grace", &ports.grace.as_secs_f64().to_string()]);
        for port in &ports.tcp {
            agent.args(["--tcp", &format!("[::]:{port}")]);
        }
        for port in &ports.udp {
            agent.args(["--udp", &format!("[::]:{port}")]);
        }
        let mut server = place.start(agent).context("could not start a server")?;
        server.line(Duration::from_secs(10), |line| line == "ready")?;
        Ok(Server(server))
    }

    /// Where its server is reached, IPv4 and IPv6.
    pub fn both(&self, port: u16) -> [SocketAddr; 2] {
        [self.at(port), self.at6(port)]
    }
}

impl Server {
    /// Tells it to stop as the kubelet does; it goes on for its grace.
    pub fn terminate(&mut self) -> Result<()> {
        self.0.signal(Signal::SIGTERM)
    }

    /// Waits for its end.
    pub fn ended(&mut self, limit: Duration) -> Result<()> {
        self.0.end(limit).map(drop)
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.0.is_running()
    }
}

/// The program that plays client and server.
pub fn agent() -> Result<std::path::PathBuf> {
    program("LAB_AGENT_BIN", "lab-agent")
}
