//! The edge layer in eBPF: programs on the node's outside devices, and a table of flows of their own.
//!
//! Every daemon fills maps of its own and then turns the devices' hooks over to programs that work on these; flows, what
//! clients got under session affinity, and counts outlive it. So nothing is ever read back, and nothing is in force half.

mod backs;
mod books;
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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::maps::{Map, MapData, PerCpuArray};
use dataplane_ebpf::abi::{
    self, EdgeCounter, MOVES, NODE_PORTS, OWN, REDIRECT, SIDE_V4, SIDE_V6, Side, TRUSTS_STACK,
};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use self::backs::{BACKS, Backs, Change};
use self::books::Books;
pub use self::books::service_number;
pub use self::flows::State;
use self::flows::Sweeper;
use self::grow::Mover;
use self::hooks::{Hooks, Programs};
pub use self::keeper::Keeper;
use self::maps::Maps;
use self::monitor::Monitor;
use self::network::{Device, Network};
pub use self::object::{Capacity, flows_within};
use self::object::{Object, broken, home};
pub use self::pairs::{Pair, read_flows};
use super::ebpf::{pins, sys};
use super::{Applied, BackendError, Wanted};
use crate::desired::{Context, NodePorts, Pods};
use crate::model::{Family, Problem};

/// Where and how to install.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory for pins, on a bpf file system.
    pub pin_dir: PathBuf,
    /// Room in new maps.
    pub capacity: Capacity,
    /// Names of devices; `*` at the end stands for anything. Empty: those with a default route or the node's address.
    pub devices: Vec<String>,
    /// Whether packets go to the next hop past the host's stack.
    pub redirect: bool,
    /// Whether what endpoints here answer may come through the host's stack: nobody there gives it another source.
    pub trusts_stack: bool,
    /// Ports for masqueraded flows.
    pub ports: RangeInclusive<u16>,
}

/// What is in the kernel, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Why it does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// How packets go on: `redirect` or `stack`.
    pub forwarding: String,
    /// The devices.
    pub devices: Vec<DeviceState>,
    /// Devices behind which endpoints of this node are, with our program for what they answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoint_devices: Vec<String>,
    /// Names that `--devices` gives and no device has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Entries in the table of flows, two for each flow.
    pub flow_entries: u64,
    /// How many entries there is room for.
    #[serde(default)]
    pub flow_room: u64,
    /// Event counts by name.
    pub counters: BTreeMap<String, u64>,
}

impl Report {
    /// What of the flags comes to nothing here.
    pub fn problems(&self) -> Vec<Problem> {
        let problem = |what: String| Problem::new("edge layer", "--devices", what);
        let missing = self
            .missing
            .iter()
            .map(|name| problem(format!("no device is called {name}, apart from the loopback")));
        let nowhere = self.down.is_none() && self.devices.is_empty();
        let nowhere =
            nowhere.then(|| problem("it is on no device: nftables has all traffic from outside".to_owned()));
        missing.chain(nowhere).collect()
    }
}

/// How the hooks of a device stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    /// Its name.
    pub device: String,
    /// Whether programs hang on both of its hooks.
    pub attached: bool,
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
    maps: Maps,
    books: Books,
    context: Context,
    network: Network,
    monitor: Monitor,
    sweeper: Sweeper,
    mover: Option<Mover>,
    /// What had come when the table was last gone through.
    load: Option<Load>,
    counters: PerCpuArray<MapData, u64>,
    in_force: bool,
    /// Whether programs look for flows in the table of before, too.
    moves: bool,
    /// When ways to endpoints were last looked for anew.
    followed: Instant,
    /// What has been said of devices in the log.
    told: Vec<Problem>,
    _object: Object,
}

impl Edge {
    /// Loads programs and empty maps. Nothing that is in force changes yet.
    pub fn open(settings: &Settings) -> Result<Self, BackendError> {
        let home = home(&settings.pin_dir);
        pins::make(&home)?;
        let hooks = Hooks::new(&home)?;
        let mut object = Object::load(&home, settings.capacity)?;
        pin_steps(&mut object, &home)?;
        let programs = Programs::of(&mut object)?;
        let backs = Backs::new(&home, &mut object)?;
        let maps = Maps::of(&mut object)?;
        let monitor = Monitor::start(object.array(abi::EPOCH)?).map_err(BackendError::Network)?;
        let sweeper = Sweeper::start(flows::open(&home)?).map_err(BackendError::Network)?;
        Ok(Self {
            network: network::read().map_err(BackendError::Network)?,
            counters: counters(object.take(abi::EDGE_COUNTERS)?)?,
            settings: settings.clone(),
            home,
            hooks,
            backs,
            programs,
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
            _object: object,
        })
    }

