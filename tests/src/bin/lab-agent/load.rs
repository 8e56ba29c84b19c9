//! A bounded stream of requests.

use std::io::BufRead as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use lab::agent::Progress;
use nix::sys::signal::{SigSet, Signal};

use crate::exchange::{Protocol, Target};

/// Time between two lines of progress.
const REPORT: Duration = Duration::from_millis(200);

#[derive(clap::Args)]
pub(crate) struct Load {
    protocol: Protocol,
    address: SocketAddr,
    /// For how long; `stop` on standard input or SIGTERM ends it earlier.
    #[arg(long)]
    seconds: f64,
    /// Requests a second, all workers together; 0 for as many as go.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    #[arg(long, default_value_t = 2)]
    workers: u32,
    /// One socket a worker instead of one a request.
    #[arg(long)]
    keep: bool,
    #[arg(long, default_value_t = 2000)]
    timeout_ms: u64,
}

/// What the workers share.
#[derive(Default)]
struct Ledger {
    progress: Mutex<Progress>,
    stop: AtomicBool,
}

impl Load {
    pub(crate) fn run(self) -> Result<()> {
        let term = SigSet::from_iter([Signal::SIGTERM]);
        term.thread_block()?;
        let ledger = Arc::new(Ledger::default());
        stop_when_told(&ledger, term);
        let end = Instant::now() + Duration::from_secs_f64(self.seconds);
        thread::scope(|scope| {
            let workers: Vec<_> =
                (0..self.workers).map(|_| scope.spawn(|| self.work(&ledger, end))).collect();
            while workers.iter().any(|worker| !worker.is_finished()) {
                println!("{}", ledger.line(false));
                pause_until(Instant::now() + REPORT, || workers.iter().all(|worker| worker.is_finished()));
            }
        });
        println!("{}", ledger.line(true));
        Ok(())
    }

    fn work(&self, ledger: &Ledger, end: Instant) {
        let timeout = Duration::from_millis(self.timeout_ms);
        let target = Target { protocol: self.protocol, address: self.address, timeout };
        let began = Instant::now();
        let (mut kept, mut number) = (None, 0);
        while Instant::now() < end && !ledger.stop.load(Ordering::Relaxed) {
            let answer = target.ask(&mut kept, self.keep, number);
            ledger.lock().count(&answer);
            number += 1;
            pause_until(self.due(began, number).min(end), || ledger.stop.load(Ordering::Relaxed));
        }
    }

    /// When a worker's next request is due.
    fn due(&self, began: Instant, number: u64) -> Instant {
        if self.rate <= 0.0 {
            return began;
        }
        began + Duration::from_secs_f64(number as f64 * f64::from(self.workers) / self.rate)
    }
}

fn pause_until(due: Instant, enough: impl Fn() -> bool) {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() || enough() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(10)));
    }
}

fn stop_when_told(ledger: &Arc<Ledger>, term: SigSet) {
    let by_signal = Arc::clone(ledger);
    thread::spawn(move || {
        if term.wait().is_ok() {
            by_signal.stop.store(true, Ordering::Relaxed);
        }
    });
    let by_word = Arc::clone(ledger);
    thread::spawn(move || {
        if std::io::stdin().lock().lines().map_while(Result::ok).any(|line| line == "stop") {
            by_word.stop.store(true, Ordering::Relaxed);
        }
    });
}

impl Ledger {
    fn lock(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, done: bool) -> String {
        let progress = Progress { done, ..self.lock().clone() };
        serde_json::to_string(&progress).unwrap_or_default()
    }
}
