//! The loop. It owns all state: what the sources said, what follows from it, and the door to the kernel.
//!
//! Three promises: nothing is written before both kinds of objects are known completely; changes that wait are taken
//! together, and one that comes alone is carried out at once; after a failure the same is tried again until it works.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, warn};

use crate::backend::{Applied, Backend, BackendError, Wanted};
use crate::desired::{self, Claims};
use crate::inspect::status::{DaemonStatus, Status};
use crate::model::{Change, Cluster, Problem, ServiceName};
use crate::source::BACKLOG;

/// How often hooks are looked after and late problems are logged.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Wait after a failed write: doubled each time, up to the second figure.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Services that are computed and written at a time: a full load of 10,000 needs less memory so.
const SHARE: usize = 512;

/// A question from outside: the whole status.
pub type Ask = oneshot::Sender<Status>;

/// Everything that can wake the loop.
enum Event {
    Changes(Vec<Change>),
    Ask(Ask),
    Retry,
    Housekeeping,
    Shutdown,
}

/// What comes in.
pub struct Inputs {
    /// From the source.
    pub changes: mpsc::Receiver<Change>,
    /// From the tool.
    pub asks: mpsc::Receiver<Ask>,
    /// Resolves when the daemon is to end.
    pub shutdown: oneshot::Receiver<()>,
}

/// All state.
pub struct Reconciler<B> {
    backend: B,
    source: String,
    started: Instant,
    cluster: Cluster,
    claims: Claims,
    /// Services whose state in the kernel may be behind.
    pending: BTreeSet<ServiceName>,
    /// Whether everything has been in the kernel once.
    synced: bool,
    /// Whether what an earlier daemon left, and nobody names any more, has been taken into account.
    pruned: bool,
    /// Whether the hooks must be put right.
    repair: bool,
    failure: Option<Failure>,
    passes: u64,
    last_change: Option<Duration>,
    logged: BTreeSet<Problem>,
}

struct Failure {
    message: String,
    wait: Duration,
    again: Instant,
}

impl<B: Backend> Reconciler<B> {
    /// A loop over a backend; `source` is what status calls the source.
    pub fn new(backend: B, source: String) -> Self {
        Self {
            backend,
            source,
            started: Instant::now(),
            cluster: Cluster::default(),
            claims: Claims::default(),
            pending: BTreeSet::new(),
            synced: false,
            pruned: false,
            repair: false,
            failure: None,
            passes: 0,
            last_change: None,
            logged: BTreeSet::new(),
        }
    }

