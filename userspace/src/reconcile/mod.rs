//! The loop. It owns all state: what the sources said, what follows from it, and the door to the kernel.
//!
//! Three promises: nothing is written before Services and slices are known completely; changes that wait are taken
//! together, and one that comes alone is carried out at once; after a failure the same is tried again until it works.

pub mod outlet;
mod surveyor;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, error, info, warn};

use crate::backend::conntrack::Usage;
use crate::backend::dataplane::Running;
use crate::backend::edge;
use crate::backend::{Applied, Backend, BackendError, Report, Wanted, chain};
use crate::desired::{Context, Desired, Settings};
use crate::drain::{self, Memory, Told};
use crate::explain::{self, Question, Reasons};
use crate::inspect::status::{DaemonStatus, Draining, Status};
use crate::metrics::{Facts, Metrics, Pass};
use crate::model::{Change, Cluster, Kind, Problem, ServiceName};
use crate::notify::{Notice, Notices, Reason};
use crate::source::BACKLOG;

use self::outlet::{Moment, Outlet, Standing};
pub use self::surveyor::Surveyor;

/// How often hooks are looked after and late problems are logged.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// How often the backend is asked whether somebody has taken away what is ours. Well below the 200 ms after which Linux sends a
/// segment again (`TCP_RTO_MIN`): one that leaves the node untranslated ends its connection.
const WATCH: Duration = Duration::from_millis(50);

/// Wait after a failed write: doubled each time, up to the second figure.
const RETRY: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];

/// Services that are written at a time: a full load of 10,000 needs less memory so.
const SHARE: usize = 512;

/// The same afterwards, when there is a backlog: an address may have moved between two of them, and must not be taken from
/// one after the other has got it.
const BACKLOG_SHARE: usize = 20_000;

/// So many problems of one kind are logged one by one.
const FEW: usize = 20;

/// How long the first write waits for the Node, whose zone decides about endpoints. Afterwards it goes on without.
const NODE_PATIENCE: Duration = Duration::from_secs(30);

/// A question from outside.
#[derive(Debug)]
pub enum Ask {
    /// The whole status.
    Status(oneshot::Sender<Status>),
    /// What becomes of a flow, and why.
    Explain(Question, oneshot::Sender<Reasons>),
    /// Who left the lists of new flows.
    Drain(oneshot::Sender<Told>),
}

/// Everything that can wake the loop.
enum Event {
    Changes(Vec<Change>),
    Ask(Ask),
    Retry,
    Watch,
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

/// Where the loop tells what it does, and waits for nobody.
#[derive(Debug)]
pub struct Outputs {
    /// For Prometheus.
    pub metrics: Arc<Metrics>,
    /// For events in the API.
    pub notices: Notices,
}

/// All state.
pub struct Reconciler<B> {
    backend: B,
    source: String,
    started: Instant,
    /// Until when the first write waits for the Node.
    node_due: tokio::time::Instant,
    settings: Settings,
    cluster: Cluster,
    desired: Desired,
    /// What the backend cannot do for a Service.
    unserved: BTreeMap<ServiceName, BTreeSet<Problem>>,
    /// Services whose state in the kernel may be behind.
    pending: BTreeSet<ServiceName>,
    /// Of those, the ones between which an address moves: they are written together, so that it is never without.
    moving: BTreeSet<ServiceName>,
    /// Services that have come out anew since it was last looked who has left them.
    recomputed: BTreeSet<ServiceName>,
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
    /// Whether connection tracking has hardly room for new flows.
    crowded: bool,
    outlet: Outlet,
    /// Who left, and may have flows.
    drain: Memory,
    /// Counts them; nobody does where nothing was said of it.
    surveyor: Option<Surveyor>,
    metrics: Arc<Metrics>,
    notices: Notices,
    /// Which dataplane had the traffic at the last look.
    dataplane: Option<Running>,
    /// How many flows the edge layer had left to others by then, for want of room.
    full_at: u64,
}

struct Failure {
    message: String,
    wait: Duration,
    again: Instant,
}

impl<B: Backend> Reconciler<B> {
    /// A loop over a backend, on an empty cluster; `source` is what status calls the source.
    pub fn new(
        backend: B,
        source: String,
        settings: Settings,
        mut cluster: Cluster,
        outputs: Outputs,
    ) -> Self {
        let Outputs { metrics, notices } = outputs;
        cluster.count_triggers_since(now());
        let context = Context::of(&settings, cluster.own_name(), None);
        Self {
            backend,
            source,
            started: Instant::now(),
            node_due: tokio::time::Instant::now() + NODE_PATIENCE,
            settings,
            cluster,
            desired: Desired::new(context),
            unserved: BTreeMap::new(),
            pending: BTreeSet::new(),
            moving: BTreeSet::new(),
            recomputed: BTreeSet::new(),
            synced: false,
            pruned: false,
            repair: false,
            failure: None,
            passes: 0,
            last_change: None,
            logged: BTreeSet::new(),
            crowded: false,
            outlet: outlet::pair().0,
            drain: Memory::default(),
            surveyor: None,
            metrics,
            notices,
            dataplane: None,
            full_at: 0,
        }
    }

