//! What the kernel holds, as far as it must be remembered, and the step from one image to another. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::chains::Chain;
use super::image::{Image, Slot, Value};
use super::sets::{Field, Set};
use crate::model::{Family, ServiceName};

/// A chain in the kernel.
pub(super) type ChainName = (Family, Box<str>);

/// An element that an earlier process left, and whose it seems to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Orphan {
    pub(super) value: Value,
    pub(super) owner: Option<ServiceName>,
}

/// What must be remembered beside the service ports themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// Left by an earlier process, and not asked for yet.
    pub(super) orphans: BTreeMap<Slot, Orphan>,
    /// Chains likewise.
    pub(super) orphan_chains: BTreeSet<ChainName>,
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
        let theirs = |orphan: &Orphan| orphan.owner.as_ref().is_some_and(|owner| services.contains(owner));
        let left = self.orphans.iter().filter(|(slot, orphan)| {
            theirs(orphan) && !after.own.contains_key(*slot) && !before.own.contains_key(*slot)
        });
        change.drops.extend(left.map(|(slot, orphan)| (slot.clone(), orphan.value.clone())));
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

    /// What nobody can ask for any more once every Service has been looked at: drops it.
    pub(super) fn leftovers(&self) -> Option<Change> {
        let waiting = self.orphans.values().any(|orphan| orphan.owner.is_some());
        if waiting || self.orphans.is_empty() {
            return None;
        }
        let drops = self.orphans.iter().map(|(slot, orphan)| (slot.clone(), orphan.value.clone())).collect();
        Some(Change { drops, ..Change::default() })
    }

    /// The step has been carried out.
    pub(super) fn done(&mut self, change: &Change, before: &Image, after: &Image) {
        for slot in after.own.keys().chain(after.shared.keys()).chain(change.drops.keys()) {
            self.orphans.remove(slot);
        }
        for (slot, more) in &after.shared {
            *self.shared.entry(slot.clone()).or_default() += more;
        }
        for (slot, less) in &before.shared {
            lessen(&mut self.shared, slot, *less);
        }
        self.shared.retain(|_, count| *count > 0);
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
                self.garbage.insert((chain.0, chain.1.name().into_boxed_str()));
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
pub(super) fn owners(elements: BTreeMap<Slot, Value>) -> BTreeMap<Slot, Orphan> {
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
