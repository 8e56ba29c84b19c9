//! What the kernel holds, as far as it must be remembered, and the step from one image to another. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use super::chains::{Chain, may_stay};
use super::image::{Image, Slot, Value};
use super::sets::{Field, Set};
use crate::model::{Family, ServiceName};

/// A chain in the kernel.
pub(super) type ChainName = (Family, Box<str>);

/// An element that an earlier process left, and whose it seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Orphan {
    value: Value,
    owner: Option<ServiceName>,
}

/// What must be remembered beside the service ports themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Left by an earlier process, and not asked for yet.
    orphans: BTreeMap<Slot, Orphan>,
    /// Where those stand that have an owner.
    owned: BTreeMap<ServiceName, BTreeSet<Slot>>,
    /// Chains likewise; also those that may stay.
    orphan_chains: BTreeSet<ChainName>,
    /// How often an element is asked for.
    shared: BTreeMap<Slot, usize>,
    /// How often a chain is.
    chains: BTreeMap<(Family, Chain), usize>,
    /// Chains in the kernel that nobody asks for any more.
    pub(super) garbage: BTreeSet<ChainName>,
}

/// What one transaction does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    /// Chains to make; what they lead to comes before.
    pub(super) new_chains: Vec<(Family, Chain)>,
    /// Elements to remove.
    pub(super) drops: BTreeMap<Slot, Value>,
    /// Elements to add.
    pub(super) puts: BTreeMap<Slot, Value>,
}

impl Change {
    /// Whether nothing is to be done.
    pub(super) fn is_empty(&self) -> bool {
        self.new_chains.is_empty() && self.drops.is_empty() && self.puts.is_empty()
    }

    fn replace(&mut self, slot: &Slot, old: Option<&Value>, new: &Value) {
        if old == Some(new) {
            return;
        }
        if let Some(old) = old {
            self.drops.insert(slot.clone(), old.clone());
        }
        self.puts.insert(slot.clone(), new.clone());
    }
}

impl Ledger {
    /// The step from what some Services had to what they shall have.
    pub(super) fn step(&self, services: &BTreeSet<&ServiceName>, before: &Image, after: &Image) -> Change {
        let mut change = Change::default();
        for (slot, value) in &after.own {
            let left = || self.orphans.get(slot).map(|orphan| &orphan.value);
            change.replace(slot, before.own.get(slot).or_else(left), value);
        }
        let gone = before.own.iter().filter(|(slot, _)| !after.own.contains_key(*slot));
        change.drops.extend(gone.map(|(slot, value)| (slot.clone(), value.clone())));
        let theirs = services.iter().filter_map(|name| self.owned.get(*name)).flatten();
        let left = theirs.filter(|slot| !after.own.contains_key(*slot) && !before.own.contains_key(*slot));
        let value = |slot: &Slot| Some((slot.clone(), self.orphans.get(slot)?.value.clone()));
        change.drops.extend(left.filter_map(value));
        self.step_shared(before, after, &mut change);
        change.new_chains = self.new_chains(after);
        change
    }

    fn step_shared(&self, before: &Image, after: &Image, change: &mut Change) {
        for (slot, _) in before.shared.iter().chain(&after.shared) {
            let (is, will) = (count(&self.shared, slot), self.will_be(slot, before, after));
            if is == 0 && will > 0 && !self.orphans.contains_key(slot) {
                change.puts.insert(slot.clone(), Value::nothing());
            } else if is > 0 && will == 0 {
                change.drops.insert(slot.clone(), Value::nothing());
            }
        }
    }

    fn will_be(&self, slot: &Slot, before: &Image, after: &Image) -> usize {
        let given = count(&self.shared, slot) + count(&after.shared, slot);
        given.saturating_sub(count(&before.shared, slot))
    }

    fn new_chains(&self, after: &Image) -> Vec<(Family, Chain)> {
        let missing = after.chains.keys().filter(|chain| !self.chains.contains_key(*chain));
        let missing = missing.filter(|(family, chain)| {
            let name = (*family, chain.name().into_boxed_str());
            !self.orphan_chains.contains(&name) && !self.garbage.contains(&name)
        });
        let mut chains: Vec<_> = missing.cloned().collect();
        chains.sort_by_key(|(_, chain)| chain.depth());
        chains
    }

    /// Whether somebody needs a chain.
    pub(super) fn needs(&self, chain: &(Family, Chain)) -> bool {
        self.chains.contains_key(chain)
    }

