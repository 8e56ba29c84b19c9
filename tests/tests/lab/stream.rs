//! Streams of numbered datagrams, side by side on one road, so that what one loses can be held against what another loses.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::agent::Echo;
use lab::{Node, wait};

/// How late an answer may be.
const LATE: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(30);

/// Datagrams to each of several targets, by turns. They stop when it is dropped.
pub(crate) struct Stream {
    thread: Option<JoinHandle<Result<Vec<Lane>>>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    rounds: AtomicU64,
}

/// What became of the datagrams to one target, all from one socket.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) to: SocketAddr,
    /// Which were answered, by number.
    answered: Vec<bool>,
    /// Who answered.
    pub(crate) by: BTreeSet<String>,
}

impl Lane {
    /// Numbers that nobody answered, as ranges.
    pub(crate) fn gaps(&self) -> Vec<std::ops::Range<usize>> {
        let mut gaps: Vec<std::ops::Range<usize>> = Vec::new();
        for (number, _) in self.answered.iter().enumerate().filter(|(_, answered)| !**answered) {
            match gaps.last_mut() {
                Some(last) if last.end == number => last.end += 1,
                _ => gaps.push(number..number + 1),
            }
        }
        gaps
    }

    pub(crate) fn lost(&self) -> usize {
        self.gaps().iter().map(ExactSizeIterator::len).sum()
    }

    pub(crate) fn sent(&self) -> usize {
        self.answered.len()
    }
}

impl Stream {
    /// From a node; so many datagrams a second to each.
    pub(crate) fn start(from: &Node, targets: &[SocketAddr], rate: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let (own, netns, targets) = (Arc::clone(&shared), from.netns().clone(), targets.to_vec());
        let thread = thread::spawn(move || {
            netns.enter()?;
            let lines: Vec<UdpSocket> = targets.iter().map(open).collect::<Result<_>>()?;
            let mut lanes: Vec<Lane> = targets
                .iter()
                .map(|to| Lane { to: *to, answered: Vec::new(), by: BTreeSet::new() })
                .collect();
            run(&lines, &mut lanes, rate, &own);
            Ok(lanes)
        });
        Self { thread: Some(thread), shared }
    }

    /// Waits until each target has been sent so many more.
    pub(crate) fn more(&self, rounds: u64) {
        let goal = self.shared.rounds.load(Ordering::Relaxed) + rounds;
        wait::until("a stream to go on", PATIENCE, || {
            let now = self.shared.rounds.load(Ordering::Relaxed);
            ensure!(now >= goal, "{now} of {goal}");
            Ok(())
        })
        .unwrap();
    }

    /// Ends it, when late answers have come.
    pub(crate) fn stop(mut self) -> Vec<Lane> {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap().unwrap()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn open(to: &SocketAddr) -> Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(to)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn run(lines: &[UdpSocket], lanes: &mut [Lane], rate: u32, shared: &Shared) {
    let began = Instant::now();
    let mut rounds = 0_u32;
    while !shared.stop.load(Ordering::Relaxed) {
        // What is due by now, and not more than a handful at a time: what waited too long is not made up for.
        let due = (began.elapsed().as_secs_f64() * f64::from(rate)) as u32;
        for _ in 0..due.saturating_sub(rounds).min(8) {
            for (line, lane) in lines.iter().zip(&mut *lanes) {
                // A refusal that an earlier one met is reported once; nothing has been sent then.
                let said = lane.answered.len().to_string();
                let _ = line.send(said.as_bytes()).or_else(|_| line.send(said.as_bytes()));
                lane.answered.push(false);
            }
        }
        rounds = rounds.max(due);
        shared.rounds.store(lanes.first().map_or(0, |lane| lane.answered.len() as u64), Ordering::Relaxed);
        read(lines, lanes);
        thread::sleep(Duration::from_millis(1));
    }
    let end = Instant::now() + LATE;
    while Instant::now() < end {
        read(lines, lanes);
        thread::sleep(Duration::from_millis(5));
    }
}

fn read(lines: &[UdpSocket], lanes: &mut [Lane]) {
    let mut buffer = [0; 1024];
    for (line, lane) in lines.iter().zip(lanes) {
        while let Ok(length) = line.recv(&mut buffer) {
            let Ok(echo) = serde_json::from_slice::<Echo>(&buffer[..length]) else { continue };
            if let Some(answered) =
                echo.said.parse().ok().and_then(|number: usize| lane.answered.get_mut(number))
            {
                *answered = true;
                lane.by.insert(echo.name);
            }
        }
    }
}
