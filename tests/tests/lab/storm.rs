//! Far too much at once, and most of it wrong.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lab::torrent::{Torrent, endpoint};
use lab::{Daemon, Pace, Protocol, Settings, wait};

use crate::stage::{Stage, WEB4, addresses};

/// Services without endpoints, one file.
pub(crate) fn services(count: u32) -> String {
    let service = |mut text: String, number: u32| {
        let [_, _, high, low] = number.to_be_bytes();
        let address = format!("10.97.{high}.{low}");
        let head = format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: many-{number}, namespace: default}}\n"
        );
        let spec =
            format!("spec: {{clusterIP: {address}, clusterIPs: [{address}], ports: [{{port: 80}}]}}\n");
        let _ = write!(text, "{head}{spec}");
        text
    };
    (0..count).fold(String::new(), service)
}

/// Objects of which each is wrong in a way of its own kind.
pub(crate) fn malformed(count: u32) -> String {
    let wrong = [
        "spec: {clusterIP: 10.96.0.999, clusterIPs: [10.96.0.999], ports: [{port: 80}]}",
        "spec: {clusterIP: 10.96.77.1, clusterIPs: [10.96.77.1], ports: [{port: 70000}]}",
        "spec: {clusterIP: 10.96.77.2, clusterIPs: [10.96.77.2], ports: [{port: -1}]}",
        "spec: {clusterIP: 10.96.77.3, clusterIPs: [10.96.77.3], ports: [{port: 80, protocol: ICMP}]}",
        "spec: {clusterIP: [], ports: {}}",
        "spec: 7",
        "spec: {clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10], ports: [{port: 80}]}",
        "spec: {clusterIP: 10.96.77.4, clusterIPs: [10.96.77.4], ports: [{port: 80}], sessionAffinity: Sometimes}",
    ];
    let object = |mut text: String, (number, spec): (u32, &&str)| {
        let meta = format!("metadata: {{name: wrong-{number}, namespace: default}}");
        let _ = writeln!(text, "---\napiVersion: v1\nkind: Service\n{meta}\n{spec}");
        text
    };
    (0..count).zip(wrong.iter().cycle()).fold(String::new(), object)
}

/// Kilobytes that a process has in memory (`VmRSS`), or had at most (`VmHWM`).
fn memory(daemon: &Daemon, what: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn among_thousands_of_malformed_objects_the_good_ones_are_served_and_each_other_is_named() {
    const COUNT: u32 = 8000;
    let stage = Stage::new();
    let [a, b] = ["a", "b"].map(|name| stage.backend(name));
    let daemon = stage.daemon();
    stage.web(&[&a.pod]);
    let before = memory(&daemon, "VmRSS:");
    stage.manifests.put("wrong.yaml", malformed(COUNT)).unwrap();
    wait::until("problems", Duration::from_secs(60), || {
        let status = stage.node.status()?;
        let problems = status["problems"].as_array().context("no problems")?;
        let named =
            |number| problems.iter().any(|one| one["object"] == format!("Service default/wrong-{number}"));
        ensure!((0..COUNT).step_by(997).all(named), "{} problems", problems.len());
        Ok(())
    })
    .unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "what is good goes on");
    let begun = Instant::now();
    stage.web(&[&b.pod]);
    stage.node.wait_active("default", "web", &addresses(&[&b.pod])).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(stage.client.call(Protocol::Tcp, WEB4).unwrap().name, "b");
    let grown = memory(&daemon, "VmHWM:").saturating_sub(before);
    assert!(grown < 100_000, "{grown} kB more for {COUNT} objects");
    stage.manifests.remove("wrong.yaml").unwrap();
    wait::until("the end of the problems", Duration::from_secs(60), || {
        let status = stage.node.status()?;
        ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "still some");
        Ok(())
    })
    .unwrap();
}

/// What is not taken yet waits at the server: the daemon holds a bounded number of changes, and of those only the last of each
/// object counts.
#[test]
fn a_hundred_thousand_changes_in_ten_seconds_need_no_more_memory_and_the_last_ones_count() {
    const SERVICES: u32 = 500;
    const EVENTS: u32 = 100_000;
    let stage = Stage::new();
    let torrent = Torrent { services: SERVICES, events: EVENTS, within: Duration::from_secs(10) };
    let spring = torrent.start(stage.node.netns()).unwrap();
    let file = stage.lab.folder().join("kubeconfig");
    std::fs::write(&file, spring.kubeconfig()).unwrap();
    let daemon = stage.node.daemon(Settings::kubeconfig(&file).with(&["--edge=off"])).unwrap();
    let server = stage.backend("a");
    let direct = std::net::SocketAddr::new(server.pod.v4().into(), crate::stage::PORT);
    let load = stage.client.load(Protocol::Tcp, direct, Pace::default()).unwrap();
    let before = memory(&daemon, "VmRSS:");
    let begun = Instant::now();
    spring.begin();
    let expected = std::net::SocketAddr::new(endpoint(EVENTS).into(), 8080).to_string();
    wait::until("the last change", Duration::from_secs(120), || {
        let backends = stage.node.backends()?;
        let last = backends.iter().find(|row| row.endpoint == expected);
        ensure!(
            last.is_some_and(|row| row.state == "active"),
            "{} of {EVENTS} told; not {expected} but {:?} in {} rows",
            spring.told(),
            backends.last(),
            backends.len()
        );
        Ok(())
    })
    .unwrap();
    let took = begun.elapsed();
    let grown = memory(&daemon, "VmHWM:").saturating_sub(before);
    println!("{EVENTS} changes in {took:.1?}: {grown} kB more than before");
    assert!(grown < 32_000, "{grown} kB more");
    assert_eq!(stage.node.backends().unwrap().len(), SERVICES as usize);
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    daemon.no_errors().unwrap();
}
