//! One set of tables: opened from its pins, checked, written in order.

use std::io;
use std::path::Path;

use aya::Pod;
use aya::maps::{Array, Map, MapData, PerCpuArray};
use dataplane_ebpf::abi::{
    self, Backend, Counter, MAPS, Member, MemberKey, Name, Service, ServiceKey, Slot, SlotKey, State,
};
use serde::{Deserialize, Serialize};

use super::image::Plan;
use super::pins::TABLES;
use super::table::Table;
use crate::backend::{Applied, BackendError};
use crate::plan::{ORDER, Step};

/// The tables of one set.
pub(super) struct Set {
    pub(super) services: Table<ServiceKey, Service>,
    pub(super) states: Table<u32, State>,
    pub(super) slots: Table<SlotKey, Slot>,
    pub(super) members: Table<MemberKey, Member>,
    pub(super) backends: Table<u32, Backend>,
    pub(super) names: Table<u32, Name>,
    pub(super) meta: Array<MapData, u32>,
}

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Its name.
    pub map: String,
    /// Entries in it.
    pub entries: usize,
    /// Entries that fit.
    pub capacity: u32,
}

impl Set {
    /// Opens the pinned tables in `directory`, and refuses what has another shape than this build expects.
    pub(super) fn open(directory: &Path) -> Result<Self, BackendError> {
        let [services, states, slots, members, backends, names, meta] =
            TABLES.map(|name| open(directory, name));
        Ok(Self {
            services: Table::new(abi::SERVICES, services?)?,
            states: Table::new(abi::STATES, states?)?,
            slots: Table::new(abi::SLOTS, slots?)?,
            members: Table::new(abi::MEMBERS, members?)?,
            backends: Table::new(abi::BACKENDS, backends?)?,
            names: Table::new(abi::NAMES, names?)?,
            meta: array(meta?)?,
        })
    }

    /// Whether it was filled completely once, by a daemon with this layout.
    pub(super) fn is_complete(&self) -> bool {
        self.meta.get(&abi::META_VERSION, 0).ok() == Some(abi::VERSION) && says_complete(&self.meta)
    }

    /// Says that it is filled completely.
    pub(super) fn complete(&mut self) -> Result<(), BackendError> {
        for (place, value) in [(abi::META_VERSION, abi::VERSION), (abi::META_COMPLETE, 1)] {
            self.meta.set(place, value, 0).map_err(|error| broken(abi::META, "write", error))?;
        }
        Ok(())
    }

    /// Carries a plan out, make before break.
    pub(super) fn write(&self, plan: &Plan) -> Result<Applied, BackendError> {
        for step in ORDER {
            match step {
                Step::PutNames => self.names.put(&plan.put_names)?,
                Step::PutBackends => self.backends.put(&plan.put_backends)?,
                Step::PutSlots => self.slots.put(&plan.put_slots)?,
                Step::PutMembers => self.members.put(&plan.put_members)?,
                Step::PutStates => self.states.put(&plan.put_states)?,
                Step::PutServices => self.services.put(&plan.put_services)?,
                Step::DropServices => {
                    let keys: Vec<ServiceKey> = plan.drop_services.iter().map(|(key, _)| *key).collect();
                    self.services.remove(&keys)?;
                }
                Step::DropStates => {
                    // A place of an array cannot be removed; no list is what an empty one says.
                    let states: Vec<_> = plan.drop_states.iter().map(|id| (*id, State::NONE)).collect();
                    self.states.put(&states)?;
                }
                Step::DropMembers => self.members.remove(&plan.drop_members)?,
                Step::DropSlots => self.slots.remove(&plan.drop_slots)?,
                Step::DropBackends => self.backends.remove(&plan.drop_backends)?,
                Step::DropNames => self.names.remove(&plan.drop_names)?,
            }
        }
        Ok(Applied { puts: plan.puts(), drops: plan.drops() })
    }
}

fn array(meta: MapData) -> Result<Array<MapData, u32>, BackendError> {
    Array::try_from(Map::Array(meta)).map_err(|error| broken(abi::META, "open", error))
}

fn says_complete(meta: &Array<MapData, u32>) -> bool {
    meta.get(&abi::META_COMPLETE, 0).ok() == Some(1)
}

/// Whether the tables in `directory`, of whatever layout, may have been in force: only a set that was filled completely
/// ever is. Where that cannot be known it may.
pub(super) fn was_completed(directory: &Path) -> bool {
    if !directory.join(abi::META).exists() {
        return false;
    }
    open(directory, abi::META).and_then(array).map_or(true, |meta| says_complete(&meta))
}

/// Opens one table by itself.
pub(super) fn table<K: Pod, V: Pod>(
    directory: &Path,
    name: &'static str,
) -> Result<Table<K, V>, BackendError> {
    Table::new(name, open(directory, name)?)
}

/// Opens one pinned map and compares its shape: the loader itself would take whatever is there.
fn open(directory: &Path, name: &'static str) -> Result<MapData, BackendError> {
    let data = MapData::from_pin(directory.join(name)).map_err(|error| broken(name, "open", error))?;
    let info = data.info().map_err(|error| broken(name, "inspect", error))?;
    let found = (info.key_size(), info.value_size());
    let expected =
        MAPS.iter().find(|shape| shape.name == name).map(|shape| (shape.key_size, shape.value_size));
    if expected != Some(found) {
        let bytes = |(key, value): (u32, u32)| format!("keys of {key} and values of {value} bytes");
        let expected = expected.map(bytes).unwrap_or_default();
        return Err(BackendError::Shape { map: name, found: bytes(found), expected });
    }
    Ok(data)
}

/// The event counts, summed over all CPUs.
pub(super) fn counters(shared: &Path) -> Result<Vec<(Counter, u64)>, BackendError> {
    let map = Map::PerCpuArray(open(shared, abi::COUNTERS)?);
    let counts: PerCpuArray<MapData, u64> =
        PerCpuArray::try_from(map).map_err(|error| broken(abi::COUNTERS, "open", error))?;
    let sum = |counter: Counter| {
        let values =
            counts.get(&(counter as u32), 0).map_err(|error| broken(abi::COUNTERS, "read", error))?;
        Ok((counter, values.iter().sum()))
    };
    Counter::ALL.into_iter().map(sum).collect()
}

pub(super) fn broken(map: &'static str, deed: &'static str, error: aya::maps::MapError) -> BackendError {
    BackendError::Map { deed, map, source: io::Error::other(error) }
}
