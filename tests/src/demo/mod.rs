//! The demonstration: requests without an end through ClusterIPs, while their endpoints come, go and are replaced.

mod interrupt;
mod kernel;
mod play;
mod scene;
mod screen;
mod summary;

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use self::scene::Scene;
use self::screen::Screen;

/// Runs it. True if every request that should have succeeded did.
pub fn run(manifests: &Path, json: bool) -> Result<bool> {
    interrupt::watch()?;
    let started = Instant::now();
    let mut screen = Screen::new(json);
    screen.say("making two nodes with pods, and starting sluice on the first");
    let mut scene = Scene::set(manifests)?;
    let played = play::all(&mut scene, &mut screen);
    let summary = scene.end(started);
    screen.close();
    played?;
    let summary = summary?;
    screen.summary(&summary, json)?;
    Ok(summary.failed == 0)
}
