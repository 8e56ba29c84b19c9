//! Where the kernel is not as it should be, address by address.

use serde::Serialize;

/// One thing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// `ebpf` or `nftables`.
    pub dataplane: &'static str,
    /// Whose it is; empty: nobody's.
    pub service: String,
    /// What it is about.
    pub what: String,
    /// What should be there; absent: nothing.
    pub plan: Option<String>,
    /// What is there; absent: nothing.
    pub kernel: Option<String>,
}
