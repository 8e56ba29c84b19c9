//! The programs on devices, each before whatever else hangs there: by TCX links, or as tc filters.

mod found;
mod order;
mod tc;
mod tcx;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use tracing::info;

pub use self::order::{HookKind, Hung};
use self::order::{Quarrel, Standing};
use self::tc::Role;
use super::super::ebpf::{pins, sys};
use super::network::Device;
use super::object::Object;
use crate::backend::BackendError;
use crate::backend::probe::Finding;

/// Which hooks are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookChoice {
    /// TCX, or tc where the kernel has no TCX.
    Auto,
    /// These.
    Only(HookKind),
}

/// Where packets are seen: where they come in, or where they leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    In,
    Out,
}

impl Direction {
    /// In the order of removal: first what translates forth. They are attached the other way round.
    pub(super) const BOTH: [Self; 2] = [Self::In, Self::Out];

    /// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::In => 46,
            Self::Out => 47,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// Programs that hang on devices.
const HOOKED: [&str; 4] = ["edge_in", "edge_in_bare", "edge_out", "edge_out_bare"];

/// The programs, by what they are for.
#[derive(Debug)]
pub(super) struct Programs {
    all: BTreeMap<&'static str, OwnedFd>,
    /// Their ids, and those of further copies.
    ids: BTreeSet<u32>,
}

impl Programs {
    pub(super) fn of(object: &mut Object) -> Result<Self, BackendError> {
        let mut programs = Self { all: BTreeMap::new(), ids: BTreeSet::new() };
        for name in HOOKED {
            let handle = object.handle(name)?;
            programs.ids.insert(id(name, &handle)?);
            programs.all.insert(name, handle);
        }
        Ok(programs)
    }

    fn name(device: &Device, direction: Direction) -> &'static str {
        match (direction, device.has_hardware_addresses) {
            (Direction::In, true) => "edge_in",
            (Direction::In, false) => "edge_in_bare",
            (Direction::Out, true) => "edge_out",
            (Direction::Out, false) => "edge_out_bare",
        }
    }

    fn for_hook(&self, device: &Device, direction: Direction) -> io::Result<&OwnedFd> {
        self.all.get(Self::name(device, direction)).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The same program once more: a hook takes each only once.
    fn copy(&mut self, object: &mut Object, name: &'static str) -> Result<OwnedFd, BackendError> {
        let handle = object.copy(name)?;
        self.ids.insert(id(name, &handle)?);
        Ok(handle)
    }
}

fn id(hook: &'static str, program: &OwnedFd) -> Result<u32, BackendError> {
    sys::program_id(program.as_fd()).map_err(|source| BackendError::Link { deed: "look at", hook, source })
}

/// What has been done about a hook that was not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mended {
    /// Nothing: all was well, or cannot be better.
    Nothing,
    /// Our program was not there, and is again.
    PutBack,
    /// It had something before it, and comes first again.
    PutFirst,
}

impl Mended {
    /// For the log.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "all is well",
            Self::PutBack => "somebody took our program off a device; it is there again",
            Self::PutFirst => "somebody put a program before ours; ours is first again",
        }
    }
}

/// How programs hang on devices, and where what must be known of it later is pinned.
#[derive(Debug)]
pub(super) struct Hooks {
    directory: PathBuf,
    kind: HookKind,
    quarrels: BTreeMap<(u32, Direction), Quarrel>,
}

impl Hooks {
    /// Finds out which hooks to use.
    pub(super) fn new(home: &Path, choice: HookChoice) -> Result<Self, BackendError> {
        let directory = home.join("links");
        pins::make(&directory)?;
        let kind = match choice {
            HookChoice::Only(kind) => kind,
            HookChoice::Auto => best(),
        };
        forget_gone(&directory)?;
        Ok(Self { directory, kind, quarrels: BTreeMap::new() })
    }

    pub(super) const fn kind(&self) -> HookKind {
        self.kind
    }

    /// The same kind of hooks, for endpoints' devices.
    pub(super) fn for_backs(&self) -> BackHooks {
        BackHooks { kind: self.kind, directory: self.directory.clone() }
    }

    /// Puts the programs on a device's hooks, and takes away what a daemon with hooks of the other kind has left there. What
    /// comes out again is translated back before anything is translated forth.
    pub(super) fn put(&self, device: &Device, programs: &Programs) -> Result<(), BackendError> {
        self.put_all(device, programs)
            .map_err(|source| BackendError::Device { device: device.name.clone(), source })
    }

    fn put_all(&self, device: &Device, programs: &Programs) -> io::Result<()> {
        for direction in Direction::BOTH.into_iter().rev() {
            self.put_side(device, direction, programs)?;
        }
        match self.kind {
            HookKind::Tcx => tc::remove(device.index, Role::Edge),
            HookKind::Tc => self.remove_links(device.index).map_err(io::Error::other),
        }
    }

