//! How full the table of flows is.

use std::{fs, io};

/// The table of the calling thread's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Flows in it.
    pub entries: u64,
    /// When it has as many, new flows are dropped.
    pub max: u64,
}

impl Usage {
    /// Asks the kernel. An error of kind `NotFound` says that it does not track flows at all.
    pub fn read() -> io::Result<Self> {
        Ok(Self { entries: number("nf_conntrack_count")?, max: number("nf_conntrack_max")? })
    }
}

fn number(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/{name}"))?;
    text.trim_end().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
