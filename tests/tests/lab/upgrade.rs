//! A daemon finds what one of another layout version left, and goes on with it.
//!
//! The other version is this one under another name: what is pinned is told apart by the name of its directory.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use lab::process::Process;
use lab::server::agent;
use lab::{Daemon, Load, Pace, Pod, Protocol, Settings, wait};
use nix::mount::{MsFlags, mount, umount};

use crate::stage::{Stage, WEB4, WEB6, pods};

const PATIENCE: Duration = Duration::from_secs(10);

/// Ends the daemon, makes its pins those of version 1, and starts it again.
fn upgrade(stage: &Stage, daemon: &mut Daemon) {
    daemon.kill9().unwrap();
    fs::rename(home(stage), stage.node.pin_dir().join("v1")).unwrap();
    daemon.restart().unwrap();
    assert_eq!(versions(stage), [home(stage)], "what the other version left is gone");
}

/// Where this version's pins are.
fn home(stage: &Stage) -> PathBuf {
    stage.node.pin_dir().join(format!("v{}", dataplane_ebpf::abi::VERSION))
}

fn versions(stage: &Stage) -> Vec<PathBuf> {
    fs::read_dir(stage.node.pin_dir()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn sets(stage: &Stage) -> usize {
    let names = fs::read_dir(home(stage)).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("maps-")).count()
}

/// A process that holds one socket.
struct Caller {
    process: Process,
    asked: usize,
}

impl Caller {
    /// Opens a socket, and connects it.
    fn connected(pod: &Pod, kind: &str, to: SocketAddr) -> Self {
        let mut command = pod.place().command(agent().unwrap());
        command.arg("probe").stdin(Stdio::piped());
        let mut caller = Self { process: pod.place().start(command).unwrap(), asked: 1 };
        caller.process.line(PATIENCE, |line| line == "ready").unwrap();
        assert_eq!(caller.ask(&format!("open {kind}")), "ok");
        assert_eq!(caller.ask(&format!("connect {to}")), "ok");
        caller
    }

    fn ask(&mut self, line: &str) -> String {
        self.process.tell(line).unwrap();
        let at = self.asked;
        self.asked += 1;
        self.process.out.wait(PATIENCE, |lines| lines.get(at).cloned()).unwrap()
    }
}

fn callers(stage: &Stage) -> Vec<(Caller, SocketAddr)> {
    let kinds = [("tcp4", WEB4), ("tcp6", WEB6), ("udp4", WEB4), ("udp6", WEB6)];
    kinds.into_iter().map(|(kind, to)| (Caller::connected(&stage.client, kind, to), to)).collect()
}

fn datagrams(stage: &Stage) -> Vec<Load> {
    let pace = Pace { keep: true, workers: 1, rate: 200.0, ..Pace::default() };
    (0..4).map(|_| stage.client.load(Protocol::Udp, WEB4, pace).unwrap()).collect()
}

#[test]
fn sockets_keep_their_service_and_their_endpoint_when_another_layout_version_takes_over() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let mut daemon = stage.daemon();
    // Numbers that no new daemon would give: what comes first has the highest.
    stage.web(&pods(&backends[3..]));
    stage.web(&pods(&backends));
    let connections =
        stage.client.load(Protocol::Tcp, WEB6, Pace { rate: 300.0, ..Pace::default() }).unwrap();
    let (mut callers, datagrams) = (callers(&stage), datagrams(&stage));
    let rows = stage.node.backends().unwrap();
    for _ in 0..2 {
        connections.more(30).unwrap();
        datagrams.iter().for_each(|load| drop(load.more(20).unwrap()));
        upgrade(&stage, &mut daemon);
        for (caller, to) in &mut callers {
            assert_eq!(caller.ask("peername"), to.to_string());
        }
        assert_eq!(
            stage.node.backends().unwrap(),
            rows,
            "everybody keeps the number by which sockets remember"
        );
    }
    connections.more(30).unwrap();
    for load in datagrams {
        load.more(20).unwrap();
        let end = load.stop().unwrap();
        assert_eq!((end.failed, end.spread.len()), (0, 1), "one socket, one endpoint: {end:?}");
    }
    let end = connections.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
}

#[test]
fn clients_keep_their_endpoints_when_another_layout_version_takes_over() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let mut daemon = stage.daemon();
    // A number that no new daemon would give to it.
    stage.web(&pods(&backends[3..]));
    stage.sticky_web(Some(60), &pods(&backends));
    let draw = || {
        let ways =
            [(Protocol::Tcp, WEB4), (Protocol::Tcp, WEB6), (Protocol::Udp, WEB4), (Protocol::Udp, WEB6)];
        ways.map(|(protocol, to)| stage.client.call(protocol, to).unwrap().name)
    };
    let before = draw();
    for _ in 0..3 {
        upgrade(&stage, &mut daemon);
        assert_eq!(draw(), before);
    }
}

/// While the programs of two versions hang on the cgroup, the ones of the earlier version run first.
#[test]
fn a_connection_made_while_programs_of_two_versions_hang_there_shows_the_service() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a"]);
    let mut daemon = stage.daemon();
    stage.web(&pods(&backends));
    daemon.kill9().unwrap();
    let elder = stage.node.pin_dir().join("v1");
    fs::rename(home(&stage), &elder).unwrap();
    // A file that another is mounted on cannot be removed; links are removed from this one on.
    let (first, lid) = (elder.join("links/connect6"), stage.lab.folder().join("lid"));
    fs::write(&lid, "").unwrap();
    mount(Some(&lid), &first, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    daemon.restart().unwrap();
    assert!(elder.exists(), "its links could not be removed");
    let leftovers = stage.node.status().unwrap()["kernel"]["leftovers"].clone();
    assert_eq!(leftovers, serde_json::json!(["v1"]));
    for (caller, to) in &mut callers(&stage) {
        assert_eq!(caller.ask("peername"), to.to_string());
    }
    umount(&first).unwrap();
    // Whoever asks makes the daemon try again.
    wait::until("the rest to go", PATIENCE, || {
        stage.node.status()?;
        anyhow::ensure!(!elder.exists(), "{} is still there", elder.display());
        Ok(())
    })
    .unwrap();
    let answer = stage.client.call(Protocol::Tcp, WEB4).unwrap();
    assert_eq!((answer.name.as_str(), answer.peer), ("a", WEB4.to_string()));
}

#[test]
fn starts_that_come_to_nothing_leave_one_set_of_maps() {
    let stage = Stage::of_ebpf();
    let config = stage.lab.folder().join("nobody.kubeconfig");
    let nobody = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{ "name": "lab", "cluster": { "server": "https://127.0.0.1:1" } }],
        "contexts": [{ "name": "lab", "context": { "cluster": "lab", "user": "" } }],
        "current-context": "lab",
    });
    fs::write(&config, nobody.to_string()).unwrap();
    for _ in 0..3 {
        let mut daemon =
            stage.node.daemon_unsynced(Settings::kubeconfig(&config).with(&["--dataplane=auto"])).unwrap();
        daemon.wait_log(&["started"]).unwrap();
        assert_eq!(sets(&stage), 1);
        daemon.kill9().unwrap();
    }
}