    fn put_side(&self, device: &Device, direction: Direction, programs: &Programs) -> io::Result<()> {
        if self.standing(device, direction, programs)? != Standing::Missing {
            return Ok(());
        }
        let program = programs.for_hook(device, direction)?;
        let index = device.index;
        match self.kind {
            HookKind::Tcx => tcx::put(index, direction, &self.pin(index, direction), program),
            HookKind::Tc => {
                let made = tc::put(index, direction, Role::Edge, program)?;
                if made { note(&made_pin(&self.directory, index)) } else { Ok(()) }
            }
        }
    }

    fn standing(&self, device: &Device, direction: Direction, programs: &Programs) -> io::Result<Standing> {
        let index = device.index;
        match self.kind {
            HookKind::Tcx => tcx::standing(index, direction, &self.pin(index, direction), &programs.ids),
            HookKind::Tc => {
                let program = programs.for_hook(device, direction)?;
                tc::standing(index, direction, sys::program_id(program.as_fd())?)
            }
        }
    }

    /// Puts right what others have done to a hook since the last look.
    pub(super) fn mend(
        &mut self,
        device: &Device,
        direction: Direction,
        programs: &mut Programs,
        object: &mut Object,
    ) -> Result<Mended, BackendError> {
        let failed = |source| BackendError::Device { device: device.name.clone(), source };
        match self.standing(device, direction, programs).map_err(failed)? {
            Standing::First => Ok(Mended::Nothing),
            Standing::Missing => {
                self.put_side(device, direction, programs).map_err(failed)?;
                Ok(Mended::PutBack)
            }
            Standing::Behind => {
                let is_first = self.lead(device, direction, programs, object)?;
                Ok(if is_first { Mended::PutFirst } else { Mended::Nothing })
            }
        }
    }

    /// Takes the first place, unless that has been done too often. Whether it has been taken.
    fn lead(
        &mut self,
        device: &Device,
        direction: Direction,
        programs: &mut Programs,
        object: &mut Object,
    ) -> Result<bool, BackendError> {
        let failed = |source| BackendError::Device { device: device.name.clone(), source };
        let index = device.index;
        let quarrel = self.quarrels.entry((index, direction)).or_default();
        match self.kind {
            HookKind::Tcx => {
                if !quarrel.once_more(Instant::now()) {
                    return Ok(false);
                }
                let program = programs.copy(object, Programs::name(device, direction))?;
                tcx::lead(index, direction, &self.pin(index, direction), &program).map_err(failed)?;
                Ok(true)
            }
            HookKind::Tc => {
                let has_room = tc::has_room_in_front(index, direction).map_err(failed)?;
                if !has_room || !quarrel.once_more(Instant::now()) {
                    return Ok(false);
                }
                let program = programs.for_hook(device, direction).map_err(failed)?;
                tc::lead(index, direction, program).map_err(failed)?;
                Ok(true)
            }
        }
    }

    /// Takes them off a device: first what translates forth. A qdisc stays: its end would be felt.
    pub(super) fn remove(&self, device: u32) -> Result<(), BackendError> {
        self.remove_links(device)?;
        tc::remove(device, Role::Edge)
            .map_err(|source| BackendError::Device { device: device.to_string(), source })
    }

    fn remove_links(&self, device: u32) -> Result<(), BackendError> {
        remove_links(&self.directory, |index, what| index == device && is_hook(what)).map(drop)
    }

    /// Devices that have programs of this layer.
    pub(super) fn devices(&self) -> Result<BTreeSet<u32>, BackendError> {
        hooked(&self.directory)
    }

    fn pin(&self, device: u32, direction: Direction) -> PathBuf {
        pin(&self.directory, device, direction)
    }
}

/// How a program hangs on ingress of endpoints' devices.
#[derive(Clone, Debug)]
pub(super) struct BackHooks {
    kind: HookKind,
    directory: PathBuf,
}

impl BackHooks {
    /// Puts a program on a device; `pin` is where its link is pinned, if it hangs by one.
    pub(super) fn put(&self, device: u32, pin: &Path, program: &OwnedFd) -> io::Result<()> {
        match self.kind {
            HookKind::Tcx => tcx::put(device, Direction::In, pin, program),
            HookKind::Tc => {
                let made = tc::put(device, Direction::In, Role::Back, program)?;
                if made { note(&made_pin(&self.directory, device)) } else { Ok(()) }
            }
        }
    }

    /// Whether a link is of use.
    pub(super) fn has_links(&self) -> bool {
        self.kind == HookKind::Tcx
    }

    /// Devices with the program as a filter.
    pub(super) fn filters(&self) -> io::Result<Vec<u32>> {
        tc::devices(Role::Back)
    }

    /// Takes the filter off a device.
    pub(super) fn remove_filter(&self, device: u32) -> io::Result<()> {
        tc::remove(device, Role::Back)
    }
}