    /// Runs until told to end. The dataplane stays as it is.
    pub async fn run(mut self, mut inputs: Inputs) {
        let mut tick = interval(HOUSEKEEPING);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.next(&mut inputs, &mut tick).await {
                Event::Changes(changes) => self.take(changes),
                Event::Ask(ask) => {
                    // Whoever asked may have gone.
                    let _ = ask.send(self.status());
                }
                Event::Retry => self.pass(Instant::now()),
                Event::Housekeeping => self.housekeeping(),
                Event::Shutdown => return,
            }
        }
    }

    async fn next(&self, inputs: &mut Inputs, tick: &mut Interval) -> Event {
        let retry = async {
            match &self.failure {
                Some(failure) => sleep_until(failure.again.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut waiting = Vec::new();
        tokio::select! {
            biased;
            _ = &mut inputs.shutdown => Event::Shutdown,
            Some(ask) = inputs.asks.recv() => Event::Ask(ask),
            count = inputs.changes.recv_many(&mut waiting, BACKLOG) => {
                if count == 0 { Event::Shutdown } else { Event::Changes(waiting) }
            }
            _ = tick.tick() => Event::Housekeeping,
            () = retry => Event::Retry,
        }
    }

    fn take(&mut self, changes: Vec<Change>) {
        let received = Instant::now();
        let told = changes.iter().any(tells_problems);
        for change in changes {
            self.cluster.take(change);
        }
        self.pass(received);
        if told {
            self.log_problems();
        }
    }

    /// Brings the kernel to what the objects say.
    fn pass(&mut self, received: Instant) {
        if !self.cluster.synced() {
            return;
        }
        self.pending.extend(self.cluster.dirty());
        if !self.synced {
            self.pending.extend(self.cluster.names().cloned());
        }
        if !self.pruned && !self.cluster.partial() {
            self.pending.extend(self.backend.installed());
            self.pruned = true;
        }
        let waits = self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.again);
        let idle = self.synced && self.pending.is_empty() && !self.repair;
        if waits || idle {
            return;
        }
        match self.write() {
            Ok(applied) => self.succeeded(applied, received),
            Err(error) => self.failed(&error),
        }
    }

    /// Writes all that is pending, share by share, and puts the dataplane into force if it is not.
    fn write(&mut self) -> Result<Applied, BackendError> {
        let mut total = Applied::default();
        while !self.pending.is_empty() {
            let wanted = self.wanted();
            let Applied { puts, drops } = self.backend.apply(&wanted)?;
            total = Applied { puts: total.puts + puts, drops: total.drops + drops };
            self.pending.retain(|name| !wanted.contains_key(name));
        }
        if !self.synced || self.repair {
            self.backend.enable()?;
        }
        Ok(total)
    }

    /// What a share of the pending Services should do, and those whose addresses theirs contend with.
    fn wanted(&mut self) -> Wanted {
        let mut wanted = Wanted::new();
        let mut queue: BTreeSet<ServiceName> = self.pending.iter().take(SHARE).cloned().collect();
        while let Some(name) = queue.pop_first() {
            let ports = desired::for_service(&self.cluster, &name);
            let created = self.cluster.service(&name).and_then(|service| service.created.as_deref());
            let contenders = self.claims.update(&name, created, &ports);
            let others = contenders.iter().filter(|other| !wanted.contains_key(*other) && **other != name);
            queue.extend(others.cloned());
            // Should the write fail, they must come again too.
            self.pending.extend(contenders);
            wanted.insert(name, ports);
        }
        wanted.into_iter().map(|(name, ports)| (name, self.claims.settle(ports))).collect()
    }

    fn succeeded(&mut self, applied: Applied, received: Instant) {
        let took = received.elapsed();
        self.repair = false;
        self.passes += 1;
        if self.failure.take().is_some() {
            info!("the kernel takes changes again");
        }
        if !applied.is_nothing() {
            self.last_change = Some(took);
        }
        if !std::mem::replace(&mut self.synced, true) {
            let services = self.cluster.counts().services;
            info!(
                services,
                written = applied.puts,
                removed = applied.drops,
                "synced; the dataplane is in force"
            );
        }
    }

    fn failed(&mut self, failure: &BackendError) {
        let wait = self.failure.as_ref().map_or(RETRY[0], |last| (last.wait * 2).min(RETRY[1]));
        error!(error = failure as &dyn std::error::Error, retry_in = ?wait, "could not program the kernel");
        let message = chain(failure);
        self.failure = Some(Failure { message, wait, again: Instant::now() + wait });
    }

    fn housekeeping(&mut self) {
        self.log_problems();
        if !self.synced {
            return;
        }
        let detached: Vec<String> = match self.backend.report() {
            Ok(report) => {
                report.hooks.into_iter().filter(|hook| !hook.attached).map(|hook| hook.hook).collect()
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "could not look after the hooks");
                return;
            }
        };
        if !detached.is_empty() {
            warn!(hooks = detached.join(","), "somebody detached our programs; attaching them again");
            self.repair = true;
            self.pass(Instant::now());
        }
    }

    /// Each problem is logged once, when it appears.
    fn log_problems(&mut self) {
        let now: BTreeSet<Problem> = self.problems().into_iter().collect();
        for problem in now.difference(&self.logged) {
            let Problem { object, field, message, source } = problem;
            warn!(object, field, source, "{message}");
        }
        self.logged = now;
    }

    fn problems(&self) -> Vec<Problem> {
        let mut problems = self.cluster.problems();
        problems.extend(self.claims.problems());
        let kernel = |failure: &Failure| Problem::new("kernel", "", failure.message.clone());
        problems.extend(self.failure.as_ref().map(kernel));
        problems
    }

    fn status(&self) -> Status {
        let counts = self.cluster.counts();
        Status {
            daemon: Some(DaemonStatus {
                running: true,
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                uptime_seconds: self.started.elapsed().as_secs(),
                source: self.source.clone(),
                synced: self.synced && self.failure.is_none(),
                services: counts.services,
                slices: counts.slices,
                endpoints: counts.endpoints,
                passes: self.passes,
                last_change_millis: self.last_change.map(|took| took.as_secs_f64() * 1e3),
            }),
            kernel: self.backend.report().ok(),
            problems: self.problems(),
        }
    }
}

fn tells_problems(change: &Change) -> bool {
    match change {
        Change::Service(applied) => !applied.problems.is_empty(),
        Change::Slice(applied) => !applied.problems.is_empty(),
        Change::Unreadable { object: _, problems } | Change::Problems { object: _, problems } => {
            !problems.is_empty()
        }
        Change::Deleted(_) | Change::Begin(_) | Change::End(_) | Change::Partial(_) => false,
    }
}

/// An error and its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
