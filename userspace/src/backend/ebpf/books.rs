//! What the tables are known to hold, which numbers are given out, and what a change makes of both. Pure.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use dataplane_ebpf::abi::ServiceKey;

use super::image::{self, Entries, Numbers, Plan};
use crate::backend::Wanted;
use crate::desired::ServicePort;
use crate::model::{ServiceName, ServicePortName};
use crate::plan::Ids;

/// By service port.
pub(super) type Ports = BTreeMap<ServicePortName, Entries>;

/// What is to become of one service port.
#[derive(Clone, Debug)]
pub(super) struct Change {
    name: ServicePortName,
    /// Under which name its entries stand so far.
    before: ServicePortName,
    entries: Entries,
}

/// The books of one set of tables.
#[derive(Debug)]
pub(super) struct Books {
    have: Ports,
    /// Numbers of service ports and endpoints that an earlier layout gave, for when these are written here.
    lent: Ports,
    /// Entries in SLOTS, in MEMBERS and in BACKENDS.
    totals: [usize; 3],
    owners: BTreeMap<ServiceKey, u32>,
    numbers: Numbers,
}

impl Books {
    /// Of empty tables with places for service ports up to `limit`. What bears one of these names gets its numbers again.
    pub(super) fn new(lent: Ports, limit: u32) -> Self {
        let numbers = Numbers::beside(lent.values(), limit);
        Self { have: Ports::new(), lent, totals: [0; 3], owners: BTreeMap::new(), numbers }
    }

    /// Writes down what has been found in the tables; numbers do not go back.
    pub(super) fn found(&mut self, ports: Ports, limit: u32) {
        let numbers = Numbers::beside(ports.values().chain(self.lent.values()), limit);
        self.numbers = numbers.not_before(&self.numbers);
        self.owners = ports
            .values()
            .flat_map(|entries| entries.services.iter().map(|(key, service)| (*key, service.id)))
            .collect();
        self.totals = ports.values().map(sizes).fold([0; 3], |[a, b, c], [d, e, f]| [a + d, b + e, c + f]);
        self.have = ports;
    }

    /// Gives out no number up to this one for an endpoint: sockets count for who had it.
    pub(super) fn skip(&mut self, highest: u32) {
        let beyond = Ids::after(highest, u32::MAX);
        self.numbers.backends = self.numbers.backends.clone().not_before(&beyond);
    }

    /// Endpoints in the tables.
    pub(super) fn endpoints(&self) -> BTreeSet<u32> {
        self.have.values().flat_map(|entries| entries.backends.iter().map(|(id, _)| *id)).collect()
    }

    /// What the tables hold.
    pub(super) fn have(&self) -> &Ports {
        &self.have
    }

    /// Whether an address is somebody's.
    pub(super) fn is_owned(&self, key: &ServiceKey) -> bool {
        self.owners.contains_key(key)
    }

    /// Whether an address belongs to the service port with this number.
    pub(super) fn owns(&self, key: &ServiceKey, id: u32) -> bool {
        self.owners.get(key) == Some(&id)
    }

    /// How many entries there are in SERVICES, SLOTS, MEMBERS, BACKENDS and NAMES.
    pub(super) fn counts(&self) -> [usize; 5] {
        let [slots, members, backends] = self.totals;
        [self.owners.len(), slots, members, backends, self.have.len()]
    }

    /// Allows numbers of service ports up to `limit`.
    pub(super) fn raise(&mut self, limit: u32) {
        self.numbers.services.raise(limit);
    }

    /// The entries that bring these Services to what is wanted. It takes numbers: [`Self::commit`] makes them somebody's,
    /// [`Self::give_back`] frees them.
    pub(super) fn image(&mut self, wanted: &Wanted) -> Vec<Change> {
        let mut image = Vec::new();
        let nothing = Entries::default();
        for (service, ports) in wanted {
            let renamed = self.renamed(service, ports);
            let gone = ServicePortName::all_of(&self.have, service)
                .map(|(name, _)| name)
                .filter(|name| !ports.contains_key(name) && !renamed.values().any(|before| before == *name));
            image.extend(gone.map(|name| Change::none(name.clone())));
            for (name, want) in ports {
                let before = renamed.get(name).unwrap_or(name);
                let have = self.have.get(before).or_else(|| self.lent.get(name)).unwrap_or(&nothing);
                let entries = image::entries(name, want, have, &mut self.numbers);
                image.push(Change { name: name.clone(), before: before.clone(), entries });
            }
        }
        image
    }

