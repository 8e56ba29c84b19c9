//! `sluice top`: which Services get connections at this moment, read from the kernel itself.

mod rows;
mod screen;

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::rows::{Page, Reading};
use self::screen::{Key, Screen};
use super::answer::{self, Output};
use crate::backend::counts::{self, Flows};
use crate::backend::ebpf::{Entries, Pins, read_pinned};
use crate::model::ServicePortName;

/// The order of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// New connections a second.
    #[default]
    New,
    /// Refused and dropped ones a second.
    Refused,
    /// Connections that are open.
    Open,
    /// Those of them whose endpoint gets no new ones.
    Draining,
    /// By name.
    Service,
}

impl Sort {
    const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Refused => "refused",
            Self::Open => "open",
            Self::Draining => "draining",
            Self::Service => "service",
        }
    }
}

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Where programs and maps are pinned.
    pub pin_dir: PathBuf,
    /// Between two readings.
    pub interval: Duration,
    /// How many pages; none: until somebody ends it.
    pub iterations: Option<u64>,
    /// The first order.
    pub sort: Sort,
    /// How to print.
    pub output: Output,
}

/// Prints a page after each interval.
pub fn run(wish: &Wish) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(pages(wish))
}

/// What ended a wait.
enum Woken {
    Due,
    Key(Key),
    End,
}

async fn pages(wish: &Wish) -> anyhow::Result<()> {
    // Before anything is printed: whoever has read a page may ask for the end.
    let mut ends = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
    let mut before = read(&wish.pin_dir)?;
    let live = std::io::stdout().is_terminal() && wish.output.is_for_people();
    let mut screen = live.then(Screen::open).transpose()?;
    let (mut since, mut sort, mut left) = (Instant::now(), wish.sort, wish.iterations);
    let mut page = Page::between(&before, &before, Duration::ZERO, sort);
    loop {
        if let Some(screen) = &mut screen {
            screen.draw(&mut page, wish.output)?;
        }
        match woken(&mut ends, screen.as_mut(), since + wish.interval).await {
            Woken::End | Woken::Key(Key::Quit) => return Ok(()),
            Woken::Key(Key::Sort(order)) => {
                sort = order;
                page = page.sorted(sort);
            }
            Woken::Key(Key::Other) => {}
            Woken::Due => {
                let (now, at) = (read(&wish.pin_dir)?, Instant::now());
                page = Page::between(&before, &now, at - since, sort);
                (before, since) = (now, at);
                if screen.is_none() && !answer::again(&page, wish.output)? {
                    return Ok(());
                }
                left = left.map(|left| left.saturating_sub(1));
                if left == Some(0) {
                    return Ok(());
                }
            }
        }
    }
}

async fn woken(ends: &mut [Signal; 2], screen: Option<&mut Screen>, due: Instant) -> Woken {
    let [interrupt, terminate] = ends;
    let key = async {
        match screen {
            Some(screen) => screen.key().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => Woken::End,
        _ = terminate.recv() => Woken::End,
        key = key => Woken::Key(key),
        () = tokio::time::sleep_until(due.into()) => Woken::Due,
    }
}

fn read(pin_dir: &Path) -> anyhow::Result<Reading> {
    let Some(usage) = counts::read(pin_dir, Flows::Counted)? else {
        bail!("nobody counts connections below {}: eBPF does, and nftables does not", pin_dir.display());
    };
    let installed = read_pinned(&Pins::new(pin_dir))?;
    let used = usage.ports.keys().filter_map(|name| installed.ports.get(name));
    let active: BTreeSet<u32> = used.flat_map(Entries::active).collect();
    Ok(Reading::of(&usage, |_: &ServicePortName, id| active.contains(&id)))
}
