//! The edge layer in eBPF: programs on the node's outside devices, and a table of flows of their own.
//!
//! Every daemon fills maps of its own and then turns the devices' hooks over to programs that work on these; flows, what
//! clients got under session affinity, and counts outlive it. So nothing is ever read back, and nothing is in force half.

mod backs;
mod books;
mod chosen;
mod features;
mod flows;
mod grow;
mod hooks;
mod image;
mod keeper;
mod maps;
mod monitor;
mod network;
mod object;
mod pairs;
mod report;
mod rtnl;
pub mod trial;
mod xdp;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData};
use dataplane_ebpf::abi::{
    self, ANSWERS, COVERED, EdgeCounter, EdgeDevice, MOVES, NODE_PORTS, OWN, REDIRECT, SIDE_V4, SIDE_V6,
    Side, TRUSTS_STACK,
};
use tracing::{info, warn};

use self::backs::{BACKS, Backs, Change};
use self::books::Books;
pub use self::books::service_number;
use self::chosen::Chosen;
pub use self::flows::State;
use self::flows::Sweeper;
use self::grow::Mover;
use self::hooks::{Direction, Hooks, Mended, Programs};
pub use self::hooks::{HookChoice, HookKind, Hung, probe};
pub use self::keeper::Keeper;
use self::maps::Maps;
use self::monitor::Monitor;
use self::network::{Device, Network};
pub use self::object::{Capacity, flows_within};
use self::object::{Object, home};
pub use self::pairs::{Pair, read_flows, read_traffic, show_flows};
use self::report::Counters;
pub use self::report::{DeviceState, Report, report_pinned};
use self::xdp::Express;
pub use self::xdp::{Mode, XdpState};
use super::ebpf::{pins, sys};
use super::{Applied, BackendError, Wanted, chain};
use crate::desired::{Context, NodePorts, Pods};
use crate::model::{Family, Problem};

/// Where and how to install.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for pins, on a bpf file system.
    pub pin_dir: PathBuf,
    /// How programs hang on devices.
    pub hooks: HookChoice,
    /// Room in new maps.
    pub capacity: Capacity,
    /// Names of devices; `*` at the end stands for anything. Empty: those with a default route or the node's address.
    pub devices: Vec<String>,
    /// Whether packets go to the next hop past the host's stack.
    pub redirect: bool,
    /// Which devices have frames dealt with before the stack.
    pub xdp: Mode,
    /// Whether what endpoints here answer may come through the host's stack: nobody there gives it another source.
    pub trusts_stack: bool,
    /// Ports for masqueraded flows.
    pub ports: RangeInclusive<u16>,
}

/// Counts at a time when the table of flows had just been gone through.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Which time that was.
    round: u64,
    opened: u64,
    refused: u64,
}

/// How often routes are followed at most.
const ROUTES: Duration = Duration::from_millis(200);

/// The layer, and what it is known to hold.
pub struct Edge {
    settings: Settings,
    home: PathBuf,
    hooks: Hooks,
    backs: Backs,
    programs: Programs,
    express: Express,
    maps: Maps,
    books: Books,
    context: Context,
    network: Network,
    monitor: Monitor,
    sweeper: Sweeper,
    mover: Option<Mover>,
    /// What had come when the table was last gone through.
    load: Option<Load>,
    counters: Counters,
    in_force: bool,
    /// Whether programs look for flows in the table of before, too.
    moves: bool,
    /// When ways to endpoints were last looked for anew.
    followed: Instant,
    chosen: Chosen,
    /// Devices that programs cannot be put on, and why.
    refused: BTreeMap<u32, String>,
    /// When hooks were last looked at.
    looked: Instant,
    /// What has been said of devices in the log.
    told: Vec<Problem>,
    /// What the programs know of devices.
    told_devices: Option<Vec<(u32, EdgeDevice)>>,
    object: Object,
    /// Its number is in the programs' instructions.
    _steps: MapData,
}

/// How often hooks are looked at: nobody tells when a program is put before ours.
const LOOK: Duration = Duration::from_secs(2);

