//! One table: what is always in it, and how what comes and goes is written into a transaction. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use ring::digest::{SHA256, digest};

use super::chains::{COUNTERS, Chain, base, fixed};
use super::image::{Slot, Value};
use super::rule::{Dialect, Rule, steps, tables};
use super::sets::{AFFINITY_CLIENTS, Set, octets};
use super::text;
use super::wire::{Batch, Element, Place};
use crate::desired::{FamilyContext, NodePorts};
use crate::model::Family;

/// Raised when the text below would be the same and yet mean something else.
const LAYOUT: u32 = 2;

/// What is always in the table of a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) family: Family,
    pub(super) context: FamilyContext,
    /// The bit of the mark that asks for masquerading.
    pub(super) bit: u32,
    /// First and last port for masqueraded flows, if not all.
    pub(super) ports: Option<[u16; 2]>,
    /// Most clients whose endpoints are remembered.
    pub(super) clients: u32,
}

impl Layout {
    /// Tells tables with other rules apart; it is the table's comment.
    pub(super) fn about(&self) -> String {
        let whole = digest(&SHA256, text::fixed(self).as_bytes());
        let half = whole.as_ref().first_chunk::<8>().map_or(0, |half| u64::from_be_bytes(*half));
        let clients = match self.clients {
            AFFINITY_CLIENTS => String::new(),
            other => format!(", {other} affinity clients"),
        };
        format!("sluice, layout {LAYOUT}-{half:016x}{clients}")
    }

    /// Writes a table with everything that is always in it, but for the chains on hooks.
    pub(super) fn make(&self, batch: &mut Batch, table: &str) {
        let place = self.place(table);
        batch.add_table(place, &self.about());
        COUNTERS.iter().for_each(|(name, _)| batch.add_counter(place, name));
        let shapes = Set::ALL.map(|set| set.shape(self.family, self.clients));
        shapes.iter().for_each(|shape| batch.add_set(place, shape));
        let chains = fixed(&self.context, self.bit);
        chains.iter().for_each(|(name, _)| batch.add_chain(place, name, None));
        chains.iter().for_each(|(name, rules)| self.rules(batch, table, name, rules));
    }

    /// Writes those chains on hooks that are not there.
    pub(super) fn hook(&self, batch: &mut Batch, table: &str, there: &BTreeSet<String>) {
        for (name, hook, rules) in base(self.bit, self.ports) {
            if !there.contains(name) {
                batch.add_chain(self.place(table), name, Some(hook));
                self.rules(batch, table, name, &rules);
            }
        }
    }

    /// Writes a chain that a service port needs.
    pub(super) fn chain(&self, batch: &mut Batch, table: &str, chain: &Chain) {
        let name = chain.name();
        batch.add_chain(self.place(table), &name, None);
        self.rules(batch, table, &name, &chain.rules(&self.context, self.bit));
    }

    /// Writes rules at the end of a chain.
    pub(super) fn rules(&self, batch: &mut Batch, table: &str, chain: &str, rules: &[Rule]) {
        let place = self.place(table);
        for rule in rules {
            let mut map = |chains: &[&str]| batch.add_anonymous_map(place, chains);
            let steps = steps(rule, &mut Dialect { family: self.family, map: &mut map });
            batch.add_rule(place, chain, &steps);
        }
    }

    /// Where this table is.
    pub(super) fn place<'a>(&self, table: &'a str) -> Place<'a> {
        Place { family: tables(self.family), table }
    }

    /// Ranges of addresses that accept node ports; empty where all do.
    pub(super) fn node_port_ranges(&self) -> Vec<IpNet> {
        match &self.context.node_ports {
            NodePorts::All => Vec::new(),
            NodePorts::Within(ranges) => ranges.to_vec(),
        }
    }
}

/// The elements of a set of ranges, as nft writes them: where each begins, and what comes behind it.
pub(super) fn ranges(list: &[IpNet]) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut open_since = None;
    for range in IpNet::aggregate(&list.to_vec()) {
        // A range that begins where the one before ended goes on with it.
        if open_since == Some(range.network()) {
            elements.pop();
        } else {
            elements.push(Element::plain(octets(range.network()).into()));
        }
        open_since = behind(range.broadcast());
        if let Some(next) = open_since {
            elements.push(Element { closes: true, ..Element::plain(octets(next).into()) });
        }
    }
    let begins_at_zero = elements.first().is_none_or(|first| first.key.iter().all(|byte| *byte == 0));
    if let Some(first) = elements.first().filter(|_| !begins_at_zero) {
        let zero = Element { closes: true, ..Element::plain(vec![0; first.key.len()].into()) };
        elements.insert(0, zero);
    }
    elements
}

fn behind(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(next.into())),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(next.into())),
    }
}

/// Elements by family and set, in the order of [`Set::ALL`].
pub(super) fn by_set(elements: &BTreeMap<Slot, Value>) -> BTreeMap<(Family, Set), Vec<Element>> {
    let mut sets: BTreeMap<(Family, Set), Vec<Element>> = BTreeMap::new();
    for ((family, set, key), value) in elements {
        sets.entry((*family, *set)).or_default().push(element(key, value));
    }
    sets
}

fn element(key: &[u8], value: &Value) -> Element {
    let Value { end, data, comment } = value.clone();
    Element { key: key.into(), end, data, comment, closes: false }
}

impl From<Element> for Value {
    fn from(element: Element) -> Self {
        Self { end: element.end, data: element.data, comment: element.comment }
    }
}

/// Whether a chain belongs to those that are always there.
pub(super) fn is_fixed(layout: &Layout, name: &str) -> bool {
    let always = fixed(&layout.context, layout.bit);
    always.iter().any(|(chain, _)| *chain == name)
        || base(layout.bit, layout.ports).iter().any(|(chain, ..)| *chain == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_with_another_number_of_clients_says_so_and_is_another_one() {
        let layout = |clients| Layout {
            family: Family::V4,
            context: FamilyContext::default(),
            bit: 14,
            ports: None,
            clients,
        };
        let (usual, few) = (layout(AFFINITY_CLIENTS).about(), layout(2).about());
        assert!(!usual.contains("clients"), "{usual}");
        assert!(few.ends_with(", 2 affinity clients"), "{few}");
        assert!(!few.starts_with(&usual), "{few}");
    }

    #[test]
    fn ranges_that_touch_are_one() {
        check("10.0.0.0/25 10.0.0.128/25", "!0.0.0.0 10.0.0.0 !10.0.1.0");
        check("10.0.0.0/25 10.0.0.128/26", "!0.0.0.0 10.0.0.0 !10.0.0.192");
    }

    #[test]
    fn at_both_ends_of_all_addresses_nothing_is_beyond() {
        check("0.0.0.0/8", "0.0.0.0 !1.0.0.0");
        check("255.0.0.0/8", "!0.0.0.0 255.0.0.0");
        check("0.0.0.0/0", "0.0.0.0");
        check("", "");
    }

    fn check(list: &str, found: &str) {
        let list: Vec<IpNet> = list.split_whitespace().map(|range| range.parse().unwrap()).collect();
        let word = |element: &Element| {
            let address = super::super::sets::read_address(&element.key, Family::V4).unwrap();
            format!("{}{address}", if element.closes { "!" } else { "" })
        };
        assert_eq!(ranges(&list).iter().map(word).collect::<Vec<_>>().join(" "), found);
    }
}
