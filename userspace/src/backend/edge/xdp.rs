//! Frames before the stack (XDP): the program on devices whose drivers run it, and to which devices it may send.
//!
//! A frame that is sent to a device that takes none is lost without a word. So what the kernel says of each device is read
//! again after the program is on it, and the program sends only to those.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use dataplane_ebpf::abi::{FRAMES, FRAMES_BACK};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::super::ebpf::{pins, sys};
use super::features::{self, RECEIVES, SENDS};
use super::network::Device;
use super::object::Object;
use crate::backend::BackendError;

/// How often, and after how long, it is tried again where a program is still going.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// Which devices get the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Those whose drivers run it, apart from what is made by software: a virtual cable is slower with it.
    #[default]
    Auto,
    /// All whose drivers run it.
    Native,
    /// None.
    Off,
}

/// How a device stands to frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum XdpState {
    /// Our program is on it, and frames may be sent to it.
    #[serde(rename = "native")]
    Native,
    /// Our program is on it, and no frame may be sent to it.
    #[serde(rename = "receives only")]
    ReceivesOnly,
    /// Somebody else's program is there.
    #[serde(rename = "another program")]
    AnotherProgram,
    /// It cannot be done.
    #[serde(rename = "not supported")]
    NotSupported,
    /// It is not wanted there.
    #[default]
    #[serde(rename = "off")]
    Off,
}

impl XdpState {
    /// As people read it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::ReceivesOnly => "receives only",
            Self::AnotherProgram => "another program",
            Self::NotSupported => "not supported",
            Self::Off => "off",
        }
    }

    const fn is_on(self) -> bool {
        matches!(self, Self::Native | Self::ReceivesOnly)
    }
}

/// How one device stands, and what holds of it for the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Standing {
    state: XdpState,
    flags: u32,
}

/// What devices can do, by index; nothing if the kernel does not tell.
type Features = Option<BTreeMap<u32, u64>>;

/// The program, and where it is.
#[derive(Debug)]
pub(super) struct Express {
    mode: Mode,
    directory: PathBuf,
    program: Option<OwnedFd>,
    features: Features,
    standing: BTreeMap<u32, Standing>,
}

impl Express {
    /// Loads the program, if it is of use: also to take the place of an earlier daemon's before that goes.
    pub(super) fn new(home: &Path, object: &mut Object, mode: Mode) -> Self {
        let mut express = Self {
            mode,
            directory: home.join("links"),
            program: None,
            features: None,
            standing: BTreeMap::new(),
        };
        if mode != Mode::Off || !express.linked().is_empty() {
            express.program = object
                .express()
                .inspect_err(|error| warn!(error = error as &dyn std::error::Error, "there is no XDP here"))
                .ok();
        }
        express
    }

    /// Finds out what devices can do. Those that are to lose their program get no frames from now on.
    pub(super) fn look(&mut self, devices: &[Device]) {
        self.features = read(self.mode);
        let (mode, features) = (self.mode, &self.features);
        let stays = |index: &u32| {
            let device = devices.iter().find(|device| device.index == *index);
            device.is_some_and(|device| wanted(mode, device, of(features, *index)).is_ok())
        };
        self.standing.retain(|index, _| stays(index));
    }

    /// Whether devices can do other things than they could. Cheap if there is to be no program.
    pub(super) fn disturbed(&self) -> bool {
        self.mode != Mode::Off && read(self.mode) != self.features
    }

    /// What holds of a device for the program.
    pub(super) fn flags(&self, device: u32) -> u32 {
        self.standing.get(&device).map_or(0, |standing| standing.flags)
    }

    /// How a device stands at this moment.
    pub(super) fn state(&self, device: u32) -> XdpState {
        let state = self.standing.get(&device).map_or(XdpState::Off, |standing| standing.state);
        if state.is_on() && !self.stands(device) { XdpState::Off } else { state }
    }

