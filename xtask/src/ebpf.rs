//! The eBPF objects, compiled and linked: the kernel's half of the datapath, and what makes frames for the bench.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::compiler::{self, Compiler, TARGET};
use crate::host::Host;
use crate::linker;
use crate::place::Place;
use crate::progress;
use crate::run;

/// Where the daemon's build script looks for the object.
pub(crate) const VARIABLE: &str = "SLUICE_EBPF_OBJECT";
/// Where the bench looks for the programs that make frames.
pub(crate) const FRAMES_VARIABLE: &str = "SLUICE_FRAMES_OBJECT";

/// One binary of a package, built for the kernel.
#[derive(Debug, Clone, Copy)]
struct Programs {
    title: &'static str,
    package: &'static str,
    binary: &'static str,
}

const DATAPLANE: Programs =
    Programs { title: "the eBPF object", package: "dataplane-ebpf", binary: "dataplane" };
/// It lies beside the other, where the daemon's build script looks for it.
const EDGE: Programs =
    Programs { title: "the edge's eBPF object", package: "dataplane-ebpf", binary: "edge" };
const FRAMES: Programs =
    Programs { title: "the programs that make frames", package: "bench", binary: "frames-ebpf" };

/// Builds the objects and says where the first is.
pub(crate) fn build(place: &Place, host: &Host) -> Result<PathBuf> {
    EDGE.build(place, host)?;
    DATAPLANE.build(place, host)
}

/// Builds what makes frames and says where it is. The daemon does not carry it.
pub(crate) fn build_frames(place: &Place, host: &Host) -> Result<PathBuf> {
    FRAMES.build(place, host)
}

/// The object of an earlier build.
pub(crate) fn existing(place: &Place) -> Option<PathBuf> {
    Some(DATAPLANE.object(place)).filter(|object| object.exists())
}

/// Clippy over the programs, where the compiler has one.
pub(crate) fn clippy(place: &Place, host: &Host) -> Result<()> {
    let compiler = Compiler::ensure(place)?;
    for programs in [DATAPLANE, EDGE, FRAMES] {
        let Some(mut command) = compiler.clippy() else {
            progress::say(&format!("clippy for eBPF is skipped: {} has none here", compiler.name()));
            return Ok(());
        };
        compiler::announce(compiler);
        programs.arguments(&mut command, place, &linker::ensure(place, host)?);
        run::run(command.args(["--", "-D", "warnings"]))?;
    }
    Ok(())
}

impl Programs {
    fn build(self, place: &Place, host: &Host) -> Result<PathBuf> {
        let compiler = Compiler::ensure(place)?;
        progress::say(&format!("building {} with {}", self.title, compiler.name()));
        let mut command = compiler.cargo("build");
        self.arguments(&mut command, place, &linker::ensure(place, host)?);
        run::run(&mut command)?;
        let object = self.object(place);
        match object.exists() {
            true => Ok(object),
            false => bail!("cargo built no eBPF object at {}", object.display()),
        }
    }

    fn object(self, place: &Place) -> PathBuf {
        place.built("ebpf").join(TARGET).join("release").join(self.binary)
    }

    fn arguments(self, command: &mut Command, place: &Place, linker: &Path) {
        command.args(["--release", "--target", TARGET, "--package", self.package, "--bin", self.binary]);
        flags(command, place, linker);
    }
}

fn flags(command: &mut Command, place: &Place, linker: &Path) {
    command.current_dir(&place.root).env("CARGO_TARGET_DIR", place.built("ebpf"));
    command.env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    // Types and lines for the verifier's log and for the kernel's own records of the maps.
    command.env("RUSTFLAGS", "-C link-arg=--btf -C target-cpu=v3 -C debuginfo=2");
}
