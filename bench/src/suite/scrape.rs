//! What Prometheus gets, how long it waits, and whether changes wait for it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use lab::http::get;
use lab::{Node, Settings};

use super::change::{BATCH, Folder, change_file, start_folder};
use super::{Bench, lab, retire, size};
use crate::kernel::Services;
use crate::report::{Better, Report, Title};
use crate::rival::{self, Rival};
use crate::spread::quantile;

const SUITE: &str = "scrape";
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Between two scrapes in the shadow of which changes are made: Prometheus' shortest interval in use is a second.
const PAUSE: Duration = Duration::from_millis(20);

/// Round by round.
#[derive(Default)]
struct Figures {
    /// Milliseconds of one scrape.
    ours: Vec<f64>,
    theirs: Vec<f64>,
    /// Milliseconds of changes, with nobody who scrapes and with somebody.
    calm: Vec<Vec<f64>>,
    scraped: Vec<Vec<f64>>,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let (count, rounds) = if *quick { (1_000, 6) } else { (10_000, 12) };
    let mut cluster = cluster.with_at_most(count)?;
    if let Some(cluster) = &mut cluster {
        cluster.fill(count)?;
    }
    let cluster = cluster.as_deref();
    let lab = lab(cluster)?;
    let folder = start_folder(&lab, "folder", count, Settings::folder, Services::open)?;
    let rival = cluster.map(|cluster| -> Result<Rival> {
        let mut rival = Rival::start(lab.node("rival")?, cluster)?;
        rival.synced(count)?;
        Ok(rival)
    });
    let rival = rival.transpose()?;
    eprintln!("scraping: {rounds} rounds");
    let mut figures = Figures::default();
    let mut bytes = [0; 2];
    for round in 0..rounds {
        let (millis, length) = scrapes(folder.daemon.node())?;
        figures.ours.push(millis);
        bytes[0] = length;
        if let Some(rival) = &rival {
            let (millis, length) = scrapes(rival.node())?;
            figures.theirs.push(millis);
            bytes[1] = length;
        }
        figures.calm.push(changes(&folder, count, 2 * round)?);
        figures.scraped.push(scraped(folder.daemon.node(), || changes(&folder, count, 2 * round + 1))?);
    }
    rows(&size(count), &figures, bytes, report);
    retire(folder.daemon)
}

/// Milliseconds that the median of some scrapes took, and the bytes of the last.
fn scrapes(node: &Node) -> Result<(f64, usize)> {
    let mut all = Vec::new();
    let mut length = 0;
    for _ in 0..10 {
        let begin = Instant::now();
        let reply = get(node.netns(), METRICS, "/metrics")?;
        all.push(begin.elapsed().as_secs_f64() * 1e3);
        ensure!(reply.status == 200, "{}", reply.status);
        length = reply.body.len();
    }
    Ok((quantile(&all, 0.5), length))
}

fn changes(folder: &Folder<Services>, count: u32, round: u32) -> Result<Vec<f64>> {
    (0..BATCH).map(|turn| change_file(folder, turn * 7 % count, round)).collect()
}

/// Does something while somebody scrapes again and again.
fn scraped<T>(node: &Node, deed: impl FnOnce() -> Result<T>) -> Result<T> {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scraper = scope.spawn(|| -> Result<()> {
            while !done.load(Ordering::Relaxed) {
                get(node.netns(), METRICS, "/metrics")?;
                thread::sleep(PAUSE);
            }
            Ok(())
        });
        let outcome = deed();
        done.store(true, Ordering::Relaxed);
        scraper.join().map_err(|_| anyhow!("the scraper panicked"))??;
        outcome
    })
}

fn rows(size: &str, figures: &Figures, bytes: [usize; 2], report: &mut Report) {
    let Figures { ours, theirs, calm, scraped } = figures;
    let title =
        |part: &str, subject, unit| Title { suite: SUITE, case: format!("{size} {part}"), subject, unit };
    let kilobytes = bytes.map(|bytes| f64::from(u32::try_from(bytes).unwrap_or(u32::MAX)) / 1e3);
    report.add(title("scrape", "sluice", "ms").against(rival::NAME, Better::Lower, ours, theirs));
    report.add(title("scrape", "sluice", "kB").value(kilobytes[0]));
    if !theirs.is_empty() {
        report.add(title("scrape", rival::NAME, "ms").alone(theirs));
        report.add(title("scrape", rival::NAME, "kB").value(kilobytes[1]));
    }
    let medians = |batches: &[Vec<f64>]| batches.iter().map(|batch| quantile(batch, 0.5)).collect::<Vec<_>>();
    let (calm_medians, scraped_medians) = (medians(calm), medians(scraped));
    report.add(title("change", "scraped", "ms").against(
        "calm",
        Better::Lower,
        &scraped_medians,
        &calm_medians,
    ));
    report.add(title("change", "calm", "ms").alone(&calm_medians));
    report.add(title("change p99", "scraped", "ms").value(quantile(&scraped.concat(), 0.99)));
    report.add(title("change p99", "calm", "ms").value(quantile(&calm.concat(), 0.99)));
}
