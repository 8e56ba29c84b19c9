//! Programs on devices by links (TCX), which are pinned and so outlive a daemon.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use super::super::super::ebpf::sys;
use super::Direction;
use super::order::Standing;

/// Loopback's index in every network namespace.
const LOOPBACK: u32 = 1;

/// Whether this kernel has these hooks: one that has not knows no such question.
pub(super) fn is_there() -> io::Result<()> {
    sys::programs_on(LOOPBACK, Direction::In.attach_type()).map(drop)
}

/// Puts a program behind the link that is there, in one step, or makes one before all others.
pub(super) fn put(device: u32, direction: Direction, pin: &Path, program: &OwnedFd) -> io::Result<()> {
    if let Some(link) = on(device, pin)
        && sys::link_update(link.as_fd(), program.as_fd()).is_ok()
    {
        return Ok(());
    }
    lead(device, direction, pin, program)
}

/// Hangs a program before all others, and then takes away the one that had been pinned here. For that moment there are two of
/// them: what the first has dealt with is nobody's to the second.
pub(super) fn lead(device: u32, direction: Direction, pin: &Path, program: &OwnedFd) -> io::Result<()> {
    let draft = pin.with_file_name(format!("{device}-{}-new", direction.name()));
    let _ = fs::remove_file(&draft);
    let link = sys::link_device(program.as_fd(), device, direction.attach_type())?;
    sys::pin(link.as_fd(), &draft)?;
    fs::rename(&draft, pin)
}

fn on(device: u32, pin: &Path) -> Option<OwnedFd> {
    let link = sys::open(pin).ok()?;
    (sys::device_of(link.as_fd()).ok()? == device).then_some(link)
}

/// Whether one of these programs is behind the link, and comes first.
pub(super) fn standing(
    device: u32,
    direction: Direction,
    pin: &Path,
    own: &BTreeSet<u32>,
) -> io::Result<Standing> {
    let found = sys::programs_on(device, direction.attach_type())?;
    let Some(info) = on(device, pin).and_then(|link| sys::link_info(link.as_fd()).ok()) else {
        return Ok(Standing::Missing);
    };
    Ok(match found.iter().position(|(_, link)| *link == info.id) {
        Some(_) if !own.contains(&info.program) => Standing::Missing,
        Some(0) => Standing::First,
        Some(_) => Standing::Behind,
        None => Standing::Missing,
    })
}

/// All programs on a hook, in their order: the id of each, and whether it is behind the link that is pinned here.
pub(super) fn list(device: u32, direction: Direction, pin: &Path) -> io::Result<Vec<(u32, bool)>> {
    let link = on(device, pin).and_then(|link| sys::link_info(link.as_fd()).ok()).map(|info| info.id);
    let found = sys::programs_on(device, direction.attach_type())?;
    Ok(found.into_iter().map(|(program, own)| (program, Some(own) == link)).collect())
}
