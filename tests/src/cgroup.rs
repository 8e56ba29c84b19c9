//! Control groups: every node of the lab has one, and whatever runs on that node runs in it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait;

/// First part of every name; process id and a number follow.
const PREFIX: &str = "sluice-lab-";

/// A control group of our own, removed on drop together with what still runs in it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below the root of the v2 tree, after a sweep of those that others left behind.
    pub fn new() -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let root = root()?;
        SWEEP.call_once(|| sweep(&root));
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = root.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("could not make {}", path.display()))?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Open door for processes: whoever writes `0` to it is in.
    pub fn door(&self) -> Result<OwnedFd> {
        let path = self.path.join("cgroup.procs");
        let file = OpenOptions::new().write(true).open(&path);
        Ok(file.with_context(|| format!("could not open {}", path.display()))?.into())
    }

    /// The directory, open, as attaching a program wants it.
    pub fn open(&self) -> Result<File> {
        File::open(&self.path).with_context(|| format!("could not open {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for pid in members(&self.path) {
            // Gone already is as good.
            let _ = kill(pid, Signal::SIGKILL);
        }
        let removed = wait::until("a control group to become empty", Duration::from_secs(3), || {
            Ok(fs::remove_dir(&self.path)?)
        });
        if let Err(error) = removed {
            eprintln!("could not remove {}: {error:#}", self.path.display());
        }
    }
}

fn members(group: &Path) -> Vec<Pid> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).map(Pid::from_raw).collect()
}

/// Where the v2 tree is mounted.
fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("could not read the mount table")?;
    mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&"cgroup2"))
        .and_then(|fields| fields.get(1).map(PathBuf::from))
        .context("no cgroup2 file system is mounted")
}

/// Removes the groups whose process is gone. What does not go away is somebody else's to explain.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        if owner(&entry.file_name().to_string_lossy()).is_some_and(is_gone) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn is_gone(pid: u32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_group_is_in_its_name() {
        assert_eq!(owner("sluice-lab-12-3"), Some(12));
        assert_eq!(owner("sluice-12-3"), None);
    }
}
