//! Flags of `run` about the edge layer.

use std::ops::RangeInclusive;
use std::path::Path;

use clap::{Args, ValueEnum};
use tracing::{info, warn};

use crate::backend::edge::{HookChoice, HookKind};
use crate::backend::{edge, nft};

/// Fewest and most flows that there is room for.
const FLOWS: RangeInclusive<i64> = 1_024..=16_777_216;

/// Whether there is an edge layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// None: nftables serves callers from outside.
    #[default]
    Off,
    /// On devices: by TCX where the kernel has it, else by tc.
    Auto,
    /// On the TCX hooks of devices.
    Tcx,
    /// On devices as tc filters.
    Tc,
}

/// How packets go on from the edge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Forwarding {
    /// `stack` if somebody else filters or masquerades what is forwarded, else `redirect`.
    #[default]
    Auto,
    /// To the next hop at once: the host's firewall sees none of it.
    Redirect,
    /// Through the host's stack. What needs another source is left to nftables.
    Stack,
}

/// The flags.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Edge layer (on trial)")]
pub struct Flags {
    /// Where eBPF serves callers from outside: NodePorts, LoadBalancer addresses, externalIPs
    #[arg(long, value_name = "WHERE", default_value = "off", env = "SLUICE_EDGE")]
    pub edge: Choice,
    /// Devices by which such callers come; `eth*` is every name that begins so [default: those with a default route or the
    /// node's address]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "SLUICE_DEVICES")]
    pub devices: Vec<String>,
    /// How their packets go on
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub forwarding: Forwarding,
    /// Ports of this node that their flows get when they need its address; nobody else may use these
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-29999", value_parser = ports)]
    pub snat_ports: RangeInclusive<u16>,
    /// Room for this many of their flows, taken at once, 350 bytes each; new ones beyond that are left to nftables [default: as
    /// many as fit into a two hundredth of the memory]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(FLOWS))]
    pub edge_flows: Option<u32>,
}

/// Reads `FIRST-LAST`.
fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let whole = || format!("{text} is not a range of ports: write the first and the last, as in 1024-29999");
    let (first, last) = text.split_once('-').ok_or_else(whole)?;
    let (first, last): (u16, u16) = (first.parse().map_err(|_| whole())?, last.parse().map_err(|_| whole())?);
    if first == 0 || first > last {
        return Err(format!("{text} holds no ports: the first must be above 0 and not above the last"));
    }
    Ok(first..=last)
}

impl Flags {
    /// What to open; nothing if there is to be no edge layer.
    pub fn settings(&self, pin_dir: &Path, services: u32, slots: u32) -> Option<edge::Settings> {
        let hooks = match self.edge {
            Choice::Off => return None,
            Choice::Auto => HookChoice::Auto,
            Choice::Tcx => HookChoice::Only(HookKind::Tcx),
            Choice::Tc => HookChoice::Only(HookKind::Tc),
        };
        Some(edge::Settings {
            pin_dir: pin_dir.to_owned(),
            hooks,
            capacity: edge::Capacity {
                services,
                slots,
                flows: self.edge_flows.unwrap_or_else(edge::usual_flows),
            },
            devices: self.devices.clone(),
            redirect: self.redirect(),
            ports: self.snat_ports.clone(),
        })
    }

    fn redirect(&self) -> bool {
        match self.forwarding {
            Forwarding::Redirect => true,
            Forwarding::Stack => false,
            Forwarding::Auto => match nft::others_on_the_way() {
                Ok(tables) if tables.is_empty() => true,
                Ok(tables) => {
                    info!(
                        tables = tables.join(", "),
                        "others filter or masquerade what is forwarded: packets go through the host's stack"
                    );
                    false
                }
                Err(error) => {
                    warn!(%error, "could not find out who filters or masquerades what is forwarded: packets go through the host's stack");
                    false
                }
            },
        }
    }
}
