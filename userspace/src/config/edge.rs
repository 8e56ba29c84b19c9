//! Flags of `run` about the edge layer.

use std::ops::RangeInclusive;
use std::path::Path;

use clap::{Args, ValueEnum};
use tracing::{info, warn};

use crate::backend::edge::{HookChoice, HookKind};
use crate::backend::{edge, nft};

/// Fewest and most flows that there is room for.
const FLOWS: RangeInclusive<u32> = 1_024..=16_777_216;
/// Parts of the memory that the table of flows takes at first and at most.
const PARTS: [u64; 2] = [200, 20];

/// Whether there is an edge layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// None: nftables serves callers from outside.
    #[default]
    Off,
    /// On devices, by TCX where the kernel has it, else by tc; none where packets must go through the host's stack.
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

/// Which devices have frames dealt with before the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Xdp {
    /// Those whose drivers can do it, apart from what is made by software.
    #[default]
    Auto,
    /// All whose drivers can do it, cables of containers too.
    Native,
    /// None.
    Off,
}

/// The flags.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Edge layer")]
pub struct Flags {
    /// Where eBPF serves callers from outside: NodePorts, LoadBalancer addresses, externalIPs. `auto`: TCX, or tc where the
    /// kernel has no TCX; not where others filter what the node forwards
    #[arg(long, value_name = "WHERE", default_value = "auto", env = "SLUICE_EDGE")]
    pub edge: Choice,
    /// Devices by which such callers come; `eth*` is every name that begins so [default: those with a default route or the
    /// node's address]
    #[arg(long, value_name = "NAMES", value_delimiter = ',', env = "SLUICE_DEVICES")]
    pub devices: Vec<String>,
    /// How their packets go on
    #[arg(long, value_name = "HOW", default_value = "auto")]
    pub forwarding: Forwarding,
    /// Which devices have frames of known flows sent on before the stack sees them; none with `--forwarding=stack`
    #[arg(long, value_name = "WHERE", default_value = "auto")]
    pub xdp: Xdp,
    /// Ports of this node that their flows get when they need its address; nobody else may use these
    #[arg(long, value_name = "FIRST-LAST", default_value = "1024-29999", value_parser = ports)]
    pub snat_ports: RangeInclusive<u16>,
    /// Room for this many of their flows, 350 bytes each, at first and at most; new ones beyond that are left to nftables. One
    /// number: always as many [default: what fits into a two hundredth and a twentieth of the memory]
    #[arg(long, value_name = "FIRST[-MOST]", value_parser = flows)]
    pub edge_flows: Option<RangeInclusive<u32>>,
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

/// Reads `FIRST-MOST`, or one number for both.
fn flows(text: &str) -> Result<RangeInclusive<u32>, String> {
    let (first, most) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| {
        let number = part.parse().ok().filter(|number| FLOWS.contains(number));
        let (least, most) = (FLOWS.start(), FLOWS.end());
        number.ok_or_else(|| format!("{part} is not a number of flows from {least} to {most}"))
    };
    let (first, most) = (number(first)?, number(most)?);
    if first > most {
        return Err(format!("{text}: there cannot be room for fewer flows later than at first"));
    }
    Ok(first..=most)
}

/// The API server gives node ports below this, if it is not told otherwise: an answer to one of them would be taken for a question.
const ABOVE_NODE_PORTS: u16 = 32_768;

impl Flags {
    /// Whether somebody has named a kind of hooks, and not only left it to us.
    pub const fn is_demanded(&self) -> bool {
        matches!(self.edge, Choice::Tcx | Choice::Tc)
    }

