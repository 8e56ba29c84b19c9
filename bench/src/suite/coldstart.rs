//! From the start of the process to a complete dataplane, and the memory it took.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Lab, Node, Settings};

use super::{Bench, lab, nftables, retire, size};
use crate::cluster::Cluster;
use crate::memory;
use crate::report::{Better, Report, Title};
use crate::rival::{self, Rival};
use crate::shapes::{self, Format};

const SUITE: &str = "coldstart";
/// What the daemon logs when the kernel has everything and the programs are attached.
const SYNCED: &str = "the dataplane is in force";
/// Numbers of services; who takes part only in smaller ones is not kept waiting for the largest.
const CASES: [u32; 3] = [1_000, 10_000, 50_000];
/// The rival takes minutes for more, and so does its API server.
const MOST_OF_RIVAL: u32 = 10_000;

/// A way to start the daemon.
struct Starter {
    subject: &'static str,
    format: Format,
    settings: fn(&Path) -> Settings,
    /// How many services the kernel knows.
    known: fn(&Node) -> Result<usize>,
    /// The largest case it takes part in.
    most: u32,
}

const EBPF: Starter = Starter {
    subject: "ebpf",
    format: Format::Json,
    settings: Settings::folder,
    known: |node| Ok(node.services()?.len()),
    most: u32::MAX,
};
const YAML: Starter = Starter { subject: "ebpf-yaml", format: Format::Yaml, most: 10_000, ..EBPF };
const NFTABLES: Starter =
    Starter { subject: nftables::NAME, settings: nftables::settings, known: nftables::services, ..EBPF };

/// Seconds and megabytes, round by round.
#[derive(Default)]
struct Figures {
    seconds: Vec<f64>,
    memory: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let cases = if *quick { &CASES[..1] } else { &CASES };
    let mut cluster = cluster.with_at_most(CASES[0])?;
    let known = nftables::is_known(&lab(cluster.as_deref())?.node("asked")?)?;
    let starters: &[Starter] = if known { &[EBPF, YAML, NFTABLES] } else { &[EBPF, YAML] };
    for services in cases {
        let mut cluster = cluster.as_deref_mut().filter(|_| *services <= MOST_OF_RIVAL);
        if let Some(cluster) = &mut cluster {
            cluster.fill(*services)?;
        }
        let starters: Vec<&Starter> = starters.iter().filter(|starter| *services <= starter.most).collect();
        case(*services, &starters, cluster.as_deref(), report)?;
    }
    Ok(())
}

fn case(services: u32, starters: &[&Starter], cluster: Option<&Cluster>, report: &mut Report) -> Result<()> {
    let lab = lab(cluster)?;
    let rounds = if services > 1_000 { 3 } else { 5 };
    eprintln!("starting daemons on {services} services: {rounds} rounds");
    let mut all: BTreeMap<&'static str, Figures> = BTreeMap::new();
    let folder = |format| lab.folder().join(format!("{format:?}"));
    let formats: BTreeSet<Format> = starters.iter().map(|starter| starter.format).collect();
    formats.iter().try_for_each(|format| shapes::fill(&folder(*format), services, *format))?;
    for round in 0..rounds {
        for starter in starters {
            let figures = start(&lab, starter, round, &folder(starter.format), services)?;
            all.entry(starter.subject).or_default().push(figures);
        }
        if let Some(cluster) = cluster {
            all.entry(rival::NAME).or_default().push(start_rival(&lab, cluster, round, services)?);
        }
    }
    formats.into_iter().try_for_each(|format| std::fs::remove_dir_all(folder(format)))?;
    rows(&size(services), &all, report);
    Ok(())
}

/// One start of the daemon on a node of its own.
fn start(lab: &Lab, starter: &Starter, round: u32, folder: &Path, services: u32) -> Result<[f64; 2]> {
    let node = lab.node(&format!("{}-{services}-{round}", starter.subject))?;
    let begin = Instant::now();
    let daemon = node.daemon_unsynced((starter.settings)(folder))?;
    daemon.wait_log(&[SYNCED])?;
    let seconds = begin.elapsed().as_secs_f64();
    // What it does just afterwards counts, too.
    std::thread::sleep(Duration::from_millis(300));
    let memory = memory::peak(daemon.pid())?;
    if round == 0 {
        let known = (starter.known)(&node)?;
        ensure!(
            known == services as usize,
            "{known} of {services} services are in the kernel, says {}",
            starter.subject
        );
    }
    retire(daemon)?;
    Ok([seconds, memory])
}

/// One start of the rival.
fn start_rival(lab: &Lab, cluster: &Cluster, round: u32, services: u32) -> Result<[f64; 2]> {
    let node = lab.node(&format!("rival-{services}-{round}"))?;
    let mut rival = Rival::start(node, cluster)?;
    let seconds = rival.synced(services)?;
    Ok([seconds, rival.peak()?])
}

impl Figures {
    fn push(&mut self, [seconds, memory]: [f64; 2]) {
        self.seconds.push(seconds);
        self.memory.push(memory);
    }
}

fn rows(case: &str, all: &BTreeMap<&'static str, Figures>, report: &mut Report) {
    let rival = Figures::default();
    let rival = all.get(rival::NAME).unwrap_or(&rival);
    for (subject, Figures { seconds, memory }) in all {
        for (unit, figures, baseline) in [("s", seconds, &rival.seconds), ("MB", memory, &rival.memory)] {
            let title = Title { suite: SUITE, case: case.to_owned(), subject, unit };
            report.add(match *subject {
                rival::NAME => title.alone(figures),
                _ => title.against(rival::NAME, Better::Lower, figures, baseline),
            });
        }
    }
}
