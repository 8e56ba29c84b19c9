//! How full the table of flows is.

use std::{fs, io};

use serde::{Deserialize, Serialize};

use crate::model::Problem;

/// In percent of what the table may hold: whoever looks should be told before flows are dropped.
const CROWDED: u64 = 95;

/// The table of the calling thread's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Flows in it.
    pub entries: u64,
    /// When it has as many, new flows are dropped. Zero: there is no limit.
    pub max: u64,
}

impl Usage {
    /// Asks the kernel. An error of kind `NotFound` says that it does not track flows at all.
    pub fn read() -> io::Result<Self> {
        Ok(Self { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
    }

    /// In percent; the table may be a little more than full.
    pub fn percent(self) -> Option<u64> {
        self.entries.saturating_mul(100).checked_div(self.max)
    }

    /// What is wrong when there is hardly room for new flows.
    pub fn problem(self) -> Option<Problem> {
        let Self { entries, max } = self;
        let crowded = max > 0 && entries.saturating_mul(100) > max.saturating_mul(CROWDED);
        let what = || {
            let why = "when it is full, new flows are dropped, whoever serves them";
            format!("connection tracking has {entries} of {max} flows; {why}")
        };
        crowded.then(|| Problem::new("kernel", "nf_conntrack_max", what()))
    }
}

fn number(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}"))?;
    text.trim_end().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::Usage;

    #[test]
    fn above_95_percent_something_is_wrong() {
        check(0, 1000, Some(0), false);
        check(950, 1000, Some(95), false);
        check(951, 1000, Some(95), true);
        check(1002, 1000, Some(100), true);
    }

    #[test]
    fn without_a_limit_nothing_is_wrong() {
        check(1_000_000, 0, None, false);
    }

    fn check(entries: u64, max: u64, percent: Option<u64>, wrong: bool) {
        let usage = Usage { entries, max };
        assert_eq!((usage.percent(), usage.problem().is_some()), (percent, wrong), "{usage:?}");
    }
}
