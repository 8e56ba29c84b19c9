//! The only door to the kernel.

pub mod conntrack;
pub mod counts;
pub mod dataplane;
pub mod difference;
pub mod ebpf;
pub mod edge;
mod error;
pub mod findings;
pub mod held;
pub mod memory;
pub mod nft;
pub mod probe;
pub mod survey;

use std::collections::{BTreeMap, BTreeSet};

pub use error::{BackendError, chain};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use self::findings::{Findings, Look, Turn};
use crate::desired::{Context, ServicePort};
use crate::model::{Problem, ServiceName, ServicePortName};

/// What should be in force for some Services; an empty inner map means that the Service has nothing.
pub type Wanted = BTreeMap<ServiceName, BTreeMap<ServicePortName, ServicePort>>;

/// What one [`Backend::apply`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Entries written.
    pub puts: usize,
    /// Entries removed.
    pub drops: usize,
}

impl Applied {
    /// Whether nothing had to be done.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// What is in the kernel, for people.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Which dataplane works, and why; absent when no daemon says it.
    #[serde(flatten)]
    pub running: Option<dataplane::Running>,
    /// What eBPF has.
    #[serde(flatten)]
    pub ebpf: Option<ebpf::Report>,
    /// What eBPF does on the node's outside devices.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<edge::Report>,
    /// What the packet filter has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nftables: Option<nft::Report>,
    /// How full connection tracking is; absent where the kernel does not track flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conntrack: Option<conntrack::Usage>,
}

impl Report {
    /// Hooks that should be ours and are not.
    pub fn detached(&self) -> Vec<String> {
        self.detached_of().into_iter().flatten().collect()
    }

    /// The same for eBPF and for nftables.
    pub fn detached_of(&self) -> [Vec<String>; 2] {
        let hooks = self.ebpf.iter().flat_map(|report| &report.hooks);
        let hooks = hooks.filter(|hook| !hook.attached).map(|hook| hook.hook.clone());
        let tables = self.nftables.iter().flat_map(|report| &report.tables);
        let chains = tables.flat_map(|table| {
            table.missing.iter().map(|chain| format!("{} {} {chain}", table.family, table.name))
        });
        [hooks.collect(), chains.collect()]
    }
}

/// A dataplane that can be programmed.
pub trait Backend {
    /// Takes what does not belong to a Service: the node, and the ranges of cluster addresses. Returns whether the
    /// kernel is behind now, so that [`Self::enable`] must be called.
    fn surround(&mut self, _context: &Context, _cluster_ranges: &BTreeSet<IpNet>) -> bool {
        false
    }
    /// The Services for which something is installed, also by an earlier process.
    fn installed(&mut self) -> Result<BTreeSet<ServiceName>, BackendError>;
    /// Brings some Services to the wanted state; others are not touched. A Service's change takes effect at once or
    /// not at all. After an error the same call may be made again.
    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError>;
    /// Puts what is installed into force. Called after the first complete `apply`; calling it again repairs.
    fn enable(&mut self) -> Result<(), BackendError>;
    /// Whether somebody has taken away what is ours. Called several times a second.
    fn disturbed(&mut self) -> bool {
        false
    }
    /// Called every few seconds, for what must be looked after.
    fn tend(&mut self) {}
    /// Looks at some more of what is in the kernel, beside what it should be, for about as long as it is told. Whoever calls it
    /// until it is done has had all looked at. An error means that something is wrong that could not be put right: the tables
    /// are read again before anything is written.
    fn audit(&mut self, _look: Look, _findings: &mut Findings) -> Result<Turn, BackendError> {
        Ok(Turn::Done)
    }
    /// Hooks, tables and counters, as they are in the kernel.
    fn report(&self) -> Result<Report, BackendError>;
    /// What this dataplane cannot do yet for a service port: it does the rest.
    fn unserved(&self, name: &ServicePortName, port: &ServicePort) -> Vec<Problem>;
}
