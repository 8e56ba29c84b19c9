//! What became of a probe, from everything that was seen of it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::probe::Probe;
use super::sighting::{Refusal, What};

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Somebody gave it another destination.
    Forwarded {
        /// Where it went.
        to: SocketAddr,
        /// Where it came from then.
        source: IpAddr,
        /// Whether that was the node itself.
        is_here: bool,
    },
    /// It came to the node itself, where it was addressed to.
    Delivered,
    /// It left the node for where it was addressed to.
    Passed {
        /// Where it came from then.
        source: IpAddr,
    },
    /// It was not let through, and told so.
    Refused(Refusal),
    /// Nothing was seen of it.
    Dropped,
}

/// What was seen of one probe.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// Where it came out, and whether that was at the node itself.
    came: Option<(IpAddr, SocketAddr, bool)>,
    refusal: Option<Refusal>,
}

impl Seen {
    /// Adds a sighting. No probe comes out in two ways.
    pub(super) fn add(&mut self, what: What, is_here: bool) -> Result<()> {
        match what {
            What::Refusal(refusal) => self.refusal = Some(refusal),
            What::Probe { source, to } => {
                let came = (source, to, is_here);
                let is_same = self.came.is_none_or(|before| before == came);
                ensure!(is_same, "one probe came out twice: {:?} and {came:?}", self.came);
                self.came = Some(came);
            }
        }
        Ok(())
    }

    /// A probe that came out did, whatever was answered then.
    pub(super) fn fate(&self, probe: &Probe) -> Fate {
        match (self.came, self.refusal) {
            (Some((_, to, true)), _) if to == probe.to => Fate::Delivered,
            (Some((source, to, false)), _) if to == probe.to => Fate::Passed { source },
            (Some((source, to, is_here)), _) => Fate::Forwarded { to, source, is_here },
            (None, Some(refusal)) => Fate::Refused(refusal),
            (None, None) => Fate::Dropped,
        }
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded { to, source, is_here: false } => write!(f, "forwarded to {to} as {source}"),
            Self::Forwarded { to, source, is_here: true } => write!(f, "delivered as {to} from {source}"),
            Self::Delivered => write!(f, "delivered to the node"),
            Self::Passed { source } => write!(f, "passed as {source}"),
            Self::Refused(refusal) => write!(f, "answered with {refusal}"),
            Self::Dropped => write!(f, "dropped"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PortUnreachable => write!(f, "port unreachable"),
            Self::ProtocolUnreachable => write!(f, "protocol unreachable"),
            Self::Reset => write!(f, "a reset"),
            Self::Other(kind, code) => write!(f, "ICMP type {kind} code {code}"),
        }
    }
}
