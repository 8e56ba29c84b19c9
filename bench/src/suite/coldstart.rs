//! From the start of the process to a complete dataplane, and the memory it took.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::{Lab, Settings};

use super::{Bench, lab, retire, size};
use crate::cluster::Cluster;
use crate::memory;
use crate::report::{Better, Report, Title};
use crate::rival::{self, Rival};
use crate::shapes::{self, Format};

const SUITE: &str = "coldstart";
/// What the daemon logs when the kernel has everything and the programs are attached.
const SYNCED: &str = "the dataplane is in force";
/// Subjects, and how their folders are written.
const FOLDERS: [(&str, Format); 2] = [("ebpf", Format::Json), ("ebpf-yaml", Format::Yaml)];

/// Seconds and megabytes, round by round.
#[derive(Default)]
struct Figures {
    seconds: Vec<f64>,
    memory: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let mut cluster = cluster.get()?;
    let cases: &[u32] = if *quick { &[1_000] } else { &[1_000, 10_000] };
    for services in cases {
        if let Some(cluster) = &mut cluster {
            cluster.fill(*services)?;
        }
        case(*services, cluster.as_deref(), report)?;
    }
    Ok(())
}

fn case(services: u32, cluster: Option<&Cluster>, report: &mut Report) -> Result<()> {
    let lab = lab(cluster)?;
    let rounds = if services > 1_000 { 3 } else { 5 };
    eprintln!("starting daemons on {services} services: {rounds} rounds");
    let mut all: BTreeMap<&'static str, Figures> = BTreeMap::new();
    let folders = FOLDERS.map(|(subject, format)| (subject, lab.folder().join(subject), format));
    for (_, folder, format) in &folders {
        shapes::fill(folder, services, *format)?;
    }
    for round in 0..rounds {
        for (subject, folder, _) in &folders {
            all.entry(subject).or_default().push(start(&lab, subject, round, folder, services)?);
        }
        if let Some(cluster) = cluster {
            all.entry(rival::NAME).or_default().push(start_rival(&lab, cluster, round, services)?);
        }
    }
    folders.iter().try_for_each(|(_, folder, _): &(_, PathBuf, _)| std::fs::remove_dir_all(folder))?;
    rows(&size(services), &all, report);
    Ok(())
}

/// One start of the daemon on a node of its own.
fn start(lab: &Lab, subject: &str, round: u32, folder: &Path, services: u32) -> Result<[f64; 2]> {
    let node = lab.node(&format!("{subject}-{services}-{round}"))?;
    let begin = Instant::now();
    let daemon = node.daemon_unsynced(Settings::folder(folder))?;
    daemon.wait_log(&[SYNCED])?;
    let seconds = begin.elapsed().as_secs_f64();
    // What it does just afterwards counts, too.
    std::thread::sleep(Duration::from_millis(300));
    let memory = memory::peak(daemon.pid())?;
    if round == 0 {
        let known = node.services()?.len();
        ensure!(known == services as usize, "{known} of {services} services are in the kernel");
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
