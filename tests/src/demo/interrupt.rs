//! Ctrl-C: noticed at the next pause, so that everything is put away as at a normal end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    ASKED.store(true, Ordering::Relaxed);
}

/// Takes SIGINT and SIGTERM as requests to end.
pub(super) fn watch() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which may be done in a signal handler.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("could not watch for {signal}"))?;
    }
    Ok(())
}

/// Whether somebody wants us to end.
pub(super) fn check() -> Result<()> {
    if ASKED.load(Ordering::Relaxed) {
        bail!("interrupted; everything is put away");
    }
    Ok(())
}

/// Waits, unless somebody wants us to end.
pub(super) fn pause(length: Duration) -> Result<()> {
    let until = Instant::now() + length;
    while Instant::now() < until {
        check()?;
        std::thread::sleep(Duration::from_millis(20).min(until.saturating_duration_since(Instant::now())));
    }
    check()
}