    /// Tells those who answer probes how it is doing.
    #[must_use]
    pub fn telling(self, outlet: Outlet) -> Self {
        Self { outlet, ..self }
    }

    /// Has the flows of endpoints that left counted.
    #[must_use]
    pub fn surveying(self, surveyor: Surveyor) -> Self {
        Self { surveyor: Some(surveyor), ..self }
    }

    /// Runs until told to end. The dataplane stays as it is.
    pub async fn run(mut self, mut inputs: Inputs) {
        let mut ticks = [HOUSEKEEPING, WATCH].map(interval);
        ticks.iter_mut().for_each(|tick| tick.set_missed_tick_behavior(MissedTickBehavior::Delay));
        loop {
            let event = self.next(&mut inputs, &mut ticks).await;
            self.outlet.begin();
            match event {
                Event::Changes(changes) => self.take(changes),
                Event::Ask(ask) => self.answer(ask),
                Event::Retry => self.pass(Instant::now()),
                Event::Watch => self.watch(),
                Event::Housekeeping => self.housekeeping(),
                Event::Shutdown => return,
            }
            self.remember();
            self.outlet.end(self.standing());
        }
    }

    /// Whoever asked may have gone.
    fn answer(&self, ask: Ask) {
        match ask {
            Ask::Status(reply) => drop(reply.send(self.status())),
            Ask::Explain(question, reply) => {
                drop(reply.send(explain::reasons(&self.cluster, &self.desired, &question)));
            }
            Ask::Drain(reply) => drop(reply.send(self.drain.told(self.outlet.now().run))),
        }
    }

    async fn next(&self, inputs: &mut Inputs, [tick, watch]: &mut [Interval; 2]) -> Event {
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
            _ = watch.tick() => Event::Watch,
            () = retry => Event::Retry,
        }
    }

