//! Rounds of looking through the kernel, at low priority: a little at a time, and only while everything is in force.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Instant as Due;
use tracing::{debug, warn};

use super::Reconciler;
use crate::backend::difference::{Difference, Kind};
use crate::backend::findings::{Audited, Findings, Look, Turn};
use crate::backend::{Backend, Report, chain};
use crate::notify::Reason;

/// How long the loop is held by one step, and how long it is free between two.
const STEP: Duration = Duration::from_millis(2);
const PAUSE: Duration = Duration::from_millis(20);
/// The pause while somebody waits for the answer.
const SHORT: Duration = Duration::from_millis(1);
/// How long to wait where the loop has other work.
const LATER: Duration = Duration::from_millis(250);
/// How long whoever asks waits for everything to be in force.
const PATIENCE: Duration = Duration::from_secs(3);
/// So many differences are logged one by one.
const FEW: usize = 10;

/// When the kernel is looked through, and how far that has come.
#[derive(Debug)]
pub(super) struct Rounds {
    /// From the end of one round to the next; none: only when asked.
    every: Option<Duration>,
    due: Option<Due>,
    round: Option<Round>,
    waiting: Vec<Waiting>,
}

/// Somebody who asked.
#[derive(Debug)]
struct Waiting {
    heal: bool,
    since: Due,
    reply: oneshot::Sender<Audited>,
}

#[derive(Debug)]
struct Round {
    look: Look,
    findings: Findings,
    began: Instant,
    longest: Duration,
    waiting: Vec<Waiting>,
}

impl Rounds {
    pub(super) fn every(every: Option<Duration>) -> Self {
        Self { every, due: every.map(|every| Due::now() + every), round: None, waiting: Vec::new() }
    }

    /// When there is something to do next.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    fn is_awaited(&self) -> bool {
        !self.waiting.is_empty() || self.round.as_ref().is_some_and(|round| !round.waiting.is_empty())
    }

    fn after(&mut self, pause: Duration) {
        self.due = Some(Due::now() + pause);
    }

    /// Those who asked get a round of their own: the one under way may have passed what they mean.
    fn begin(&mut self) -> Round {
        let waiting = std::mem::take(&mut self.waiting);
        let heal = waiting.is_empty() || waiting.iter().any(|one| one.heal);
        let look = Look { budget: STEP, is_first: true, heal, thorough: !waiting.is_empty() };
        Round { look, findings: Findings::default(), began: Instant::now(), longest: Duration::ZERO, waiting }
    }
}

impl<B: Backend> Reconciler<B> {
    /// Looks through the kernel so often, if at all.
    #[must_use]
    pub fn auditing(self, every: Option<Duration>) -> Self {
        Self { rounds: Rounds::every(every), ..self }
    }

    /// Somebody wants a round, at once.
    pub(super) fn audit_for(&mut self, heal: bool, reply: oneshot::Sender<Audited>) {
        self.rounds.waiting.push(Waiting { heal, since: Due::now(), reply });
        self.rounds.after(Duration::ZERO);
    }

    /// One step.
    pub(super) fn audit(&mut self) {
        if !self.is_settled() {
            return self.give_up();
        }
        let mut round = self.rounds.round.take().unwrap_or_else(|| self.rounds.begin());
        let began = Instant::now();
        let turn = self.backend.audit(round.look, &mut round.findings);
        round.look.is_first = false;
        round.longest = round.longest.max(began.elapsed());
        let pause = match turn {
            Ok(Turn::Done) => return self.end(round),
            Ok(Turn::More | Turn::Wait) => PAUSE,
            Err(error) => {
                warn!(error = chain(&error), "could not put right what differs; writing everything anew");
                round.findings.notes.push(chain(&error));
                self.pending.extend(self.cluster.names().cloned());
                self.pass(Instant::now());
                if self.is_settled() {
                    round.findings.heal_all();
                }
                return self.end(round);
            }
        };
        self.rounds.round = Some(round);
        let pause = if self.rounds.is_awaited() { SHORT } else { pause };
        self.rounds.after(pause);
    }

