//! What hangs on a hook, in which order packets meet it, and how long it is worth fighting for the first place.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How programs hang on devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HookKind {
    /// By links (TCX).
    Tcx,
    /// As filters of the clsact qdisc.
    Tc,
}

impl HookKind {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Tc => "tc",
        }
    }
}

/// Something that sees packets at a hook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hung {
    /// The program's name as the kernel has it, or the kind of filter that is none.
    pub name: String,
    /// The program's id (`bpftool prog show id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<u32>,
    /// How it hangs there. Packets meet all of `tcx` before all of `tc`.
    pub hook: HookKind,
    /// Its priority, if it is a filter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// Whether it is this layer's.
    pub ours: bool,
}

/// How our program stands on a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It sees packets before all others.
    First,
    /// Something else sees them before.
    Behind,
    /// It is not there, or not the one that should be.
    Missing,
}

/// So often the first place is taken back.
const TRIES: u32 = 3;
/// Then it is left to whoever took it for so long.
const TRUCE: Duration = Duration::from_secs(600);

/// A quarrel about the first place on one hook. Two who both put themselves first at once would do so for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quarrel {
    tries: u32,
    last: Option<Instant>,
}

impl Quarrel {
    /// Whether to take the first place back once more; counts it.
    pub(super) fn once_more(&mut self, now: Instant) -> bool {
        if self.last.is_some_and(|last| now.duration_since(last) >= TRUCE) {
            *self = Self::default();
        }
        let may = self.tries < TRIES;
        if may {
            *self = Self { tries: self.tries + 1, last: Some(now) };
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_is_taken_back_three_times_and_again_after_ten_minutes() {
        let (mut quarrel, start) = (Quarrel::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let answers = [0, 2, 4, 6, 8, 603, 604, 606].map(|seconds| quarrel.once_more(at(seconds)));
        assert_eq!(answers, [true, true, true, false, false, false, true, true]);
    }
}
