//! What the tables hold, put together again by service port. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dataplane_ebpf::abi::{Backend, Member, MemberKey, Name, Service, ServiceKey, Slot, SlotKey, State};

use super::image::{Entries, Plan};
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// The raw contents of one set of tables, each sorted by key.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    /// Services by address.
    pub services: Vec<(ServiceKey, Service)>,
    /// States of lists; those without one are left out.
    pub states: Vec<(u32, State)>,
    /// List places.
    pub slots: Vec<(SlotKey, Slot)>,
    /// Members of lists.
    pub members: Vec<(MemberKey, Member)>,
    /// Endpoints.
    pub backends: Vec<(u32, Backend)>,
    /// Names.
    pub names: Vec<(u32, Name)>,
}

/// The same by service port, and the removal of whatever belongs to none.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// Entries of each service port.
    pub ports: BTreeMap<ServicePortName, Entries>,
    /// Removes entries without a (readable) name: a sign of damage, since names come first and go last.
    pub strays: Plan,
}

/// Sorts a dump by service port.
pub fn by_port(dump: Dump) -> Installed {
    let mut installed = Installed::default();
    let mut owners: BTreeMap<u32, ServicePortName> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for (id, name) in dump.names {
        match decode(&name) {
            // Two numbers under one name would make one of them unreachable.
            Some(name) if id != 0 && seen.insert(name.clone()) => {
                owners.insert(id, name);
            }
            Some(_) | None => installed.strays.drop_names.push(id),
        }
    }
    let mut services = grouped(dump.services, |(_, service)| service.id);
    let mut slots = grouped(dump.slots, |(key, _)| key.service);
    let mut members = grouped(dump.members, |(key, _)| key.service);
    let mut backends = grouped(dump.backends, |(_, backend)| backend.service);
    let mut states: BTreeMap<u32, State> = dump.states.into_iter().collect();
    for (id, name) in owners {
        let entries = Entries {
            id,
            state: states.remove(&id).unwrap_or(State::NONE),
            services: services.remove(&id).unwrap_or_default().into_boxed_slice(),
            slots: slots.remove(&id).unwrap_or_default().into_boxed_slice(),
            members: members.remove(&id).unwrap_or_default().into_boxed_slice(),
            backends: backends.remove(&id).unwrap_or_default().into_boxed_slice(),
        };
        installed.ports.insert(name, entries);
    }
    let strays = &mut installed.strays;
    strays.drop_states.extend(states.into_keys());
    strays.drop_services.extend(services.into_values().flatten().map(|(key, service)| (key, service.id)));
    strays.drop_slots.extend(slots.into_values().flatten().map(|(key, _)| key));
    strays.drop_members.extend(members.into_values().flatten().map(|(key, _)| key));
    strays.drop_backends.extend(backends.into_values().flatten().map(|(id, _)| id));
    installed
}

fn grouped<T>(entries: Vec<T>, owner: impl Fn(&T) -> u32) -> BTreeMap<u32, Vec<T>> {
    let mut groups: BTreeMap<u32, Vec<T>> = BTreeMap::new();
    for entry in entries {
        groups.entry(owner(&entry)).or_default().push(entry);
    }
    groups
}

/// Reads `namespace/name:port` back.
pub(super) fn decode(name: &Name) -> Option<ServicePortName> {
    let text = std::str::from_utf8(name.text.get(..usize::from(name.length))?).ok()?;
    let (namespace, rest) = text.split_once('/')?;
    let (service, port) = rest.split_once(':').unwrap_or((rest, ""));
    let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let family = [Family::V4, Family::V6];
    Some(ServicePortName {
        service: ServiceName { namespace: Arc::from(namespace), name: Arc::from(service) },
        port: Arc::from(port),
        protocol: protocol.into_iter().find(|known| known.number() == name.protocol)?,
        family: family.into_iter().find(|known| known.number() == name.family)?,
    })
}
