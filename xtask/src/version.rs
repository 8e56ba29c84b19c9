//! Version numbers as programs print them.

use std::fmt;

/// Major and minor number; patches never decide anything here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Version {
    pub(crate) const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }

    /// The first word of `text` that looks like a version: `rustc 1.95.0 (...)`, `go version go1.26.8 linux/amd64`.
    pub(crate) fn first_in(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::of_word)
    }

    fn of_word(word: &str) -> Option<Self> {
        let digits = word.trim_start_matches(|c: char| c.is_ascii_alphabetic());
        let mut numbers = digits.split(|c: char| !c.is_ascii_digit());
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, major: u32, minor: u32) {
        assert_eq!(Version::first_in(text), Some(Version::new(major, minor)), "{text}");
    }

    #[test]
    fn the_version_is_found_in_what_programs_print() {
        check("rustc 1.95.0 (59807616e 2026-04-14)", 1, 95);
        check("rustc 1.97.0-nightly (e50aa6fba 2026-05-19)", 1, 97);
        check("go version go1.26.8 linux/amd64", 1, 26);
        check("go version go1.27rc1 linux/amd64", 1, 27);
        check("bpf-linker 0.13.0", 0, 13);
    }

    #[test]
    fn text_without_a_version_has_none() {
        assert_eq!(Version::first_in("command not found"), None);
        assert_eq!(Version::first_in(""), None);
    }

    #[test]
    fn ten_is_newer_than_nine() {
        assert!(Version::new(1, 100) > Version::new(1, 95));
    }
}