impl Edge {
    /// Loads programs and empty maps. Nothing that is in force changes yet.
    pub fn open(settings: &Settings) -> Result<Self, BackendError> {
        let home = home(&settings.pin_dir);
        pins::make(&home)?;
        let hooks = Hooks::new(&home, settings.hooks)?;
        let mut object = Object::load(&home, settings.capacity)?;
        let steps = pin_steps(&mut object, &home)?;
        let programs = Programs::of(&mut object)?;
        let backs = Backs::new(&home, hooks.for_backs(), &mut object)?;
        let maps = Maps::of(&mut object)?;
        // What goes through the stack must have been seen by it.
        let mode = if settings.redirect { settings.xdp } else { Mode::Off };
        let express = Express::new(&home, &mut object, mode);
        let epoch = object.array(abi::EPOCH)?;
        let monitor =
            Monitor::start(epoch, seed(), hooks.kind() == HookKind::Tc).map_err(BackendError::Network)?;
        let sweeper = Sweeper::start(flows::open(&home)?).map_err(BackendError::Network)?;
        Ok(Self {
            network: network::read().map_err(BackendError::Network)?,
            counters: Counters::of(object.take(abi::EDGE_COUNTERS)?)?,
            chosen: Chosen::new(&settings.devices),
            refused: BTreeMap::new(),
            looked: Instant::now(),
            settings: settings.clone(),
            home,
            hooks,
            backs,
            programs,
            express,
            maps,
            books: Books::new(seed()),
            context: Context::default(),
            monitor,
            sweeper,
            mover: None,
            load: None,
            in_force: false,
            moves: false,
            followed: Instant::now(),
            told: Vec::new(),
            told_devices: None,
            object,
            _steps: steps,
        })
    }

    /// Takes what does not belong to a Service. Returns whether the kernel is behind now.
    pub fn surround(&mut self, context: &Context) -> bool {
        let is_new = self.context != *context;
        self.context = context.clone();
        self.choose();
        is_new
    }

