//! Where objects come from: the API server, or a folder of manifests. Both speak in [`Change`]s.

pub mod folder;
pub mod manifest;
#[cfg(test)]
mod manifest_fuzz;
pub mod watch;

use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

use crate::model::Change;

/// The way from a source to the loop. Bounded, so that a flood waits at its source.
pub type Changes = Sender<Change>;

/// Changes that may wait for the loop.
pub const BACKLOG: usize = 512;

/// Waits for this time, or for ever.
async fn until(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
