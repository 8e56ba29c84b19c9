//! What can go wrong at the kernel's door.

use std::io;
use std::path::PathBuf;

/// An operation on the kernel that failed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Built without programs.
    #[error("this build carries no eBPF programs; `cargo xtask build` makes one that does")]
    NoPrograms,
    /// Another daemon holds the pin directory.
    #[error("another sluice daemon works on {}; stop it first, or give this one its own --pin-dir", .0.display())]
    Busy(PathBuf),
    /// The pin directory cannot hold pins.
    #[error("{} is not on a bpf file system; mount one (`mount -t bpf bpf /sys/fs/bpf`) or choose another --pin-dir", .0.display())]
    NotBpffs(PathBuf),
    /// The cgroup is of the old kind, or no cgroup.
    #[error("{} is not a cgroup of the v2 tree; `grep cgroup2 /proc/mounts` shows where that is", .0.display())]
    NotCgroup2(PathBuf),
    /// A file operation on pins.
    #[error("could not {deed} {}", path.display())]
    Pin {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The cgroup cannot be opened.
    #[error("could not open the cgroup {}", path.display())]
    Cgroup {
        /// Its directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The kernel or the loader refused the object.
    #[error("could not load the eBPF object")]
    Object(#[source] Box<aya::EbpfError>),
    /// The object lacks something the daemon needs.
    #[error("the eBPF object has no {0}")]
    Missing(&'static str),
    /// The kernel refused a program.
    #[error(
        "the kernel refused the program {hook}: it needs a kernel with cgroup socket hooks, socket storage and \
         bpf_set_retval (Linux 5.18 or newer, CONFIG_CGROUP_BPF)"
    )]
    Program {
        /// Its name.
        hook: &'static str,
        /// Why.
        source: Box<aya::programs::ProgramError>,
    },
    /// A link could not be made or changed.
    #[error("could not {deed} the hook {hook}")]
    Link {
        /// What was tried.
        deed: &'static str,
        /// Which hook.
        hook: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// Programs could not be put on a device.
    #[error("could not put programs on the device {device}")]
    Device {
        /// Its name.
        device: String,
        /// Why not.
        source: io::Error,
    },
    /// Devices, addresses and routes could not be read.
    #[error("could not read the node's devices, addresses and routes")]
    Network(#[source] io::Error),
    /// A map that does not grow has no room left.
    #[error("the map {0} is full")]
    Full(&'static str),
    /// A map operation.
    #[error("could not {deed} the map {map}")]
    Map {
        /// What was tried.
        deed: &'static str,
        /// Which map.
        map: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The table of tracked flows.
    #[error("could not {deed} the kernel's table of flows (conntrack)")]
    Conntrack {
        /// What was tried.
        deed: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A pinned map is not what its name says.
    #[error("the pinned map {map} has {found}, expected {expected}")]
    Shape {
        /// Which map.
        map: &'static str,
        /// What it is.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// The packet filter.
    #[error("packet filter")]
    PacketFilter(#[from] super::nft::Refused),
    /// Somebody else's tables have our names.
    #[error("the packet filter has tables called {0} that are not ours; rename or remove them")]
    Foreign(String),
    /// Another daemon programs this network namespace.
    #[error("another sluice daemon programs the packet filter of this network namespace; stop it first")]
    FilterBusy,
    /// eBPF was asked for and cannot run here.
    #[error("eBPF cannot run here: {0}")]
    NoEbpf(String),
}

impl BackendError {
    /// Whether a map has no room for what was to be written.
    pub fn is_full(&self) -> bool {
        let tells = |code: i32| code == libc::E2BIG || code == libc::ENOSPC;
        if let Self::Map { deed: "write", source, map: _ } = self {
            return source.raw_os_error().is_some_and(tells);
        }
        matches!(self, Self::Full(_))
    }
}

/// An error and its causes in one line. For the log too: as JSON it would have the error without its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
