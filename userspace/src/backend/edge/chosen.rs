//! Which devices get programs, and for how long they keep them when nothing says so any more.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::network::{Device, Network};

/// How long a device that nobody named keeps its programs after its default routes and the node's address have gone. Routes go
/// when a link goes down, and come back some time after it is up again; meanwhile packets of established flows come in.
const PATIENCE: Duration = Duration::from_secs(300);

/// The devices.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    /// Names that were given; `*` at the end stands for anything.
    patterns: Vec<String>,
    /// When the devices that nobody named last had what they are chosen for.
    seen: BTreeMap<u32, Instant>,
    devices: Vec<Device>,
}

impl Chosen {
    pub(super) fn new(patterns: &[String]) -> Self {
        Self { patterns: patterns.to_vec(), ..Self::default() }
    }

    pub(super) fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Chooses anew. Whether that made a difference.
    pub(super) fn update(&mut self, network: &Network, own: &[IpAddr], now: Instant) -> bool {
        let has_own = |index| {
            network.addresses.iter().any(|(device, address)| *device == index && own.contains(address))
        };
        for Device { index, .. } in &network.devices {
            if network.defaults.contains(index) || has_own(*index) {
                self.seen.insert(*index, now);
            }
        }
        self.seen.retain(|_, seen| now.duration_since(*seen) < PATIENCE);
        let is_chosen = |device: &&Device| match self.patterns.as_slice() {
            [] => self.seen.contains_key(&device.index),
            patterns => patterns.iter().any(|pattern| fits(pattern, &device.name)),
        };
        let devices: Vec<_> = candidates(network).filter(is_chosen).cloned().collect();
        let is_new = devices != self.devices;
        self.devices = devices;
        is_new
    }

    /// Names that were given and that no device has.
    pub(super) fn missing(&self, network: &Network) -> Vec<String> {
        let is_missing = |pattern: &&String| !candidates(network).any(|device| fits(pattern, &device.name));
        self.patterns.iter().filter(is_missing).cloned().collect()
    }
}

fn candidates(network: &Network) -> impl Iterator<Item = &Device> {
    network.devices.iter().filter(|device| !device.is_loopback)
}

/// Whether a name fits a pattern with a `*` at its end, or without.
fn fits(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(index: u32, name: &str) -> Device {
        Device {
            index,
            name: name.to_owned(),
            has_hardware_addresses: true,
            is_loopback: index == 1,
            is_software: false,
        }
    }

    fn network(defaults: &[u32], addresses: &[(u32, &str)]) -> Network {
        Network {
            devices: vec![device(1, "lo"), device(2, "eth0"), device(3, "eth1"), device(4, "pod")],
            addresses: addresses.iter().map(|(device, text)| (*device, text.parse().unwrap())).collect(),
            defaults: defaults.iter().copied().collect(),
        }
    }

    fn names(chosen: &Chosen) -> Vec<&str> {
        chosen.devices().iter().map(|device| &*device.name).collect()
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

    #[test]
    fn without_names_it_is_those_with_a_default_route_or_the_nodes_address() {
        let mut chosen = Chosen::new(&[]);
        let own = ["10.0.0.1".parse().unwrap()];
        let now = Instant::now();
        assert!(chosen.update(
            &network(&[2], &[(1, "10.0.0.1"), (3, "10.0.0.1"), (4, "10.0.0.2")]),
            &own,
            now
        ));
        assert_eq!(names(&chosen), ["eth0", "eth1"]);
        assert!(!chosen.update(&network(&[3], &[(2, "10.0.0.1")]), &own, now), "the same");
    }

    #[test]
    fn a_device_keeps_its_programs_for_a_while_when_its_routes_go() {
        let mut chosen = Chosen::new(&[]);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        chosen.update(&network(&[2, 3], &[]), &[], start);
        assert!(!chosen.update(&network(&[3], &[]), &[], at(299)));
        assert_eq!(names(&chosen), ["eth0", "eth1"]);
        assert!(chosen.update(&network(&[3], &[]), &[], at(300)));
        assert_eq!(names(&chosen), ["eth1"]);
        let mut gone = network(&[], &[]);
        gone.devices.pop();
        gone.devices.pop();
        assert!(chosen.update(&gone, &[], at(301)), "a device that is not there needs none");
        assert!(names(&chosen).is_empty());
    }

    #[test]
    fn names_are_followed_at_once() {
        let mut chosen = Chosen::new(&["eth1".to_owned(), "bond*".to_owned()]);
        let mut network = network(&[2], &[]);
        chosen.update(&network, &[], Instant::now());
        assert_eq!((names(&chosen), chosen.missing(&network)), (vec!["eth1"], vec!["bond*".to_owned()]));
        for device in &mut network.devices {
            device.name = device.name.replace("eth1", "bond7");
        }
        assert!(chosen.update(&network, &[], Instant::now()));
        assert_eq!((names(&chosen), chosen.missing(&network)), (vec!["bond7"], vec!["eth1".to_owned()]));
    }
}
