//! Where the kernel is not as it should be, address by address.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `ebpf`, `edge` or `nftables`.
    pub dataplane: Cow<'static, str>,
    /// Whose it is; empty: nobody's.
    pub service: String,
    /// What it is about.
    pub what: String,
    /// What should be there; absent: nothing.
    pub plan: Option<String>,
    /// What is there; absent: nothing.
    pub kernel: Option<String>,
}

/// In which way something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It should be there, and is not.
    Missing,
    /// It says something else than it should.
    Changed,
    /// It is there, and should not be.
    Foreign,
    /// A program or chain that should hang on a hook does not.
    Detached,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 4] = [Self::Missing, Self::Changed, Self::Foreign, Self::Detached];

    /// As metrics name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Foreign => "foreign",
            Self::Detached => "detached",
        }
    }

    /// By what should be there and what is.
    pub const fn of(plan: bool, kernel: bool) -> Self {
        match (plan, kernel) {
            (true, false) => Self::Missing,
            (false, _) => Self::Foreign,
            (true, true) => Self::Changed,
        }
    }
}
