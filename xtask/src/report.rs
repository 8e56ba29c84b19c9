//! What came of the tests: the harness's own lines, passed on and counted.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::progress;
use crate::rings::Ring;
use crate::run;

/// What came of one or more runs of `cargo test`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// Names of failed tests, and whatever else went wrong.
    failures: Vec<String>,
}

/// One ring's line in the table.
pub(crate) struct Report {
    pub(crate) ring: Ring,
    pub(crate) outcome: Outcome,
    pub(crate) elapsed: Duration,
}

impl Report {
    pub(crate) fn is_good(&self) -> bool {
        self.outcome.failures.is_empty()
    }
}

impl Outcome {
    /// Nothing could be run, and why.
    pub(crate) fn impossible(why: String) -> Self {
        Self { failures: vec![why], ..Self::default() }
    }

    pub(crate) fn and(mut self, other: Self) -> Self {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend(other.failures);
        self
    }

    /// Reads one line of the harness.
    fn take(&mut self, line: &str) {
        if let Some(name) = failed_test(line) {
            self.failures.push(name.to_owned());
        }
        if let Some(totals) = line.strip_prefix("test result: ") {
            self.passed += count(totals, "passed");
            self.failed += count(totals, "failed");
            self.ignored += count(totals, "ignored");
        }
    }
}

/// Runs `cargo test`, shows what it prints as it prints it, and counts.
pub(crate) fn follow(command: &mut Command) -> Outcome {
    try_follow(command).unwrap_or_else(|error| Outcome::impossible(format!("{error:#}")))
}

fn try_follow(command: &mut Command) -> Result<Outcome> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    let mut outcome = Outcome::default();
    if let Some(output) = child.stdout.take() {
        pass_on(BufReader::new(output), &mut outcome)?;
    }
    let status = child.wait()?;
    if !status.success() && outcome.failures.is_empty() {
        outcome.failures.push(format!("`{}` ended with {status}", run::words(command)));
    }
    Ok(outcome)
}

fn pass_on(mut from: impl BufRead, outcome: &mut Outcome) -> Result<()> {
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line)? > 0 {
        io::stdout().write_all(&line)?;
        outcome.take(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
    Ok(io::stdout().flush()?)
}

fn failed_test(line: &str) -> Option<&str> {
    line.strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// The number before `word` in `ok. 12 passed; 0 failed; ...`.
fn count(totals: &str, word: &str) -> usize {
    let words: Vec<&str> = totals.split([' ', ';', '.']).filter(|part| !part.is_empty()).collect();
    let pair = words.windows(2).find(|pair| pair[1] == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or_default()
}

/// The closing table.
pub(crate) fn print(reports: &[Report]) {
    eprintln!();
    progress::say("ring      passed  failed  ignored  time");
    for Report { ring, outcome, elapsed } in reports {
        let Outcome { passed, failed, ignored, failures: _ } = outcome;
        let time = progress::seconds(*elapsed);
        progress::say(&format!("{:8} {passed:7} {failed:7} {ignored:8}  {time}", ring.name()));
    }
    for report in reports {
        for failure in &report.outcome.failures {
            progress::say(&format!("FAILED {}: {failure}", report.ring.name()));
        }
    }
    if reports.iter().all(Report::is_good) {
        progress::say("all rings passed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Outcome {
        let mut outcome = Outcome::default();
        lines.lines().for_each(|line| outcome.take(line));
        outcome
    }

    #[test]
    fn several_binaries_are_added_up() {
        let outcome = read(
            "test a ... ok\n\
             test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s\n\
             test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n",
        );
        assert_eq!(outcome, Outcome { passed: 15, failed: 0, ignored: 1, failures: vec![] });
    }

    #[test]
    fn a_failed_test_is_named() {
        let outcome = read(
            "test plan::diff::tests::x ... FAILED\n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s\n",
        );
        assert_eq!(outcome.failures, ["plan::diff::tests::x"]);
        assert_eq!((outcome.passed, outcome.failed), (1, 1));
    }

    #[test]
    fn cargo_failing_without_a_failed_test_is_a_failure() {
        let outcome = follow(Command::new("sh").args(["-c", "exit 101"]));
        assert!(outcome.failures[0].contains("101"), "{outcome:?}");
    }
}
