//! Puts the eBPF object beside the daemon, so that it can be compiled in.
//!
//! `cargo xtask build` makes the object and names it in `SLUICE_EBPF_OBJECT`. Without that variable an empty file takes
//! its place: tests and lints need no eBPF toolchain, and a daemon built so says what it lacks when it is started.

use std::path::Path;
use std::{env, fs, io};

const VARIABLE: &str = "SLUICE_EBPF_OBJECT";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={VARIABLE}");
    let Some(out) = env::var_os("OUT_DIR") else { return Err(io::Error::other("cargo sets OUT_DIR")) };
    let copy = Path::new(&out).join("dataplane");
    match env::var_os(VARIABLE).filter(|object| !object.is_empty()) {
        Some(object) => {
            println!("cargo::rerun-if-changed={}", Path::new(&object).display());
            let bytes = fs::read(&object).map_err(|error| {
                io::Error::new(error.kind(), format!("{VARIABLE}={}: {error}", Path::new(&object).display()))
            })?;
            fs::write(copy, bytes)
        }
        None => fs::write(copy, []),
    }
}
