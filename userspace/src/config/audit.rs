//! Flags about what the kernel has beside what it should have, and what a running daemon was told.

use std::time::Duration;

use clap::Args;

use super::{Objects, PinDir, Run, Socket, effective_of};
use crate::inspect::Output;
use crate::serve::Settings;
use crate::settings::value::Value;
use crate::settings::{Effective, File, duration};

/// Where a configuration is from that no file holds.
const DAEMON: &str = "the running daemon";

/// Flags of `diff`.
#[derive(Clone, Debug, Args)]
pub struct Diff {
    /// Which objects, and for which node.
    #[command(flatten)]
    pub objects: Objects,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
}

/// Flags of `audit`.
#[derive(Clone, Debug, Args)]
pub struct Audit {
    /// Put right what differs, at once
    #[arg(long)]
    pub fix: bool,
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Where programs and maps are pinned.
    #[command(flatten)]
    pub pins: PinDir,
    /// Where the daemon answers.
    #[command(flatten)]
    pub socket: Socket,
}

impl Diff {
    /// What the running daemon was told counts wherever no flag says otherwise: the source, the node's name, the rest of the
    /// configuration. Nothing if there is a file.
    pub fn as_told(&mut self, told: &Settings) -> Option<Result<Box<Effective>, Vec<String>>> {
        let objects = &mut self.objects;
        if objects.config.is_some() {
            return None;
        }
        if objects.source.is_none() && objects.kubeconfig.is_none() {
            objects.source.clone_from(&told.source);
        }
        let node = objects.node.clone().filter(|name| !name.is_empty()).unwrap_or(told.node.clone());
        let flags = [("hostname-override", Value::Text(node))].into();
        let file = File { path: DAEMON.into(), bytes: told.configuration.to_string().into_bytes() };
        Some(effective_of(&file, &flags).map(|mut settled| {
            settled.kubeconfig = objects.kubeconfig.clone().or(settled.kubeconfig);
            Box::new(settled)
        }))
    }
}

impl Run {
    /// How often the kernel is looked through, if at all.
    pub fn audit_interval(&self) -> Option<Duration> {
        Some(self.audit_interval).filter(|every| !every.is_zero())
    }
}

/// Reads a length of time as kube-proxy's flags have it.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    let time = duration::Duration::parse(text).and_then(|time| u64::try_from(time.0).ok());
    time.map(Duration::from_nanos).ok_or_else(|| format!("{text} is not a time like 90s, 5m or 0"))
}
