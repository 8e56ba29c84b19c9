//! The pin directory: what stands where, and which of it counts.
//!
//! ```text
//! <pin-dir>/v<VERSION>/links/<hook>      links; each holds its program, and the program its maps
//! <pin-dir>/v<VERSION>/maps-<n>/<MAP>    tables; a bigger set gets the next n
//! <pin-dir>/v<VERSION>/shared/<MAP>      what outlives a set: counts, who had which endpoint, socket storage, the node's
//!                                        addresses
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use dataplane_ebpf::abi;

use super::magic;
use crate::backend::BackendError;

/// Maps that are made anew, bigger, when they fill.
pub(super) const TABLES: [&str; 7] =
    [abi::SERVICES, abi::STATES, abi::SLOTS, abi::MEMBERS, abi::BACKENDS, abi::NAMES, abi::META];
/// Maps that are kept.
pub(super) const SHARED: [&str; 8] = [
    abi::COUNTERS,
    abi::AFFINITY,
    abi::CONNECTED,
    abi::DATAGRAMS,
    abi::NODE_ADDRESSES,
    abi::TRAFFIC,
    abi::USES,
    abi::HOLDS,
];

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
        let there = self.top.ancestors().find(|path| path.exists()).unwrap_or(&self.top);
        if !magic::is_on(there, magic::BPF) {
            return Err(BackendError::NotBpffs(self.top.clone()));
        }
        for directory in [self.links(), self.shared()] {
            make(&directory)?;
        }
        let lock = File::open(&self.top).map_err(|source| failed("open", &self.top, source))?;
        // SAFETY: flock takes a descriptor, which `lock` keeps open, and a constant.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            return Err(BackendError::Busy(self.top.clone()));
        }
        Ok(lock)
    }

    /// Numbers of the sets there are, ascending.
    pub fn sets(&self) -> Result<Vec<u32>, BackendError> {
        let number = |name: &String| name.strip_prefix("maps-")?.parse().ok();
        let mut numbers: Vec<u32> = names(&self.home)?.iter().filter_map(number).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The places of layout versions, this one's included.
    fn versions(&self) -> Result<BTreeMap<u32, Self>, BackendError> {
        let names = names(&self.top)?;
        let version = |name: &String| {
            let number = name.strip_prefix('v')?.parse().ok()?;
            Some((number, Self { top: self.top.clone(), home: self.top.join(name) }))
        };
        Ok(names.iter().filter_map(version).collect())
    }

    /// The places of other layout versions.
    pub(super) fn others(&self) -> Result<BTreeMap<u32, Self>, BackendError> {
        let mut others = self.versions()?;
        others.retain(|_, pins| pins.home != self.home);
        Ok(others)
    }

    /// What there is beside the set `number`: other sets, and other layout versions. In the end nobody needs them.
    pub(super) fn leftovers(&self, number: u32) -> Result<Vec<String>, BackendError> {
        let sets = self.sets()?.into_iter().filter(|other| *other != number).map(|other| self.set(other));
        let homes = self.others()?.into_values().map(|pins| pins.home);
        let below = |path: PathBuf| Some(path.strip_prefix(&self.top).ok()?.display().to_string());
        Ok(homes.chain(sets).filter_map(below).collect())
    }

    /// Whether programs hang on hooks, of this or another layout version.
    pub(super) fn is_hooked(&self) -> Result<bool, BackendError> {
        if !self.top.exists() {
            return Ok(false);
        }
        let versions = self.versions()?;
        Ok(versions.values().any(|pins| names(&pins.links()).is_ok_and(|names| !names.is_empty())))
    }

    /// Takes the programs of all layout versions off their hooks; returns how many pins went.
    pub(super) fn remove_links(&self) -> Result<usize, BackendError> {
        self.versions()?.values().map(|pins| remove(&pins.links())).sum()
    }

    /// Removes one set's pins. Programs that still use its maps keep them.
    pub fn remove_set(&self, number: u32) -> Result<(), BackendError> {
        remove(&self.set(number)).map(|_| ())
    }

    /// Removes what daemons of other layout versions left, once this one's programs are in force.
    pub fn remove_other_versions(&self) -> Result<(), BackendError> {
        for other in self.others()?.into_values() {
            detach(&other.links())?;
            remove(&other.home)?;
        }
        Ok(())
    }

    /// Removes everything that is ours, links first and in the right order; whatever else is in the pin directory, and
    /// then the directory too, stays. Returns how many pins there were.
    pub fn remove_all(&self) -> Result<usize, BackendError> {
        let mut removed = 0;
        let versions = self.versions()?;
        for version in versions.values() {
            removed += detach(&version.links())?;
        }
        for version in versions.values() {
            removed += remove(&version.home)?;
        }
        // Not empty, or the mount point itself: then it is not ours alone.
        let _ = fs::remove_dir(&self.top);
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
pub(in crate::backend) fn remove(path: &Path) -> Result<usize, BackendError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(kind) => kind,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(failed("look at", path, error)),
    };
    if !kind.is_dir() {
        fs::remove_file(path).map_err(|source| failed("remove", path, source))?;
        return Ok(1);
    }
    let mut removed = 0;
    for name in names(path)? {
        removed += remove(&path.join(name))?;
    }
    fs::remove_dir(path).map_err(|source| failed("remove", path, source))?;
    Ok(removed)
}

/// Names in a directory; none if it is not there.
fn names(directory: &Path) -> Result<Vec<String>, BackendError> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", directory, error)),
    }
}

/// Makes a directory and those above it.
pub(in crate::backend) fn make(directory: &Path) -> Result<(), BackendError> {
    fs::create_dir_all(directory).map_err(|source| failed("make", directory, source))
}

fn failed(deed: &'static str, path: &Path, source: io::Error) -> BackendError {
    BackendError::Pin { deed, path: path.to_owned(), source }
}
