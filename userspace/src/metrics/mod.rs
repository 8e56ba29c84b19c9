//! What Prometheus reads: kube-proxy's names where they mean the same, and our own.
//!
//! The loop counts what it does and says now and then how things stand; whoever asks gets text made of that, and waits for
//! nobody.

mod facts;
mod family;
mod services;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, Desc};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry,
    TextEncoder, exponential_buckets, proto,
};

pub use self::facts::Facts;
use self::facts::{families, ip_family};
pub use self::services::Ledger;
use crate::backend::difference;
use crate::backend::findings::Findings;
use crate::model::{Change, Family, Kind};

/// The format of the text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// A pass of the loop that brought the kernel to what the objects say.
#[derive(Clone, Copy, Debug)]
pub struct Pass {
    /// How long it took.
    pub took: Duration,
    /// How long the first of the changes in it had waited by its end, if something was written.
    pub since_received: Option<Duration>,
    /// Whether everything was looked at, and not only what had changed.
    pub is_full: bool,
    /// Entries written to the kernel.
    pub written: usize,
    /// Entries removed from it.
    pub removed: usize,
}

/// All metrics of the daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    facts: std::sync::Arc<Mutex<Facts>>,
    services: Shown,
    sync: HistogramVec,
    full: HistogramVec,
    partial: HistogramVec,
    synced_at: GaugeVec,
    queued_at: GaugeVec,
    programming: HistogramVec,
    service_changes: IntCounter,
    slice_changes: IntCounter,
    services_pending: Gauge,
    slices_pending: Gauge,
    failures: IntCounterVec,
    healthz: IntCounterVec,
    livez: IntCounterVec,
    synced: Gauge,
    change: Histogram,
    written: IntCounter,
    removed: IntCounter,
    drift_found: IntCounterVec,
    drift_healed: IntCounterVec,
    rounds: IntCounter,
    log_lines_lost: IntCounter,
    failing: GaugeVec,
    source_failures: IntCounterVec,
}

/// By family, as kube-proxy has it; one pass here serves both.
const BY_FAMILY: [&str; 1] = ["ip_family"];
/// By the kind of objects.
const BY_KIND: [&str; 1] = ["kind"];
/// By the status of an HTTP answer.
const BY_STATUS: [&str; 1] = ["code"];

/// By whose tables differ, and in which way.
const BY_DRIFT: [&str; 2] = ["dataplane", "kind"];
/// Those whose tables are looked through.
const DATAPLANES: [&str; 3] = ["ebpf", "edge", "nftables"];

/// A question whether all is well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Whether this node should get new connections.
    Healthz,
    /// Whether the daemon is alive.
    Livez,
}

