//! The object: loaded over maps of its own, and those that outlive a daemon.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::{ProgramError, ProgramFd, SchedClassifier, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use dataplane_ebpf::abi;
use tracing::warn;

use super::super::ebpf::table::Table;
use super::grow;
use crate::backend::BackendError;

/// The compiled programs; empty in a build without them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edge"));

/// Maps that outlive a daemon.
const SHARED: [&str; 4] = [abi::FLOWS, abi::STAYS, abi::EDGE_COUNTERS, abi::EDGE_TRAFFIC];
/// The program for frames before the stack.
const EXPRESS: &str = "edge_express";
/// How many clients' endpoints are remembered. The least recently used is forgotten for a new one.
const STAYS: u32 = 131_072;
/// How many service ports are counted for: only those that somebody outside has asked for.
const COUNTED: u32 = 65_536;
/// Of how many answers in fragments, at once, the rest is expected.
const FRAGMENTS: u32 = 16_384;
/// Addresses and devices of a node.
const OWN: u32 = 4096;

/// Room in new maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Addresses of services, lists and source ranges, each.
    pub services: u32,
    /// Places in lists.
    pub slots: u32,
    /// Flows, at first.
    pub flows: u32,
    /// Flows, at most: before the table is full it is replaced by one twice as big.
    pub most_flows: u32,
}

/// Programs and maps.
pub(super) struct Object {
    ebpf: Ebpf,
}

impl Object {
    /// Loads the programs. Maps that outlive a daemon are taken from `pins`, or made and pinned there.
    pub(super) fn load(pins: &Path, capacity: Capacity) -> Result<Self, BackendError> {
        if OBJECT.is_empty() {
            return Err(BackendError::NoPrograms);
        }
        forget_fewer_counters(pins);
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        for map in SHARED {
            loader.map_pin_path(map, pins.join(map));
        }
        let is_new = grow::make_room(pins, capacity.flows)?;
        if grow::aside(pins).exists() {
            loader.map_pin_path(abi::FLOWS_BEFORE, grow::aside(pins));
        }
        for map in [abi::FRONTENDS, abi::SOURCES] {
            loader.map_max_entries(map, capacity.services);
        }
        loader.map_max_entries(abi::LISTS, capacity.services.saturating_add(1));
        for map in [abi::TARGETS, abi::SERVERS] {
            loader.map_max_entries(map, capacity.slots);
        }
        for map in [abi::OWN_ADDRESSES, abi::DEVICES, abi::BACKED] {
            loader.map_max_entries(map, OWN);
        }
        loader.map_max_entries(abi::FLOWS, grow::entries_of(capacity.flows));
        loader.map_max_entries(abi::FRAGMENTS, FRAGMENTS);
        loader.map_max_entries(abi::STAYS, STAYS);
        loader.map_max_entries(abi::EDGE_TRAFFIC, COUNTED);
        let loaded = loader.load(OBJECT).map_err(|error| BackendError::Object(Box::new(error)));
        let ebpf = loaded.inspect_err(|_| grow::take_back(pins))?;
        if is_new {
            grow::copy(pins)?;
        }
        let mut object = Self { ebpf };
        abi::STEP_PROGRAMS.iter().try_for_each(|name| object.load_program(name))?;
        object.connect()?;
        Ok(object)
    }

    fn load_program(&mut self, name: &'static str) -> Result<(), BackendError> {
        self.program(name)?.load().map_err(|error| refused(name, error))
    }

    /// Puts the programs into their places.
    fn connect(&mut self) -> Result<(), BackendError> {
        let mut fds = Vec::new();
        for name in abi::STEP_PROGRAMS {
            fds.push(self.fd(name)?.try_clone().map_err(|source| unkept(name, source))?);
        }
        let map = self.ebpf.map_mut(abi::STEPS).ok_or(BackendError::Missing(abi::STEPS))?;
        let mut steps = ProgramArray::try_from(map).map_err(|error| broken(abi::STEPS, "open", error))?;
        for (place, fd) in fds.iter().enumerate() {
            steps.set(place as u32, fd, 0).map_err(|error| broken(abi::STEPS, "write", error))?;
        }
        Ok(())
    }