    /// The chains that somebody needs, from one on.
    pub(super) fn needed(&self, after: Option<&(Family, Chain)>) -> impl Iterator<Item = &(Family, Chain)> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.chains.range((from, Bound::Unbounded)).map(|(chain, _)| chain)
    }

    /// Whether nothing of an earlier process is left that may be asked for yet.
    pub(super) fn is_settled(&self) -> bool {
        self.orphans.is_empty()
    }

    /// Whether clients are still to be remembered under a number.
    pub(super) fn remembers(&self, family: Family, number: u32) -> bool {
        self.chains.keys().any(|(of, chain)| {
            let Chain::Remember(affinity) = chain else { return false };
            *of == family && affinity.number() == number
        })
    }

    /// What nobody can ask for any more once every Service has been looked at: drops it.
    pub(super) fn leftovers(&self) -> Option<Change> {
        (self.owned.is_empty() && !self.orphans.is_empty()).then(|| self.all_orphans())
    }

    /// All that an earlier process left and nobody asked for: drops it.
    pub(super) fn all_orphans(&self) -> Change {
        let drops = self.orphans.iter().map(|(slot, orphan)| (slot.clone(), orphan.value.clone())).collect();
        Change { drops, ..Change::default() }
    }

    /// Takes in what an earlier process left in a table.
    pub(super) fn find(
        &mut self,
        family: Family,
        elements: BTreeMap<Slot, Value>,
        chains: impl Iterator<Item = String>,
    ) {
        for (slot, orphan) in owners(elements) {
            if let Some(owner) = &orphan.owner {
                self.owned.entry(owner.clone()).or_default().insert(slot.clone());
            }
            self.orphans.insert(slot, orphan);
        }
        self.orphan_chains.extend(chains.map(|chain| (family, chain.into_boxed_str())));
    }

    /// Whose elements an earlier process left.
    pub(super) fn owners(&self) -> impl Iterator<Item = &ServiceName> {
        self.owned.keys()
    }

    /// Once every Service has been looked at, nobody needs the chains that are left of an earlier process.
    pub(super) fn retire_chains(&mut self) {
        let left = std::mem::take(&mut self.orphan_chains);
        let (stay, go): (BTreeSet<_>, BTreeSet<_>) = left.into_iter().partition(|(_, chain)| may_stay(chain));
        self.orphan_chains = stay;
        self.garbage.extend(go);
    }

    /// Nothing of an earlier process is left.
    pub(super) fn forget_orphans(&mut self) {
        self.orphans.clear();
        self.owned.clear();
    }

    fn adopt(&mut self, slot: &Slot) {
        let Some(Orphan { owner: Some(owner), .. }) = self.orphans.remove(slot) else { return };
        if let Some(slots) = self.owned.get_mut(&owner) {
            slots.remove(slot);
            if slots.is_empty() {
                self.owned.remove(&owner);
            }
        }
    }

    /// The step has been carried out.
    pub(super) fn done(&mut self, change: &Change, before: &Image, after: &Image) {
        for slot in after.own.keys().chain(after.shared.keys()).chain(change.drops.keys()) {
            self.adopt(slot);
        }
        for (slot, more) in &after.shared {
            *self.shared.entry(slot.clone()).or_default() += more;
        }
        for (slot, less) in &before.shared {
            lessen(&mut self.shared, slot, *less);
            if self.shared.get(slot) == Some(&0) {
                self.shared.remove(slot);
            }
        }
        self.count_chains(before, after);
    }

    fn count_chains(&mut self, before: &Image, after: &Image) {
        for (chain, more) in &after.chains {
            let name = (chain.0, chain.1.name().into_boxed_str());
            self.orphan_chains.remove(&name);
            self.garbage.remove(&name);
            *self.chains.entry(chain.clone()).or_default() += more;
        }
        for (chain, less) in &before.chains {
            lessen(&mut self.chains, chain, *less);
            if self.chains.get(chain) == Some(&0) {
                self.chains.remove(chain);
                let name = (chain.0, chain.1.name().into_boxed_str());
                let list = if chain.1.stays() { &mut self.orphan_chains } else { &mut self.garbage };
                list.insert(name);
            }
        }
    }
}

impl Value {
    /// Of an element that is just there.
    pub(super) fn nothing() -> Self {
        Self { end: None, data: super::wire::Data::None, comment: None }
    }
}

fn count<K: Ord>(counts: &BTreeMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or(0)
}

fn lessen<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K, less: usize) {
    if let Some(count) = counts.get_mut(key) {
        *count = count.saturating_sub(less);
    }
}

/// Whose an element is: one that says so, or one that stands below an address that says so.
fn owners(elements: BTreeMap<Slot, Value>) -> BTreeMap<Slot, Orphan> {
    let named: BTreeMap<(Family, bool, Box<[u8]>), ServiceName> = elements
        .iter()
        .filter_map(|((family, set, key), value)| {
            let owner = read_label(value.comment.as_deref()?)?;
            Some(((*family, is_address(*set), key.clone()), owner))
        })
        .collect();
    let owner = |(family, set, key): &Slot| {
        let length =
            set.fields().iter().take(head(*set)).map(|field| field.length(*family).next_multiple_of(4));
        let key = key.get(..length.sum::<u32>() as usize)?;
        named.get(&(*family, is_address(*set), key.into())).cloned()
    };
    elements.into_iter().map(|(slot, value)| (slot.clone(), Orphan { owner: owner(&slot), value })).collect()
}

/// Whether elements are found by address rather than by node port alone.
fn is_address(set: Set) -> bool {
    set.fields().first() == Some(&Field::To)
}

/// How many fields of a key name the address of a service port.
fn head(set: Set) -> usize {
    match set.fields() {
        [Field::To, Field::Protocol, Field::Port, ..] => 3,
        [Field::Protocol, Field::Port, ..] => 2,
        _ => usize::MAX,
    }
}

/// The Service in a label.
fn read_label(label: &str) -> Option<ServiceName> {
    let (namespace, rest) = label.split_once('/')?;
    let name = rest.split_once(':').map_or(rest, |(name, _)| name);
    Some(ServiceName::new(namespace, name))
}
