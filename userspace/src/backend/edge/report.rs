//! What is in the kernel, for people.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::{Map, MapData, PerCpuArray};
use dataplane_ebpf::abi::{self, EdgeCounter};
use serde::{Deserialize, Serialize};

use super::flows;
use super::hooks::{self, Direction, HookKind, Hung};
use super::network::{self, Device};
use super::object::{broken, home};
use super::xdp::{self, XdpState};
use crate::backend::BackendError;
use crate::model::Problem;

/// What is in the kernel, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Why it does not work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down: Option<String>,
    /// How packets go on: `redirect` or `stack`; empty when no daemon says it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub forwarding: String,
    /// The devices.
    pub devices: Vec<DeviceState>,
    /// Devices behind which endpoints of this node are, with our program for what they answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoint_devices: Vec<String>,
    /// How often this daemon has put right what others had done to hooks.
    #[serde(default)]
    pub repaired: u64,
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

/// How the hooks of a device stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceState {
    /// Its name.
    pub device: String,
    /// Whether programs hang on both of its hooks.
    pub attached: bool,
    /// Why they do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// How it stands to frames before the stack.
    #[serde(default)]
    pub xdp: XdpState,
    /// How they hang there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hook: Option<HookKind>,
    /// Whether they see packets before all others, on both sides.
    #[serde(default)]
    pub first: bool,
    /// What packets meet where they come in, in that order.
    #[serde(default)]
    pub ingress: Vec<Hung>,
    /// What they meet where they leave.
    #[serde(default)]
    pub egress: Vec<Hung>,
}

impl Report {
    /// How many new flows were left to others because the table of flows was full.
    pub fn without_room(&self) -> u64 {
        self.counters.get(EdgeCounter::TableFull.name()).copied().unwrap_or_default()
    }

    /// What is not as it should be.
    pub fn problems(&self) -> Vec<Problem> {
        let problem = |what: String| Problem::new("edge layer", "--devices", what);
        let missing = self
            .missing
            .iter()
            .map(|name| problem(format!("no device is called {name}, apart from the loopback")));
        let nowhere = self.down.is_none() && self.devices.is_empty();
        let nowhere =
            nowhere.then(|| problem("it is on no device: nftables has all traffic from outside".to_owned()));
        missing.chain(nowhere).chain(self.devices.iter().flat_map(DeviceState::problems)).collect()
    }
}

impl DeviceState {
    /// How it stands in the kernel, whichever daemon has put it there.
    pub(super) fn read(home: &Path, device: &Device) -> Self {
        let [ingress, egress] = Direction::BOTH.map(|direction| hooks::order(home, device.index, direction));
        let has_ours = |hung: &[Hung]| hung.iter().any(|program| program.ours);
        let is_first = |hung: &[Hung]| hung.first().is_some_and(|program| program.ours);
        Self {
            device: device.name.clone(),
            attached: has_ours(&ingress) && has_ours(&egress),
            why_not: None,
            xdp: xdp::state_pinned(home, device.index),
            hook: ingress.iter().chain(&egress).find(|program| program.ours).map(|program| program.hook),
            first: is_first(&ingress) && is_first(&egress),
            ingress,
            egress,
        }
    }

    fn problems(&self) -> Vec<Problem> {
        let problem = |what: String| Problem::new("edge layer", &self.device, what);
        let off =
            self.why_not.as_ref().map(|why| problem(format!("its programs cannot be put there: {why}")));
        let sides = [("come in", &self.ingress), ("leave", &self.egress)];
        let behind = sides.into_iter().filter_map(|(side, hung)| {
            let before: Vec<&str> =
                hung.iter().take_while(|program| !program.ours).map(|program| &*program.name).collect();
            let is_behind = !before.is_empty() && before.len() < hung.len();
            is_behind.then(|| {
                problem(format!("others see packets before it where they {side}: {}", before.join(", ")))
            })
        });
        off.into_iter().chain(behind).collect()
    }
}

/// Event counts.
pub(super) struct Counters(PerCpuArray<MapData, u64>);

impl Counters {
    pub(super) fn of(map: Map) -> Result<Self, BackendError> {
        let array = PerCpuArray::try_from(map).map_err(|error| broken(abi::EDGE_COUNTERS, "open", error))?;
        Ok(Self(array))
    }

    pub(super) fn read(&self) -> BTreeMap<String, u64> {
        let count = |counter: EdgeCounter| (counter.name().to_owned(), self.get(counter));
        EdgeCounter::ALL.into_iter().map(count).collect()
    }

    pub(super) fn get(&self, counter: EdgeCounter) -> u64 {
        self.0.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum())
    }
}

/// What the kernel has of whichever daemon; nothing if there is no layer.
pub fn report_pinned(pin_dir: &Path) -> Result<Option<Report>, BackendError> {
    let home = home(pin_dir);
    let path = home.join(abi::EDGE_COUNTERS);
    if !path.try_exists().map_err(|source| BackendError::Pin {
        deed: "look at",
        path: path.clone(),
        source,
    })? {
        return Ok(None);
    }
    let counters = MapData::from_pin(path).map_err(|error| broken(abi::EDGE_COUNTERS, "open", error))?;
    let ours = hooks::devices(&home)?;
    let network = network::read().map_err(BackendError::Network)?;
    let devices = network.devices.iter().filter(|device| ours.contains(&device.index));
    let flows = flows::open(&home)?;
    Ok(Some(Report {
        devices: devices.map(|device| DeviceState::read(&home, device)).collect(),
        flow_entries: flows.dump()?.len() as u64,
        flow_room: flows.capacity().into(),
        counters: Counters::of(Map::PerCpuArray(counters))?.read(),
        ..Report::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(device: &str) -> DeviceState {
        DeviceState { device: device.to_owned(), attached: true, first: true, ..DeviceState::default() }
    }

    fn hung(name: &str, ours: bool) -> Hung {
        Hung { name: name.to_owned(), program: Some(7), hook: HookKind::Tcx, priority: None, ours }
    }

    #[track_caller]
    fn check(devices: &[DeviceState], missing: &[&str], down: Option<&str>, said: &[&str]) {
        let report = Report {
            down: down.map(str::to_owned),
            devices: devices.to_vec(),
            missing: missing.iter().map(|name| (*name).to_owned()).collect(),
            ..Report::default()
        };
        let found: Vec<String> = report.problems().iter().map(ToString::to_string).collect();
        assert_eq!(found, said);
    }

    #[test]
    fn names_of_no_device_and_a_layer_on_no_device_are_problems() {
        let nowhere = "edge layer: --devices: it is on no device: nftables has all traffic from outside";
        check(&[state("eth0")], &[], None, &[]);
        check(
            &[state("eth0")],
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
    fn a_device_without_programs_and_others_before_ours_are_problems() {
        let off = DeviceState { why_not: Some("no room".to_owned()), ..state("eth0") };
        check(&[off], &[], None, &["edge layer: eth0: its programs cannot be put there: no room"]);
        let behind = DeviceState {
            ingress: vec![hung("spy", false), hung("edge_in", true), hung("count", false)],
            egress: vec![hung("edge_out", true), hung("count", false)],
            ..state("eth0")
        };
        check(
            &[behind],
            &[],
            None,
            &["edge layer: eth0: others see packets before it where they come in: spy"],
        );
        let absent = DeviceState { ingress: vec![hung("spy", false)], ..state("eth0") };
        check(&[absent], &[], None, &[]);
    }
}
