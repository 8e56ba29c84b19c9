//! The suites, and what they share.

pub(crate) mod change;
pub(crate) mod coldstart;
pub(crate) mod connect;
pub(crate) mod desired;
mod edge;
pub(crate) mod host;
mod nftables;
pub(crate) mod packets;
pub(crate) mod scrape;

use anyhow::{Result, ensure};
use lab::{Daemon, Lab};

use crate::cluster::Cluster;
use crate::report::Report;

/// One run of some suites.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    pub(crate) report: Report,
    pub(crate) cluster: Lazy,
}

/// An API server that is started when the first suite wants it, and serves all that can use what it holds.
pub(crate) struct Lazy(Option<Option<Cluster>>);

impl Bench {
    pub(crate) fn new(quick: bool, report: Report) -> Self {
        Self { quick, report, cluster: Lazy(None) }
    }
}

impl Lazy {
    /// `None` if its parts are not there.
    fn get(&mut self) -> Result<Option<&mut Cluster>> {
        if self.0.is_none() {
            self.0 = Some(Cluster::start()?);
        }
        Ok(self.0.as_mut().and_then(Option::as_mut))
    }

    /// One that holds no more services than this; a fuller one is replaced.
    fn with_at_most(&mut self, services: u32) -> Result<Option<&mut Cluster>> {
        let fuller = |cluster: &mut Option<Cluster>| {
            cluster.as_ref().is_some_and(|cluster| cluster.services() > services)
        };
        drop(self.0.take_if(fuller));
        self.get()
    }
}

/// A lab that reaches the API server, if there is one.
fn lab(cluster: Option<&Cluster>) -> Result<Lab> {
    match cluster {
        Some(cluster) => Lab::on(cluster.wire()),
        None => Lab::new(),
    }
}

/// Ends a daemon, and takes away what it left in the kernel.
fn retire(mut daemon: Daemon) -> Result<()> {
    daemon.terminate()?;
    let output = daemon.node().sluice(&["cleanup"])?;
    ensure!(output.status.success(), "cleanup failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// A size, for people: 10k x 10.
fn size(services: u32) -> String {
    format!("{}k x {}", services / 1000, crate::shapes::ENDPOINTS)
}