    /// What to open; nothing if there is to be no edge layer.
    pub fn settings(&self, pin_dir: &Path, services: u32, slots: u32) -> Option<edge::Settings> {
        let hooks = match self.edge {
            Choice::Off => return None,
            Choice::Auto => HookChoice::Auto,
            Choice::Tcx => HookChoice::Only(HookKind::Tcx),
            Choice::Tc => HookChoice::Only(HookKind::Tc),
        };
        let forwarding = self.ways();
        if self.edge == Choice::Auto && self.forwarding == Forwarding::Auto && !forwarding.redirect {
            info!("no edge layer: nftables is faster where packets go through the host's stack");
            return None;
        }
        let usual = || {
            let [first, most] = PARTS.map(edge::flows_within);
            first..=most
        };
        let flows = self.edge_flows.clone().unwrap_or_else(usual);
        Some(edge::Settings {
            pin_dir: pin_dir.to_owned(),
            hooks,
            capacity: edge::Capacity { services, slots, flows: *flows.start(), most_flows: *flows.end() },
            devices: self.devices.clone(),
            redirect: forwarding.redirect,
            trusts_stack: forwarding.trusts_stack,
            xdp: match self.xdp {
                Xdp::Auto => edge::Mode::Auto,
                Xdp::Native => edge::Mode::Native,
                Xdp::Off => edge::Mode::Off,
            },
            ports: self.snat_ports.clone(),
        })
    }

    /// Ports that nftables may masquerade with beside the edge layer: of those that are not the layer's own, the longer range.
    pub fn ports_for_others(&self) -> Option<[u16; 2]> {
        let (first, last) = (*self.snat_ports.start(), *self.snat_ports.end());
        let ranges =
            [[1024, first.saturating_sub(1)], [last.saturating_add(1).max(ABOVE_NODE_PORTS), u16::MAX]];
        let longest = ranges.into_iter().max_by_key(|[first, last]| last.saturating_sub(*first))?;
        (self.edge != Choice::Off && longest[0] < longest[1]).then_some(longest)
    }

    /// How packets go on, with regard to others who look at what is forwarded.
    fn ways(&self) -> Ways {
        let others = match nft::others_on_the_way() {
            Ok(others) => others,
            Err(error) => {
                warn!(%error, "could not find out who else filters or masquerades what is forwarded");
                return Ways { redirect: self.forwarding == Forwarding::Redirect, trusts_stack: false };
            }
        };
        let redirect = match self.forwarding {
            Forwarding::Redirect => true,
            Forwarding::Stack => false,
            Forwarding::Auto => others.filters.is_empty(),
        };
        if self.forwarding == Forwarding::Auto && !redirect {
            let tables = others.filters.join(", ");
            info!(tables, "others filter what is forwarded: packets must go through the host's stack");
        }
        // Where a flow's first packet has come through the stack as well, nobody takes the answer for a new flow.
        Ways { redirect, trusts_stack: !redirect || others.masquerades.is_empty() }
    }
}

/// What [`edge::Settings`] say of it.
#[derive(Clone, Copy, Debug)]
struct Ways {
    redirect: bool,
    trusts_stack: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(edge: Choice, snat_ports: RangeInclusive<u16>, expected: Option<[u16; 2]>) {
        let flags = Flags {
            edge,
            xdp: Xdp::Auto,
            devices: Vec::new(),
            forwarding: Forwarding::Auto,
            snat_ports,
            edge_flows: None,
        };
        assert_eq!(flags.ports_for_others(), expected);
    }

    #[test]
    fn nftables_masquerades_with_ports_that_the_edge_layer_does_not_have() {
        check(Choice::Off, 1024..=29_999, None);
        check(Choice::Tcx, 1024..=29_999, Some([32_768, 65_535]));
        check(Choice::Tcx, 40_000..=65_535, Some([1024, 39_999]));
        check(Choice::Tcx, 20_000..=30_000, Some([32_768, 65_535]));
        check(Choice::Tcx, 1..=65_535, None);
    }

    #[test]
    fn room_for_flows_is_one_number_or_two() {
        assert_eq!(flows("5000"), Ok(5000..=5000));
        assert_eq!(flows("5000-90000"), Ok(5000..=90_000));
        for (text, part) in
            [("5000-1024", "fewer"), ("10", "10 is not"), ("5000-x", "x is not"), ("", " is not")]
        {
            let said = flows(text).unwrap_err();
            assert!(said.contains(part), "{said}");
        }
    }
}
