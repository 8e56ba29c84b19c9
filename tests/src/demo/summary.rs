//! What came of it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::agent::Progress;

/// The figures of one demonstration.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Summary {
    /// Requests made.
    pub(super) requests: u64,
    /// Requests that should have succeeded, and did not.
    pub(super) failed: u64,
    /// These by kind.
    pub(super) failures: BTreeMap<String, u64>,
    /// Refused while the service had no endpoints: as it should be.
    pub(super) refused_at_zero: u64,
    /// Answers by server.
    pub(super) spread: BTreeMap<String, u64>,
    /// From the manifest's change to the kernel's, milliseconds: the median of all changes.
    pub(super) change_to_kernel_ms: f64,
    /// The longest one.
    pub(super) change_to_kernel_ms_max: f64,
    /// How many were measured.
    pub(super) changes: usize,
    /// How long it all took.
    pub(super) seconds: f64,
}

impl Summary {
    /// Adds one stream; `expected` of its refusals are right.
    pub(super) fn add(&mut self, progress: &Progress, expected: u64) {
        let Progress { requests, failed: _, failures, spread, done: _ } = progress;
        self.requests += requests;
        self.refused_at_zero += expected;
        for (kind, count) in failures {
            let right = if kind == "ECONNREFUSED" { expected } else { 0 };
            let wrong = count.saturating_sub(right);
            if wrong > 0 {
                self.failed += wrong;
                *self.failures.entry(kind.clone()).or_default() += wrong;
            }
        }
        for (server, count) in spread {
            *self.spread.entry(server.clone()).or_default() += count;
        }
    }

    /// Adds the times of all changes.
    pub(super) fn add_changes(&mut self, mut times: Vec<f64>) {
        times.sort_by(f64::total_cmp);
        let round = |value: f64| (value * 1000.0).round() / 1000.0;
        self.change_to_kernel_ms = times.get(times.len() / 2).copied().map(round).unwrap_or_default();
        self.change_to_kernel_ms_max = times.last().copied().map(round).unwrap_or_default();
        self.changes = times.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(refused: u64, timeouts: u64) -> Progress {
        let failures = [("ECONNREFUSED", refused), ("timeout", timeouts)];
        let failures = failures.into_iter().filter(|(_, count)| *count > 0);
        Progress {
            requests: 100,
            failed: refused + timeouts,
            failures: failures.map(|(kind, count)| (kind.to_owned(), count)).collect(),
            ..Progress::default()
        }
    }

    #[test]
    fn refusals_at_zero_are_no_failures_but_any_more_are() {
        let mut summary = Summary::default();
        summary.add(&progress(7, 0), 7);
        assert_eq!((summary.failed, summary.refused_at_zero), (0, 7));
        summary.add(&progress(3, 2), 1);
        assert_eq!(summary.failed, 4);
        assert_eq!(summary.failures.get("timeout"), Some(&2));
    }

    #[test]
    fn the_median_and_the_longest_change_are_told() {
        let mut summary = Summary::default();
        summary.add_changes(vec![3.0, 1.0, 2.0]);
        assert_eq!((summary.change_to_kernel_ms, summary.change_to_kernel_ms_max), (2.0, 3.0));
    }
}
