//! Clippy, on both sides of the kernel's border.

use anyhow::Result;

use crate::apt::{self, Package};
use crate::compiler::Compiler;
use crate::ebpf;
use crate::host::Host;
use crate::place::Place;
use crate::progress;
use crate::run;

const PACKAGE: Package = Package { name: "rust-web-clippy", why: "clippy for the eBPF programs" };

/// All targets of the workspace, then the programs.
pub(crate) fn run(place: &Place, host: &Host) -> Result<()> {
    progress::say("clippy");
    let mut command = host.cargo("clippy");
    // The same object as the tests have: without it cargo would build the daemon anew for each.
    if let Some(object) = ebpf::existing(place) {
        command.env(ebpf::VARIABLE, object);
    }
    run::run(command.args(["--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    offer_clippy(place);
    ebpf::clippy(place, host)
}

/// Its absence is told by what comes next, and is no failure.
fn offer_clippy(place: &Place) {
    let lacking = Compiler::find() == Some(Compiler::Debian) && Compiler::Debian.clippy().is_none();
    let offered = if lacking && run::is_root() { apt::ensure(place, &[PACKAGE]) } else { Ok(()) };
    if let Err(error) = offered {
        progress::say(&format!("{error:#}"));
    }
}
