//! A bigger table of flows in the place of one that fills, under traffic: the old one is put aside under another name and copied,
//! programs that look into both come into force, and then what has come meanwhile is brought over.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::MapData;
use dataplane_ebpf::abi::{FLOWS, FLOWS_BEFORE, Flow, FlowKey};
use dataplane_ebpf::datapath::edge::life;
use tracing::{info, warn};

use super::super::ebpf::table::Table;
use super::object::broken;
use crate::backend::BackendError;

/// For how long programs that know nothing of the new table may still be at work after they have been replaced.
const GRACE: Duration = Duration::from_millis(100);
/// How often, and how long after each other, what found no room is tried again.
const AGAIN: (u32, Duration) = (20, Duration::from_millis(500));

/// Where the old table is put aside.
pub(super) fn aside(home: &Path) -> PathBuf {
    home.join(FLOWS_BEFORE)
}

/// Puts a table aside that is too small; whether it has been. What a daemon before has put aside and not brought over comes first.
pub(super) fn make_room(home: &Path, flows: u32) -> Result<bool, BackendError> {
    let (now, before) = (home.join(FLOWS), aside(home));
    let is_small = || {
        let entries = open(FLOWS, &now).map(|table| table.capacity());
        entries.is_ok_and(|entries| entries < entries_of(flows))
    };
    if before.exists() || !now.exists() || !is_small() {
        return Ok(false);
    }
    let renamed = fs::rename(&now, &before);
    renamed.map_err(|source| BackendError::Pin { deed: "rename", path: now, source })?;
    Ok(true)
}

/// Copies what has been put aside into a table that nobody uses yet, so that it has its place before new flows come.
pub(super) fn copy(home: &Path) -> Result<(), BackendError> {
    let (before, now) = (open(FLOWS_BEFORE, &aside(home))?, open(FLOWS, &home.join(FLOWS))?);
    before.scan(|some| now.put(&some))
}

/// Takes that back, if no other table has been made.
pub(super) fn take_back(home: &Path) {
    let (now, before) = (home.join(FLOWS), aside(home));
    if before.exists()
        && !now.exists()
        && let Err(error) = fs::rename(&before, &now)
    {
        warn!(%error, "could not put the table of flows back into its place");
    }
}

/// One for each direction.
pub(super) const fn entries_of(flows: u32) -> u32 {
    flows.saturating_mul(2)
}

pub(super) fn open(name: &'static str, path: &Path) -> Result<Table<FlowKey, Flow>, BackendError> {
    Table::new(name, MapData::from_pin(path).map_err(|error| broken(name, "open", error))?)
}

/// A thread that brings flows over.
#[derive(Debug)]
pub(super) struct Mover {
    done: Arc<AtomicBool>,
}

impl Mover {
    /// Begins, if something has been put aside. The programs that look into both are in force.
    pub(super) fn start(home: &Path) -> Result<Option<Self>, BackendError> {
        let path = aside(home);
        if !path.exists() {
            return Ok(None);
        }
        let (before, now) = (open(FLOWS_BEFORE, &path)?, open(FLOWS, &home.join(FLOWS))?);
        let done = Arc::new(AtomicBool::new(false));
        let own = Arc::clone(&done);
        let spawned = thread::Builder::new().name("sluice-move".to_owned()).spawn(move || {
            thread::sleep(GRACE);
            bring_all(&before, &now);
            own.store(true, Ordering::Release);
        });
        spawned.map_err(BackendError::Network)?;
        Ok(Some(Self { done }))
    }

    /// Whether all has been brought over.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

fn bring_all(before: &Table<FlowKey, Flow>, now: &Table<FlowKey, Flow>) {
    let begin = Instant::now();
    for _ in 0..AGAIN.0 {
        match bring_over(before, now) {
            Ok((entries, 0)) => {
                return info!(entries, took = ?begin.elapsed(), "brought flows to a bigger table");
            }
            Ok((_, missing)) => warn!(missing, "the bigger table of flows is full, too; some wait"),
            Err(error) => warn!(error = &error as &dyn std::error::Error, "could not bring flows over"),
        }
        thread::sleep(AGAIN.1);
    }
    warn!("not all flows have been brought to the bigger table: those without a packet meanwhile end");
}

/// Writes each flow to the new table, unless it is there. The direction of answers comes first, as when a flow is opened. Returns
/// how many were written, and for how many there was no room.
fn bring_over(
    before: &Table<FlowKey, Flow>,
    now: &Table<FlowKey, Flow>,
) -> Result<(usize, usize), BackendError> {
    let (mut entries, mut missing) = (0, 0);
    let mut add = |key: &FlowKey, flow: &Flow| match now.add(key, flow) {
        Ok(added) => {
            entries += usize::from(added);
            Ok(())
        }
        Err(error) if error.is_full() => {
            missing += 1;
            Ok(())
        }
        Err(error) => Err(error),
    };
    before.scan(|some| {
        for (key, flow) in some {
            let sibling = life::sibling(&key, &flow);
            if let Some(other) = before.get(&sibling)? {
                add(&sibling, &other)?;
            }
            add(&key, &flow)?;
        }
        Ok(())
    })?;
    Ok((entries, missing))
}

/// Forgets what was put aside. No program looks there any more.
pub(super) fn forget(home: &Path) -> io::Result<()> {
    match fs::remove_file(aside(home)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}
