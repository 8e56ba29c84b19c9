//! A private mount namespace with memory file systems: folders and pins that vanish with the processes.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Where everything of the lab is, seen from inside. The directory exists on every system that follows the hierarchy
/// standard and is meant for temporary mounts.
const ROOT: &str = "/mnt";
/// The file system for pins.
const BPF: &str = "/mnt/bpf";

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// A folder of the caller's own and a place for pins, visible to the calling thread, to the threads it starts
/// afterwards, and to their processes.
#[derive(Clone, Debug)]
pub struct Sandbox {
    folder: PathBuf,
    pins: PathBuf,
}

impl Sandbox {
    /// Moves the calling thread into a private mount namespace, once; then makes a fresh folder there.
    pub fn enter() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !ENTERED.get() {
            isolate()?;
            ENTERED.set(true);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = Path::new(ROOT).join(format!("lab-{number}"));
        std::fs::create_dir(&folder).with_context(|| format!("could not make {}", folder.display()))?;
        Ok(Self { folder, pins: Path::new(BPF).join(format!("lab-{number}")) })
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A directory on a bpf file system; it does not exist yet.
    pub fn pins(&self) -> &Path {
        &self.pins
    }
}

fn isolate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("could not make a mount namespace (are you root?)")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("could not make mounts private")?;
    mount(Some("tmpfs"), ROOT, Some("tmpfs"), MsFlags::empty(), Some("mode=0755"))
        .with_context(|| format!("could not mount a memory file system on {ROOT}"))?;
    std::fs::create_dir(BPF)?;
    mount(Some("bpf"), BPF, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
        .with_context(|| format!("could not mount a bpf file system on {BPF}"))
}
