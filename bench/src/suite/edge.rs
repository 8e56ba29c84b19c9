//! The daemon with its edge layer.

use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::{HashMap, Map, MapData};
use lab::{Node, Settings};

/// What asks for it.
const FLAG: &str = "--edge";
/// Where its table of flows is pinned, below the pin directory.
const FLOWS: &str = "edge-v1/FLOWS";
/// Bytes of a key and of a value there.
const KEY: usize = 40;
const VALUE: usize = 76;

/// The table of flows.
pub(super) struct FlowTable(HashMap<MapData, [u8; KEY], [u8; VALUE]>);

/// Whether the daemon has such a layer. If not, that is told: its rows will be missing.
pub(super) fn is_known(node: &Node) -> Result<bool> {
    let output = node.sluice(&["run", "--help"])?;
    let known = String::from_utf8_lossy(&output.stdout).contains(FLAG);
    if !known {
        eprintln!("subject edge is missing: `sluice run` knows no {FLAG}");
    }
    Ok(known)
}

/// How it is started on a folder, on the devices to pods, which here are the world.
pub(super) fn settings(folder: &Path, node: &Node, [forwarding, xdp]: [&str; 2]) -> Settings {
    let (forwarding, own) = (format!("--forwarding={forwarding}"), format!("--bind-address={}", node.v4()));
    let flags = ["--dataplane=auto", "--edge=tcx", "--devices=p*", &forwarding, &own];
    // A daemon from before that flag did without.
    let xdp = (xdp != "off").then(|| format!("--xdp={xdp}"));
    Settings::folder(folder).with(&flags).with(&xdp.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The table of the daemon that works on a node.
pub(super) fn flows(node: &Node) -> Result<FlowTable> {
    let path = node.pin_dir().join(FLOWS);
    let data = MapData::from_pin(&path).with_context(|| format!("could not open {}", path.display()))?;
    Ok(FlowTable(HashMap::try_from(Map::HashMap(data))?))
}

impl FlowTable {
    /// Forgets every flow.
    pub(super) fn forget(&mut self) -> Result<()> {
        let keys: Vec<[u8; KEY]> = self.0.keys().collect::<Result<_, _>>()?;
        for key in keys {
            // The daemon may have been quicker.
            let _ = self.0.remove(&key);
        }
        Ok(())
    }
}
