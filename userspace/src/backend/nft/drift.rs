//! What the tables hold beside what they should hold, for tables so big that nobody wants to keep them twice: what is read is
//! kept as two numbers an element, and only what seems to be wrong is read again in full. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use ipnet::IpNet;

use super::compare;
use super::image::{Slot, Value};
use super::layout::{Layout, ranges};
use super::rule::{Dialect, Rule, steps};
use super::sets::Set;
use super::wire::{Data, Element};
use crate::backend::difference::Kind;
use crate::backend::findings::Findings;
use crate::desired::{Context, NodePorts};
use crate::model::Family;

/// What these tables are called.
pub(super) const NFTABLES: &str = "nftables";
/// Sets of ranges that belong to the node.
pub(super) const OF_NODE: [Set; 2] = [Set::ClusterRanges, Set::NodePortAddresses];

/// One set of one table.
pub(super) type Place = (Family, Set);
/// Stands for a key, or for the name of a chain.
pub(super) type Key = u64;
/// A key, and what stands for what is there.
type Print = (Key, u64);
/// Where ranges begin, and where they have ended.
pub(super) type Borders = BTreeSet<(Box<[u8]>, bool)>;

/// What has been read, each list sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    pub(super) elements: BTreeMap<Place, Vec<Print>>,
    pub(super) chains: BTreeMap<Family, Vec<Print>>,
    pub(super) ranges: BTreeMap<Place, Borders>,
}

/// What has been read again, of what seems to be wrong.
#[derive(Clone, Debug, Default)]
pub(super) struct Detail {
    pub(super) elements: BTreeMap<Slot, Value>,
    pub(super) rest: Snapshot,
}

/// What seems to be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Suspects {
    /// Elements, with what they should say, and whose they are.
    pub(super) elements: BTreeMap<Slot, (Value, String)>,
    /// Keys of which nobody knows.
    pub(super) strays: BTreeMap<Place, BTreeSet<Key>>,
    /// Chains, with what stands for the rules that they should have.
    pub(super) chains: BTreeMap<(Family, Box<str>), u64>,
    /// Sets of ranges, with what they should hold.
    pub(super) ranges: BTreeMap<Place, Borders>,
}

/// An element that is wrong: what it should say, and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WrongElement {
    pub(super) slot: Slot,
    pub(super) want: Option<Value>,
    pub(super) found: Option<Value>,
    pub(super) owner: String,
}

/// Everything that is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) elements: Vec<WrongElement>,
    pub(super) chains: Vec<(Family, Box<str>)>,
    pub(super) ranges: Vec<Place>,
}

/// A snapshot that is being compared with what is wanted.
#[derive(Clone, Debug)]
pub(super) struct Comparison {
    snapshot: Snapshot,
    seen: BTreeMap<Place, Vec<bool>>,
    pub(super) suspects: Suspects,
}

/// What stands for a key.
pub(super) fn key_of(key: &[u8]) -> Key {
    number(key)
}

/// What stands for a chain's name.
pub(super) fn chain_key(name: &str) -> Key {
    number(name)
}

/// What stands for an element.
pub(super) fn print(key: &[u8], value: &Value) -> Print {
    (key_of(key), value_of(value))
}

/// What stands for rules.
pub(super) fn rules_of(rules: &[String]) -> u64 {
    number(rules)
}

/// What stands for the rules that a chain should have.
pub(super) fn planned_rules(layout: &Layout, rules: &[Rule]) -> u64 {
    let kinds = |rule: &Rule| {
        let mut map = |_: &[&str]| 0;
        let steps = steps(rule, &mut Dialect { family: layout.family, map: &mut map });
        steps.iter().map(|step| step.name()).collect::<Vec<_>>().join(" ")
    };
    rules_of(&rules.iter().map(kinds).collect::<Vec<_>>())
}

/// Where ranges begin and end.
pub(super) fn borders(elements: impl IntoIterator<Item = Element>) -> Borders {
    elements.into_iter().map(|element| (element.key, element.closes)).collect()
}