    /// Brings some Services to the wanted state. After an error it must be opened anew.
    pub fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        let step = self.books.step(wanted);
        if step.plan.is_empty() {
            self.books.done(step);
            return Ok(Applied::default());
        }
        if self.books.lists() > self.maps.room() {
            return Err(BackendError::Full(abi::LISTS));
        }
        // Before anybody is sent to them.
        let arrived = step.here();
        if self.in_force && self.settings.redirect && !arrived.is_empty() {
            let change = self.backs.add_new(&arrived, &self.covered());
            self.tell_backed(change)?;
        }
        let applied = self.maps.write(&step.plan)?;
        self.maps.forget(&step.gone)?;
        self.books.done(step);
        if self.in_force {
            self.back_no_others()?;
        }
        Ok(applied)
    }

    /// Has all answers of endpoints come in by our programs, wherever they are now. Programs that are not needed any more stay
    /// where they are.
    fn back(&mut self) -> Result<(), BackendError> {
        let mut change = Change::default();
        if self.settings.redirect {
            self.backs.reach(&self.outlets());
            change = self.backs.add(&self.books.here(), &self.covered());
        }
        self.tell_backed(change)?;
        self.back_no_others()
    }

    /// Devices besides those of the layer by which flows that bear an address of the node may leave: second networks, and
    /// tunnels to other nodes.
    fn outlets(&self) -> Vec<Device> {
        let covered = self.covered();
        let is_outlet = |device: &&Device| {
            device.has_hardware_addresses
                && !device.is_loopback
                && !covered.contains(&device.index)
                && self.network.addresses.iter().any(|(index, ip)| *index == device.index && !is_local(*ip))
        };
        self.network.devices.iter().filter(is_outlet).cloned().collect()
    }

    fn back_no_others(&mut self) -> Result<(), BackendError> {
        let endpoints = if self.settings.redirect { self.books.here() } else { BTreeSet::new() };
        let change = self.backs.keep(&endpoints);
        if change != Change::default() {
            self.tell_backed(change)?;
            self.backs.tidy();
        }
        Ok(())
    }

    fn tell_backed(&mut self, change: Change) -> Result<(), BackendError> {
        self.cover()?;
        let now: Vec<_> = change.now.iter().map(|(ip, device)| (image::address(*ip), *device)).collect();
        let gone: Vec<_> = change.gone.into_iter().map(image::address).collect();
        self.maps.set_backed(&now, &gone)
    }

    /// Devices that have our programs, or will at once.
    fn covered(&self) -> BTreeSet<u32> {
        let devices = self.chosen.devices().iter().map(|device| device.index);
        devices.filter(|index| !self.refused.contains_key(index)).collect()
    }

    /// Puts the programs on the devices' hooks, and says what is the same for all flows.
    pub fn enable(&mut self) -> Result<(), BackendError> {
        self.moves = grow::aside(&self.home).exists() && !self.mover.as_ref().is_some_and(Mover::is_done);
        self.choose();
        self.describe()?;
        self.hang()?;
        if !self.in_force {
            settle_steps(&self.home)?;
            let names: Vec<&str> = self.chosen.devices().iter().map(|device| &*device.name).collect();
            let (devices, hook) = (names.join(","), self.hooks.kind().as_str());
            info!(devices, hook, redirect = self.settings.redirect, "the edge layer is in force");
        }
        self.in_force = true;
        if self.mover.is_none() {
            self.mover = Mover::start(&self.home)?;
        }
        self.tell();
        let found = self.hooks.devices()?;
        let is_chosen = |index| self.chosen.devices().iter().any(|device| device.index == index);
        found.into_iter().filter(|index| !is_chosen(*index)).try_for_each(|index| self.hooks.remove(index))
    }

    fn choose(&mut self) -> bool {
        let own = [Family::V4, Family::V6].map(|family| self.context.family(family).primary);
        let own: Vec<IpAddr> = own.into_iter().flatten().collect();
        self.chosen.update(&self.network, &own, Instant::now())
    }

    /// Puts the programs on all devices. One that takes none is no reason to serve at none.
    fn hang(&mut self) -> Result<(), BackendError> {
        self.express.look(self.chosen.devices());
        self.back()?;
        let (mut refused, mut first) = (BTreeMap::new(), None);
        for device in self.chosen.devices() {
            match self.hooks.put(device, &self.programs) {
                Ok(()) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => {
                    refused.insert(device.index, chain(&error));
                    first.get_or_insert(error);
                }
            }
        }
        let is_new = self.refused != refused;
        self.refused = refused;
        match first {
            Some(error) if self.refused.len() == self.chosen.devices().len() => return Err(error),
            _ if is_new => self.back()?,
            _ => {}
        }
        // A device that has become one of ours has had its other program until now.
        self.backs.tidy();
        self.hang_before()
    }

    /// Puts the programs for frames on devices that have the others.
    fn hang_before(&mut self) -> Result<(), BackendError> {
        let covered = self.covered();
        let devices = self.chosen.devices().iter().filter(|device| covered.contains(&device.index));
        if self.express.put(&devices.cloned().collect::<Vec<_>>())? {
            self.cover()?;
        }
        Ok(())
    }

    /// Says by which devices answers may leave, for they are translated back there, by which they may come in, which take
    /// frames, and what flows bear that leave by them.
    fn cover(&mut self) -> Result<(), BackendError> {
        let covered = self.covered();
        let own = |index, family| self.own_address(index, family).map_or([0; 4], image::address);
        let entry = |index: u32| {
            let flags = match covered.contains(&index) {
                true => COVERED | self.express.flags(index),
                false => ANSWERS,
            };
            let device = EdgeDevice { flags, own_v4: own(index, Family::V4), own_v6: own(index, Family::V6) };
            (index, device)
        };
        let devices: Vec<_> = covered.union(&self.backs.used()).copied().map(entry).collect();
        if self.told_devices.as_ref() != Some(&devices) {
            self.told_devices = None;
            self.maps.set_devices(&devices)?;
            self.told_devices = Some(devices);
        }
        Ok(())
    }

    /// Logs what is wrong with the flags, when it has become so.
    fn tell(&mut self) {
        let problems = self.report().problems();
        for Problem { object, field, message, source: _ } in
            problems.iter().filter(|problem| !self.told.contains(problem))
        {
            warn!(object, field, what = message, "problem");
        }
        self.told = problems;
    }

    /// Follows devices, addresses and routes as they come and go, and looks after hooks. Cheap as long as nothing changes.
    /// Returns how many hooks had to be put right.
    pub fn watch(&mut self) -> Result<u64, BackendError> {
        let is_new = self.monitor.take_devices() && self.reread();
        if !self.in_force {
            return Ok(0);
        }
        let is_due = self.looked.elapsed() >= LOOK;
        if is_new || is_due && self.choose() {
            self.enable()?;
        }
        self.follow()?;
        if !is_due && !self.monitor.take_filters() {
            return Ok(0);
        }
        self.looked = Instant::now();
        self.mend()
    }

    /// Follows routes to endpoints, and what is brought to a bigger table.
    fn follow(&mut self) -> Result<(), BackendError> {
        if self.moves && self.mover.as_ref().is_some_and(Mover::is_done) {
            self.moves = false;
            self.sweeper.look_soon();
            self.describe()?;
            let path = grow::aside(&self.home);
            grow::forget(&self.home).map_err(|source| BackendError::Pin { deed: "remove", path, source })?;
        }
        // Where routes come and go by the hundred, each of them is not worth a look.
        if self.followed.elapsed() >= ROUTES && self.monitor.take_routes() {
            self.followed = Instant::now();
            self.back()?;
            self.backs.tidy();
        }
        Ok(())
    }

    /// For how many flows there should be room, if that is more than there is.
    pub fn wanted_flows(&mut self) -> Option<u32> {
        let flows = self.sweeper.room() / 2;
        let most = self.settings.capacity.most_flows;
        if !self.in_force || self.moves || flows >= most {
            return None;
        }
        let (round, entries) = self.sweeper.counted();
        let [opened, refused] =
            [EdgeCounter::Opened, EdgeCounter::TableFull].map(|event| self.counters.get(event));
        let before = self.load.filter(|load| load.round == round).unwrap_or(Load { round, opened, refused });
        self.load = Some(before);
        let used = entries + 2 * opened.saturating_sub(before.opened);
        // Where it is full already, more come than one step could hold.
        let factor = match (refused > before.refused, used > u64::from(self.sweeper.room()) / 4 * 3) {
            (true, _) => 8,
            (false, true) => 2,
            (false, false) => return None,
        };
        Some(flows.saturating_mul(factor).min(most))
    }

    fn reread(&mut self) -> bool {
        match network::read() {
            Ok(network) => {
                let is_new = self.network != network || self.express.disturbed();
                self.network = network;
                is_new
            }
            Err(error) => {
                warn!(%error, "could not read devices, addresses and routes");
                false
            }
        }
    }

    /// Puts right what others have done to hooks.
    fn mend(&mut self) -> Result<u64, BackendError> {
        if !self.refused.is_empty() {
            self.hang()?;
            self.tell();
        }
        let (mut repaired, mut refused) = (0, BTreeMap::new());
        for device in self.chosen.devices() {
            for direction in Direction::BOTH.into_iter().rev() {
                if self.refused.contains_key(&device.index) {
                    continue;
                }
                let done = self.hooks.mend(device, direction, &mut self.programs, &mut self.object);
                match done {
                    Ok(Mended::Nothing) => {}
                    Ok(mended) => {
                        repaired += 1;
                        warn!(device = device.name, side = direction.name(), "{}", mended.as_str());
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => drop(refused.insert(device.index, chain(&error))),
                }
            }
        }
        if !refused.is_empty() {
            self.refused.extend(refused);
            self.back()?;
            self.backs.tidy();
            self.tell();
        }
        Ok(repaired)
    }

    /// Devices, and counts.
    pub fn report(&self) -> Report {
        let state = |device: &Device| DeviceState {
            why_not: self.refused.get(&device.index).cloned(),
            hook: Some(self.hooks.kind()),
            xdp: self.express.state(device.index),
            ..DeviceState::read(&self.home, device)
        };
        Report {
            down: None,
            forwarding: if self.settings.redirect { "redirect" } else { "stack" }.to_owned(),
            devices: self.chosen.devices().iter().map(state).collect(),
            endpoint_devices: self.endpoint_devices(),
            repaired: 0,
            missing: self.chosen.missing(&self.network),
            flow_entries: self.sweeper.entries(),
            flow_room: self.sweeper.room().into(),
            counters: self.counters.read(),
        }
    }

    /// Says what the node's addresses are, and how pods are told.
    fn describe(&mut self) -> Result<(), BackendError> {
        let own: Vec<_> = self
            .network
            .addresses
            .iter()
            .filter(|(_, address)| !address.is_loopback())
            .map(|(_, address)| (image::address(*address), self.uses(*address)))
            .collect();
        self.maps.set_own(&own)?;
        for (place, family) in [(SIDE_V4, Family::V4), (SIDE_V6, Family::V6)] {
            let side = self.side(family);
            self.maps.set_side(place, side)?;
        }
        Ok(())
    }

    fn uses(&self, address: IpAddr) -> u32 {
        let accepts = match &self.context.family(Family::of(address)).node_ports {
            NodePorts::All => true,
            NodePorts::Within(ranges) => ranges.iter().any(|range| range.contains(&address)),
        };
        if accepts { NODE_PORTS } else { OWN }
    }

    fn side(&self, family: Family) -> Side {
        let context = self.context.family(family);
        let pods = match &context.pods {
            Some(Pods::Within(range)) => Some(range),
            // Pods that are told by their device do not come in by these devices.
            Some(Pods::Interface(_) | Pods::InterfacePrefix(_)) | None => None,
        };
        let (pods, pods_mask) = image::range(pods);
        let (first, last) = (*self.settings.ports.start(), *self.settings.ports.end());
        Side {
            pods,
            pods_mask,
            first_port: u32::from(first),
            ports: u32::from(last.saturating_sub(first)) + 1,
            forwarding: if self.settings.redirect { REDIRECT } else { 0 }
                | if self.settings.trusts_stack { TRUSTS_STACK } else { 0 }
                | if self.moves { MOVES } else { 0 },
        }
    }

    /// What flows bear that leave by a device: its own address, of several the node's, as who masquerades in netfilter chooses
    /// it. Where it has none, the node's, wherever that is, or the first on a device of ours.
    fn own_address(&self, device: u32, family: Family) -> Option<IpAddr> {
        let primary = self.context.family(family).primary;
        let ours = || self.chosen.devices().iter().map(|device| device.index);
        let at = |fits: &dyn Fn(u32, IpAddr) -> bool| {
            let is_meant = |address: IpAddr| Family::of(address) == family && !is_local(address);
            let all = self.network.addresses.iter().copied();
            all.filter(|(_, address)| is_meant(*address))
                .find(|(device, address)| fits(*device, *address))
                .map(|(_, address)| address)
        };
        at(&|index, address| index == device && Some(address) == primary)
            .or_else(|| at(&|index, _| index == device))
            .or_else(|| at(&|_, address| Some(address) == primary))
            .or_else(|| at(&|index, _| ours().any(|own| own == index)))
    }

    fn endpoint_devices(&self) -> Vec<String> {
        let with = self.backs.devices();
        let devices = self.network.devices.iter().filter(|device| with.contains(&device.index));
        devices.map(|device| device.name.clone()).collect()
    }
}

