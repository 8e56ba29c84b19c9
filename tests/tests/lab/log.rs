//! Nobody reads the log, or it cannot be written; and there is no room for the tool's socket. None of this is traffic's affair.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::http::get;
use lab::{Daemon, Protocol, Settings, wait};

use crate::stage::{Stage, WEB4, addresses};

const PATIENCE: Duration = Duration::from_secs(30);

fn writing_to(stage: &Stage, log: File) -> Daemon {
    stage.node.daemon(Settings { log: Some(Arc::new(log)), ..stage.settings() }).unwrap()
}

/// The number that a metric without labels has.
fn metric(stage: &Stage, name: &str) -> anyhow::Result<f64> {
    let text = get(stage.node.netns(), "127.0.0.1:10249".parse()?, "/metrics")?.body;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.unwrap_or("-1").parse()?)
}

fn changes_are_carried_out(stage: &Stage, daemon: &mut Daemon) {
    for name in ["a", "b"] {
        let backend = stage.backend(name);
        stage.web(&[&backend.pod]);
        stage.node.wait_active("default", "web", &addresses(&[&backend.pod])).unwrap();
        assert_eq!(stage.client.call(Protocol::Tcp, WEB4).unwrap().name, name);
    }
    let begun = Instant::now();
    let status = daemon.terminate().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(status.success(), "{status}");
}

/// As while a container runtime is upgraded: the pipe is there, and full.
#[test]
fn a_log_that_nobody_reads_holds_up_nothing_and_lost_lines_are_counted() {
    let stage = Stage::new();
    let (unread, log) = nix::unistd::pipe().unwrap();
    let mut daemon = writing_to(&stage, File::from(log));
    assert_eq!(metric(&stage, "sluice_log_lines_lost_total").unwrap(), 0.0);
    stage.manifests.put("many.yaml", crate::storm::malformed(12_000)).unwrap();
    wait::until("lost lines", PATIENCE, || {
        let lost = metric(&stage, "sluice_log_lines_lost_total")?;
        ensure!(lost > 0.0, "{lost}");
        Ok(())
    })
    .unwrap();
    changes_are_carried_out(&stage, &mut daemon);
    drop::<OwnedFd>(unread);
}

#[test]
fn a_log_on_a_full_disk_holds_up_nothing() {
    let stage = Stage::new();
    let mut daemon = writing_to(&stage, File::options().write(true).open("/dev/full").unwrap());
    stage.manifests.put("many.yaml", crate::storm::malformed(100)).unwrap();
    changes_are_carried_out(&stage, &mut daemon);
}

#[test]
fn where_there_is_no_room_for_the_tools_socket_traffic_is_served_and_the_socket_comes_with_the_room() {
    let stage = Stage::new();
    let place = stage.lab.folder().join("full");
    std::fs::create_dir(&place).unwrap();
    // Room for its own root and for one file more.
    nix::mount::mount(Some("none"), &place, Some("tmpfs"), nix::mount::MsFlags::empty(), Some("nr_inodes=2"))
        .unwrap();
    std::fs::write(place.join("somebody"), "").unwrap();
    let socket = place.join("sluice.sock");
    let daemon =
        stage.node.daemon_unsynced(stage.settings().with(&["--socket", socket.to_str().unwrap()])).unwrap();
    daemon.wait_log(&["there is no room for the tool's socket"]).unwrap();
    let backend = stage.backend("a");
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    std::fs::remove_file(place.join("somebody")).unwrap();
    daemon.wait_log(&["the tool's socket has room now"]).unwrap();
    let mut command: Command = stage.node.sluice_command(&["services"]).unwrap();
    assert!(command.output().unwrap().status.success());
}