    fn take(&mut self, changes: Vec<Change>) {
        let received = Instant::now();
        let told = changes.iter().any(tells_problems);
        self.metrics.received(&changes);
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
        if !self.is_complete() {
            return;
        }
        self.compute();
        if !self.pruned && !self.cluster.partial() {
            match self.backend.installed() {
                Ok(installed) => self.pending.extend(installed),
                Err(error) => return self.failed(&error),
            }
            self.pruned = true;
        }
        if self.pending.is_empty() {
            self.settle_triggers();
        }
        let waits = self.failure.as_ref().is_some_and(|failure| Instant::now() < failure.again);
        let idle = self.synced && self.pending.is_empty() && !self.repair;
        if idle {
            self.metrics.settled();
        }
        if waits || idle {
            self.outlet.publish(idle);
            return;
        }
        let (began, is_full) = (Instant::now(), !self.synced || self.repair || self.failure.is_some());
        match self.write() {
            Ok(applied) => {
                self.tally(applied, received, began, is_full);
                self.succeeded(applied, received);
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Counts a pass. What it has written is in force.
    fn tally(&self, applied: Applied, received: Instant, began: Instant, is_full: bool) {
        let Applied { puts: written, drops: removed } = applied;
        let since_received = (!applied.is_nothing()).then(|| received.elapsed());
        let pass = Pass { took: began.elapsed(), since_received, is_full, written, removed };
        self.metrics.passed(pass);
    }

    /// Whether enough is known to begin.
    fn is_complete(&self) -> bool {
        let node_known = self.cluster.listed(Kind::Node) || tokio::time::Instant::now() >= self.node_due;
        self.cluster.synced() && (self.synced || node_known)
    }

    /// Computes what has changed, and notes whose state in the kernel is behind now.
    fn compute(&mut self) {
        let context = Context::of(&self.settings, self.cluster.own_name(), self.cluster.node());
        self.repair |= self.backend.surround(&context, &self.cluster.service_cidrs());
        let mut changed = self.desired.set_context(context, &self.cluster);
        let dirty = self.cluster.dirty();
        changed.extend(self.desired.update(&self.cluster, dirty));
        self.moving.extend(self.desired.contended());
        self.note_unserved(&changed);
        self.note_checks(&changed);
        self.recomputed.extend(changed.iter().cloned());
        self.pending.extend(changed);
    }

    /// Remembers who has left. Done when the change has been carried out, for it must not wait for this.
    fn remember(&mut self) {
        let changed = std::mem::take(&mut self.recomputed);
        if !changed.is_empty() {
            let Moment { run, wall } = self.outlet.now();
            self.drain.follow(&self.cluster, &mut self.desired, &changed, drain::Now { run, wall });
        }
    }

    /// Notes what the backend cannot do, and logs what is new: each thing if there is little of it.
    fn note_unserved(&mut self, changed: &BTreeSet<ServiceName>) {
        let mut new = Vec::new();
        for name in changed {
            let outcome = self.desired.service(name).into_iter().flat_map(|outcome| &outcome.ports);
            let problems = outcome.flat_map(|(id, port)| self.backend.unserved(&id.of(name), port));
            let problems: BTreeSet<Problem> = problems.collect();
            let before = self.unserved.remove(name).unwrap_or_default();
            new.extend(problems.difference(&before).cloned());
            if !problems.is_empty() {
                self.unserved.insert(name.clone(), problems);
            }
        }
        new.iter().for_each(|problem| self.notices.give(Notice::of_problem(Reason::NotServed, problem)));
        if new.len() > FEW {
            warn!(
                ports = new.len(),
                "some service ports ask for what is not served yet; `sluice status` names them"
            );
        } else {
            new.iter().for_each(log);
        }
    }

    /// Notes what load balancers are to be told once it has been carried out.
    fn note_checks(&mut self, changed: &BTreeSet<ServiceName>) {
        let context = self.desired.context();
        self.outlet.draft_addresses(&context.v4.node_ports, &context.v6.node_ports);
        for name in changed {
            let checks = self.desired.service(name).map(|outcome| &*outcome.health_checks);
            self.outlet.draft(name, checks.unwrap_or_default());
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
            self.moving.clear();
        }
        if !self.synced || self.repair {
            self.backend.enable()?;
        }
        Ok(total)
    }

    /// What a share of the pending Services should do.
    fn wanted(&self) -> Wanted {
        let ports = |name: &ServiceName| {
            let outcome = self.desired.service(name).into_iter().flat_map(|outcome| &outcome.ports);
            outcome.map(|(id, port)| (id.of(name), port.clone())).collect()
        };
        let share = if self.synced { BACKLOG_SHARE } else { SHARE };
        let together = self.moving.iter().filter(|name| self.pending.contains(*name));
        together.chain(self.pending.iter().take(share)).map(|name| (name.clone(), ports(name))).collect()
    }

    fn succeeded(&mut self, applied: Applied, received: Instant) {
        let took = received.elapsed();
        self.settle_triggers();
        self.repair = false;
        self.passes += 1;
        self.outlet.updated();
        if self.failure.take().is_some() {
            info!("the kernel takes changes again");
        }
        if !applied.is_nothing() {
            self.last_change = Some(took);
        }
        if !std::mem::replace(&mut self.synced, true) {
            let services = self.cluster.counts().services;
            let note = format!("{services} Services are served; sluice {}", env!("CARGO_PKG_VERSION"));
            self.notices.give(Notice::of_node(false, Reason::Starting, note));
            self.drain.begin(&self.cluster, &self.desired, self.outlet.now().run);
            info!(
                services,
                written = applied.puts,
                removed = applied.drops,
                "synced; the dataplane is in force"
            );
        }
    }

    /// Whatever has caused the changes until now is in force.
    fn settle_triggers(&mut self) {
        let now = now();
        for trigger in self.cluster.take_triggers() {
            let ago = u64::try_from(now.saturating_sub(trigger.at)).unwrap_or_default();
            self.metrics.programmed(trigger.family, Duration::from_nanos(ago));
        }
    }

    fn failed(&mut self, failure: &BackendError) {
        self.metrics.failed();
        self.cluster.take_triggers();
        let wait = self.failure.as_ref().map_or(RETRY[0], |last| (last.wait * 2).min(RETRY[1]));
        let message = chain(failure);
        error!(error = message, retry_in = ?wait, "could not program the kernel");
        self.failure = Some(Failure { message, wait, again: Instant::now() + wait });
    }

    fn watch(&mut self) {
        if self.synced && self.backend.disturbed() {
            warn!("somebody took away tables or chains of ours; putting them back");
            self.warn_node(Reason::Repaired, "somebody took away tables or chains of ours".to_owned());
            self.repair = true;
            self.pass(Instant::now());
        }
    }

    fn housekeeping(&mut self) {
        self.log_problems();
        if !self.synced {
            // The time for the Node to be known may have run out.
            return self.pass(Instant::now());
        }
        self.backend.tend();
        self.look_at_drain();
        let report = match self.backend.report() {
            Ok(report) => report,
            Err(error) => {
                warn!(error = chain(&error), "could not look after the hooks");
                return;
            }
        };
        self.look_at_conntrack(&report);
        self.look_at_dataplane(&report);
        let detached = report.detached();
        self.metrics.set(self.facts(report));
        if !detached.is_empty() {
            let hooks = detached.join(",");
            warn!(hooks, "somebody detached our programs; attaching them again");
            self.warn_node(Reason::Repaired, format!("somebody detached our programs: {hooks}"));
            self.repair = true;
            self.pass(Instant::now());
        }
    }

    /// Takes what has been counted, forgets who has drained, and has the others counted again when it is time.
    fn look_at_drain(&mut self) {
        let now = self.outlet.now().run;
        let Some(surveyor) = &mut self.surveyor else { return };
        if let Some(survey) = surveyor.take(now) {
            self.drain.counted(&survey.found, survey.asked, now);
        }
        for (port, endpoint) in self.drain.tidy(now) {
            debug!(%port, %endpoint, "drained: no layer knows of a flow to it any more");
        }
        if !self.drain.is_empty() && surveyor.is_due(now) {
            surveyor.order(self.drain.subjects(), now);
        }
    }

    /// Told once, when it has become so.
    fn look_at_conntrack(&mut self, report: &Report) {
        let problem = report.conntrack.and_then(Usage::problem);
        if !std::mem::replace(&mut self.crowded, problem.is_some()) {
            problem.iter().for_each(log);
            let tell = |problem| self.notices.give(Notice::of_problem(Reason::TableNearlyFull, problem));
            problem.iter().for_each(tell);
        }
    }

    /// Tells which dataplane has the traffic when that changes, and whether one has fallen back.
    fn look_at_dataplane(&mut self, report: &Report) {
        if report.running.is_some() && report.running != self.dataplane {
            self.dataplane.clone_from(&report.running);
            if let Some(running @ Running { dataplane, reason }) = &self.dataplane {
                let note = format!("{dataplane} has the traffic: {reason}");
                let is_warning = running.is_fallback();
                self.notices.give(Notice::of_node(is_warning, Reason::DataplaneChanged, note));
            }
        }
        let full = report.edge.as_ref().map_or(0, edge::Report::without_room);
        if full > std::mem::replace(&mut self.full_at, full) {
            let note = format!(
                "the edge layer's table of flows was full: {full} new flows were left to nftables so far; \
                 --edge-flows gives it more room"
            );
            self.warn_node(Reason::TableNearlyFull, note);
        }
    }

    fn warn_node(&self, reason: Reason, note: String) {
        self.notices.give(Notice::of_node(true, reason, note));
    }

    /// Each problem is logged once, when it appears.
    fn log_problems(&mut self) {
        let now = self.problems_by_reason();
        for (reason, problem) in now.iter().flat_map(|(reason, all)| all.iter().map(|one| (*reason, one))) {
            if !self.logged.contains(problem) {
                log(problem);
                self.notices.give(Notice::of_problem(reason, problem));
            }
        }
        self.logged = now.into_iter().flat_map(|(_, problems)| problems).collect();
    }

    /// Everything that is wrong, but for what the backend cannot do.
    fn problems(&self) -> Vec<Problem> {
        self.problems_by_reason().into_iter().flat_map(|(_, problems)| problems).collect()
    }

    fn problems_by_reason(&self) -> [(Reason, Vec<Problem>); 5] {
        let kernel = |failure: &Failure| Problem::new("kernel", "", failure.message.clone());
        [
            (Reason::InvalidObject, self.cluster.problems()),
            (Reason::AddressConflict, self.desired.problems()),
            (Reason::Configuration, self.desired.context().problems(&self.settings)),
            (Reason::Configuration, self.outlet.problems()),
            (Reason::ProgrammingFailed, self.failure.iter().map(kernel).collect()),
        ]
    }

    fn standing(&self) -> Standing {
        let is_behind = self.failure.is_some() || self.repair || self.synced && !self.pending.is_empty();
        Standing { is_behind, eligible: self.cluster.takes_connections(), blockers: self.blockers() }
    }

    /// What is in the way of everything being in force.
    fn blockers(&self) -> Vec<String> {
        let refused = self.failure.as_ref();
        let mut all: Vec<String> =
            refused.map(|failure| format!("the kernel refuses: {}", failure.message)).into_iter().collect();
        if !self.synced {
            let unlisted = Kind::NEEDED.into_iter().filter(|kind| !self.cluster.listed(*kind));
            all.extend(unlisted.map(|kind| format!("{kind} objects are not listed yet")));
            if self.cluster.synced() && !self.is_complete() {
                all.push(format!("Node {} is not known yet", self.cluster.own_name()));
            }
            if all.is_empty() {
                all.push("nothing is in force yet".to_owned());
            }
        }
        all
    }

    fn facts(&self, kernel: Report) -> Facts {
        Facts {
            counts: self.cluster.counts(),
            listed: Kind::ALL.into_iter().filter(|kind| self.cluster.listed(*kind)).collect(),
            problems: self.logged.len() + self.unserved.values().map(BTreeSet::len).sum::<usize>(),
            unreached: self.desired.unreached(),
            draining: self.drain.numbers(),
            kernel,
        }
    }

    fn draining(&self) -> Draining {
        let drain::Numbers { endpoints, flows, .. } = self.drain.numbers();
        Draining { endpoints, flows }
    }

    fn status(&self) -> Status {
        let counts = self.cluster.counts();
        let kernel = self.backend.report().ok();
        let crowded = kernel.as_ref().and_then(|report| report.conntrack?.problem());
        let edge: Vec<Problem> =
            kernel.iter().flat_map(|report| &report.edge).flat_map(edge::Report::problems).collect();
        let unserved = self.unserved.values().flatten().cloned();
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
                draining: self.draining(),
            }),
            kernel,
            problems: self.problems().into_iter().chain(unserved).chain(crowded).chain(edge).collect(),
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn log(Problem { object, field, message, source }: &Problem) {
    warn!(object, field, source, what = message, "problem");
}

fn tells_problems(change: &Change) -> bool {
    match change {
        Change::Service(applied) => !applied.problems.is_empty(),
        Change::Slice(applied) => !applied.problems.is_empty(),
        Change::Node(applied) => !applied.problems.is_empty(),
        Change::ServiceCidr(applied) => !applied.problems.is_empty(),
        Change::Unreadable { object: _, problems } | Change::Problems { object: _, problems } => {
            !problems.is_empty()
        }
        Change::Deleted(_) | Change::Begin(_) | Change::End(_) | Change::Partial(_) | Change::Hears(..) => {
            false
        }
    }
}

#[cfg(test)]
mod tests;
