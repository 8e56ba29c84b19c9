//! The only door to the kernel.

pub mod conntrack;
pub mod ebpf;
mod error;
pub mod memory;

use std::collections::{BTreeMap, BTreeSet};

pub use error::BackendError;

use crate::desired::ServicePort;
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

/// A dataplane that can be programmed.
pub trait Backend {
    /// The Services for which something is installed, also by an earlier process.
    fn installed(&self) -> BTreeSet<ServiceName>;
    /// Brings some Services to the wanted state; others are not touched. A Service's change takes effect at once or
    /// not at all. After an error the same call may be made again.
    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError>;
    /// Puts what is installed into force. Called after the first complete `apply`; calling it again repairs.
    fn enable(&mut self) -> Result<(), BackendError>;
    /// Hooks, tables and counters, as they are in the kernel.
    fn report(&self) -> Result<ebpf::Report, BackendError>;
    /// What this dataplane cannot do yet for a service port: it does the rest.
    fn unserved(&self, name: &ServicePortName, port: &ServicePort) -> Vec<Problem>;
}
