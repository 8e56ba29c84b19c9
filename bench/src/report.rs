//! Rows: a table for people, or one JSON object a line.

use std::process::Command;

use serde::{Serialize, Serializer};

use crate::spread::{Spread, quantile};

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) case: String,
    pub(crate) subject: &'static str,
    pub(crate) baseline: Option<&'static str>,
    #[serde(serialize_with = "short")]
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// How many times better than the baseline; `None` without one.
    #[serde(serialize_with = "short_or_null")]
    pub(crate) ratio: Option<f64>,
    /// Its lower quartile over the rounds.
    #[serde(serialize_with = "short_or_null")]
    pub(crate) low: Option<f64>,
    /// Its upper quartile.
    #[serde(serialize_with = "short_or_null")]
    pub(crate) high: Option<f64>,
}

/// Which figures are the better ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What a row is about.
#[derive(Clone, Debug)]
pub(crate) struct Title {
    pub(crate) suite: &'static str,
    pub(crate) case: String,
    pub(crate) subject: &'static str,
    pub(crate) unit: &'static str,
}

impl Title {
    /// A row without a baseline: the median.
    pub(crate) fn alone(self, figures: &[f64]) -> Row {
        self.value(quantile(figures, 0.5))
    }

    /// A row with one value and nothing to compare it with.
    pub(crate) fn value(self, value: f64) -> Row {
        let Self { suite, case, subject, unit } = self;
        Row { suite, case, subject, baseline: None, value, unit, ratio: None, low: None, high: None }
    }

    /// A row with a baseline: the median, and the ratios of the figures that were taken side by side.
    pub(crate) fn against(
        self,
        name: &'static str,
        better: Better,
        figures: &[f64],
        baseline: &[f64],
    ) -> Row {
        let ratio = |(one, other): (&f64, &f64)| match better {
            Better::Higher => one / other,
            Better::Lower => other / one,
        };
        let ratios: Vec<f64> = figures.iter().zip(baseline).map(ratio).collect();
        if ratios.is_empty() {
            return self.alone(figures);
        }
        let Spread { low, middle, high } = Spread::of(&ratios);
        let (ratio, low, high) = (Some(middle), Some(low), Some(high));
        Row { baseline: Some(name), ratio, low, high, ..self.alone(figures) }
    }
}

/// Where rows go.
pub(crate) struct Report {
    json: bool,
    rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, rows: Vec::new() }
    }

    /// Takes a row; in JSON it is printed at once.
    pub(crate) fn add(&mut self, row: Row) {
        if self.json {
            println!("{}", serde_json::to_string(&row).unwrap_or_default());
        } else {
            self.rows.push(row);
        }
    }

    /// Prints the table.
    pub(crate) fn finish(&self) {
        if self.json {
            return;
        }
        println!("{}", circumstances());
        let head = ["suite", "case", "subject", "value", "unit", "baseline", "ratio", "low", "high"];
        let lines: Vec<[String; 9]> =
            std::iter::once(head.map(str::to_owned)).chain(self.rows.iter().map(cells)).collect();
        let width = |column: usize| lines.iter().map(|line| line[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..head.len()).map(width).collect();
        for line in &lines {
            let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect();
            println!("{}", cells.join("  ").trim_end());
        }
    }
}

fn cells(row: &Row) -> [String; 9] {
    let Row { suite, case, subject, baseline, value, unit, ratio, low, high } = row;
    let text = |text: &str| text.to_owned();
    let number = |number: &Option<f64>| number.map(|number| rounded(number).to_string()).unwrap_or_default();
    [
        text(suite),
        case.clone(),
        text(subject),
        rounded(*value).to_string(),
        text(unit),
        text(baseline.unwrap_or_default()),
        number(ratio),
        number(low),
        number(high),
    ]
}

/// Four digits that count: no figure here is better than that.
fn rounded(number: f64) -> f64 {
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let digits = 3 - number.abs().log10().floor() as i32;
    let scale = 10_f64.powi(digits.abs());
    if digits >= 0 { (number * scale).round() / scale } else { (number / scale).round() * scale }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn short<S: Serializer>(number: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*number))
}

fn short_or_null<S: Serializer>(number: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    number.map(rounded).serialize(serializer)
}

/// Under which circumstances the figures were taken.
fn circumstances() -> String {
    let kernel = nix::sys::utsname::uname().map(|name| name.release().to_string_lossy().into_owned());
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let commit =
        Command::new("git").args(["-c", "safe.directory=*", "rev-parse", "--short", "HEAD"]).output();
    let commit = commit.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "kernel {}; {cores} x {}; commit {}",
        kernel.unwrap_or_default(),
        model.map_or("unknown CPU", |(_, name)| name),
        commit.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn title() -> Title {
        Title { suite: "s", case: "c".to_owned(), subject: "a", unit: "ms" }
    }

    #[test]
    fn a_ratio_says_how_many_times_better() {
        let row = title().against("b", Better::Lower, &[2.0, 1.0, 4.0], &[4.0, 4.0, 4.0]);
        assert_eq!((row.value, row.ratio), (2.0, Some(2.0)));
        let row = title().against("b", Better::Higher, &[2.0, 1.0, 4.0], &[4.0, 4.0, 4.0]);
        assert_eq!((row.ratio, row.low, row.high), (Some(0.5), Some(0.375), Some(0.75)));
    }

    #[test]
    fn without_baseline_figures_there_is_no_ratio() {
        let row = title().against("b", Better::Lower, &[2.0], &[]);
        assert_eq!((row.baseline, row.ratio), (None, None));
    }

    #[test]
    fn four_digits_count() {
        assert_eq!([12_345.6, 1.234_56, 0.012_345_6, 0.0].map(rounded), [12_350.0, 1.235, 0.012_35, 0.0]);
    }
}
