//! From one changed endpoint list to the kernel.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use lab::{Daemon, Lab, Settings};

use super::{Bench, lab, retire, size};
use crate::cluster::Cluster;
use crate::kernel::{Commits, Services};
use crate::report::{Better, Report, Title};
use crate::rival::{self, Rival};
use crate::shapes::{self, ENDPOINTS, Format};
use crate::spread::quantile;

const SUITE: &str = "change";
/// Changes of files in one round.
const BATCH: u32 = 25;
/// Between two changes of files.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two changes at the API server: the rival does not act more often than once a second.
const REST: Duration = Duration::from_millis(1500);
/// Between two looks into the kernel where the API server needs the cores.
const GLANCE: Duration = Duration::from_micros(50);

/// The daemon that follows a folder.
struct Folder {
    daemon: Daemon,
    services: Services,
    folder: PathBuf,
}

/// The daemon that follows the API server, and its rival.
struct Watchers<'a> {
    cluster: &'a Cluster,
    daemon: Daemon,
    services: Services,
    _rival: Rival,
    commits: Commits,
}

/// Milliseconds.
#[derive(Default)]
struct Figures {
    folder: Vec<Vec<f64>>,
    api: Vec<f64>,
    rival: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let count = if *quick { 1_000 } else { 10_000 };
    let mut cluster = cluster.get()?;
    if let Some(cluster) = &mut cluster {
        cluster.fill(count)?;
    }
    let cluster = cluster.as_deref();
    let lab = lab(cluster)?;
    let folder = start_folder(&lab, count)?;
    let watchers = cluster.map(|cluster| start_watchers(&lab, cluster, count)).transpose()?;
    let rounds = if *quick { 8 } else { 12 };
    eprintln!("changing endpoint lists: {rounds} rounds");
    let mut figures = Figures::default();
    for round in 0..rounds {
        let batch = (0..BATCH).map(|turn| change_file(&folder, turn * 7 % count, round));
        figures.folder.push(batch.collect::<Result<_>>()?);
        if let Some(watchers) = &watchers {
            let [api, rival] = change_object(watchers, round)?;
            figures.api.push(api);
            figures.rival.push(rival);
        }
    }
    rows(&size(count), &figures, report);
    retire(folder.daemon)?;
    watchers.map_or(Ok(()), |watchers| retire(watchers.daemon))
}

fn start_folder(lab: &Lab, count: u32) -> Result<Folder> {
    let node = lab.node("folder")?;
    let folder = node.folder().join("manifests");
    shapes::fill(&folder, count, Format::Json)?;
    let daemon = node.daemon(Settings::folder(&folder))?;
    Ok(Folder { daemon, services: Services::open(&node)?, folder })
}

fn start_watchers<'a>(lab: &Lab, cluster: &'a Cluster, count: u32) -> Result<Watchers<'a>> {
    let node = lab.node("api")?;
    let kubeconfig = node.folder().join("kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig())?;
    let daemon = node.daemon(Settings::kubeconfig(&kubeconfig))?;
    let services = Services::open(&node)?;
    eprintln!("starting kube-proxy on {count} services");
    let mut rival = Rival::start(lab.node("rival")?, cluster)?;
    rival.synced(count)?;
    let commits = Commits::of(rival.node())?;
    Ok(Watchers { cluster, daemon, services, _rival: rival, commits })
}

/// How many endpoints a list has after a round: one more or one less than before.
fn endpoints(round: u32) -> u32 {
    if round.is_multiple_of(2) { ENDPOINTS - 1 } else { ENDPOINTS }
}

/// Replaces one file, and says how many milliseconds later its list is in force.
fn change_file(folder: &Folder, number: u32, round: u32) -> Result<f64> {
    let address = shapes::address(number);
    let before = folder.services.get(address)?;
    let draft = folder.folder.join(".draft");
    write(&draft, &shapes::file(number, endpoints(round), Format::Json)?)?;
    thread::sleep(PAUSE);
    let begin = Instant::now();
    std::fs::rename(&draft, folder.folder.join(shapes::file_name(number, Format::Json)))?;
    let seen = folder.services.changed(address, before, endpoints(round), None)?;
    Ok(millis(begin, seen))
}

/// Changes one slice at the API server, and says how many milliseconds after its answer the daemon's and the rival's
/// kernel have it. Both see the same change at the same time.
fn change_object(watchers: &Watchers<'_>, round: u32) -> Result<[f64; 2]> {
    let Watchers { cluster, daemon: _, services, _rival: _, commits } = watchers;
    thread::sleep(REST);
    let (number, count) = (5, endpoints(round));
    let address = shapes::address(number);
    let before = services.get(address)?;
    commits.forget()?;
    thread::scope(|scope| {
        let ours = scope.spawn(move || services.changed(address, before, count, Some(GLANCE)));
        let theirs = scope.spawn(move || commits.next(Duration::from_secs(20)));
        let begin = cluster.set_endpoints(number, count)?;
        let joined = |seen: Result<Result<Instant>, _>| seen.map_err(|_| anyhow!("a watcher panicked"))?;
        let (ours, theirs) = (joined(ours.join())?, joined(theirs.join()).context("kube-proxy did nothing")?);
        Ok([millis(begin, ours), millis(begin, theirs)])
    })
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("could not write {}", path.display()))
}

/// Zero, if it was seen before.
fn millis(begin: Instant, seen: Instant) -> f64 {
    seen.saturating_duration_since(begin).as_secs_f64() * 1e3
}

fn rows(size: &str, figures: &Figures, report: &mut Report) {
    let Figures { folder, api, rival } = figures;
    let title =
        |part: &str, subject| Title { suite: SUITE, case: format!("{size} {part}"), subject, unit: "ms" };
    let all = folder.concat();
    let medians: Vec<f64> = folder.iter().map(|batch| quantile(batch, 0.5)).collect();
    let mut row = title("median", "ebpf").against(rival::NAME, Better::Lower, &medians, rival);
    row.value = quantile(&all, 0.5);
    report.add(row);
    report.add(title("p99", "ebpf").value(quantile(&all, 0.99)));
    if !rival.is_empty() {
        report.add(title("median", "ebpf-api").against(rival::NAME, Better::Lower, api, rival));
        report.add(title("median", rival::NAME).alone(rival));
    }
}
