//! Lengths of time as Go writes them: `1h30m`, `100ms`, `-1.5s`, `0`.

use std::fmt;

/// A length of time in nanoseconds; it may be negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

const SECOND: u64 = 1_000_000_000;

/// Units and their nanoseconds. Longer names stand first where one begins another.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", SECOND),
    ("m", 60 * SECOND),
    ("h", 3_600 * SECOND),
];

impl Duration {
    /// Reads Go's form. `None` for anything else, and for what does not fit.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let total = if rest == "0" { 0 } else { parts(rest)? };
        let total = if negative { -total } else { total };
        i64::try_from(total).ok().map(Self)
    }
}

fn parts(mut rest: &str) -> Option<i128> {
    let mut total = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == unit)?;
        total = total.checked_add(scaled(number, *nanos)?)?;
        rest = after;
    }
    Some(total)
}

/// A decimal number of units, without floating point.
fn scaled(number: &str, unit: u64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let unit = i128::from(unit);
    let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut sum = whole.checked_mul(unit)?;
    let mut step = unit;
    for digit in fraction.chars() {
        step /= 10;
        sum = sum.checked_add(i128::from(digit.to_digit(10)?).checked_mul(step)?)?;
    }
    Some(sum)
}

impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.unsigned_abs();
        if self.0 < 0 {
            out.write_str("-")?;
        }
        match nanos {
            0 => out.write_str("0s"),
            1..1_000 => write!(out, "{nanos}ns"),
            1_000..1_000_000 => write!(out, "{}\u{b5}s", decimal(nanos, 1_000)),
            1_000_000..SECOND => write!(out, "{}ms", decimal(nanos, 1_000_000)),
            SECOND.. => long(nanos, out),
        }
    }
}

fn long(nanos: u64, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (hours, minutes) = (nanos / (3_600 * SECOND), nanos / (60 * SECOND) % 60);
    if hours > 0 {
        write!(out, "{hours}h")?;
    }
    if hours > 0 || minutes > 0 {
        write!(out, "{minutes}m")?;
    }
    write!(out, "{}s", decimal(nanos % (60 * SECOND), SECOND))
}

fn decimal(nanos: u64, unit: u64) -> String {
    let digits = unit.ilog10() as usize;
    let text = format!("{}.{:0digits$}", nanos / unit, nanos % unit);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Duration;

    #[test]
    fn lengths_are_read_and_written_as_go_does() {
        check("0", Some("0s"));
        check("0s", Some("0s"));
        check("1h30m", Some("1h30m0s"));
        check("15m", Some("15m0s"));
        check("100ms", Some("100ms"));
        check("1.5s", Some("1.5s"));
        check("-1.5h", Some("-1h30m0s"));
        check("90s", Some("1m30s"));
        check("250us", Some("250\u{b5}s"));
        check(".5m", Some("30s"));
        check("+1s", Some("1s"));
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for text in ["", "1", "s", "1x", "1h1", "1.2.3s", "- 1s", "1 s", ".s", "9999999h", "-", "1e3s"] {
            check(text, None);
        }
    }

    proptest! {
        #[test]
        fn every_length_is_read_back(nanos: i64) {
            let length = Duration(nanos);
            prop_assert_eq!(Duration::parse(&length.to_string()), Some(length));
        }

        #[test]
        fn no_text_is_too_strange(text in "[0-9.hmsnu+-]{0,40}|.*") {
            let _ = Duration::parse(&text);
        }
    }

    #[track_caller]
    fn check(text: &str, written: Option<&str>) {
        assert_eq!(Duration::parse(text).map(|length| length.to_string()).as_deref(), written, "{text:?}");
    }
}
