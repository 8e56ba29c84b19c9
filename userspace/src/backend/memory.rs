//! A backend that keeps everything in memory: for tests of the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use super::difference::Difference;
use super::ebpf::{self, HookState};
use super::findings::{Findings, Look, Turn};
use super::{Applied, Backend, BackendError, Report, Wanted};
use crate::desired::ServicePort;
use crate::model::{Problem, ServiceName, ServicePortName};

/// What the backend holds; clones share it, so that a test can look.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    state: Arc<Mutex<State>>,
}

/// What it was told.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// In force, by service port.
    pub ports: BTreeMap<ServicePortName, ServicePort>,
    /// How often `apply` was called.
    pub applies: usize,
    /// How often `enable` was called.
    pub enables: usize,
    /// How many of the next calls of `apply` shall fail.
    pub failures: usize,
    /// How many of the next calls of `enable` shall fail.
    pub enable_failures: usize,
    /// How often `audit` was called.
    pub audits: usize,
    /// How many of the next calls of `audit` shall fail.
    pub audit_failures: usize,
    /// What `audit` finds until it is told to put it right.
    pub drift: Vec<Difference>,
    /// Whether somebody has taken a hook away.
    pub detached: bool,
    /// The next call of `apply` waits for this.
    pub hang: Option<Arc<Mutex<Receiver<()>>>>,
}

impl Memory {
    /// Reads or changes the state.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        look(&mut state)
    }
}

impl Backend for Memory {
    fn installed(&mut self) -> Result<BTreeSet<ServiceName>, BackendError> {
        Ok(self.with(|state| state.ports.keys().map(|name| name.service.clone()).collect()))
    }

    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        if let Some(held) = self.with(|state| state.hang.take()) {
            let _ = held.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
        }
        self.with(|state| {
            state.applies += 1;
            if state.failures > 0 {
                state.failures -= 1;
                return Err(BackendError::Missing("patience"));
            }
            let before = state.ports.clone();
            state.ports.retain(|name, _| !wanted.contains_key(&name.service));
            state.ports.extend(wanted.values().flatten().map(|(name, port)| (name.clone(), port.clone())));
            let puts = state.ports.iter().filter(|(name, port)| before.get(*name) != Some(*port)).count();
            let drops = before.keys().filter(|name| !state.ports.contains_key(*name)).count();
            Ok(Applied { puts, drops })
        })
    }

    fn enable(&mut self) -> Result<(), BackendError> {
        self.with(|state| {
            state.enables += 1;
            if state.enable_failures > 0 {
                state.enable_failures -= 1;
                return Err(BackendError::Missing("patience"));
            }
            state.detached = false;
            Ok(())
        })
    }

    fn audit(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        self.with(|state| {
            state.audits += 1;
            findings.extend("ebpf", state.drift.clone().into_iter().filter(|_| state.audit_failures > 0));
            if state.audit_failures > 0 {
                state.audit_failures -= 1;
                return Err(BackendError::Missing("patience"));
            }
            findings.extend("ebpf", state.drift.clone());
            if look.heal {
                state.drift.clear();
                findings.heal("ebpf");
            }
            Ok(Turn::Done)
        })
    }

    fn report(&self) -> Result<Report, BackendError> {
        let report = ebpf::Report {
            pin_dir: PathBuf::new(),
            hooks: vec![HookState {
                hook: "connect4".to_owned(),
                attached: self.with(|state| !state.detached),
                program: None,
            }],
            maps: Vec::new(),
            counters: BTreeMap::new(),
            leftovers: Vec::new(),
        };
        Ok(Report { ebpf: Some(report), ..Report::default() })
    }

    fn unserved(&self, _: &ServicePortName, _: &ServicePort) -> Vec<Problem> {
        Vec::new()
    }
}
