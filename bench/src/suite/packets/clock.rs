//! The time of one core that a thread and the interrupts it causes have taken.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::ClockId;

use crate::traffic::{CLIENT_CORE, stay_on};

/// The core on which the calling thread stays.
pub(super) struct Core {
    /// The tally of the kernel's thread that goes on with interrupts where the caller's turn is over; unknown where
    /// the machine's processes are not seen.
    helper: Option<PathBuf>,
}

impl Core {
    /// Keeps the calling thread on one core.
    pub(super) fn take() -> Result<Self> {
        stay_on(CLIENT_CORE)?;
        Ok(Self { helper: helper()? })
    }

    /// What has been taken so far. Forwarding is done in soft interrupts, on the time of whom they interrupt: that is
    /// the calling thread, or the helper.
    pub(super) fn spent(&self) -> Result<Duration> {
        let own = Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?);
        Ok(own + self.helper.as_ref().map_or(Ok(Duration::ZERO), read)?)
    }
}

fn read(tally: &PathBuf) -> Result<Duration> {
    let text =
        std::fs::read_to_string(tally).with_context(|| format!("could not read {}", tally.display()))?;
    let first = text.split_whitespace().next().and_then(|number| number.parse().ok());
    Ok(Duration::from_nanos(first.with_context(|| format!("no time in {}", tally.display()))?))
}

/// Of all processes, the one with the right name.
fn helper() -> Result<Option<PathBuf>> {
    let name = format!("ksoftirqd/{CLIENT_CORE}\n");
    let is_it =
        |folder: &PathBuf| std::fs::read_to_string(folder.join("comm")).is_ok_and(|comm| comm == name);
    let mut folders = std::fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
    Ok(folders.find(is_it).map(|folder| folder.join("schedstat")).filter(|tally| tally.exists()))
}
