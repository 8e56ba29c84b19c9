//! The daemon's map of services, watched for the moment in which a change takes effect.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{HashMap as KernelMap, Map, MapData};
use dataplane_ebpf::abi::{SERVICES, Service, ServiceKey, VERSION};

/// How long a change may take before the demonstration gives up on it.
const LIMIT: Duration = Duration::from_secs(5);

/// The map.
pub(super) struct Kernel(KernelMap<MapData, ServiceKey, Service>);

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
        let path = pin_dir.join(format!("v{VERSION}/maps-1/{SERVICES}"));
        let data = MapData::from_pin(&path).with_context(|| format!("could not open {}", path.display()))?;
        Ok(Self(KernelMap::try_from(Map::HashMap(data))?))
    }

    /// What the kernel has for an address.
    pub(super) fn service(&self, address: Address) -> Option<Service> {
        self.0.get(&ServiceKey::new(&address.at.into(), address.protocol), 0).ok()
    }

    /// Waits until the kernel has a list of `endpoints` that is not the one of `before`. Looks without pause: what is
    /// measured lasts less than the shortest sleep.
    pub(super) fn changed(&self, address: Address, before: Option<Service>, endpoints: usize) -> Result<()> {
        let start = Instant::now();
        let is = |service: Service| {
            service.slots as usize == endpoints
                && before.is_none_or(|old| old.generation != service.generation)
        };
        while !self.service(address).is_some_and(is) {
            if start.elapsed() > LIMIT {
                bail!("{} did not get its {endpoints} endpoints within {LIMIT:?}", address.at);
            }
        }
        Ok(())
    }
}
