//! What a process needed at its worst.

use anyhow::{Context, Result};

/// Peak resident memory, in MB of a million bytes.
pub(crate) fn peak(pid: i32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kibibytes.with_context(|| format!("no VmHWM in {path}"))? * 1024.0 / 1e6)
}
