//! What eBPF needs of this machine, tried one by one. Maps are not pinned and programs not attached: they end with the
//! trial.

use aya::Ebpf;
use aya::programs::ProgramError;
use nix::unistd::{AccessFlags, access};

use super::links::{Cgroup, HOOKS, Hook};
use super::{load, magic};
use crate::backend::probe::{Finding, Place};
use crate::backend::{BackendError, chain};
use crate::privilege;

/// Tries everything that [`super::Ebpf::open`] does, and leaves nothing.
pub fn probe(place: &Place) -> Vec<Finding> {
    let mut found = vec![
        Finding::new("cgroup v2", "eBPF: what the hooks hang on", cgroup(place)),
        Finding::new("bpf file system", "eBPF: pins, which outlive the daemon", pins(place)),
    ];
    let carried = load::has_programs().map_err(|error| error.to_string());
    let is_carried = carried.is_ok();
    found.push(Finding::new("programs in this build", "eBPF: all", carried));
    if is_carried {
        found.extend(object());
    }
    found
}

fn cgroup(place: &Place) -> Result<(), String> {
    let Some(path) = &place.cgroup else {
        return Err("no cgroup v2 tree is mounted; mount one, or name its directory with --cgroup".to_owned());
    };
    Cgroup::open(path).map(drop).map_err(|error| chain(&error))
}

fn pins(place: &Place) -> Result<(), String> {
    if place.must_mount {
        let why_not = "none is mounted, and this process may not mount one (CAP_SYS_ADMIN)";
        return if privilege::may_mount() { Ok(()) } else { Err(why_not.to_owned()) };
    }
    let there = place.pin_dir.ancestors().find(|path| path.exists()).unwrap_or(&place.pin_dir);
    if !magic::is_on(there, magic::BPF) {
        return Err(BackendError::NotBpffs(place.pin_dir.clone()).to_string());
    }
    access(there, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|errno| format!("{}: {}", there.display(), std::io::Error::from(errno)))
}

/// Maps first: programs are loaded over them.
fn object() -> Vec<Finding> {
    const MAPS: &str = "eBPF: hash tables, arrays, socket storage";
    let mut object = match load::unpinned() {
        Ok(object) => object,
        Err(error) => return vec![Finding::new("maps", MAPS, Err(first_line(&error)))],
    };
    let mut found = vec![Finding::new("maps", MAPS, Ok(()))];
    found.extend(HOOKS.iter().map(|hook| {
        let needed_for = "eBPF: cgroup hook on sockets";
        Finding::new(format!("program {}", hook.name), needed_for, program(&mut object, hook))
    }));
    found
}

fn program(object: &mut Ebpf, hook: &Hook) -> Result<(), String> {
    let mut program = load::program(object, hook).map_err(|error| first_line(&error))?;
    program.load().map_err(|error| {
        // Without what the verifier says, which may be long.
        if let ProgramError::LoadError { io_error, verifier_log: _ } = error {
            io_error.to_string()
        } else {
            first_line(&error)
        }
    })
}

fn first_line(error: &dyn std::error::Error) -> String {
    chain(error).lines().next().unwrap_or_default().to_owned()
}
