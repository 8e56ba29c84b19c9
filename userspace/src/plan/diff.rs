//! The difference of two sorted tables.

use std::cmp::Ordering;

/// What must be written and what must go to turn one table into another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff<K, V> {
    /// Entries that are missing or have another value.
    pub puts: Vec<(K, V)>,
    /// Keys that are too many.
    pub drops: Vec<K>,
}

/// Compares two tables. Both must be sorted by key, each key once.
pub fn diff<K: Ord + Copy, V: PartialEq + Copy>(have: &[(K, V)], want: &[(K, V)]) -> Diff<K, V> {
    let mut out = Diff { puts: Vec::new(), drops: Vec::new() };
    let (mut have, mut want) = (have.iter().peekable(), want.iter().peekable());
    loop {
        let order = match (have.peek(), want.peek()) {
            (Some((old, _)), Some((new, _))) => old.cmp(new),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return out,
        };
        let old = if order == Ordering::Greater { None } else { have.next() };
        let new = if order == Ordering::Less { None } else { want.next() };
        match (old, new) {
            (Some((key, _)), None) => out.drops.push(*key),
            (Some((_, was)), Some((key, value))) if was != value => out.puts.push((*key, *value)),
            (None, Some((key, value))) => out.puts.push((*key, *value)),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::diff;

    type Table = BTreeMap<u8, u8>;

    fn check(have: &Table, want: &Table) {
        let rows = |table: &Table| table.iter().map(|(k, v)| (*k, *v)).collect::<Vec<_>>();
        let found = diff(&rows(have), &rows(want));
        let mut got = have.clone();
        for key in &found.drops {
            assert!(!want.contains_key(key), "{key} is wanted, and dropped");
            assert!(got.remove(key).is_some(), "{key} was not there");
        }
        for (key, value) in &found.puts {
            assert_ne!(have.get(key), Some(value), "{key} was right already");
            got.insert(*key, *value);
        }
        assert_eq!(&got, want);
    }

    #[test]
    fn equal_tables_need_nothing() {
        let table = [(1, 1), (2, 2)];
        let found = diff(&table, &table);
        assert!(found.puts.is_empty() && found.drops.is_empty());
    }

    proptest! {
        #[test]
        fn applying_a_difference_gives_the_wanted_table(have: Table, want: Table) {
            check(&have, &want);
        }
    }
}
