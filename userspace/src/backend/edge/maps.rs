//! The maps of one set, written in order.

use aya::maps::{Array, MapData};
use dataplane_ebpf::abi::{
    self, Address, EdgeDevice, Frontend, FrontendKey, ListState, Member, ServerKey, Side, SlotKey, SourceKey,
    Target, Traffic,
};

use super::super::ebpf::table::Table;
use super::books::Plan;
use super::object::{Object, broken};
use crate::backend::{Applied, BackendError};

/// All that a daemon fills.
pub(super) struct Maps {
    frontends: Table<FrontendKey, Frontend>,
    lists: Table<u32, ListState>,
    targets: Table<SlotKey, Target>,
    servers: Table<ServerKey, Member>,
    sources: Table<SourceKey, u32>,
    own: Table<Address, u32>,
    devices: Table<u32, EdgeDevice>,
    backed: Table<Address, u32>,
    sides: Array<MapData, Side>,
    traffic: Table<u32, Traffic>,
}

impl Maps {
    pub(super) fn of(object: &mut Object) -> Result<Self, BackendError> {
        Ok(Self {
            frontends: object.table(abi::FRONTENDS)?,
            lists: object.table(abi::LISTS)?,
            targets: object.table(abi::TARGETS)?,
            servers: object.table(abi::SERVERS)?,
            sources: object.table(abi::SOURCES)?,
            own: object.table(abi::OWN_ADDRESSES)?,
            devices: object.table(abi::DEVICES)?,
            backed: object.table(abi::BACKED)?,
            sides: object.array(abi::SIDES)?,
            traffic: object.table(abi::EDGE_TRAFFIC)?,
        })
    }

    /// How many lists fit.
    pub(super) fn room(&self) -> u32 {
        self.lists.capacity().saturating_sub(1)
    }

    /// Carries a plan out, make before break.
    pub(super) fn write(&self, plan: &Plan) -> Result<Applied, BackendError> {
        self.sources.put(&plan.put_sources)?;
        self.targets.put(&plan.put_targets)?;
        self.servers.put(&plan.put_servers)?;
        self.lists.put(&plan.put_lists)?;
        self.frontends.put(&plan.put_frontends)?;
        self.frontends.remove(&plan.drop_frontends)?;
        let none = ListState { generation: 0, slots: 0, timeout: 0, service: 0 };
        self.lists.put(&plan.drop_lists.iter().map(|list| (*list, none)).collect::<Vec<_>>())?;
        self.targets.remove(&plan.drop_targets)?;
        self.servers.remove(&plan.drop_servers)?;
        self.sources.remove(&plan.drop_sources)?;
        Ok(Applied { puts: plan.puts(), drops: plan.drops() })
    }

    /// Forgets what was counted for service ports that are no more.
    pub(super) fn forget(&self, services: &[u32]) -> Result<(), BackendError> {
        self.traffic.remove(services)
    }

    /// Says what is the same for all flows of a family.
    pub(super) fn set_side(&mut self, place: u32, side: Side) -> Result<(), BackendError> {
        self.sides.set(place, side, 0).map_err(|error| broken(abi::SIDES, "write", error))
    }

    /// Says which addresses are the node's own.
    pub(super) fn set_own(&self, addresses: &[(Address, u32)]) -> Result<(), BackendError> {
        replace(&self.own, addresses)
    }

    /// Says which devices have our programs.
    pub(super) fn set_devices(&self, devices: &[(u32, EdgeDevice)]) -> Result<(), BackendError> {
        replace(&self.devices, devices)
    }

    /// Says of which endpoints the answers come in by a device with our program for them, and of which no longer.
    pub(super) fn set_backed(&self, now: &[(Address, u32)], gone: &[Address]) -> Result<(), BackendError> {
        self.backed.remove(gone)?;
        self.backed.put(now)
    }
}

/// Makes a small map hold just these.
fn replace<K: aya::Pod + Ord, V: aya::Pod>(
    table: &Table<K, V>,
    entries: &[(K, V)],
) -> Result<(), BackendError> {
    table.put(entries)?;
    let stale = table.dump()?.into_iter().map(|(key, _)| key);
    let stale: Vec<K> = stale.filter(|key| entries.iter().all(|(kept, _)| kept != key)).collect();
    table.remove(&stale)
}
