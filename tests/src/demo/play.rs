//! What happens, act by act.

use std::time::Duration;

use anyhow::{Context, Result};

use super::interrupt;
use super::scene::Scene;
use super::screen::Screen;
use crate::manifest::State;

/// How often the screen is drawn.
const BEAT: Duration = Duration::from_millis(500);

/// Loads report five times a second; after this long a report covers whatever happened before.
const SETTLED: Duration = Duration::from_millis(700);

/// Plays all acts.
pub(super) fn all(scene: &mut Scene, screen: &mut Screen) -> Result<()> {
    watch(scene, screen, "steady: two endpoints on this node", 3)?;
    scale_up(scene, screen)?;
    to_zero_and_back(scene, screen)?;
    roll(scene, screen)?;
    watch(scene, screen, "steady: all endpoints are new", 2)
}

fn watch(scene: &Scene, screen: &mut Screen, act: &str, seconds: u32) -> Result<()> {
    for _ in 0..seconds * 2 {
        interrupt::pause(BEAT)?;
        screen.draw(act, scene);
    }
    Ok(())
}

fn scale_up(scene: &mut Scene, screen: &mut Screen) -> Result<()> {
    for name in ["c", "d"] {
        scene.add(name, 1)?;
    }
    scene.publish()?;
    watch(scene, screen, "scaled up: two more on the other node", 4)
}

/// While it is at zero, a connection is refused at once; before and after, none is.
fn to_zero_and_back(scene: &mut Scene, screen: &mut Screen) -> Result<()> {
    let refused = |scene: &Scene| {
        let reports = scene.progress().into_iter().find(|(name, _)| name.ends_with("reports"));
        let failures = reports.map(|(_, progress)| progress.failures).unwrap_or_default();
        failures.get("ECONNREFUSED").copied().unwrap_or_default()
    };
    interrupt::pause(SETTLED)?;
    let before = refused(scene);
    scene.publish_reports(false)?;
    watch(scene, screen, "reports scaled to zero: refused at once, as it should be", 2)?;
    scene.publish_reports(true)?;
    interrupt::pause(SETTLED)?;
    let expected = refused(scene).saturating_sub(before);
    let reports = scene.streams.iter_mut().find(|stream| stream.name.ends_with("reports"));
    reports.context("there are clients of reports")?.expected = expected;
    watch(scene, screen, "reports is back", 2)
}

/// Replaces every endpoint of `web` and `dns`: a new pod first, then the old one leaves as a pod does.
fn roll(scene: &mut Scene, screen: &mut Screen) -> Result<()> {
    let old: Vec<String> = scene.backends.iter().map(|backend| backend.pod.name().to_owned()).collect();
    for (number, leaving) in (0..).zip(&old) {
        let name = format!("{leaving}2");
        scene.add(&name, number % 2)?;
        scene.publish()?;
        let act = format!("rolling: {name} takes over from {leaving}");
        set_state(scene, leaving, State::Draining);
        scene.publish()?;
        watch(scene, screen, &act, 1)?;
        if number > 0 {
            retire(scene, leaving)?;
        }
        watch(scene, screen, &act, 1)?;
    }
    Ok(())
}

fn set_state(scene: &mut Scene, name: &str, state: State) {
    for backend in scene.backends.iter_mut().filter(|backend| backend.pod.name() == name) {
        backend.state = state;
    }
}

/// SIGTERM: the pod takes nothing new and finishes what it has; then it is gone from the manifests too. The first pod
/// stays, out of `web` and `dns`: it is the one behind `reports`.
fn retire(scene: &mut Scene, name: &str) -> Result<()> {
    for backend in scene.backends.iter_mut().filter(|backend| backend.pod.name() == name) {
        backend.server.terminate()?;
    }
    set_state(scene, name, State::NotReady);
    scene.publish()
}
