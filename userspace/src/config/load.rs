//! Fetches what the configuration is made of: the file, the environment, the host's name.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::Run;
use crate::settings::merge::{KUBECONFIG, VARIABLES};
use crate::settings::value::Value;
use crate::settings::{Effective, File, Flags, Input, resolve};

/// The effective configuration that a file and kube-proxy's flags make on this host, or everything that is wrong with it.
pub fn effective(config: Option<&Path>, flags: &Flags) -> Result<Effective, Vec<String>> {
    let file = config.map(read).transpose().map_err(|wrong| vec![wrong])?;
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let environment = environment();
    resolve(Input { flags, file: file.as_ref(), environment: &environment, host_name: &host_name })
}

/// The same with a file that somebody else has read.
pub fn effective_of(file: &File, flags: &Flags) -> Result<Effective, Vec<String>> {
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    resolve(Input { flags, file: Some(file), environment: &environment(), host_name: &host_name })
}

/// The kubeconfig, while there is no file; and the flag or the variable that names it.
pub(super) fn kubeconfig(run: &Run) -> Option<(&'static str, PathBuf)> {
    let (from, path) = match run.flags.get("kubeconfig") {
        Some(Value::Text(path)) => ("--kubeconfig", path.clone()),
        Some(_) | None => (KUBECONFIG, environment().remove(KUBECONFIG)?),
    };
    (!path.is_empty()).then(|| (from, path.into()))
}

fn read(path: &Path) -> Result<File, String> {
    match fs::read(path) {
        Ok(bytes) => Ok(File { path: path.to_owned(), bytes }),
        Err(error) => Err(format!("--config {}: {error}", path.display())),
    }
}

fn environment() -> BTreeMap<&'static str, String> {
    VARIABLES.iter().filter_map(|(name, _)| Some((*name, std::env::var(name).ok()?))).collect()
}