/// Which of the node's sets of ranges are not as they should be.
pub(super) fn differing_ranges(
    found: &BTreeMap<Place, Borders>,
    context: &Context,
    cluster_ranges: &BTreeSet<IpNet>,
) -> impl Iterator<Item = Place> {
    let is_wrong = |((family, set), found): &(&Place, &Borders)| {
        let node_ports = match &context.family(*family).node_ports {
            NodePorts::All => Vec::new(),
            NodePorts::Within(ranges) => ranges.to_vec(),
        };
        let cluster = cluster_ranges.iter().filter(|range| Family::of(range.addr()) == *family);
        let want = if *set == Set::ClusterRanges { cluster.copied().collect() } else { node_ports };
        borders(ranges(&want)) != **found
    };
    found.iter().filter(is_wrong).map(|(place, _)| *place)
}

fn value_of(Value { end, data, comment }: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    (end, comment).hash(&mut hasher);
    match data {
        Data::None => 0_u8.hash(&mut hasher),
        Data::Drop => 1_u8.hash(&mut hasher),
        Data::Goto(chain) => (2_u8, chain).hash(&mut hasher),
        Data::Bytes(bytes) => (3_u8, bytes).hash(&mut hasher),
    }
    hasher.finish()
}

fn number(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

impl Snapshot {
    /// Puts everything in order.
    pub(super) fn sort(&mut self) {
        self.elements.values_mut().for_each(|prints| prints.sort_unstable());
        self.chains.values_mut().for_each(|prints| prints.sort_unstable());
    }

    fn rules(&self, family: Family, name: &str) -> Option<u64> {
        let prints = self.chains.get(&family)?;
        let at = prints.binary_search_by_key(&chain_key(name), |(key, _)| *key).ok()?;
        prints.get(at).map(|(_, rules)| *rules)
    }
}

impl Comparison {
    pub(super) fn new(snapshot: Snapshot) -> Self {
        let unseen = |(place, prints): (&Place, &Vec<Print>)| (*place, vec![false; prints.len()]);
        let seen = snapshot.elements.iter().map(unseen).collect();
        Self { snapshot, seen, suspects: Suspects::default() }
    }

    /// Looks whether an element is there as it should be.
    pub(super) fn element(&mut self, slot: &Slot, want: &Value, owner: &str) {
        let (family, set, key) = slot;
        let place = (*family, *set);
        let (key, value) = print(key, want);
        let found = self.snapshot.elements.get(&place).and_then(|prints| {
            let at = prints.binary_search_by_key(&key, |(key, _)| *key).ok()?;
            Some((at, prints.get(at)?.1))
        });
        if let Some((at, _)) = found
            && let Some(seen) = self.seen.get_mut(&place).and_then(|seen| seen.get_mut(at))
        {
            *seen = true;
        }
        if found.is_none_or(|(_, found)| found != value) {
            self.suspects.elements.insert(slot.clone(), (want.clone(), owner.to_owned()));
        }
    }

    /// Looks whether a chain has its rules.
    pub(super) fn chain(&mut self, family: Family, name: &str, rules: u64) {
        if self.snapshot.rules(family, name) != Some(rules) {
            self.suspects.chains.insert((family, name.into()), rules);
        }
    }

    /// Looks whether a set of ranges is as it should be.
    pub(super) fn ranges(&mut self, place: Place, want: Borders) {
        if self.snapshot.ranges.get(&place).is_some_and(|found| *found != want) {
            self.suspects.ranges.insert(place, want);
        }
    }

    /// What seems to be wrong, once everything wanted has been looked at. What this process has written since the snapshot
    /// was begun does not count.
    pub(super) fn end(mut self, touched: &Touched) -> Suspects {
        for (place, prints) in &self.snapshot.elements {
            let seen = self.seen.get(place).into_iter().flatten();
            let unseen = prints.iter().zip(seen).filter(|(_, seen)| !**seen).map(|((key, _), _)| *key);
            let unseen: BTreeSet<Key> =
                unseen.filter(|key| !touched.elements.contains(&(*place, *key))).collect();
            if !unseen.is_empty() {
                self.suspects.strays.insert(*place, unseen);
            }
        }
        self.suspects.but(touched)
    }
}

/// What this process has written since a snapshot was begun.
#[derive(Clone, Debug, Default)]
pub(super) struct Touched {
    elements: BTreeSet<(Place, Key)>,
    chains: BTreeSet<(Family, Key)>,
    /// The ranges of the node.
    pub(super) ranges: bool,
}

impl Touched {
    pub(super) fn element(&mut self, (family, set, key): &Slot) {
        self.elements.insert(((*family, *set), key_of(key)));
    }

    pub(super) fn chain(&mut self, family: Family, name: &str) {
        self.chains.insert((family, chain_key(name)));
    }
}

impl Suspects {
    pub(super) fn is_nothing(&self) -> bool {
        let Self { elements, strays, chains, ranges } = self;
        elements.is_empty() && strays.is_empty() && chains.is_empty() && ranges.is_empty()
    }

    /// The sets of which something must be read again, and what.
    pub(super) fn keys(&self) -> BTreeMap<Place, BTreeSet<Key>> {
        let mut keys = self.strays.clone();
        for (family, set, key) in self.elements.keys() {
            keys.entry((*family, *set)).or_default().insert(key_of(key));
        }
        keys
    }

    /// The same without what has been written meanwhile.
    fn but(mut self, touched: &Touched) -> Self {
        let is_touched =
            |(family, set, key): &Slot| touched.elements.contains(&((*family, *set), key_of(key)));
        self.elements.retain(|slot, _| !is_touched(slot));
        self.chains.retain(|(family, name), _| !touched.chains.contains(&(*family, chain_key(name))));
        for (place, keys) in &mut self.strays {
            keys.retain(|key| !touched.elements.contains(&(*place, *key)));
        }
        self.strays.retain(|_, keys| !keys.is_empty());
        if touched.ranges {
            self.ranges.clear();
        }
        self
    }

    /// What is wrong indeed, now that it has been read again.
    pub(super) fn confirm(self, mut detail: Detail, touched: &Touched) -> Wrong {
        let Self { elements, strays, chains, ranges } = self.but(touched);
        let mut wrong = Wrong::default();
        for (slot, (want, owner)) in elements {
            let found = detail.elements.remove(&slot);
            if found.as_ref() != Some(&want) {
                wrong.elements.push(WrongElement { slot, want: Some(want), found, owner });
            }
        }
        let is_stray = |(family, set, key): &Slot| {
            strays.get(&(*family, *set)).is_some_and(|keys| keys.contains(&key_of(key)))
        };
        let left = detail.elements.into_iter().filter(|(slot, _)| is_stray(slot));
        wrong.elements.extend(left.map(|(slot, found)| WrongElement {
            slot,
            want: None,
            owner: found.comment.as_deref().unwrap_or_default().to_owned(),
            found: Some(found),
        }));
        let rest = detail.rest;
        let chains = chains.into_iter();
        let chains = chains.filter(|((family, name), rules)| rest.rules(*family, name) != Some(*rules));
        wrong.chains = chains.map(|(chain, _)| chain).collect();
        let is_wrong = |(place, want): &(Place, Borders)| rest.ranges.get(place) != Some(want);
        wrong.ranges = ranges.into_iter().filter(is_wrong).map(|(place, _)| place).collect();
        wrong
    }
}

impl Wrong {
    /// Tells it.
    pub(super) fn tell(&self, findings: &mut Findings) {
        for WrongElement { slot, want, found, owner } in &self.elements {
            let kind = Kind::of(want.is_some(), found.is_some());
            let row = || compare::of_element(slot, owner.clone(), want.as_ref(), found.as_ref());
            findings.add(NFTABLES, kind, row);
        }
        let chains = self.chains.iter().map(|(family, name)| compare::of_chain(*family, name));
        findings.extend(NFTABLES, chains);
        findings.extend(NFTABLES, self.ranges.iter().map(|(family, set)| compare::of_ranges(*family, *set)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Family::V4;

    fn slot(last: u8) -> Slot {
        (V4, Set::ClusterIps, Box::from([10, 96, 0, last]))
    }

    fn to(chain: &str) -> Value {
        Value { end: None, data: Data::Goto(chain.into()), comment: Some("default/web".into()) }
    }

    fn snapshot(elements: &[(u8, &str)]) -> Snapshot {
        let prints = elements.iter().map(|(last, chain)| print(&slot(*last).2, &to(chain))).collect();
        let mut snapshot =
            Snapshot { elements: [((V4, Set::ClusterIps), prints)].into(), ..Snapshot::default() };
        snapshot.sort();
        snapshot
    }

    fn suspects(kernel: &[(u8, &str)], want: &[(u8, &str)], touched: &Touched) -> Suspects {
        let mut comparison = Comparison::new(snapshot(kernel));
        want.iter().for_each(|(last, chain)| comparison.element(&slot(*last), &to(chain), "default/web"));
        comparison.end(touched)
    }

    fn detail(elements: &[(u8, &str)]) -> Detail {
        let elements = elements.iter().map(|(last, chain)| (slot(*last), to(chain))).collect();
        Detail { elements, ..Detail::default() }
    }

    /// What is wrong: the last number of the address, what is wanted, and what is there.
    fn wrong(kernel: &[(u8, &str)], want: &[(u8, &str)], again: &[(u8, &str)]) -> Vec<(u8, bool, bool)> {
        let touched = Touched::default();
        let wrong = suspects(kernel, want, &touched).confirm(detail(again), &touched);
        wrong.elements.iter().map(|one| (one.slot.2[3], one.want.is_some(), one.found.is_some())).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_under_no_suspicion() {
        let all = [(1, "a"), (2, "b"), (3, "c")];
        assert!(suspects(&all, &all, &Touched::default()).is_nothing());
    }

    #[test]
    fn what_is_missing_changed_or_nobodys_is_found() {
        let (kernel, want) = ([(1, "a"), (2, "x"), (9, "z")], [(1, "a"), (2, "b"), (3, "c")]);
        assert_eq!(wrong(&kernel, &want, &kernel), [(2, true, true), (3, true, false), (9, false, true)]);
    }

    #[test]
    fn what_is_right_when_it_is_read_again_is_left_alone() {
        let (kernel, want) = ([(1, "a"), (9, "z")], [(1, "a"), (2, "b")]);
        assert_eq!(wrong(&kernel, &want, &want), []);
    }

    #[test]
    fn what_this_process_writes_meanwhile_is_under_no_suspicion() {
        let (kernel, want) = ([(1, "a"), (9, "z")], [(1, "b"), (2, "b")]);
        let mut touched = Touched::default();
        [1, 2, 9].iter().for_each(|last| touched.element(&slot(*last)));
        assert!(suspects(&kernel, &want, &touched).is_nothing());
        let late = suspects(&kernel, &want, &Touched::default());
        assert_eq!(late.confirm(detail(&kernel), &touched), Wrong::default());
    }

    #[test]
    fn chains_and_ranges_are_compared_as_a_whole() {
        let rules = |text: &str| rules_of(&[text.to_owned()]);
        let borders = |last: u8| Borders::from([(Box::from([10, 0, 0, last]), false)]);
        let place = (V4, Set::ClusterRanges);
        let have = Snapshot {
            chains: [(V4, vec![(chain_key("refuse"), rules("reject"))])].into(),
            ranges: [(place, borders(0))].into(),
            ..Snapshot::default()
        };
        let touched = Touched::default();
        let look = |rule: &str, last: u8| {
            let mut comparison = Comparison::new(have.clone());
            comparison.chain(V4, "refuse", rules(rule));
            comparison.ranges(place, borders(last));
            let detail = Detail { rest: have.clone(), ..Detail::default() };
            let wrong = comparison.end(&touched).confirm(detail, &touched);
            (wrong.chains.len(), wrong.ranges.len())
        };
        assert_eq!(look("reject", 0), (0, 0));
        assert_eq!(look("counter reject", 0), (1, 0));
        assert_eq!(look("reject", 1), (0, 1));
    }

    #[test]
    fn a_value_stands_for_all_that_it_says() {
        let plain = Value::nothing();
        let others = [
            Value { end: Some([1].into()), ..plain.clone() },
            Value { comment: Some("x".into()), ..plain.clone() },
            Value { data: Data::Drop, ..plain.clone() },
            Value { data: Data::Goto("x".into()), ..plain.clone() },
            Value { data: Data::Bytes([1].into()), ..plain.clone() },
        ];
        let numbers: BTreeSet<u64> = others.iter().chain([&plain]).map(value_of).collect();
        assert_eq!(numbers.len(), others.len() + 1);
    }
}