    /// Puts the program on devices and takes it off others. Returns whether other flags hold now.
    ///
    /// What an earlier daemon's programs know of devices is not true any more as soon as one goes. So all are replaced first.
    pub(super) fn put(&mut self, devices: &[Device]) -> Result<bool, BackendError> {
        let linked = self.linked();
        for index in &linked {
            let _ = self.update(*index);
        }
        let mut standing: BTreeMap<u32, Standing> =
            devices.iter().map(|device| (device.index, self.attach(device))).collect();
        for index in linked {
            if standing.get(&index).is_none_or(|standing| !standing.state.is_on()) {
                pins::remove(&self.path(index))?;
            }
        }
        // Many take frames only with a program on them.
        self.features = read(self.mode);
        for device in devices {
            if let Some(standing) = standing.get_mut(&device.index)
                && standing.state.is_on()
            {
                *standing = attached(device, of(&self.features, device.index));
            }
        }
        let flags = |all: &BTreeMap<u32, Standing>| -> Vec<(u32, u32)> {
            all.iter()
                .map(|(index, standing)| (*index, standing.flags))
                .filter(|(_, flags)| *flags != 0)
                .collect()
        };
        let is_new = flags(&standing) != flags(&self.standing);
        self.standing = standing;
        Ok(is_new)
    }

    fn attach(&self, device: &Device) -> Standing {
        let outcome = match wanted(self.mode, device, of(&self.features, device.index)) {
            Ok(()) => self.link(device.index),
            Err(state) => return Standing { state, flags: 0 },
        };
        let before = self.standing.get(&device.index).copied().unwrap_or_default();
        let state = match outcome {
            Ok(()) => return Standing { state: XdpState::ReceivesOnly, ..before },
            Err(error) => told(device, &error, before.state),
        };
        Standing { state, flags: 0 }
    }

    /// Makes the link, if there is none that can be had.
    fn link(&self, index: u32) -> io::Result<()> {
        if self.update(index).is_ok() {
            return Ok(());
        }
        let program = self.program.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let is_foreign =
            self.standing.get(&index).is_some_and(|standing| standing.state == XdpState::AnotherProgram);
        let path = self.path(index);
        let draft = self.directory.join(format!("{index}{SUFFIX}-new"));
        let _ = fs::remove_file(&draft);
        let link = patiently(if is_foreign { 1 } else { TRIES }, || sys::link_xdp(program.as_fd(), index))?;
        sys::pin(link.as_fd(), &draft)?;
        fs::rename(&draft, &path)
    }

    fn update(&self, index: u32) -> io::Result<()> {
        let program = self.program.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let link = sys::open(&self.path(index))?;
        match sys::device_of(link.as_fd())? == index {
            true => sys::link_update(link.as_fd(), program.as_fd()),
            false => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn stands(&self, index: u32) -> bool {
        let link = sys::open(&self.path(index));
        link.is_ok_and(|link| sys::device_of(link.as_fd()).is_ok_and(|found| found == index))
    }

    /// Devices that have links, of whichever daemon.
    fn linked(&self) -> Vec<u32> {
        let names = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        names.filter_map(name).filter_map(|name| name.strip_suffix(SUFFIX)?.parse().ok()).collect()
    }

    fn path(&self, device: u32) -> PathBuf {
        self.directory.join(format!("{device}{SUFFIX}"))
    }
}

/// How a device stands as far as a pin tells it, also without a daemon: whether it takes frames only the programs know.
pub(super) fn state_pinned(home: &Path, device: u32) -> XdpState {
    let link = sys::open(&home.join("links").join(format!("{device}{SUFFIX}")));
    let is_on = link.is_ok_and(|link| sys::device_of(link.as_fd()).is_ok_and(|found| found == device));
    if is_on { XdpState::Native } else { XdpState::Off }
}

/// What a link's name ends with.
const SUFFIX: &str = "-xdp";

/// A program that has been taken off may be there for another moment.
fn patiently(tries: u32, mut deed: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    for _ in 1..tries {
        match deed() {
            Err(error) if is_busy(&error) => thread::sleep(PAUSE),
            other => return other,
        }
    }
    deed()
}

/// `EBUSY`: a program is there. `EEXIST`: one that runs after the driver.
fn is_busy(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST))
}

/// Says once why a device has no program.
fn told(device: &Device, error: &io::Error, before: XdpState) -> XdpState {
    let name = &*device.name;
    if is_busy(error) {
        if before != XdpState::AnotherProgram {
            warn!(
                device = name,
                "another XDP program is on the device, and stays: all its frames go to the stack"
            );
        }
        return XdpState::AnotherProgram;
    }
    if before != XdpState::NotSupported {
        info!(device = name, %error, "the device takes no XDP program: all its frames go to the stack");
    }
    XdpState::NotSupported
}