    /// Whether what is in force is what is wanted, as far as is known.
    fn is_settled(&self) -> bool {
        self.synced && self.failure.is_none() && self.pending.is_empty() && !self.repair
    }

    /// Begins anew when everything is in force; but nobody waits for ever.
    fn give_up(&mut self) {
        let blockers = self.blockers();
        let round = self.rounds.round.take().map(|round| round.waiting).unwrap_or_default();
        let all = round.into_iter().chain(std::mem::take(&mut self.rounds.waiting)).collect::<Vec<_>>();
        for waiting in all {
            if waiting.since.elapsed() < PATIENCE {
                self.rounds.waiting.push(waiting);
                continue;
            }
            let notes =
                if blockers.is_empty() { vec!["changes are under way".to_owned()] } else { blockers.clone() };
            drop(waiting.reply.send(Audited { notes, ..Audited::default() }));
        }
        let again = self.rounds.every.is_some() || self.rounds.is_awaited();
        self.rounds.due = again.then(|| Due::now() + LATER);
    }

    fn end(&mut self, mut round: Round) {
        if !round.waiting.is_empty() {
            self.look_at_hooks(&mut round);
        }
        let Round { look, findings, began, longest, waiting } = round;
        debug!(took = ?began.elapsed(), ?longest, found = findings.count(), "looked through the kernel");
        if look.heal {
            self.metrics.audited(&findings);
            self.tell_healed(&findings);
        }
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let audited = Audited {
            found: findings.count(),
            healed: findings.mended(),
            differences: findings.rows,
            notes: findings.notes,
            took_millis: millis(began.elapsed()),
            longest_millis: millis(longest),
        };
        waiting.into_iter().for_each(|one| drop(one.reply.send(audited.clone())));
        let next = if self.rounds.waiting.is_empty() { self.rounds.every } else { Some(Duration::ZERO) };
        self.rounds.due = next.map(|next| Due::now() + next);
    }

    /// Hooks are looked after anyway; whoever asks is told of them, too.
    fn look_at_hooks(&mut self, round: &mut Round) {
        let Ok(report) = self.backend.report() else { return };
        for (dataplane, hook) in detached(&report) {
            round.findings.add(dataplane, Kind::Detached, || Difference {
                dataplane: dataplane.into(),
                service: String::new(),
                what: format!("hook {hook}"),
                plan: Some("attached".to_owned()),
                kernel: None,
            });
            self.repair |= round.look.heal;
        }
        if !self.repair {
            return;
        }
        self.pass(Instant::now());
        if !self.repair {
            ["ebpf", "nftables"].into_iter().for_each(|dataplane| round.findings.heal(dataplane));
        }
    }

    fn tell_healed(&self, findings: &Findings) {
        let (found, healed) = (findings.count(), findings.mended());
        if found == 0 {
            return;
        }
        for Difference { dataplane, service, what, plan, kernel } in findings.rows.iter().take(FEW) {
            let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
            let (plan, kernel) = (side(plan), side(kernel));
            warn!(%dataplane, service, what, plan, kernel, "somebody changed what is ours");
        }
        warn!(found, healed, "put right what somebody had changed in the kernel");
        let first =
            findings.rows.first().map(|row| format!("{} {} {}", row.dataplane, row.service, row.what));
        let first = first.unwrap_or_default();
        let note =
            format!("somebody changed {found} entries of ours, {healed} put right; the first: {first}");
        self.warn_node(Reason::Repaired, note);
    }
}

/// Hooks that should be ours and are not, with their dataplanes.
pub(super) fn detached(report: &Report) -> Vec<(&'static str, String)> {
    let [hooks, chains] = report.detached_of();
    let hooks = hooks.into_iter().map(|hook| ("ebpf", hook));
    hooks.chain(chains.into_iter().map(|chain| ("nftables", chain))).collect()
}