    fn program(&mut self, name: &'static str) -> Result<&mut SchedClassifier, BackendError> {
        let program = self.ebpf.program_mut(name).ok_or(BackendError::Missing(name))?;
        program.try_into().map_err(|_| BackendError::Missing(name))
    }

    fn fd(&mut self, name: &'static str) -> Result<&ProgramFd, BackendError> {
        self.program(name)?.fd().map_err(|error| refused(name, error))
    }

    /// Loads the program for frames before the stack, which some kernels may not take.
    pub(super) fn express(&mut self) -> Result<OwnedFd, BackendError> {
        let program = self.ebpf.program_mut(EXPRESS).ok_or(BackendError::Missing(EXPRESS))?;
        let program: &mut Xdp = program.try_into().map_err(|_| BackendError::Missing(EXPRESS))?;
        program.load().map_err(|error| refused(EXPRESS, error))?;
        let fd = program.fd().map_err(|error| refused(EXPRESS, error))?;
        fd.as_fd().try_clone_to_owned().map_err(|source| unkept(EXPRESS, source))
    }

    /// A handle to a program that hangs on devices.
    pub(super) fn handle(&mut self, name: &'static str) -> Result<OwnedFd, BackendError> {
        self.fd(name)?.as_fd().try_clone_to_owned().map_err(|source| unkept(name, source))
    }

    /// The same program once more. Descriptors of maps are in its instructions, so all of these must still be open.
    pub(super) fn copy(&mut self, name: &'static str) -> Result<OwnedFd, BackendError> {
        // The one before lives on where it hangs, and with whoever has a handle to it.
        self.program(name)?.unload().map_err(|error| refused(name, error))?;
        self.load_program(name)?;
        self.handle(name)
    }

    /// Takes a map out, to be written to.
    pub(super) fn table<K: Pod, V: Pod>(&mut self, name: &'static str) -> Result<Table<K, V>, BackendError> {
        Table::new(name, self.data(name)?)
    }

    /// Takes an array out.
    pub(super) fn array<V: Pod>(&mut self, name: &'static str) -> Result<Array<MapData, V>, BackendError> {
        Array::try_from(self.take(name)?).map_err(|error| broken(name, "open", error))
    }

    pub(super) fn take(&mut self, name: &'static str) -> Result<Map, BackendError> {
        self.ebpf.take_map(name).ok_or(BackendError::Missing(name))
    }

    fn data(&mut self, name: &'static str) -> Result<MapData, BackendError> {
        let map = self.take(name)?;
        if let Map::HashMap(data) | Map::LruHashMap(data) | Map::LpmTrie(data) | Map::Array(data) = map {
            return Ok(data);
        }
        Err(BackendError::Missing(name))
    }
}

/// How many flows fit into such a part of this machine's memory, within bounds. Memory is taken when the map is made: an entry that
/// is made with the first packet of a flow would cost that packet a third of its time.
pub fn flows_within(part: u64) -> u32 {
    const BYTES: u64 = 350;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0);
    let flows = (kib * 1024 / part / BYTES).clamp(16_384, 16_777_216);
    u32::try_from(flows).unwrap_or(u32::MAX)
}

/// Counts of a daemon that knew fewer events begin anew: its map has no place for the others.
fn forget_fewer_counters(pins: &Path) {
    let path = pins.join(abi::EDGE_COUNTERS);
    let places = MapData::from_pin(&path).and_then(|data| data.info()).map(|info| info.max_entries());
    if places.is_ok_and(|places| places < abi::EdgeCounter::ALL.len() as u32)
        && let Err(error) = std::fs::remove_file(&path)
    {
        warn!(%error, "could not take the counts of an earlier daemon away");
    }
}

/// Where the maps that outlive a daemon are, and links.
pub(super) fn home(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("edge-v{}", abi::EDGE_VERSION))
}

fn refused(hook: &'static str, error: ProgramError) -> BackendError {
    BackendError::Program { hook, source: Box::new(error) }
}

fn unkept(hook: &'static str, source: io::Error) -> BackendError {
    BackendError::Link { deed: "keep", hook, source }
}

pub(super) fn broken(map: &'static str, deed: &'static str, error: aya::maps::MapError) -> BackendError {
    BackendError::Map { deed, map, source: io::Error::other(error) }
}