/// Whether a device has gone. The kernel will tell, or has told already.
fn is_gone(error: &BackendError) -> bool {
    matches!(error, BackendError::Device { source, device: _ } if source.raw_os_error() == Some(libc::ENODEV))
}

/// Addresses that mean something on one cable only.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// A number that generations and epochs of this daemon begin with, far from those of the one before: milliseconds since the machine
/// was started.
fn seed() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(1, |time| (time.tv_sec() as u32).wrapping_mul(4096).wrapping_add(time.tv_nsec() as u32 >> 18))
}

/// A map of programs is emptied when the last who holds it goes, unless it has a name.
fn pin_steps(object: &mut Object, home: &Path) -> Result<MapData, BackendError> {
    let path = home.join("STEPS-new");
    pins::remove(&path)?;
    let Map::ProgramArray(data) = object.take(abi::STEPS)? else {
        return Err(BackendError::Missing(abi::STEPS));
    };
    sys::pin(data.fd().as_fd(), &path).map_err(|source| BackendError::Pin { deed: "make", path, source })?;
    Ok(data)
}

/// The programs of the daemon before are not needed any more.
fn settle_steps(home: &Path) -> Result<(), BackendError> {
    let path = home.join("STEPS-new");
    std::fs::rename(&path, home.join(abi::STEPS)).map_err(|source| BackendError::Pin {
        deed: "rename",
        path,
        source,
    })
}

/// Takes everything of this layer away. Returns how many pins there were.
pub fn remove_all(pin_dir: &Path) -> Result<usize, BackendError> {
    let home = home(pin_dir);
    Ok(hooks::remove_all(&home)? + pins::remove(&home)?)
}

/// Takes its programs off all devices.
fn remove_hooks(pin_dir: &Path) -> Result<usize, BackendError> {
    let home = home(pin_dir);
    Ok(hooks::remove_programs(&home)? + pins::remove(&home.join(BACKS))?)
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("in_force", &self.in_force).finish_non_exhaustive()
    }
}
