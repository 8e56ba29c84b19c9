//! How much service ports and endpoints are used, as the programs count it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use dataplane_ebpf::abi::{self, Backend, Name, Traffic, Uses};

use super::links::{Links, RELEASE};
use super::pins::Pins;
use super::read::decode;
use super::table::Table;
use super::{adoptable, set};
use crate::backend::BackendError;
use crate::model::ServicePortName;

/// So many endpoints that have left are looked up one by one.
const FEW: usize = 64;

/// The two maps of counts.
#[derive(Debug)]
pub(super) struct Tallies {
    traffic: Table<u32, Traffic>,
    uses: Table<u32, Uses>,
    /// Endpoints that have left, whose counts go once nobody has them.
    left: BTreeSet<u32>,
    /// Those that left since the last look. A call that chose one of them just before may not have counted yet.
    just_left: BTreeSet<u32>,
}

/// What they hold, and whose it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Service ports by id.
    pub names: BTreeMap<u32, ServicePortName>,
    /// Whether each end of a socket is seen. If not, how many are open is not known.
    pub sees_ends: bool,
    /// What became of new connections, by the id of the service port.
    pub ports: BTreeMap<u32, Traffic>,
    /// Endpoints, by id; also such that have left, while sockets have them.
    pub endpoints: BTreeMap<u32, Endpoint>,
}

/// One endpoint of one service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Id of its service port.
    pub service: u32,
    /// How many connections and flows of datagrams it ever got.
    pub opened: u64,
    /// How many of them sockets have open.
    pub open: u64,
}

impl Tallies {
    /// Opens what is pinned.
    pub(super) fn open(shared: &Path) -> Result<Self, BackendError> {
        let (traffic, uses) = (set::table(shared, abi::TRAFFIC)?, set::table(shared, abi::USES)?);
        Ok(Self { traffic, uses, left: BTreeSet::new(), just_left: BTreeSet::new() })
    }

    /// Endpoints for which something is counted.
    pub(super) fn endpoints(&self) -> Result<BTreeSet<u32>, BackendError> {
        Ok(self.uses.dump()?.into_iter().map(|(id, _)| id).collect())
    }

    /// These endpoints have left.
    pub(super) fn leave(&mut self, endpoints: impl IntoIterator<Item = u32>) {
        self.just_left.extend(endpoints);
    }

    /// Removes the counts of endpoints that have left and that nobody has any more.
    pub(super) fn sweep(&mut self) -> Result<(), BackendError> {
        let counted = self.counted(&self.left)?;
        let idle = |id: &u32| counted.get(id).is_some_and(|uses| uses.open() == 0);
        // Only what is there: to remove what is not costs a call each.
        let idle: Vec<u32> = self.left.iter().copied().filter(idle).collect();
        self.uses.remove(&idle)?;
        self.left.retain(|id| counted.contains_key(id) && idle.binary_search(id).is_err());
        self.left.append(&mut self.just_left);
        Ok(())
    }

    /// What is counted for these; for many of them everything is read at once.
    fn counted(&self, ids: &BTreeSet<u32>) -> Result<BTreeMap<u32, Uses>, BackendError> {
        if ids.len() > FEW {
            return Ok(self.uses.dump()?.into_iter().collect());
        }
        let found = ids.iter().map(|id| Ok(self.uses.get(id)?.map(|uses| (*id, uses))));
        found.filter_map(Result::transpose).collect()
    }

    /// Forgets what was counted for service ports.
    pub(super) fn forget(&self, services: &[u32]) -> Result<(), BackendError> {
        self.traffic.remove(services)
    }
}

impl From<&Uses> for Endpoint {
    fn from(uses: &Uses) -> Self {
        let Uses { opened, open: _, backend: Backend { endpoint, zero: _, service } } = *uses;
        Self { address: endpoint.into(), service, opened, open: uses.open() }
    }
}

/// What is pinned, read without the daemon; nothing where nothing is installed.
pub fn read_counts(pins: &Pins) -> Result<Option<Counts>, BackendError> {
    let shared = pins.shared();
    let is_there = |name| shared.join(name).exists();
    let Some(number) = adoptable(pins)?.filter(|_| is_there(abi::TRAFFIC) && is_there(abi::USES)) else {
        return Ok(None);
    };
    // What has come for a number since its name was read is counted for that name; what a new name has, the next time.
    let names = set::table::<u32, Name>(&pins.set(number), abi::NAMES)?.dump()?;
    let Tallies { traffic, uses, left: _, just_left: _ } = Tallies::open(&shared)?;
    Ok(Some(Counts {
        names: names.into_iter().filter_map(|(id, name)| Some((id, decode(&name)?))).collect(),
        sees_ends: Links::new(pins.links()).state(&RELEASE).attached,
        ports: traffic.dump()?.into_iter().collect(),
        endpoints: uses.dump()?.into_iter().map(|(id, uses)| (id, Endpoint::from(&uses))).collect(),
    }))
}
