//! What the loop tells those who answer probes.
//!
//! Small values, written before and after the work: who reads them and looks at a clock knows the truth also while the
//! loop hangs, and asks nothing of it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::desired::{HealthCheck, NodePorts};
use crate::model::{Problem, ServiceName};

/// A point in time, on two clocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Since the daemon's start, on a clock that nobody sets: lengths of time are judged by it.
    pub run: Duration,
    /// Since 1970, for people.
    pub wall: Duration,
}

/// The daemon's two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Instant,
}

/// How the loop is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Since when the kernel may be behind: something has come that the loop has not finished with, or could not carry out.
    pub waiting_since: Option<Moment>,
    /// When the loop last came round. It does so many times a second, unless it hangs, or nobody runs it.
    pub beat: Moment,
    /// When the kernel was last brought to what the objects say; before that, the loop's start.
    pub updated: Moment,
    /// Whether the Node is one to send new connections to.
    pub eligible: bool,
    /// What is in the way of the dataplane being in force, one sentence each.
    pub blockers: Vec<String>,
}

/// Where load balancers ask for endpoints on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checks {
    /// At which ports, and what they are told. Services without are left out.
    pub services: BTreeMap<ServiceName, Box<[HealthCheck]>>,
    /// At which IPv4 addresses of the node.
    pub v4: NodePorts,
    /// At which IPv6 addresses of the node.
    pub v6: NodePorts,
}

/// The loop's end.
#[derive(Debug)]
pub struct Outlet {
    clock: Clock,
    pulse: watch::Sender<Pulse>,
    checks: watch::Sender<Checks>,
    problems: watch::Receiver<Vec<Problem>>,
    /// What the next success makes known.
    draft: Checks,
    is_drafted: bool,
}

/// The other end.
#[derive(Debug)]
pub struct Inlet {
    /// The clocks by which the loop goes.
    pub clock: Clock,
    /// How the loop is doing.
    pub pulse: watch::Receiver<Pulse>,
    /// Where load balancers ask.
    pub checks: watch::Receiver<Checks>,
    /// What is wrong with answering them: the loop tells whoever asks it.
    pub problems: watch::Sender<Vec<Problem>>,
}

/// Both ends, on clocks that begin now.
pub fn pair() -> (Outlet, Inlet) {
    let clock = Clock { begun: Instant::now() };
    let now = clock.now();
    let first = Pulse {
        waiting_since: None,
        beat: now,
        updated: now,
        eligible: false,
        blockers: vec![STARTING.to_owned()],
    };
    let (pulse, pulse_read) = watch::channel(first);
    let (checks, checks_read) = watch::channel(Checks::default());
    let (problems_write, problems) = watch::channel(Vec::new());
    let outlet = Outlet { clock, pulse, checks, problems, draft: Checks::default(), is_drafted: false };
    (outlet, Inlet { clock, pulse: pulse_read, checks: checks_read, problems: problems_write })
}

/// Before the loop has said anything.
const STARTING: &str = "the daemon is starting";

impl Clock {
    /// This moment.
    pub fn now(self) -> Moment {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Moment { run: self.begun.elapsed(), wall }
    }
}

/// How things stand after an event.
pub(super) struct Standing {
    pub(super) is_behind: bool,
    pub(super) eligible: bool,
    pub(super) blockers: Vec<String>,
}

impl Outlet {
    /// This moment.
    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Something has come. Told before it is handled, for handling it may take for ever.
    pub(super) fn begin(&self) {
        let now = self.clock.now();
        self.pulse.send_modify(|pulse| {
            pulse.waiting_since.get_or_insert(now);
        });
    }

    /// It has been handled.
    pub(super) fn end(&self, standing: Standing) {
        let Standing { is_behind, eligible, blockers } = standing;
        let now = self.clock.now();
        self.pulse.send_modify(|pulse| {
            pulse.waiting_since = pulse.waiting_since.filter(|_| is_behind);
            pulse.beat = now;
            pulse.eligible = eligible;
            pulse.blockers = blockers;
        });
    }

    /// A Service has come out anew.
    pub(super) fn draft(&mut self, name: &ServiceName, checks: &[HealthCheck]) {
        let before = self.draft.services.get(name).map(|checks| &**checks).unwrap_or_default();
        if before == checks {
            return;
        }
        self.is_drafted = true;
        match checks {
            [] => self.draft.services.remove(name),
            checks => self.draft.services.insert(name.clone(), checks.into()),
        };
    }

    /// The node's addresses have come out, perhaps anew.
    pub(super) fn draft_addresses(&mut self, v4: &NodePorts, v6: &NodePorts) {
        if (&self.draft.v4, &self.draft.v6) != (v4, v6) {
            (self.draft.v4, self.draft.v6) = (v4.clone(), v6.clone());
            self.is_drafted = true;
        }
    }

    /// The kernel is as the objects say.
    pub(super) fn updated(&mut self) {
        let now = self.clock.now();
        self.pulse.send_modify(|pulse| (pulse.waiting_since, pulse.updated) = (None, now));
        self.publish(true);
    }

    /// Makes known what has been drafted, if the kernel has all that it is about.
    pub(super) fn publish(&mut self, is_in_force: bool) {
        if is_in_force && std::mem::take(&mut self.is_drafted) {
            self.checks.send_replace(self.draft.clone());
        }
    }

    /// What is wrong with answering load balancers.
    pub(super) fn problems(&self) -> Vec<Problem> {
        self.problems.borrow().clone()
    }
}