impl Metrics {
    /// Nothing counted yet. An error means that two metrics have one name, or one that Prometheus does not take.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let maker = Maker(&registry);
        let facts = std::sync::Arc::new(Mutex::new(Facts::default()));
        let shown = Shown::default();
        let snapshot =
            Snapshot { facts: std::sync::Arc::clone(&facts), services: std::sync::Arc::clone(&shown) };
        registry.register(Box::new(snapshot))?;
        let process = prometheus::process_collector::ProcessCollector::for_self();
        registry.register(Box::new(process))?;
        let coarse = || exponential_buckets(0.001, 2.0, 15);
        Ok(Self {
            sync: maker.histograms("kubeproxy_sync_proxy_rules_duration_seconds", SYNC, coarse()?)?,
            full: maker.histograms("kubeproxy_sync_full_proxy_rules_duration_seconds", FULL, coarse()?)?,
            partial: maker.histograms(
                "kubeproxy_sync_partial_proxy_rules_duration_seconds",
                PARTIAL,
                coarse()?,
            )?,
            synced_at: maker.gauges("kubeproxy_sync_proxy_rules_last_timestamp_seconds", SYNCED_AT)?,
            queued_at: maker.gauges("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", QUEUED_AT)?,
            programming: maker.histograms(
                "kubeproxy_network_programming_duration_seconds",
                PROGRAMMING,
                programming_buckets(),
            )?,
            service_changes: maker.counter("kubeproxy_sync_proxy_rules_service_changes_total", SERVICES)?,
            slice_changes: maker.counter("kubeproxy_sync_proxy_rules_endpoint_changes_total", SLICES)?,
            services_pending: maker
                .gauge("kubeproxy_sync_proxy_rules_service_changes_pending", SERVICES_PENDING)?,
            slices_pending: maker
                .gauge("kubeproxy_sync_proxy_rules_endpoint_changes_pending", SLICES_PENDING)?,
            failures: maker.counters(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                FAILURES,
                &BY_FAMILY,
            )?,
            healthz: maker.counters("kubeproxy_proxy_healthz_total", HEALTHZ, &BY_STATUS)?,
            livez: maker.counters("kubeproxy_proxy_livez_total", LIVEZ, &BY_STATUS)?,
            synced: maker.gauge("sluice_synced", SYNCED)?,
            change: maker.histogram("sluice_change_duration_seconds", CHANGE, fine()?)?,
            written: maker.counter("sluice_kernel_entries_written_total", WRITTEN)?,
            removed: maker.counter("sluice_kernel_entries_removed_total", REMOVED)?,
            drift_found: maker.drift("sluice_drift_found_total", DRIFT_FOUND)?,
            drift_healed: maker.drift("sluice_drift_healed_total", DRIFT_HEALED)?,
            rounds: maker.counter("sluice_audit_rounds_total", ROUNDS)?,
            log_lines_lost: maker.counter("sluice_log_lines_lost_total", LOG_LINES_LOST)?,
            failing: maker.gauges_by("sluice_source_failing", FAILING, &BY_KIND)?,
            source_failures: maker.counters("sluice_source_failures_total", SOURCE_FAILURES, &BY_KIND)?,
            registry,
            facts,
            services: shown,
        })
    }

    fn hears(&self, kind: Kind, hears: bool) {
        self.failing.with_label_values(&[kind.as_str()]).set(if hears { 0.0 } else { 1.0 });
        let failures = self.source_failures.with_label_values(&[kind.as_str()]);
        failures.inc_by(u64::from(!hears));
    }

    /// So many lines of the log have been lost until now.
    pub fn log_lines_lost(&self, until_now: u64) {
        self.log_lines_lost.inc_by(until_now.saturating_sub(self.log_lines_lost.get()));
    }

    /// Changes have come, and wait until the kernel has been brought to what they say.
    pub fn received(&self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Service(_) => self.waits(Kind::Service),
                Change::Slice(_) => self.waits(Kind::EndpointSlice),
                Change::Deleted(object) => self.waits(object.kind),
                Change::Hears(kind, hears) => self.hears(*kind, *hears),
                Change::Node(_)
                | Change::ServiceCidr(_)
                | Change::Unreadable { .. }
                | Change::Begin(_)
                | Change::End(_)
                | Change::Partial(_)
                | Change::Problems { .. } => {}
            }
        }
        self.stamp(&self.queued_at);
    }

    fn waits(&self, kind: Kind) {
        let (seen, pending) = match kind {
            Kind::Service => (&self.service_changes, &self.services_pending),
            Kind::EndpointSlice => (&self.slice_changes, &self.slices_pending),
            Kind::Node | Kind::ServiceCidr => return,
        };
        seen.inc();
        pending.inc();
    }

    /// Whatever has come is in force, or made no difference.
    pub fn settled(&self) {
        self.services_pending.set(0.0);
        self.slices_pending.set(0.0);
    }

    /// The kernel is as the objects say.
    pub fn passed(&self, pass: Pass) {
        let Pass { took, since_received, is_full, written, removed } = pass;
        for family in Family::ALL {
            let label = [ip_family(family)];
            self.sync.with_label_values(&label).observe(took.as_secs_f64());
            let one = if is_full { &self.full } else { &self.partial };
            one.with_label_values(&label).observe(took.as_secs_f64());
        }
        self.stamp(&self.synced_at);
        self.synced.set(1.0);
        self.settled();
        if let Some(since) = since_received {
            self.change.observe(since.as_secs_f64());
        }
        self.written.inc_by(written as u64);
        self.removed.inc_by(removed as u64);
    }

    /// A change of endpoints is in force whose cause happened so long ago, as its slice says.
    pub fn programmed(&self, family: Family, ago: Duration) {
        self.programming.with_label_values(&[ip_family(family)]).observe(ago.as_secs_f64());
    }

    /// The kernel refused something.
    pub fn failed(&self) {
        self.synced.set(0.0);
        Family::ALL.iter().for_each(|family| self.failures.with_label_values(&[ip_family(*family)]).inc());
    }

    /// The kernel has been looked through, and what differed has been put right.
    pub fn audited(&self, findings: &Findings) {
        self.rounds.inc();
        for (tally, counters) in
            [(&findings.found, &self.drift_found), (&findings.healed, &self.drift_healed)]
        {
            for ((dataplane, kind), count) in tally {
                counters.with_label_values(&[*dataplane, kind.as_str()]).inc_by(*count);
            }
        }
    }

    /// Somebody has taken something off a hook; it is put back at once.
    pub fn detached(&self, dataplane: &str) {
        let label = [dataplane, difference::Kind::Detached.as_str()];
        [&self.drift_found, &self.drift_healed]
            .iter()
            .for_each(|counters| counters.with_label_values(&label).inc());
    }

    /// Takes how things stand.
    pub fn set(&self, facts: Facts) {
        *self.facts.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// Takes what is counted for service ports.
    pub fn set_services(&self, ledger: &Ledger) {
        let families = std::sync::Arc::new(ledger.families());
        *self.services.lock().unwrap_or_else(PoisonError::into_inner) = families;
    }

    /// Somebody has asked whether all is well, and was answered so.
    pub fn probed(&self, probe: Probe, status: u16) {
        let counters = match probe {
            Probe::Healthz => &self.healthz,
            Probe::Livez => &self.livez,
        };
        counters.with_label_values(&[status.to_string()]).inc();
    }

    /// All of it, in Prometheus' text format.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    fn stamp(&self, gauge: &GaugeVec) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Family::ALL
            .iter()
            .for_each(|family| gauge.with_label_values(&[ip_family(*family)]).set(now.as_secs_f64()));
    }
}

