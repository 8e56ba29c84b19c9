//! Starting other programs.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs to the end with all output on standard error: standard output belongs to what the person asked for.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(io::stderr()).status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed ({status})", words(command));
    }
    Ok(())
}

/// Runs to the end and gives what it printed on standard output.
pub(crate) fn ask(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", words(command), output.status, complaint.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A program of this name in `first`, then on PATH.
pub(crate) fn find(program: &str, first: &[PathBuf]) -> Option<PathBuf> {
    candidates(program, first).into_iter().next()
}

/// Every program of this name, in the order of [`find`].
pub(crate) fn candidates(program: &str, first: &[PathBuf]) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = first.iter().cloned().chain(std::env::split_paths(&path));
    directories.map(|directory| directory.join(program)).filter(|file| file.is_file()).collect()
}

/// Whether we may install packages and make namespaces.
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    Path::new("/proc/self").metadata().is_ok_and(|own| own.uid() == 0)
}

/// The command as a person would type it.
pub(crate) fn words(command: &Command) -> String {
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    let all: Vec<_> = std::iter::once(command.get_program().to_string_lossy()).chain(arguments).collect();
    all.join(" ")
}

fn cannot_start(command: &Command) -> String {
    format!("could not start `{}`", command.get_program().to_string_lossy())
}

/// Takes away what an outer cargo leaves in the environment. Some build scripts watch these variables and would run
/// again at each change between `cargo test` and `cargo xtask test`.
pub(crate) fn forget_cargo(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let set_by_cargo = text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || ["CARGO", "CARGO_CRATE_NAME", "CARGO_BIN_NAME", "CARGO_PRIMARY_PACKAGE", "OUT_DIR"]
                .contains(&text);
        if set_by_cargo {
            command.env_remove(&name);
        }
    }
}
