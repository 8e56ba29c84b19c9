//! From one changed endpoint list to the kernel.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use dataplane_ebpf::abi::State;
use lab::{Daemon, Lab, Node, Settings};

use super::{Bench, lab, nftables, retire, size};
use crate::cluster::Cluster;
use crate::kernel::{Commits, Services};
use crate::report::{Better, Report, Title};
use crate::rival::{self, Rival};
use crate::shapes::{self, ENDPOINTS, Format};
use crate::spread::quantile;

const SUITE: &str = "change";
/// Changes of files in one round.
pub(super) const BATCH: u32 = 25;
/// Between two changes of files.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two changes at the API server: the rival does not act more often than once a second.
const REST: Duration = Duration::from_millis(1500);
/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two looks into the kernel where the API server needs the cores.
const GLANCE: Duration = Duration::from_micros(50);

/// A daemon that follows a folder, and how its kernel is watched.
pub(super) struct Folder<W> {
    pub(super) daemon: Daemon,
    watch: W,
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
    nftables: Vec<Vec<f64>>,
    api: Vec<f64>,
    rival: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let count = if *quick { 1_000 } else { 10_000 };
    let mut cluster = cluster.with_at_most(count)?;
    if let Some(cluster) = &mut cluster {
        cluster.fill(count)?;
    }
    let cluster = cluster.as_deref();
    let lab = lab(cluster)?;
    let folder = start_folder(&lab, "folder", count, Settings::folder, Services::open)?;
    let known = nftables::is_known(folder.daemon.node())?;
    let nftables = known
        .then(|| start_folder(&lab, nftables::NAME, count, nftables::settings, Commits::of))
        .transpose()?;
    let watchers = cluster.map(|cluster| start_watchers(&lab, cluster, count)).transpose()?;
    let rounds = if *quick { 8 } else { 12 };
    eprintln!("changing endpoint lists: {rounds} rounds");
    let mut figures = Figures::default();
    for round in 0..rounds {
        let numbers = (0..BATCH).map(|turn| turn * 7 % count);
        let batch = numbers.clone().map(|number| change_file(&folder, number, round));
        figures.folder.push(batch.collect::<Result<_>>()?);
        if let Some(nftables) = &nftables {
            let batch = numbers.map(|number| change_file(nftables, number, round));
            figures.nftables.push(batch.collect::<Result<_>>()?);
        }
        if let Some(watchers) = &watchers {
            let [api, rival] = change_object(watchers, round)?;
            figures.api.push(api);
            figures.rival.push(rival);
        }
    }
    rows(&size(count), &figures, report);
    retire(folder.daemon)?;
    nftables.map_or(Ok(()), |nftables| retire(nftables.daemon))?;
    watchers.map_or(Ok(()), |watchers| retire(watchers.daemon))
}

pub(super) fn start_folder<W>(
    lab: &Lab,
    name: &str,
    count: u32,
    settings: fn(&Path) -> Settings,
    watch: fn(&Node) -> Result<W>,
) -> Result<Folder<W>> {
    let node = lab.node(name)?;
    let folder = node.folder().join("manifests");
    shapes::fill(&folder, count, Format::Json)?;
    let daemon = node.daemon(settings(&folder))?;
    Ok(Folder { daemon, watch: watch(&node)?, folder })
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

/// How it is seen that one changed list is in force.
pub(super) trait Watch {
    /// What must be known before the change.
    type Before;
    fn before(&self, address: SocketAddr) -> Result<Self::Before>;
    /// When the list of so many endpoints was in force.
    fn after(&self, address: SocketAddr, before: Self::Before, endpoints: u32) -> Result<Instant>;
}

impl Watch for Services {
    type Before = State;

    fn before(&self, address: SocketAddr) -> Result<State> {
        self.get(address)
    }

    fn after(&self, address: SocketAddr, before: State, endpoints: u32) -> Result<Instant> {
        self.changed(address, before, endpoints, None)
    }
}

/// Changes come one by one, so the next commit is the one.
impl Watch for Commits {
    type Before = ();

    fn before(&self, _: SocketAddr) -> Result<()> {
        self.forget()
    }

    fn after(&self, _: SocketAddr, (): (), _: u32) -> Result<Instant> {
        self.next(PATIENCE)
    }
}

/// Replaces one file, and says how many milliseconds later its list is in force.
pub(super) fn change_file<W: Watch>(folder: &Folder<W>, number: u32, round: u32) -> Result<f64> {
    let address = shapes::address(number);
    let draft = folder.folder.join(".draft");
    write(&draft, &shapes::file(number, endpoints(round), Format::Json)?)?;
    thread::sleep(PAUSE);
    let before = folder.watch.before(address)?;
    let begin = Instant::now();
    std::fs::rename(&draft, folder.folder.join(shapes::file_name(number, Format::Json)))?;
    let seen = folder.watch.after(address, before, endpoints(round))?;
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
        let theirs = scope.spawn(move || commits.next(PATIENCE));
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
    let Figures { folder, nftables, api, rival } = figures;
    let title =
        |part: &str, subject| Title { suite: SUITE, case: format!("{size} {part}"), subject, unit: "ms" };
    for (subject, batches) in [("ebpf", folder), (nftables::NAME, nftables)] {
        if batches.is_empty() {
            continue;
        }
        let all = batches.concat();
        let medians: Vec<f64> = batches.iter().map(|batch| quantile(batch, 0.5)).collect();
        let mut row = title("median", subject).against(rival::NAME, Better::Lower, &medians, rival);
        row.value = quantile(&all, 0.5);
        report.add(row);
        report.add(title("p99", subject).value(quantile(&all, 0.99)));
    }
    if !rival.is_empty() {
        report.add(title("median", "ebpf-api").against(rival::NAME, Better::Lower, api, rival));
        report.add(title("median", rival::NAME).alone(rival));
    }
}