const SYNC: &str = "Time of one synchronization of the kernel with the objects, in seconds.";
const FULL: &str = "The same, where everything was looked at.";
const PARTIAL: &str = "The same, where only what had changed was looked at.";
const SYNCED_AT: &str = "Time of the last successful synchronization, in seconds since 1970.";
const QUEUED_AT: &str = "Time when a synchronization was last asked for, in seconds since 1970.";
const PROGRAMMING: &str =
    "Time from what caused a change of endpoints, as its slice says, until it was in force, in seconds.";
const SERVICES: &str = "Changes of Services seen.";
const SLICES: &str = "Changes of EndpointSlices seen.";
const SERVICES_PENDING: &str = "Changes of Services that are not in force yet.";
const SLICES_PENDING: &str = "Changes of EndpointSlices that are not in force yet.";
const FAILURES: &str = "Synchronizations that failed, whichever dataplane refused.";
const SYNCED: &str = "Whether the kernel is as the objects say (1), or behind (0).";
const HEALTHZ: &str = "Answers at /healthz, by status.";
const LIVEZ: &str = "Answers at /livez, by status.";
const CHANGE: &str = "Time from a change's arrival until it was in force, in seconds.";
const WRITTEN: &str = "Entries written to the kernel: map entries, set elements, rules.";
const REMOVED: &str = "Entries removed from the kernel.";
const FAILING: &str = "Whether changes of a kind of objects are not heard of at present (1).";
const SOURCE_FAILURES: &str = "How often that began or was tried in vain.";
const LOG_LINES_LOST: &str = "Lines of the log that nobody has read in time.";

const DRIFT_FOUND: &str =
    "What was found in the kernel otherwise than it should be, though nobody had asked for that.";
const DRIFT_HEALED: &str = "Of that, what has been put right.";
const ROUNDS: &str = "How often the kernel has been looked through.";

/// From 50 microseconds to half a minute.
fn fine() -> Result<Vec<f64>, prometheus::Error> {
    exponential_buckets(0.000_05, 2.0, 20)
}

/// As kube-proxy has them: a quarter and a half, each second of the first minute, each five of the second, and each thirty up to five.
fn programming_buckets() -> Vec<f64> {
    let seconds = (1..60).chain((60..120).step_by(5)).chain((120..=300).step_by(30));
    [0.25, 0.5].into_iter().chain(seconds.map(f64::from)).collect()
}

/// Makes metrics and registers them.
struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn histograms(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
    ) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets), &BY_FAMILY)?)
    }

    fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, prometheus::Error> {
        self.add(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }

    fn gauges(&self, name: &str, help: &str) -> Result<GaugeVec, prometheus::Error> {
        self.gauges_by(name, help, &BY_FAMILY)
    }

    fn gauges_by(&self, name: &str, help: &str, labels: &[&str]) -> Result<GaugeVec, prometheus::Error> {
        self.add(GaugeVec::new(Opts::new(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<Gauge, prometheus::Error> {
        self.add(Gauge::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels)?)
    }

    /// What has not happened yet is zero, so that the first time is an increase.
    fn drift(&self, name: &str, help: &str) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.counters(name, help, &BY_DRIFT)?;
        for dataplane in DATAPLANES {
            for kind in difference::Kind::ALL {
                counters.with_label_values(&[dataplane, kind.as_str()]).inc_by(0);
            }
        }
        Ok(counters)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help)?)
    }

    fn add<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

/// What was counted for service ports when somebody last said so.
type Shown = std::sync::Arc<Mutex<std::sync::Arc<Vec<family::Family>>>>;

/// How things stood when somebody last said so.
struct Snapshot {
    facts: std::sync::Arc<Mutex<Facts>>,
    services: Shown,
}

impl Collector for Snapshot {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let services = std::sync::Arc::clone(&self.services.lock().unwrap_or_else(PoisonError::into_inner));
        // The library takes no family without a sample.
        let services = services.iter().filter(|family| !family.is_empty()).cloned();
        families(&facts).into_iter().chain(services).map(family::Family::into_proto).collect()
    }
}

#[cfg(test)]
mod tests;
