//! What is desired of a whole cluster: all of it anew, one change, and the memory it takes; and how that
//! grows.

mod objects;
mod plot;

use std::collections::BTreeSet;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sluice::desired::{Context, Desired, Detector, Settings};
use sluice::model::{Change, Cluster, Origin, ServiceName};

use super::Bench;
use crate::memory::{self, Heap};
use crate::report::{Better, Report, Title};
use crate::spread::quantile;
use objects::{ENDPOINTS, OWN, Pair};

const SUITE: &str = "desired";
const SIZES: [u32; 6] = [1_000, 2_000, 5_000, 10_000, 20_000, 50_000];
/// Where the growth is drawn, from the root of the tree.
const PLOT: &str = "bench/results/desired-growth.svg";
/// Services of which one slice each is changed in one round.
const CHANGES: u32 = 1_000;
/// From one of them to the next: far away, so that no cache remembers.
const STRIDE: u32 = 7919;

/// One size of cluster: the medians that are drawn.
pub(super) struct Point {
    pub(super) services: u32,
    /// Milliseconds for everything.
    pub(super) full: f64,
    /// Microseconds for one changed slice.
    pub(super) change: f64,
    /// Bytes of model and of desired, for each endpoint.
    pub(super) bytes: [f64; 2],
}

/// One figure a round.
#[derive(Default)]
struct Figures {
    full: Vec<f64>,
    zone: Vec<f64>,
    changes: Vec<Vec<f64>>,
}

/// A cluster, what is desired of it, and the slices that change, in both their states.
struct Stage {
    cluster: Cluster,
    desired: Desired,
    slices: Vec<[EndpointSlice; 2]>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (sizes, rounds) = if bench.quick { (&SIZES[..3], 5) } else { (&SIZES[..], 11) };
    let case = |services: &u32| case(*services, rounds, &mut bench.report);
    let growth = sizes.iter().map(case).collect::<Result<Vec<_>>>()?;
    if bench.quick { Ok(()) } else { plot::write(Path::new(PLOT), &growth) }
}

fn case(services: u32, rounds: u32, report: &mut Report) -> Result<Point> {
    eprintln!("{services} services in memory: {rounds} rounds");
    let (_, taken_in) = fill(services)?;
    let (filled, model) = memory::growth(|| fill(services));
    let (mut cluster, _) = filled?;
    let names: BTreeSet<ServiceName> = cluster.names().cloned().collect();
    let mut desired = Desired::new(context(&cluster));
    let (_, outcome) = memory::growth(|| desired.update(&cluster, names.clone()).len());
    take_zone(&mut cluster, "a")?;
    let mut stage = Stage { cluster, desired, slices: changing(services)? };
    let mut figures = Figures::default();
    for round in 0..rounds {
        figures.full.push(full(&stage.cluster, &names)?);
        figures.changes.push(changes(&mut stage, round)?);
        figures.zone.push(zone(&mut stage, round, services)?);
    }
    let point = Point {
        services,
        full: quantile(&figures.full, 0.5),
        change: quantile(&figures.changes.concat(), 0.5),
        bytes: [model, outcome].map(|heap| per_endpoint(heap.bytes, services)),
    };
    time_rows(services, millis(taken_in), &figures, report);
    memory_rows(services, [model, outcome], report);
    Ok(point)
}

/// The model of so many Services, and how long the parsing and the taking in took of that. No object outlives
/// it.
fn fill(services: u32) -> Result<(Cluster, Duration)> {
    let mut cluster = Cluster::of_node(OWN, Origin::Server);
    take_zone(&mut cluster, "a")?;
    let mut spent = Duration::ZERO;
    for number in 0..services {
        let Pair { service, slice } = objects::pair(number)?;
        let begin = Instant::now();
        cluster.take(objects::of_service(&service));
        cluster.take(objects::of_slice(&slice));
        spent += begin.elapsed();
    }
    let dirty = cluster.dirty().len();
    ensure!(dirty == services as usize, "{dirty} of {services} services were taken in");
    Ok((cluster, spent))
}

fn take_zone(cluster: &mut Cluster, zone: &str) -> Result<()> {
    cluster.take(objects::of_node(&objects::node(zone)?));
    Ok(())
}

