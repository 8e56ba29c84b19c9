//! The daemon with its edge layer.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use aya::maps::MapData;
use dataplane_ebpf::abi::{EDGE_VERSION, FLOWS, Flow, FlowKey};
use lab::{Node, Settings};
use nix::errno::Errno;

/// What asks for it.
const FLAG: &str = "--edge";
/// Room for the widest case.
const ROOM: &str = "--edge-flows=524288";
/// `BPF_MAP_LOOKUP_AND_DELETE_BATCH` of include/uapi/linux/bpf.h (5.6).
const TAKE: libc::c_long = 25;
/// How many entries are taken at once: more than any chain of a hash is long.
const BATCH: u32 = 16_384;

/// Where the daemon's programs take packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hook {
    /// When they have become the stack's.
    Tcx,
    /// Those of known flows in the driver already.
    Xdp,
}

/// The table of flows.
pub(super) struct FlowTable(MapData);

impl Hook {
    /// What asks for it beside [`FLAG`].
    fn flag(self) -> Option<&'static str> {
        match self {
            Self::Tcx => None,
            Self::Xdp => Some("--xdp"),
        }
    }
}

/// Whether the daemon has such a layer. If not, that is told: the subject's rows will be missing.
pub(super) fn is_known(node: &Node, hook: Hook, subject: &str) -> Result<bool> {
    let output = node.sluice(&["run", "--help"])?;
    let help = String::from_utf8_lossy(&output.stdout);
    let unknown = [Some(FLAG), hook.flag()].into_iter().flatten().find(|flag| !help.contains(flag));
    if let Some(flag) = unknown {
        eprintln!("subject {subject} is missing: `sluice run` knows no {flag}");
    }
    Ok(unknown.is_none())
}

/// How it is started on a folder, on the devices to pods, which here are the world.
pub(super) fn settings(folder: &Path, node: &Node, hook: Hook, forwarding: &str) -> Settings {
    let (forwarding, own) = (format!("--forwarding={forwarding}"), format!("--bind-address={}", node.v4()));
    let settings = Settings::folder(folder).with(&[
        "--dataplane=auto",
        "--edge=tcx",
        "--devices=p*",
        &forwarding,
        &own,
        ROOM,
    ]);
    match hook.flag() {
        Some(flag) => settings.with(&[&format!("{flag}=native")]),
        None => settings,
    }
}

/// The table of the daemon that works on a node.
pub(super) fn flows(node: &Node) -> Result<FlowTable> {
    let path = node.pin_dir().join(format!("edge-v{EDGE_VERSION}")).join(FLOWS);
    Ok(FlowTable(MapData::from_pin(&path).with_context(|| format!("could not open {}", path.display()))?))
}

/// The attributes of [`TAKE`].
#[repr(C)]
#[derive(Default)]
struct Take {
    after: u64,
    until: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

impl FlowTable {
    /// Forgets every flow.
    pub(super) fn forget(&mut self) -> Result<()> {
        let mut keys = vec![[0_u8; size_of::<FlowKey>()]; BATCH as usize];
        let mut values = vec![[0_u8; size_of::<Flow>()]; BATCH as usize];
        let (mut place, mut begun) = (0_u32, false);
        let mut take = Take {
            until: (&raw mut place) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            map: self.0.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..Take::default()
        };
        loop {
            take.count = BATCH;
            take.after = if begun { take.until } else { 0 };
            // SAFETY: the attributes name a map, a place of the width that it has, and room for as many of its keys and values as
            // are asked for. All of it lives until the call is over.
            let answer = unsafe { libc::syscall(libc::SYS_bpf, TAKE, &raw mut take, size_of::<Take>()) };
            match Errno::result(answer) {
                Ok(_) => begun = true,
                Err(Errno::ENOENT) => return Ok(()),
                Err(error) => return Err(error).context("could not forget flows"),
            }
        }
    }
}