/// What this kernel has.
fn best() -> HookKind {
    match tcx::is_there() {
        Ok(()) => HookKind::Tcx,
        Err(error) => {
            info!(%error, "no TCX here: the edge layer's programs hang on devices as tc filters");
            HookKind::Tc
        }
    }
}

/// Whether programs could hang by links. As filters they can only be tried on a device.
pub fn probe() -> Finding {
    let outcome = tcx::is_there().map_err(|error| error.to_string());
    Finding::new("TCX", "edge layer: hooks on devices, else tc filters", outcome)
}

fn pin(directory: &Path, device: u32, direction: Direction) -> PathBuf {
    directory.join(format!("{device}-{}", direction.name()))
}

/// A directory, for a bpf file system has no files but pins. It says that this layer has made the device's clsact qdisc.
fn made_pin(directory: &Path, device: u32) -> PathBuf {
    directory.join(format!("{device}-{MADE}"))
}

const MADE: &str = "clsact";

fn note(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

/// Devices for which there is a pin of this layer, and what it is.
fn pinned(directory: &Path) -> Vec<(u32, String)> {
    let names = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
    let split = |name: String| {
        let (device, what) = name.split_once('-')?;
        Some((device.parse().ok()?, what.to_owned()))
    };
    names.filter_map(name).filter_map(split).collect()
}

/// Whether a pin is that of a link on one of these hooks. Programs for frames have theirs here, too.
fn is_hook(what: &str) -> bool {
    Direction::BOTH.iter().any(|direction| what.starts_with(direction.name()))
}

/// Devices of this network namespace that have programs of this layer.
fn hooked(directory: &Path) -> Result<BTreeSet<u32>, BackendError> {
    let links = pinned(directory).into_iter().filter(|(_, what)| is_hook(what)).map(|(device, _)| device);
    Ok(links.chain(tc::devices(Role::Edge).map_err(BackendError::Network)?).collect())
}

/// Devices whose qdisc this layer has made.
fn made_for(directory: &Path) -> impl Iterator<Item = u32> {
    pinned(directory).into_iter().filter(|(_, what)| what == MADE).map(|(device, _)| device)
}

/// Forgets qdiscs that have gone with their devices: these numbers may come again.
fn forget_gone(directory: &Path) -> Result<(), BackendError> {
    let is_gone = |device: &u32| tc::has_clsact(*device).is_ok_and(|is_there| !is_there);
    made_for(directory)
        .filter(is_gone)
        .try_for_each(|device| pins::remove(&made_pin(directory, device)).map(drop))
}

/// Devices of this network namespace that have programs of a daemon with this home.
pub(super) fn devices(home: &Path) -> Result<BTreeSet<u32>, BackendError> {
    hooked(&home.join("links"))
}

/// Everything that packets meet on one side of a device, in that order.
pub(super) fn order(home: &Path, device: u32, direction: Direction) -> Vec<Hung> {
    let pin = pin(&home.join("links"), device, direction);
    let name = |id: u32| sys::program_name(id).ok().filter(|name| !name.is_empty());
    let links = tcx::list(device, direction, &pin).unwrap_or_default().into_iter().map(|(id, ours)| Hung {
        name: name(id).unwrap_or_else(|| "program".to_owned()),
        program: Some(id),
        hook: HookKind::Tcx,
        priority: None,
        ours,
    });
    let filters = tc::list(device, direction).unwrap_or_default().into_iter().map(|filter| Hung {
        ours: filter.is_ours(),
        name: filter.program.and_then(name).unwrap_or(filter.kind),
        program: filter.program,
        hook: HookKind::Tc,
        priority: Some(filter.priority),
    });
    links.chain(filters).collect()
}

/// Takes all programs of this layer off all devices of this network namespace. Returns how many pins there were.
pub(super) fn remove_programs(home: &Path) -> Result<usize, BackendError> {
    let directory = home.join("links");
    for role in [Role::Edge, Role::Back] {
        for device in tc::devices(role).map_err(BackendError::Network)? {
            tc::remove(device, role)
                .map_err(|source| BackendError::Device { device: device.to_string(), source })?;
        }
    }
    remove_links(&directory, |_, what| what != MADE)
}

/// Removes links, first those of what translates forth: `in` comes before `out`.
fn remove_links(directory: &Path, is_meant: impl Fn(u32, &str) -> bool) -> Result<usize, BackendError> {
    let mut links = pinned(directory);
    links.retain(|(device, what)| is_meant(*device, what));
    links.sort();
    links.iter().map(|(device, what)| pins::remove(&directory.join(format!("{device}-{what}")))).sum()
}

/// The same, and removes qdiscs that this layer has made and nobody uses.
pub(super) fn remove_all(home: &Path) -> Result<usize, BackendError> {
    let removed = remove_programs(home)?;
    for device in made_for(&home.join("links")) {
        tc::remove_qdisc(device)
            .map_err(|source| BackendError::Device { device: device.to_string(), source })?;
    }
    Ok(removed + pins::remove(&home.join("links"))?)
}
