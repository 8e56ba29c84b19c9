//! The way to the API server is bad: it falls silent, breaks again and again, or is slow.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::control_plane::ControlPlane;
use lab::http::get;
use lab::relay::{Mood, Relay};
use lab::topology::Wire;
use lab::{Daemon, Settings, wait};

use crate::stage::{Stage, shared};

/// A daemon that reaches the server through a relay.
fn relayed(stage: &Stage, plane: &ControlPlane, mood: Mood) -> (Relay, Settings) {
    let server = SocketAddr::new(Wire::V4.into(), ControlPlane::PORT);
    let relay = Relay::start(stage.node.netns(), server, mood).expect("a relay");
    let settings = stage.settings(plane, "kube-system", "sluice");
    let file = stage.node.folder().join("kubeconfig");
    let direct = std::fs::read_to_string(&file).expect("a kubeconfig");
    let mut config: serde_json::Value = serde_json::from_str(&direct).expect("JSON");
    let cluster = &mut config["clusters"][0]["cluster"];
    cluster["server"] = format!("https://{}", relay.address()).into();
    cluster["tls-server-name"] = Wire::V4.to_string().into();
    std::fs::write(&file, config.to_string()).expect("a kubeconfig");
    (relay, settings)
}

fn blockers(stage: &Stage) -> Result<String> {
    let ready = get(stage.node.netns(), "127.0.0.1:10256".parse()?, "/readyz")?;
    ensure!(ready.status == 503, "{ready:?}");
    Ok(ready.json()?["blockers"].to_string())
}

/// Ports of a process's own ends of its connections with the API server.
fn ports(daemon: &Daemon) -> Vec<u16> {
    let text = std::fs::read_to_string(format!("/proc/{}/net/tcp", daemon.pid())).expect("a running process");
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(Wire::V4.octets()), ControlPlane::PORT);
    let rows = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = rows.filter(|row| row.len() > 3 && row[2] == remote && row[3] == "01");
    ours.filter_map(|row| u16::from_str_radix(row[1].split(':').nth(1)?, 16).ok()).collect()
}

/// As when a load balancer or a firewall has forgotten the connections: nobody says that they have ended. A watch that says
/// nothing is right for five minutes.
#[test]
fn connections_that_have_died_without_a_word_are_given_up_within_a_minute() {
    let plane = shared();
    let stage = Stage::new(plane, "silent");
    let daemon = stage.daemon(plane);
    stage.objects.apply(&[stage.bare_service("web"), stage.slice("web", &["10.1.0.1"])]).unwrap();
    stage.node.wait_endpoints("silent", "web", 1).unwrap();

    let dead = ports(&daemon);
    assert!(dead.len() >= 4, "a connection for each watch: {dead:?}");
    let list = dead.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let mut rules = "add table ip silence; ".to_owned();
    for (hook, side) in [("input", "dport"), ("output", "sport")] {
        let _ = write!(
            rules,
            "add chain ip silence {hook} {{ type filter hook {hook} priority -400; }}; \
             add rule ip silence {hook} tcp {side} {{ {list} }} drop; "
        );
    }
    let done = stage.node.place().command("nft").arg(&rules).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let begun = Instant::now();
    stage.objects.apply(&[stage.slice("web", &["10.1.0.1", "10.1.0.2"])]).unwrap();
    wait::until("the change", Duration::from_secs(100), || {
        let rows = stage.node.services()?;
        let web = rows.iter().find(|row| row.namespace == stage.namespace()).context("no web")?;
        ensure!(web.endpoints == 2, "{web:?}");
        Ok(())
    })
    .unwrap();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(5), "the connections were dead: {took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
    daemon.no_errors().unwrap();
}

#[test]
fn while_connections_break_again_and_again_changes_arrive_and_the_server_is_not_stormed() {
    let plane = shared();
    let stage = Stage::new(plane, "flapping");
    let (relay, settings) = relayed(&stage, plane, Mood::Well);
    let daemon = stage.node.daemon(settings).unwrap();
    stage.objects.apply(&[stage.bare_service("web")]).unwrap();
    stage.node.wait_endpoints("flapping", "web", 0).unwrap();
    let before = relay.accepted();
    relay.set(Mood::Short(Duration::from_millis(300)));
    let begun = Instant::now();
    let mut addresses = Vec::new();
    for number in 1..=40 {
        addresses = (0..=number % 5).map(|last| format!("10.1.{number}.{}", last + 1)).collect();
        let list: Vec<&str> = addresses.iter().map(String::as_str).collect();
        stage.objects.apply(&[stage.slice("web", &list)]).unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    let seconds = u32::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let connections = relay.accepted() - before;
    // Four watches, each of which waits longer and longer. Without that it is a connection in 300 ms for each: 130.
    assert!(connections <= 4 * 12, "{connections} connections in {seconds} seconds");
    assert!(connections >= 8, "it did not break: {connections}");
    relay.set(Mood::Well);
    let wanted: Vec<std::net::IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    stage.node.wait_active("flapping", "web", &wanted).unwrap();
    daemon.no_errors().unwrap();
}

#[test]
fn a_server_that_answers_nothing_is_named_and_given_up_and_does_not_hold_up_the_end() {
    let plane = shared();
    let stage = Stage::new(plane, "mute");
    let (relay, settings) = relayed(&stage, plane, Mood::Silent);
    let mut daemon = stage.node.daemon_unsynced(settings.clone()).unwrap();
    wait::until("blockers", Duration::from_secs(20), || {
        let named = blockers(&stage)?;
        ensure!(named.contains("EndpointSlice objects are not listed yet"), "{named}");
        Ok(())
    })
    .unwrap();
    let begun = Instant::now();
    assert!(daemon.terminate().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());

    // The same where the server finds its voice: whoever hangs in a greeting gives up, and greets again.
    let mut daemon = stage.node.daemon_unsynced(settings).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    relay.set(Mood::Well);
    daemon.wait_synced().unwrap();
    assert!(daemon.process().is_running());
}

#[test]
fn a_slow_server_is_waited_for() {
    let plane = shared();
    let stage = Stage::new(plane, "slow");
    let services: Vec<_> = (0..40).map(|number| stage.bare_service(&format!("s{number}"))).collect();
    stage.objects.apply(&services).unwrap();
    let (relay, settings) = relayed(&stage, plane, Mood::Slow(Duration::from_millis(250)));
    let daemon = stage.node.daemon_unsynced(settings).unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert!(blockers(&stage).unwrap().contains("not listed yet"), "half a list is not programmed");
    assert!(stage.node.services().map_or(true, |rows| rows.is_empty()), "half a list is not programmed");
    relay.set(Mood::Well);
    daemon.wait_synced().unwrap();
    let rows = stage.node.services().unwrap();
    assert_eq!(rows.iter().filter(|row| row.namespace == "slow").count(), services.len());
}