fn context(cluster: &Cluster) -> Context {
    let pods = Detector::ClusterCidr { v4: "10.128.0.0/9".parse().ok(), v6: None };
    let settings = Settings { detector: pods, ..Settings::default() };
    Context::of(&settings, cluster.own_name(), cluster.node())
}

/// Milliseconds for everything, where nothing was before.
fn full(cluster: &Cluster, names: &BTreeSet<ServiceName>) -> Result<f64> {
    let (mut desired, all) = (Desired::new(context(cluster)), names.clone());
    let begin = Instant::now();
    let changed = black_box(desired.update(cluster, all));
    let spent = begin.elapsed();
    ensure!(changed.len() == names.len(), "{} of {} services have an outcome", changed.len(), names.len());
    Ok(millis(spent))
}

/// The slices that change, far from one another.
fn changing(services: u32) -> Result<Vec<[EndpointSlice; 2]>> {
    let numbers = (0..CHANGES.min(services)).map(|turn| turn * STRIDE % services);
    numbers.map(|number| Ok([objects::slice(number, 1)?, objects::slice(number, 0)?])).collect()
}

/// Microseconds for each change of a slice: from a fact to the outcome of all. What the source spent on
/// parsing is counted elsewhere.
fn changes(stage: &mut Stage, round: u32) -> Result<Vec<f64>> {
    let Stage { cluster, desired, slices } = stage;
    let state = (round % 2) as usize;
    let changes: Vec<Change> = slices.iter().map(|states| objects::of_slice(&states[state])).collect();
    let mut figures = Vec::with_capacity(changes.len());
    for change in changes {
        let begin = Instant::now();
        cluster.take(change);
        let dirty = cluster.dirty();
        let changed = black_box(desired.update(cluster, dirty));
        figures.push(begin.elapsed().as_secs_f64() * 1e6);
        ensure!(changed.len() == 1, "one slice changed {} services", changed.len());
    }
    Ok(figures)
}

/// Milliseconds until everything is right again after our Node came to another zone.
fn zone(stage: &mut Stage, round: u32, services: u32) -> Result<f64> {
    let Stage { cluster, desired, slices: _ } = stage;
    let begin = Instant::now();
    take_zone(cluster, if round.is_multiple_of(2) { "b" } else { "a" })?;
    let changed = black_box(desired.set_context(context(cluster), cluster));
    let spent = begin.elapsed();
    ensure!(changed.len() >= services as usize / 4, "another zone changed {} services only", changed.len());
    Ok(millis(spent))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn per_endpoint(amount: isize, services: u32) -> f64 {
    amount as f64 / f64::from(services * ENDPOINTS)
}

fn title(services: u32, part: &str, subject: &'static str, unit: &'static str) -> Title {
    let case = format!("{}k x {ENDPOINTS} {part}", services / 1000);
    Title { suite: SUITE, case, subject, unit }
}

/// One change is compared with computing everything anew, in the same round.
fn time_rows(services: u32, taken_in: f64, figures: &Figures, report: &mut Report) {
    let Figures { full, zone, changes } = figures;
    report.add(title(services, "parse and take", "model", "ms").value(taken_in));
    report.add(title(services, "all", "anew", "ms").alone(full));
    report.add(title(services, "other zone", "anew", "ms").alone(zone));
    let medians: Vec<f64> = changes.iter().map(|batch| quantile(batch, 0.5)).collect();
    let anew: Vec<f64> = full.iter().map(|millis| millis * 1e3).collect();
    let one = |part| title(services, part, "one change", "us");
    report.add(one("median").against("anew", Better::Lower, &medians, &anew));
    report.add(one("p99").value(quantile(&changes.concat(), 0.99)));
}

/// For each endpoint.
fn memory_rows(services: u32, heaps: [Heap; 2], report: &mut Report) {
    let mut sums = [0.0; 2];
    for (subject, Heap { bytes, taken, blocks }) in ["model", "desired"].into_iter().zip(heaps) {
        let [bytes, taken, blocks] = [bytes, taken, blocks].map(|amount| per_endpoint(amount, services));
        sums = [sums[0] + bytes, sums[1] + taken];
        report.add(title(services, "asked for", subject, "B").value(bytes));
        report.add(title(services, "taken", subject, "B").value(taken));
        report.add(title(services, "blocks", subject, "1").value(blocks));
    }
    report.add(title(services, "asked for", "both", "B").value(sums[0]));
    report.add(title(services, "taken", "both", "B").value(sums[1]));
}
