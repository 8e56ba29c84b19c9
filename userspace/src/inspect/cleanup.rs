//! `sluice cleanup`: removes everything that was ever installed.

use std::path::Path;

use super::print;
use crate::backend::BackendError;
use crate::backend::ebpf::Pins;
use crate::backend::{edge, nft};

/// Removes all pins; the kernel detaches the programs and frees the maps. Refused while a daemon runs: it would put
/// everything back.
pub fn run(pin_dir: &Path) -> anyhow::Result<()> {
    let tables = nft::remove_all()?;
    if !tables.is_empty() {
        print(&format!("removed the tables {}", tables.join(", ")))?;
    }
    if !pin_dir.try_exists().map_err(|source| BackendError::Pin {
        deed: "look at",
        path: pin_dir.to_owned(),
        source,
    })? {
        // Filters on devices are there without a pin.
        edge::remove_all(pin_dir)?;
        return print(&format!("nothing is installed below {}", pin_dir.display()));
    }
    let pins = Pins::new(pin_dir);
    let lock = pins.prepare()?;
    let removed = edge::remove_all(pin_dir)? + pins.remove_all()?;
    drop(lock);
    print(&format!("removed {removed} pins below {}", pin_dir.display()))
}