    /// Takes what does not belong to a Service. Returns whether the kernel is behind now.
    pub fn surround(&mut self, context: &Context) -> bool {
        let is_new = self.context != *context;
        self.context = context.clone();
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
        self.books.done(step);
        if self.in_force {
            self.back_no_others()?;
        }
        Ok(applied)
    }

    /// Has all answers of endpoints here come in by our programs, wherever they are now.
    fn back(&mut self) -> Result<(), BackendError> {
        if self.settings.redirect {
            let change = self.backs.add(&self.books.here(), &self.covered());
            self.tell_backed(change)?;
        }
        self.back_no_others()?;
        self.backs.tidy();
        Ok(())
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

    fn tell_backed(&self, change: Change) -> Result<(), BackendError> {
        let now: Vec<_> = change.now.iter().map(|(ip, device)| (image::address(*ip), *device)).collect();
        let gone: Vec<_> = change.gone.into_iter().map(image::address).collect();
        self.maps.set_backed(&now, &gone)
    }

    /// Devices that have our programs, or will at once.
    fn covered(&self) -> BTreeSet<u32> {
        self.chosen().iter().map(|device| device.index).collect()
    }

    /// Puts the programs behind the devices' hooks, and says what is the same for all flows.
    pub fn enable(&mut self) -> Result<(), BackendError> {
        self.moves = grow::aside(&self.home).exists() && !self.mover.as_ref().is_some_and(Mover::is_done);
        self.describe()?;
        let chosen = self.chosen();
        let indexes: Vec<(u32, u32)> = chosen.iter().map(|device| (device.index, 1)).collect();
        self.maps.set_devices(&indexes)?;
        self.back()?;
        for device in &chosen {
            self.hooks.put(device, &self.programs)?;
        }
        if !self.in_force {
            settle_steps(&self.home)?;
            let names: Vec<&str> = chosen.iter().map(|device| &*device.name).collect();
            info!(devices = names.join(","), redirect = self.settings.redirect, "the edge layer is in force");
        }
        self.in_force = true;
        if self.mover.is_none() {
            self.mover = Mover::start(&self.home)?;
        }
        self.tell();
        for device in self.hooks.devices() {
            if indexes.iter().all(|(index, _)| *index != device) {
                self.hooks.remove(device)?;
            }
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

    /// Follows devices, addresses and routes as they come and go. Cheap as long as nothing changes.
    pub fn follow(&mut self) -> Result<(), BackendError> {
        if self.monitor.take_devices() && self.look_again() && self.in_force {
            return self.enable();
        }
        if self.moves && self.mover.as_ref().is_some_and(Mover::is_done) {
            self.moves = false;
            self.sweeper.look_soon();
            self.describe()?;
            let path = grow::aside(&self.home);
            return grow::forget(&self.home).map_err(|source| BackendError::Pin {
                deed: "remove",
                path,
                source,
            });
        }
        // Where routes come and go by the hundred, each of them is not worth a look.
        if self.in_force && self.followed.elapsed() >= ROUTES && self.monitor.take_routes() {
            self.followed = Instant::now();
            return self.back();
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
        let [opened, refused] = [EdgeCounter::Opened, EdgeCounter::TableFull].map(|event| self.count(event));
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

    fn count(&self, counter: EdgeCounter) -> u64 {
        self.counters.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum())
    }

    /// Whether devices or addresses are not what they were.
    fn look_again(&mut self) -> bool {
        match network::read() {
            Ok(network) => {
                let is_new = self.network != network;
                self.network = network;
                is_new
            }
            Err(error) => {
                warn!(%error, "could not read devices, addresses and routes");
                false
            }
        }
    }

    /// Devices, and counts.
    pub fn report(&self) -> Report {
        let state = |device: &Device| DeviceState {
            device: device.name.clone(),
            attached: self.hooks.stand(device.index),
        };
        let count = |counter: EdgeCounter| (counter.name().to_owned(), self.count(counter));
        Report {
            down: None,
            forwarding: if self.settings.redirect { "redirect" } else { "stack" }.to_owned(),
            devices: self.chosen().iter().map(state).collect(),
            endpoint_devices: self.endpoint_devices(),
            missing: self.missing(),
            flow_entries: self.sweeper.entries(),
            flow_room: self.sweeper.room().into(),
            counters: EdgeCounter::ALL.into_iter().map(count).collect(),
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
        let is_there = |address: &IpAddr| self.network.addresses.iter().any(|(_, own)| own == address);
        let own = context.primary.filter(is_there).or_else(|| self.first_address(family));
        let (first, last) = (*self.settings.ports.start(), *self.settings.ports.end());
        Side {
            own: own.map_or([0; 4], image::address),
            pods,
            pods_mask,
            first_port: u32::from(first),
            ports: u32::from(last.saturating_sub(first)) + 1,
            forwarding: if self.settings.redirect { REDIRECT } else { 0 }
                | if self.settings.trusts_stack { TRUSTS_STACK } else { 0 }
                | if self.moves { MOVES } else { 0 },
        }
    }

    /// The first address on a device of ours that others can reach.
    fn first_address(&self, family: Family) -> Option<IpAddr> {
        let ours: BTreeSet<u32> = self.chosen().iter().map(|device| device.index).collect();
        let fits = |(device, address): &&(u32, IpAddr)| {
            ours.contains(device) && Family::of(*address) == family && !is_local(*address)
        };
        self.network.addresses.iter().find(fits).map(|(_, address)| *address)
    }

    fn endpoint_devices(&self) -> Vec<String> {
        let with = self.backs.devices();
        let devices = self.network.devices.iter().filter(|device| with.contains(&device.index));
        devices.map(|device| device.name.clone()).collect()
    }

    /// Names that were given and that no device has.
    fn missing(&self) -> Vec<String> {
        let devices = self.network.devices.iter().filter(|device| !device.is_loopback);
        let is_missing = |pattern: &&String| !devices.clone().any(|device| fits(pattern, &device.name));
        self.settings.devices.iter().filter(is_missing).cloned().collect()
    }

    /// Devices that should have our programs.
    fn chosen(&self) -> Vec<Device> {
        let own: Vec<IpAddr> = [Family::V4, Family::V6]
            .into_iter()
            .filter_map(|family| self.context.family(family).primary)
            .collect();
        let has_own = |index: u32| {
            self.network.addresses.iter().any(|(device, address)| *device == index && own.contains(address))
        };
        let leads_out = |device: &&Device| {
            if self.settings.devices.is_empty() {
                return self.network.defaults.contains(&device.index) || has_own(device.index);
            }
            self.settings.devices.iter().any(|pattern| fits(pattern, &device.name))
        };
        let devices = self.network.devices.iter().filter(|device| !device.is_loopback);
        devices.filter(leads_out).cloned().collect()
    }
}

/// Whether a name fits a pattern with a `*` at its end, or without.
fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

/// Addresses that mean something on one cable only.
fn is_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// A number that generations of this daemon begin with, far from those of the one before: milliseconds since the machine
/// was started.
fn seed() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(1, |time| (time.tv_sec() as u32).wrapping_mul(4096).wrapping_add(time.tv_nsec() as u32 >> 18))
}

/// A map of programs is emptied when the last who holds it goes, unless it has a name.
fn pin_steps(object: &mut Object, home: &Path) -> Result<(), BackendError> {
    let path = home.join("STEPS-new");
    pins::remove(&path)?;
    let Map::ProgramArray(data) = object.take(abi::STEPS)? else {
        return Err(BackendError::Missing(abi::STEPS));
    };
    sys::pin(data.fd().as_fd(), &path).map_err(|source| BackendError::Pin { deed: "make", path, source })
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

fn counters(map: Map) -> Result<PerCpuArray<MapData, u64>, BackendError> {
    PerCpuArray::try_from(map).map_err(|error| broken(abi::EDGE_COUNTERS, "open", error))
}

/// Takes everything of this layer away. Returns how many pins there were.
pub fn remove_all(pin_dir: &Path) -> Result<usize, BackendError> {
    pins::remove(&home(pin_dir))
}

/// Takes its programs off all devices.
fn remove_hooks(pin_dir: &Path) -> Result<usize, BackendError> {
    let home = home(pin_dir);
    Ok(pins::remove(&home.join("links"))? + pins::remove(&home.join(BACKS))?)
}

impl fmt::Debug for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edge").field("in_force", &self.in_force).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(devices: &[&str], missing: &[&str], down: Option<&str>, said: &[&str]) {
        let state = |device: &&str| DeviceState { device: (*device).to_owned(), attached: true };
        let report = Report {
            down: down.map(str::to_owned),
            devices: devices.iter().map(state).collect(),
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
            ..Report::default()
        };
        let found: Vec<String> = report.problems().iter().map(ToString::to_string).collect();
        assert_eq!(found, said);
    }

    #[test]
    fn names_of_no_device_and_a_layer_on_no_device_are_problems() {
        let nowhere = "edge layer: --devices: it is on no device: nftables has all traffic from outside";
        check(&["eth0"], &[], None, &[]);
        check(
            &["eth0"],
            &["bond*"],
            None,
            &["edge layer: --devices: no device is called bond*, apart from the loopback"],
        );
        check(
            &[],
            &["eth9"],
            None,
            &["edge layer: --devices: no device is called eth9, apart from the loopback", nowhere],
        );
        check(&[], &[], None, &[nowhere]);
        check(&[], &[], Some("no programs"), &[]);
    }

    #[test]
    fn a_star_at_the_end_stands_for_anything() {
        for (pattern, name, expected) in [
            ("eth0", "eth0", true),
            ("eth0", "eth01", false),
            ("eth*", "eth01", true),
            ("eth*", "eth", true),
            ("*", "lan", true),
            ("e*0", "eth0", false),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}
