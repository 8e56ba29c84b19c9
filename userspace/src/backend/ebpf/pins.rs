//! The pin directory: what stands where, and which of it counts.
//!
//! ```text
//! <pin-dir>/v<VERSION>/links/<hook>      links; each holds its program, and the program its maps
//! <pin-dir>/v<VERSION>/maps-<n>/<MAP>    tables; a bigger set gets the next n
//! <pin-dir>/v<VERSION>/shared/<MAP>      what outlives a set: counters, socket storage
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use dataplane_ebpf::abi;

use super::magic;
use crate::backend::BackendError;

/// Maps that are made anew, bigger, when they fill.
pub(super) const TABLES: [&str; 5] = [abi::SERVICES, abi::SLOTS, abi::BACKENDS, abi::NAMES, abi::META];
/// Maps that are kept.
pub(super) const SHARED: [&str; 3] = [abi::COUNTERS, abi::CONNECTED, abi::DATAGRAMS];

/// The pin directory of one daemon, and the layout version's place in it.
#[derive(Clone, Debug)]
pub struct Pins {
    top: PathBuf,
    home: PathBuf,
}

impl Pins {
    /// Names the places below a pin directory; touches nothing.
    pub fn new(top: &Path) -> Self {
        Self { top: top.to_owned(), home: top.join(format!("v{}", abi::VERSION)) }
    }

    /// The pin directory itself.
    pub fn top(&self) -> &Path {
        &self.top
    }

    /// Where the links are.
    pub fn links(&self) -> PathBuf {
        self.home.join("links")
    }

    /// Where the kept maps are.
    pub fn shared(&self) -> PathBuf {
        self.home.join("shared")
    }

    /// Where a set of tables is.
    pub fn set(&self, number: u32) -> PathBuf {
        self.home.join(format!("maps-{number}"))
    }

    /// Makes the directories, and takes the lock that keeps a second daemon away. It lasts as long as the file.
    pub fn prepare(&self) -> Result<File, BackendError> {
        for directory in [self.links(), self.shared()] {
            make(&directory)?;
        }
        if !magic::is_on(&self.top, magic::BPF) {
            return Err(BackendError::NotBpffs(self.top.clone()));
        }
        let lock = File::open(&self.top).map_err(|source| failed("open", &self.top, source))?;
        // SAFETY: flock takes a descriptor, which `lock` keeps open, and a constant.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(BackendError::Busy(self.top.clone()));
        }
        Ok(lock)
    }

    /// Numbers of the sets there are, ascending.
    pub fn sets(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> =
            names(&self.home).iter().filter_map(|name| name.strip_prefix("maps-")?.parse().ok()).collect();
        numbers.sort_unstable();
        numbers
    }

    /// Removes one set's pins. Programs that still use its maps keep them.
    pub fn remove_set(&self, number: u32) -> Result<(), BackendError> {
        remove(&self.set(number)).map(|_| ())
    }

    /// Removes what daemons of other layout versions left, once this one's programs are in force.
    pub fn remove_other_versions(&self) -> Result<(), BackendError> {
        for name in names(&self.top) {
            let path = self.top.join(&name);
            if path != self.home && name.strip_prefix('v').is_some_and(|rest| rest.parse::<u32>().is_ok()) {
                detach(&path.join("links"))?;
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Removes everything, links first and in the right order. Returns how many pins there were.
    pub fn remove_all(&self) -> Result<usize, BackendError> {
        let mut removed = 0;
        for name in names(&self.top) {
            removed += detach(&self.top.join(name).join("links"))?;
        }
        removed += remove(&self.top)?;
        Ok(removed)
    }
}

/// Removes links: first those that translate forth, then those that translate back.
fn detach(links: &Path) -> Result<usize, BackendError> {
    let mut removed = 0;
    for hook in super::links::HOOKS.iter().rev() {
        removed += remove(&links.join(hook.name))?;
    }
    Ok(removed)
}

/// Removes a pin or a directory of pins; what is not there is no error.
fn remove(path: &Path) -> Result<usize, BackendError> {
    let Ok(kind) = fs::symlink_metadata(path) else { return Ok(0) };
    if !kind.is_dir() {
        fs::remove_file(path).map_err(|source| failed("remove", path, source))?;
        return Ok(1);
    }
    let mut removed = 0;
    for name in names(path) {
        removed += remove(&path.join(name))?;
    }
    fs::remove_dir(path).map_err(|source| failed("remove", path, source))?;
    Ok(removed)
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Makes a directory and those above it.
pub(super) fn make(directory: &Path) -> Result<(), BackendError> {
    fs::create_dir_all(directory).map_err(|source| failed("make", directory, source))
}

fn failed(deed: &'static str, path: &Path, source: io::Error) -> BackendError {
    BackendError::Pin { deed, path: path.to_owned(), source }
}