fn read(mode: Mode) -> Features {
    if mode == Mode::Off {
        return None;
    }
    features::read().unwrap_or_else(|error| {
        warn!(%error, "could not read what devices can do with frames");
        None
    })
}

/// What one device can do; a kernel that tells of devices tells of all.
fn of(features: &Features, index: u32) -> Option<u64> {
    features.as_ref().map(|all| all.get(&index).copied().unwrap_or(0))
}

/// Whether a device is to have the program; if not, how it stands.
fn wanted(mode: Mode, device: &Device, features: Option<u64>) -> Result<(), XdpState> {
    let can =
        device.has_hardware_addresses && features.is_none_or(|features| features & RECEIVES == RECEIVES);
    match mode {
        Mode::Off => Err(XdpState::Off),
        Mode::Auto if device.is_software => Err(XdpState::Off),
        Mode::Auto | Mode::Native if !can => Err(XdpState::NotSupported),
        Mode::Auto | Mode::Native => Ok(()),
    }
}

/// What holds of a device with the program. A driver that runs it can send a frame back. Not so a virtual cable: there such a frame
/// waits at the other end until something else wakes that up (6.18: `veth_xdp_flush` wants a program there). It takes frames
/// that are sent to it, also by itself, if it says so.
fn attached(device: &Device, features: Option<u64>) -> Standing {
    let flags = match features {
        Some(features) if features & SENDS != 0 => FRAMES,
        Some(_) | None => 0,
    };
    let flags = if device.is_software { flags } else { flags | FRAMES_BACK };
    Standing { state: if flags == 0 { XdpState::ReceivesOnly } else { XdpState::Native }, flags }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK_CARD: Device = Device {
        index: 2,
        name: String::new(),
        has_hardware_addresses: true,
        is_loopback: false,
        is_software: false,
    };

    fn cable() -> Device {
        Device { is_software: true, ..NETWORK_CARD }
    }

    #[test]
    fn network_cards_get_the_program_unasked_and_what_is_made_by_software_only_if_that_is_said() {
        let tunnel = Device { has_hardware_addresses: false, ..cable() };
        let none = Some(0);
        for (mode, device, features, expected) in [
            (Mode::Auto, NETWORK_CARD, Some(RECEIVES), Ok(())),
            (Mode::Auto, NETWORK_CARD, Some(RECEIVES | SENDS), Ok(())),
            (Mode::Auto, NETWORK_CARD, None, Ok(())),
            (Mode::Auto, NETWORK_CARD, none, Err(XdpState::NotSupported)),
            (Mode::Auto, NETWORK_CARD, Some(1), Err(XdpState::NotSupported)),
            (Mode::Auto, cable(), Some(RECEIVES | SENDS), Err(XdpState::Off)),
            (Mode::Auto, cable(), None, Err(XdpState::Off)),
            (Mode::Native, cable(), Some(RECEIVES), Ok(())),
            (Mode::Native, cable(), None, Ok(())),
            (Mode::Native, cable(), none, Err(XdpState::NotSupported)),
            (Mode::Native, tunnel, Some(RECEIVES), Err(XdpState::NotSupported)),
            (Mode::Off, NETWORK_CARD, Some(RECEIVES | SENDS), Err(XdpState::Off)),
        ] {
            assert_eq!(wanted(mode, &device, features), expected, "{mode:?} {device:?} {features:?}");
        }
    }

    #[test]
    fn frames_are_sent_only_to_devices_that_take_them() {
        for (device, features, expected, state) in [
            (NETWORK_CARD, Some(RECEIVES | SENDS), FRAMES | FRAMES_BACK, XdpState::Native),
            (NETWORK_CARD, Some(RECEIVES), FRAMES_BACK, XdpState::Native),
            (NETWORK_CARD, None, FRAMES_BACK, XdpState::Native),
            (cable(), Some(RECEIVES | SENDS), FRAMES, XdpState::Native),
            (cable(), Some(RECEIVES), 0, XdpState::ReceivesOnly),
            (cable(), None, 0, XdpState::ReceivesOnly),
        ] {
            let expected = Standing { state, flags: expected };
            assert_eq!(attached(&device, features), expected, "{device:?} {features:?}");
        }
    }

    #[test]
    fn people_and_programs_read_the_same_words() {
        for state in [
            XdpState::Native,
            XdpState::ReceivesOnly,
            XdpState::AnotherProgram,
            XdpState::NotSupported,
            XdpState::Off,
        ] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.word());
        }
    }
}
