//! Where this tree lies and where what is built goes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow};

use crate::run;

/// The two directories everything else is relative to.
#[derive(Debug)]
pub(crate) struct Place {
    /// The workspace.
    pub(crate) root: PathBuf,
    /// Cargo's target directory, wherever the person or their configuration put it.
    pub(crate) target: PathBuf,
}

impl Place {
    pub(crate) fn find() -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no workspace")?;
        let target = target_directory(root)?;
        Ok(Self { root: root.to_owned(), target })
    }

    /// A file below the target directory.
    pub(crate) fn built(&self, below: &str) -> PathBuf {
        self.target.join(below)
    }
}

fn target_directory(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(root);
    let text = run::ask(&mut command)?;
    let metadata: serde_json::Value = serde_json::from_str(&text).context("cargo metadata is not JSON")?;
    let target = metadata["target_directory"].as_str();
    Ok(target.ok_or_else(|| anyhow!("cargo metadata names no target directory"))?.into())
}