    /// Which port of a Service had another name before: one that is new, and one that is gone, have an address in common.
    /// It keeps its numbers, so that its addresses need not be written again: whoever replaces an entry takes it away for
    /// an instant.
    fn renamed(
        &self,
        service: &ServiceName,
        ports: &BTreeMap<ServicePortName, ServicePort>,
    ) -> BTreeMap<ServicePortName, ServicePortName> {
        let mut gone: Ports = ServicePortName::all_of(&self.have, service)
            .filter(|(name, _)| !ports.contains_key(name))
            .map(|(name, entries)| (name.clone(), entries.clone()))
            .collect();
        let mut renamed = BTreeMap::new();
        for (name, want) in ports {
            if gone.is_empty() {
                break;
            }
            let keys = image::keys(name, want);
            let shares =
                |entries: &Entries| entries.services.iter().any(|(key, _)| keys.binary_search(key).is_ok());
            let before = gone.iter().find(|(_, entries)| shares(entries)).map(|(before, _)| before.clone());
            if let Some(before) = before.filter(|_| !self.have.contains_key(name)) {
                gone.remove(&before);
                renamed.insert(name.clone(), before);
            }
        }
        renamed
    }

    /// The plan for an image. A removed address that another service port has taken over meanwhile stays.
    pub(super) fn plan(&self, image: &[Change]) -> Plan {
        let mut plan = Plan::default();
        let nothing = Entries::default();
        for Change { name, before, entries } in image {
            plan.add(name, self.have.get(before).unwrap_or(&nothing), entries);
            if name != before {
                plan.rename(name, entries.id);
            }
        }
        let taken: BTreeSet<ServiceKey> = plan.put_services.iter().map(|(key, _)| *key).collect();
        plan.drop_services.retain(|(key, id)| !taken.contains(key) && self.owners.get(key) == Some(id));
        plan
    }

    /// The plan that fills empty tables with what these hold.
    pub(super) fn everything(&self) -> Plan {
        let mut all = Plan::default();
        for (name, entries) in &self.have {
            all.add(name, &Entries::default(), entries);
        }
        // Nobody claims what another owns, as long as `hand_over` does its work.
        all.put_services.retain(|(key, service)| self.owners.get(key) == Some(&service.id));
        all
    }

    /// Writes down that an image has been carried out.
    pub(super) fn commit(&mut self, image: Vec<Change>, plan: &Plan) {
        self.hand_over(plan);
        for (key, _) in &plan.drop_services {
            self.owners.remove(key);
        }
        self.owners.extend(plan.put_services.iter().map(|(key, service)| (*key, service.id)));
        for Change { name, before, entries } in image {
            let old = self.have.remove(&before).unwrap_or_default();
            let changed = sizes(&entries).into_iter().zip(sizes(&old));
            for (total, (new, old)) in self.totals.iter_mut().zip(changed) {
                *total = *total + new - old;
            }
            self.numbers.used.remove(&old.id);
            if entries.id != 0 {
                self.numbers.used.insert(entries.id);
                self.have.insert(name, entries);
            }
        }
    }

    /// An address that goes to another service port is not its old holder's any more, also if that one's turn to be
    /// written comes later: it may want the address back then.
    fn hand_over(&mut self, plan: &Plan) {
        let mut taken: BTreeMap<u32, BTreeSet<ServiceKey>> = BTreeMap::new();
        for (key, service) in &plan.put_services {
            if let Some(owner) = self.owners.get(key).filter(|owner| **owner != service.id) {
                taken.entry(*owner).or_default().insert(*key);
            }
        }
        if taken.is_empty() {
            return;
        }
        for entries in self.have.values_mut() {
            if let Some(keys) = taken.get(&entries.id) {
                let kept = entries.services.iter().filter(|(key, _)| !keys.contains(key));
                entries.services = kept.copied().collect();
            }
        }
    }

    /// Frees the numbers of an image that came to nothing.
    pub(super) fn give_back(&mut self) {
        self.numbers.used = self.have.values().chain(self.lent.values()).map(|entries| entries.id).collect();
    }

