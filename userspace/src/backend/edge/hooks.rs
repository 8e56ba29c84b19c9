//! The programs on devices: TCX links, pinned, each before whatever else hangs there.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::super::ebpf::{pins, sys};
use super::network::Device;
use super::object::Object;
use crate::backend::BackendError;

/// `BPF_TCX_INGRESS`.
pub(super) const INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
const EGRESS: u32 = 47;

/// The programs, by what they are for.
#[derive(Debug)]
pub(super) struct Programs {
    ethernet: [OwnedFd; 2],
    bare: [OwnedFd; 2],
}

/// Where links are pinned.
#[derive(Debug)]
pub(super) struct Hooks {
    directory: PathBuf,
}

/// Direction, kind of hook, and name.
const SIDES: [(usize, u32, &str); 2] = [(0, INGRESS, "in"), (1, EGRESS, "out")];

impl Programs {
    pub(super) fn of(object: &mut Object) -> Result<Self, BackendError> {
        Ok(Self {
            ethernet: [object.handle("edge_in")?, object.handle("edge_out")?],
            bare: [object.handle("edge_in_bare")?, object.handle("edge_out_bare")?],
        })
    }
}

impl Hooks {
    pub(super) fn new(home: &Path) -> Result<Self, BackendError> {
        let directory = home.join("links");
        pins::make(&directory)?;
        Ok(Self { directory })
    }

    /// Puts the programs behind a device's hooks. What comes out again is translated back before anything is translated forth.
    pub(super) fn put(&self, device: &Device, programs: &Programs) -> Result<(), BackendError> {
        let programs = if device.has_hardware_addresses { &programs.ethernet } else { &programs.bare };
        for (which, kind, side) in SIDES.into_iter().rev() {
            let Some(program) = programs.get(which) else { continue };
            self.put_side(device, kind, side, program)
                .map_err(|source| BackendError::Device { device: device.name.clone(), source })?;
        }
        Ok(())
    }

    fn put_side(&self, device: &Device, kind: u32, side: &str, program: &OwnedFd) -> io::Result<()> {
        let path = self.path(device.index, side);
        if let Ok(link) = sys::open(&path)
            && sys::device_of(link.as_fd())? == device.index
            && sys::link_update(link.as_fd(), program.as_fd()).is_ok()
        {
            return Ok(());
        }
        let draft = self.directory.join(format!("{}-{side}-new", device.index));
        let _ = fs::remove_file(&draft);
        let link = sys::link_device(program.as_fd(), device.index, kind)?;
        sys::pin(link.as_fd(), &draft)?;
        fs::rename(&draft, &path)
    }

    /// Whether both programs hang on a device.
    pub(super) fn stand(&self, device: u32) -> bool {
        SIDES.iter().all(|(_, _, side)| {
            let link = sys::open(&self.path(device, side));
            link.is_ok_and(|link| sys::device_of(link.as_fd()).is_ok_and(|found| found == device))
        })
    }

    /// Takes them off a device: first what translates forth.
    pub(super) fn remove(&self, device: u32) -> Result<(), BackendError> {
        SIDES.iter().try_for_each(|(_, _, side)| pins::remove(&self.path(device, side)).map(drop))
    }

    /// Devices that have links.
    pub(super) fn devices(&self) -> Vec<u32> {
        let names = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let mut found: Vec<u32> =
            names.filter_map(name).filter_map(|name| name.split('-').next()?.parse().ok()).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn path(&self, device: u32, side: &str) -> PathBuf {
        self.directory.join(format!("{device}-{side}"))
    }
}
