//! What a round of the audit has found: the kernel, looked through piece by piece, beside what is wanted. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::difference::{Difference, Kind};

/// So many differences are kept with all that is to be said of them; the others are counted.
const KEPT: usize = 200;

/// How one step of a round is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// How long it may take, about.
    pub budget: Duration,
    /// Whether it is the round's first: whatever is left of another one does not count.
    pub is_first: bool,
    /// Whether what is wrong is put right.
    pub heal: bool,
    /// Whether also that is read which cannot have changed, as the kernel's own count of changes says.
    pub thorough: bool,
}

/// How far a round has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to look at.
    More,
    /// Somebody is reading; there is nothing to do before that is done.
    Wait,
    /// Everything has been looked at.
    Done,
}

/// How many, by dataplane and in which way.
pub type Tally = BTreeMap<(&'static str, Kind), u64>;

/// What a round has found, for whoever asked for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Audited {
    /// Differences.
    pub found: u64,
    /// Of these, put right.
    pub healed: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
    /// How long the round took.
    pub took_millis: f64,
    /// How long the daemon's loop was held at most.
    pub longest_millis: f64,
}

/// What a round has found until now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What differs.
    pub found: Tally,
    /// Of that, what has been put right.
    pub healed: Tally,
    /// The first of what differs.
    pub rows: Vec<Difference>,
    /// What could not be looked at, and why.
    pub notes: Vec<String>,
}

impl Findings {
    /// Notes a difference; what is to be said of it is asked only while there is room.
    pub fn add(&mut self, dataplane: &'static str, kind: Kind, row: impl FnOnce() -> Difference) {
        *self.found.entry((dataplane, kind)).or_default() += 1;
        if self.rows.len() < KEPT {
            self.rows.push(row());
        }
    }

    /// Notes differences that are known in full.
    pub fn extend(&mut self, dataplane: &'static str, rows: impl IntoIterator<Item = Difference>) {
        for row in rows {
            self.add(dataplane, Kind::of(row.plan.is_some(), row.kernel.is_some()), || row);
        }
    }

    /// Whatever has been found of this dataplane, and not been put right yet, has been put right.
    pub fn heal(&mut self, dataplane: &'static str) {
        for ((of, kind), count) in &self.found {
            if *of == dataplane {
                self.healed.insert((*of, *kind), *count);
            }
        }
    }

    /// Everything has been put right.
    pub fn heal_all(&mut self) {
        self.healed.clone_from(&self.found);
    }

    /// How many differences there are.
    pub fn count(&self) -> u64 {
        self.found.values().sum()
    }

    /// How many of them have been put right.
    pub fn mended(&self) -> u64 {
        self.healed.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(what: usize) -> Difference {
        let plan = Some("there".to_owned());
        Difference {
            dataplane: "ebpf".into(),
            service: String::new(),
            what: what.to_string(),
            plan,
            kernel: None,
        }
    }

    #[test]
    fn everything_is_counted_and_little_of_it_is_kept() {
        let mut findings = Findings::default();
        findings.extend("ebpf", (0..KEPT + 50).map(row));
        assert_eq!((findings.count(), findings.rows.len()), (KEPT as u64 + 50, KEPT));
        assert_eq!(findings.found[&("ebpf", Kind::Missing)], KEPT as u64 + 50);
    }

    #[test]
    fn only_what_is_of_a_dataplane_is_put_right_with_it() {
        let mut findings = Findings::default();
        findings.extend("ebpf", [row(1)]);
        findings.extend("nftables", [row(2), row(3)]);
        findings.heal("nftables");
        assert_eq!((findings.count(), findings.mended()), (3, 2));
        findings.heal("nftables");
        assert_eq!(findings.mended(), 2, "nothing is put right twice");
    }
}
