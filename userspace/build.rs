//! Puts the eBPF objects beside the daemon, so that they can be compiled in.
//!
//! `cargo xtask build` makes the objects and names the first in `SLUICE_EBPF_OBJECT`; the other lies beside it. Without that
//! variable empty files take their place: tests and lints need no eBPF toolchain, and a daemon built so says what it lacks
//! when it is started.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const VARIABLE: &str = "SLUICE_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let Some(out) = env::var_os("OUT_DIR") else { return Err(io::Error::other("cargo sets OUT_DIR")) };
    let object = env::var_os(VARIABLE).filter(|object| !object.is_empty()).map(PathBuf::from);
    let edge = object.as_ref().map(|object| object.with_file_name("edge"));
    copy(object.as_deref(), &Path::new(&out).join("dataplane"))?;
    copy(edge.as_deref(), &Path::new(&out).join("edge"))
}

fn copy(object: Option<&Path>, to: &Path) -> io::Result<()> {
    let Some(object) = object else { return fs::write(to, []) };
    println!("cargo::rerun-if-changed={}", object.display());
    let bytes = fs::read(object).map_err(|error| {
        io::Error::new(error.kind(), format!("{VARIABLE}: {}: {error}", object.display()))
    })?;
    fs::write(to, bytes)
}