    /// Ends the claim of an earlier layout's service ports on their numbers, once all that are wanted are written.
    pub(super) fn end_loan(&mut self) {
        self.lent.clear();
        self.give_back();
    }
}

impl Change {
    /// The end of a service port.
    fn none(name: ServicePortName) -> Self {
        Self { before: name.clone(), name, entries: Entries::default() }
    }
}

fn sizes(entries: &Entries) -> [usize; 3] {
    [entries.slots.len(), entries.members.len(), entries.backends.len()]
}

#[cfg(test)]
mod tests {
    use super::Books;
    use crate::backend::Wanted;
    use crate::backend::ebpf::books::Ports;
    use crate::backend::ebpf::image::Plan;
    use crate::backend::ebpf::sample::{name, port};
    use crate::model::ServicePortName;

    #[test]
    fn a_port_that_only_changes_its_name_keeps_its_numbers_and_its_address_is_not_written() {
        let mut books = Books::new(Ports::new(), 8);
        let before = take(&mut books, &[(called("http"), &[1, 2])]);
        let renamed = take(&mut books, &[(called("web"), &[1, 2])]);
        assert_eq!(books.have().keys().collect::<Vec<_>>(), [&called("web")]);
        let id = before.put_names[0].0;
        assert_eq!(renamed.put_names.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [id]);
        assert_eq!((renamed.puts(), renamed.drops()), (1, 0));
    }

    #[test]
    fn a_port_that_changes_name_and_list_keeps_its_address_too() {
        let mut books = Books::new(Ports::new(), 8);
        take(&mut books, &[(called("http"), &[1, 2])]);
        let renamed = take(&mut books, &[(called("web"), &[2, 3])]);
        let Plan { put_services, drop_services, drop_names, .. } = renamed;
        assert_eq!((put_services, drop_services, drop_names), (vec![], vec![], vec![]));
    }

    #[test]
    fn numbers_of_an_image_that_came_to_nothing_are_free_again() {
        let mut books = Books::new(Ports::new(), 8);
        take(&mut books, &[(name(1), &[1])]);
        for _ in 0..100 {
            books.image(&wanted(&[(name(1), &[2]), (name(2), &[3]), (name(3), &[])]));
            books.give_back();
        }
        assert_eq!(books.numbers.used.len(), 1);
        let plan = take(&mut books, &[(name(2), &[3])]);
        assert!(plan.put_names.iter().all(|(id, _)| *id <= 8), "no bigger tables are due");
    }

    #[test]
    fn what_bears_the_name_of_an_earlier_layout_gets_its_numbers_and_is_written_whole() {
        let mut elder = Books::new(Ports::new(), 64);
        (1..9).for_each(|number| drop(take(&mut elder, &[(name(number), &[number])])));
        let mut books = Books::new(elder.have.clone(), 64);
        let plan = take(&mut books, &[(name(5), &[5]), (name(20), &[5])]);
        let [old, new] = [name(5), name(20)].map(|name| books.have()[&name].clone());
        assert_eq!((old.id, &old.backends), (elder.have()[&name(5)].id, &elder.have()[&name(5)].backends));
        assert_eq!((plan.put_services.len(), plan.put_states.len(), plan.put_backends.len()), (2, 2, 2));
        let given = |entries: &Ports, id| entries.values().any(|entries| entries.id == id);
        assert!(!given(elder.have(), new.id), "a new one gets a number that nobody had");
        books.end_loan();
        assert_eq!(books.numbers.used.len(), 2);
    }

    /// Port of the Service `s1` with another name.
    fn called(text: &str) -> ServicePortName {
        ServicePortName { port: text.into(), ..name(1) }
    }

    /// Endpoints of some service ports.
    type Row<'a> = (ServicePortName, &'a [u8]);

    fn wanted(rows: &[Row<'_>]) -> Wanted {
        let mut wanted = Wanted::new();
        for (name, listed) in rows {
            let number = name.service.name[1..].parse().expect("the Service's number");
            let ports = wanted.entry(name.service.clone()).or_default();
            ports.insert(name.clone(), port(number, listed, &[]));
        }
        wanted
    }

    fn take(books: &mut Books, rows: &[Row<'_>]) -> Plan {
        let image = books.image(&wanted(rows));
        let plan = books.plan(&image);
        books.commit(image, &plan);
        plan
    }
}
