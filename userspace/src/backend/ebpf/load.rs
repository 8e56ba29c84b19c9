//! The object: loaded over a set of pinned maps.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::programs::{CgroupSock, CgroupSockAddr, ProgramError};
use aya::{Ebpf, EbpfLoader};
use dataplane_ebpf::abi;

use super::links::{HOOKS, Hook, RELEASE};
use super::pins::{Pins, SHARED, TABLES, make};
use super::sys;
use crate::backend::BackendError;

/// The compiled programs; empty in a build without them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/dataplane"));

/// How many clients' endpoints are remembered, of all service ports with session affinity together: 6 MB. The least
/// recently used is forgotten for a new one.
const AFFINITY_RECORDS: u32 = 65_536;

/// One place in this many is room enough for members: few Services have session affinity, and an empty table costs
/// 16 bytes of kernel memory an entry. It grows with the others.
const SLOTS_A_MEMBER: u32 = 4;

/// How many entries the tables have room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Addresses of services, and service ports.
    pub services: u32,
    /// Places in lists, and endpoints.
    pub slots: u32,
}

/// How many of the node's addresses may answer at node ports.
const NODE_ADDRESSES: u32 = 16_384;

/// How many service ports are counted for: only those that somebody on this node has asked for. An empty table costs 16 bytes
/// of kernel memory an entry.
const COUNTED_PORTS: u32 = 65_536;

/// How many endpoints are counted for: those that got something from this node, and what still has users.
const COUNTED_ENDPOINTS: u32 = 131_072;

/// Loads the programs over the set `number`. Maps that are pinned already are used as they are; the others are made,
/// with this capacity, and pinned. Callers in this process's network namespace are the node itself.
pub(super) fn load(pins: &Pins, number: u32, capacity: Capacity) -> Result<Ebpf, BackendError> {
    has_programs()?;
    let node = sys::netns_cookie().map_err(BackendError::Network)?;
    let set = pins.set(number);
    make(&set)?;
    let mut loader = EbpfLoader::new();
    // Nothing here is relocated against kernel types, so the kernel's own BTF need not be parsed: that saves 50 ms.
    loader.btf(None);
    place(&mut loader, &set, &TABLES);
    place(&mut loader, &pins.shared(), &SHARED);
    for map in [abi::SERVICES, abi::NAMES] {
        loader.map_max_entries(map, capacity.services);
    }
    // Place zero is not used.
    loader.map_max_entries(abi::STATES, capacity.services.saturating_add(1));
    for map in [abi::SLOTS, abi::BACKENDS] {
        loader.map_max_entries(map, capacity.slots);
    }
    loader.map_max_entries(abi::MEMBERS, (capacity.slots / SLOTS_A_MEMBER).max(1));
    loader.map_max_entries(abi::AFFINITY, AFFINITY_RECORDS);
    loader.map_max_entries(abi::NODE_ADDRESSES, NODE_ADDRESSES);
    loader.map_max_entries(abi::TRAFFIC, COUNTED_PORTS);
    loader.map_max_entries(abi::USES, COUNTED_ENDPOINTS);
    loader.override_global(abi::NODE_NETNS, &node, true);
    let mut object = loader.load(OBJECT).map_err(|error| BackendError::Object(Box::new(error)))?;
    for hook in &HOOKS {
        program(&mut object, hook)?
            .load()
            .map_err(|error| BackendError::Program { hook: hook.name, source: Box::new(error) })?;
    }
    Ok(object)
}

/// Whether this build carries programs.
pub(super) fn has_programs() -> Result<(), BackendError> {
    if OBJECT.is_empty() { Err(BackendError::NoPrograms) } else { Ok(()) }
}

/// Makes the maps as small as they can be and without pins: they and the programs go with the value.
pub(super) fn unpinned() -> Result<Ebpf, BackendError> {
    has_programs()?;
    let object = EbpfLoader::new().btf(None).load(OBJECT);
    object.map_err(|error| BackendError::Object(Box::new(error)))
}

fn place(loader: &mut EbpfLoader<'_>, directory: &Path, maps: &[&'static str]) {
    for map in maps {
        loader.map_pin_path(map, directory.join(map));
    }
}

/// A program of the object.
#[derive(Debug)]
pub(super) enum Program<'a> {
    /// Runs at calls that name an address.
    Call(&'a mut CgroupSockAddr),
    /// Runs at a socket's end.
    End(&'a mut CgroupSock),
}

impl Program<'_> {
    /// Has the kernel take it.
    pub(super) fn load(&mut self) -> Result<(), ProgramError> {
        match self {
            Self::Call(program) => program.load(),
            Self::End(program) => program.load(),
        }
    }

    /// What the kernel knows it by, once it has taken it.
    pub(super) fn fd(&self) -> Result<BorrowedFd<'_>, ProgramError> {
        match self {
            Self::Call(program) => program.fd().map(AsFd::as_fd),
            Self::End(program) => program.fd().map(AsFd::as_fd),
        }
    }
}

/// A program of the object by its hook.
pub(super) fn program<'a>(object: &'a mut Ebpf, hook: &Hook) -> Result<Program<'a>, BackendError> {
    let missing = BackendError::Missing(hook.name);
    let Some(program) = object.program_mut(hook.name) else { return Err(missing) };
    let program = if *hook == RELEASE {
        program.try_into().map(Program::End)
    } else {
        program.try_into().map(Program::Call)
    };
    program.map_err(|_: ProgramError| missing)
}
