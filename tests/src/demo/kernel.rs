//! The daemon's map of services, watched for the moment in which a change takes effect.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap as KernelMap, Map, MapData};
use dataplane_ebpf::abi::{SERVICES, STATES, Service, ServiceKey, State, VERSION};

/// How long a change may take before the demonstration gives up on it.
const LIMIT: Duration = Duration::from_secs(5);

/// The maps.
pub(super) struct Kernel {
    services: KernelMap<MapData, ServiceKey, Service>,
    states: Array<MapData, State>,
}

/// One address of one service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub(super) at: SocketAddr,
    /// IP protocol number.
    pub(super) protocol: u8,
}

impl Kernel {
    /// Opens the map that the daemon pinned.
    pub(super) fn open(pin_dir: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = pin_dir.join(format!("v{VERSION}/maps-1/{name}"));
            MapData::from_pin(&path).with_context(|| format!("could not open {}", path.display()))
        };
        let services = KernelMap::try_from(Map::HashMap(open(SERVICES)?))?;
        Ok(Self { services, states: Array::try_from(Map::Array(open(STATES)?))? })
    }

    /// What the kernel has for an address.
    pub(super) fn state(&self, address: Address) -> Option<State> {
        let key = ServiceKey::new(&address.at.into(), address.protocol);
        let Service { id, side: _ } = self.services.get(&key, 0).ok()?;
        self.states.get(&id, 0).ok()
    }

    /// Waits until the kernel has a list of `endpoints` that is not the one of `before`. Looks without pause: what is
    /// measured lasts less than the shortest sleep.
    pub(super) fn changed(&self, address: Address, before: Option<State>, endpoints: usize) -> Result<()> {
        let start = Instant::now();
        let is = |state: State| {
            state.slots as usize == endpoints && before.is_none_or(|old| old.generation != state.generation)
        };
        while !self.state(address).is_some_and(is) {
            if start.elapsed() > LIMIT {
                bail!("{} did not get its {endpoints} endpoints within {LIMIT:?}", address.at);
            }
        }
        Ok(())
    }
}
