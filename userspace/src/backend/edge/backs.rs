//! Devices behind which endpoints are, on this node or others, and the program there for what they answer: links, pinned, or filters, each
//! before whatever else hangs on ingress.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tracing::{debug, warn};

use super::super::ebpf::pins;
use super::hooks::BackHooks;
use super::network::{Device, Ways};
use super::object::Object;
use crate::backend::BackendError;

/// Which endpoints are backed, and by which device.
pub(super) struct Backs {
    directory: PathBuf,
    hooks: BackHooks,
    /// Whether what daemons with other hooks had left has been looked for.
    is_alone: bool,
    program: OwnedFd,
    ways: Ways,
    of: BTreeMap<IpAddr, u32>,
    /// Other devices by which endpoints may answer what bears an address of this node.
    outlets: BTreeSet<u32>,
}

/// What has changed for the programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Endpoints that are backed now, with their devices.
    pub(super) now: Vec<(IpAddr, u32)>,
    /// Endpoints that are no longer.
    pub(super) gone: Vec<IpAddr>,
}

impl Backs {
    pub(super) fn new(home: &Path, hooks: BackHooks, object: &mut Object) -> Result<Self, BackendError> {
        let directory = home.join(BACKS);
        pins::make(&directory)?;
        Ok(Self {
            directory,
            hooks,
            is_alone: false,
            program: object.handle("edge_back")?,
            ways: Ways::new().map_err(BackendError::Network)?,
            of: BTreeMap::new(),
            outlets: BTreeSet::new(),
        })
    }

    /// Backs these endpoints, as far as it can be done. `chosen`: devices whose own program does it.
    pub(super) fn add(&mut self, endpoints: &BTreeSet<IpAddr>, chosen: &BTreeSet<u32>) -> Change {
        let mut change = Change::default();
        for endpoint in endpoints {
            let device = self.device(*endpoint, chosen);
            let before = match device {
                Some(device) => self.of.insert(*endpoint, device),
                None => self.of.remove(endpoint),
            };
            match (device, before) {
                (Some(device), _) if before != Some(device) => change.now.push((*endpoint, device)),
                (None, Some(_)) => change.gone.push(*endpoint),
                (Some(_) | None, _) => {}
            }
        }
        change
    }

    /// Backs those of these endpoints that are not yet.
    pub(super) fn add_new(&mut self, endpoints: &BTreeSet<IpAddr>, chosen: &BTreeSet<u32>) -> Change {
        let new = endpoints.iter().filter(|endpoint| !self.of.contains_key(endpoint));
        let new: BTreeSet<IpAddr> = new.copied().collect();
        self.add(&new, chosen)
    }

    /// Backs none but these.
    pub(super) fn keep(&mut self, endpoints: &BTreeSet<IpAddr>) -> Change {
        let gone = self.of.extract_if(.., |endpoint, _| !endpoints.contains(endpoint));
        Change { now: Vec::new(), gone: gone.map(|(endpoint, _)| endpoint).collect() }
    }

    /// Puts the program on devices behind which are other hosts, and where it was for that, has [`Backs::tidy`] take it off.
    pub(super) fn reach(&mut self, devices: &[Device]) {
        let has_it = |device: &&Device| match self.put(device) {
            Ok(()) => true,
            Err(error) => {
                debug!(%error, device = device.name, "could not put the program for answers on a device");
                false
            }
        };
        self.outlets = devices.iter().filter(has_it).map(|device| device.index).collect();
    }

    /// Devices that have the program, or another that does the same.
    pub(super) fn used(&self) -> BTreeSet<u32> {
        self.of.values().chain(&self.outlets).copied().collect()
    }

    /// Takes the program off devices where nobody is backed by it any more. After the programs have been told.
    pub(super) fn tidy(&mut self) {
        self.tidy_links();
        if !self.hooks.has_links() || !std::mem::replace(&mut self.is_alone, true) {
            self.tidy_filters();
        }
    }

    fn tidy_links(&self) {
        let used: BTreeSet<String> = self.used().iter().map(u32::to_string).collect();
        let names = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        let is_used =
            |name: &OsStr| self.hooks.has_links() && name.to_str().is_some_and(|name| used.contains(name));
        for entry in names.filter(|entry| !is_used(&entry.file_name())) {
            if let Err(error) = fs::remove_file(entry.path()) {
                warn!(%error, link = ?entry.file_name(), "could not take a program off an endpoint's device");
            }
        }
    }

    fn tidy_filters(&self) {
        let used = self.used();
        let found = self.hooks.filters().unwrap_or_else(|error| {
            warn!(%error, "could not look for programs on endpoints' devices");
            Vec::new()
        });
        for device in found.into_iter().filter(|device| self.hooks.has_links() || !used.contains(device)) {
            if let Err(error) = self.hooks.remove_filter(device) {
                warn!(%error, device, "could not take a program off an endpoint's device");
            }
        }
    }

    /// Devices that have the program.
    pub(super) fn devices(&self) -> BTreeSet<u32> {
        if !self.hooks.has_links() {
            return self.hooks.filters().unwrap_or_default().into_iter().collect();
        }
        let names = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
    }

    /// The device behind which an endpoint is, with the program on it.
    fn device(&self, endpoint: IpAddr, chosen: &BTreeSet<u32>) -> Option<u32> {
        let device = match self.ways.towards(endpoint) {
            Ok(device) => device?,
            Err(error) => {
                debug!(%error, %endpoint, "could not ask for the way to an endpoint");
                return None;
            }
        };
        if chosen.contains(&device.index) {
            return Some(device.index);
        }
        if device.is_loopback || !device.has_hardware_addresses {
            return None;
        }
        match self.put(&device) {
            Ok(()) => Some(device.index),
            Err(error) => {
                warn!(%error, device = device.name, "could not put the program for answers on an endpoint's device");
                None
            }
        }
    }

    fn put(&self, device: &Device) -> io::Result<()> {
        if self.used().contains(&device.index) {
            return Ok(());
        }
        self.hooks.put(device.index, &self.directory.join(device.index.to_string()), &self.program)
    }
}

/// Where the links are, below the layer's own directory.
pub(super) const BACKS: &str = "backs";
