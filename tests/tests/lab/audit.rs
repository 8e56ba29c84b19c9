//! What somebody takes away from the kernel, changes there, or adds: a running daemon finds it and puts it right, and says so;
//! and it finds nothing where nobody did anything.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use dataplane_ebpf::abi::{self, ServiceKey, SlotKey};
use lab::http::get;
use lab::manifest::{Service, Slice, State, file};
use lab::{Load, Node, Pace, Pod, Protocol, wait};
use serde_json::{Value, json};

use crate::nftables::nft;
use crate::stage::{PORT, Stage, WEB4, WEB6, pods};
use crate::town::Town;

const PATIENCE: Duration = Duration::from_secs(20);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// A Service that nobody does anything to.
const CALM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20)), 80);
const NODE_PORTS: &str = "--nodeport-addresses=10.0.0.0/8,fd00::/16";

impl Stage {
    /// What a verb says, and its exit code.
    fn verb(&self, arguments: &[&str]) -> (Value, Option<i32>) {
        let output = self.node.sluice_command(arguments).unwrap().output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!({ "error": error }));
        (said, output.status.code())
    }

    /// Another Service, at [`CALM`].
    fn calm(&self, ready: &[&Pod]) {
        let empty = Slice::v4("calm-4", "calm").port("tcp", "TCP", PORT);
        let slice = ready.iter().fold(empty, |slice, pod| slice.ready(pod.v4()).on("n1"));
        let service = Service::new("calm", &[CALM.ip()]).port("tcp", "TCP", 80);
        self.manifests.put("calm.yaml", file(&[service.object(), slice.object()])).unwrap();
        self.node.wait_endpoints("default", "calm", 2).unwrap();
    }

    fn audit(&self, more: &[&str]) -> (Value, Option<i32>) {
        self.verb(&[&["audit", "-o", "json"], more].concat())
    }
}

/// The sum of a metric over its labels.
fn metric(node: &Node, name: &str) -> u64 {
    let text = get(node.netns(), METRICS, "/metrics").unwrap().body;
    let values =
        text.lines().filter(|line| line.starts_with(name)).filter_map(|line| line.rsplit(' ').next());
    values.map(|value| value.parse::<f64>().unwrap() as u64).sum()
}

/// Waits until so much more has been found, and all of it put right.
fn wait_healed(node: &Node, what: &str, before: u64) -> u64 {
    wait::until(what, PATIENCE, || {
        let [found, healed] =
            ["sluice_drift_found_total", "sluice_drift_healed_total"].map(|of| metric(node, of));
        ensure!(found > before && healed == found, "found {found}, before {before}, healed {healed}");
        Ok(found)
    })
    .unwrap()
}

/// A set as nft prints it.
fn set(node: &Node, kind: &str, name: &str) -> String {
    let text = nft(node, &["-j", "list", kind, "ip", "sluice", name]);
    let all: Value = serde_json::from_str(&text).unwrap();
    let found =
        all["nftables"].as_array().unwrap().iter().find(|one| one.get("set").or(one.get("map")).is_some());
    let found = found.unwrap();
    let body = found.get("set").or(found.get("map")).unwrap();
    let mut elements: Vec<String> =
        body["elem"].as_array().into_iter().flatten().map(ToString::to_string).collect();
    elements.sort_unstable();
    elements.join("\n")
}

fn loads(stage: &Stage) -> Vec<Load> {
    let pace = Pace { rate: 100.0, ..Pace::default() };
    [(Protocol::Tcp, WEB4), (Protocol::UdpConnected, WEB6)]
        .into_iter()
        .map(|(protocol, to)| stage.client.load(protocol, to, pace).unwrap())
        .collect()
}

/// What somebody does with nft.
const DEEDS: [(&str, &[&str]); 7] = [
    ("an element deleted", &["delete", "element", "ip", "sluice", "services", "{ 10.96.0.10 . udp . 80 }"]),
    ("a foreign element", &["add", "element", "ip", "sluice", "cluster-ips", "{ 192.0.2.1 }"]),
    ("a set flushed", &["flush", "map", "ip6", "sluice", "endpoints"]),
    (
        "an endpoint changed",
        &["delete element ip sluice endpoints { 10.96.0.10 . tcp . 80 . 0 }; \
         add element ip sluice endpoints { 10.96.0.10 . tcp . 80 . 0 : 192.0.2.7 . 99 }"],
    ),
    ("the node's ranges", &["add", "element", "ip", "sluice", "node-port-addresses", "{ 192.0.2.0/24 }"]),
    ("a rule added", &["insert", "rule", "ip", "sluice", "dispatch", "counter"]),
    ("a chain flushed", &["flush", "chain", "ip", "sluice", "unserved"]),
];

/// One element of a map after the other is harmed; each comes back within the interval.
#[test]
fn what_somebody_does_to_nftables_is_put_right_and_counted() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let settings = || stage.settings().with(&["--audit-interval=200ms", NODE_PORTS]);
    let daemon = stage.node.daemon(settings()).unwrap();
    stage.web(&pods(&backends));
    let node = &stage.node;
    wait::until("a round", PATIENCE, || {
        ensure!(metric(node, "sluice_audit_rounds_total") > 1, "no round yet");
        Ok(())
    })
    .unwrap();
    assert_eq!(metric(node, "sluice_drift_found_total"), 0, "nobody has done anything");
    let sets =
        [("map", "services"), ("map", "endpoints"), ("set", "cluster-ips"), ("set", "node-port-addresses")];
    let right = || sets.map(|(kind, name)| set(node, kind, name));
    let rules = || nft(node, &["list", "chain", "ip", "sluice", "dispatch"]);
    let dispatch = rules();

    stage.calm(&pods(&backends));
    let before = right();
    let kept = Pace { keep: true, workers: 1, ..Pace::default() };
    // Whoever is not harmed notices nothing.
    let calm = [Pace { rate: 200.0, ..Pace::default() }, kept]
        .map(|pace| stage.client.load(Protocol::Tcp, CALM, pace).unwrap());
    let client = loads(&stage);
    let mut found = 0;
    for (what, deed) in DEEDS {
        nft(node, deed);
        found = wait_healed(node, what, found);
        assert_eq!(right(), before, "{what}");
        assert_eq!(rules(), dispatch, "{what}");
    }
    for load in client {
        load.more(20).unwrap();
        let end = load.stop().unwrap();
        // It may have been without an endpoint for a moment, where nftables serves it.
        assert!(end.requests >= 20, "{end:?}");
    }
    for load in calm {
        let end = load.stop().unwrap();
        assert!(end.failed == 0 && end.requests >= 20, "{end:?}");
    }
    daemon.wait_log(&["put right what somebody had changed"]).unwrap();
}

/// One of the daemon's pinned tables.
fn table<K: aya::Pod, V: aya::Pod>(node: &Node, name: &str) -> Result<HashMap<MapData, K, V>> {
    let homes = std::fs::read_dir(node.pin_dir())?;
    let home = homes.filter_map(Result::ok).map(|entry| entry.path());
    let path: PathBuf = home
        .flat_map(|home| [home.join("maps-1").join(name), home.join("shared").join(name)])
        .find(|path| path.exists())
        .context("no such table")?;
    Ok(HashMap::try_from(Map::HashMap(MapData::from_pin(path)?))?)
}

#[test]
fn what_somebody_does_to_the_maps_at_sockets_is_put_right_and_counted() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b"]);
    let daemon = stage.node.daemon(stage.settings().with(&["--audit-interval=200ms"])).unwrap();
    stage.web(&pods(&backends));
    let node = &stage.node;
    let mut found = 0;
    let mut healed = |what: &str| {
        found = wait_healed(node, what, found);
        let (said, code) = stage.audit(&[]);
        assert_eq!(code, Some(0), "{what}: {said:#}");
    };

    let mut slots = table::<SlotKey, abi::Slot>(node, abi::SLOTS).unwrap();
    let key = slots.keys().next().unwrap().unwrap();
    let right = slots.get(&key, 0).unwrap();
    slots.remove(&key).unwrap();
    healed("a place in a list deleted");
    assert_eq!(slots.get(&key, 0).unwrap(), right);

    slots.insert(SlotKey { service: 9_999, generation: 1, index: 0 }, right, 0).unwrap();
    healed("a place that is nobody's");
    assert!(slots.get(&SlotKey { service: 9_999, generation: 1, index: 0 }, 0).is_err());

    let mut known = table::<u32, abi::Backend>(node, abi::BACKENDS).unwrap();
    let id = known.keys().next().unwrap().unwrap();
    let right = known.get(&id, 0).unwrap();
    known.insert(id, abi::Backend { service: 9_999, ..right }, 0).unwrap();
    healed("an endpoint changed");
    assert_eq!(known.get(&id, 0).unwrap(), right);

    let mut services = table::<ServiceKey, abi::Service>(node, abi::SERVICES).unwrap();
    let all: Vec<_> = services.iter().map(Result::unwrap).collect();
    all.iter().for_each(|(key, _)| services.remove(key).unwrap());
    healed("every address deleted");
    assert!(all.iter().all(|(key, value)| services.get(key, 0).ok().as_ref() == Some(value)));

    let mut names = table::<u32, abi::Name>(node, abi::NAMES).unwrap();
    let id = names.keys().next().unwrap().unwrap();
    names.remove(&id).unwrap();
    healed("a name deleted");

    let mut own = table::<[u8; 16], u32>(node, abi::NODE_ADDRESSES).unwrap();
    let first = own.keys().next().unwrap().unwrap();
    own.remove(&first).unwrap();
    own.insert([7; 16], 6, 0).unwrap();
    healed("the node's addresses");
    assert!(own.get(&first, 0).is_ok() && own.get(&[7; 16], 0).is_err());
    daemon.no_errors().unwrap();
}

/// A map that a process holds open, by name.
fn held(pid: i32, name: &str) -> Option<MapData> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).ok()?;
    all.filter_map(Result::ok).find_map(|entry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let id = text.lines().find_map(|line| line.strip_prefix("map_id:")?.trim().parse().ok())?;
        let map = MapData::from_id(id).ok()?;
        let found = map.info().ok()?.name_as_str()? == name;
        found.then_some(map)
    })
}

fn edge_map<K: aya::Pod, V: aya::Pod>(pid: i32, name: &str) -> Result<HashMap<MapData, K, V>> {
    Ok(HashMap::try_from(Map::HashMap(held(pid, name).context("no such map")?))?)
}

#[test]
fn what_somebody_does_to_the_edge_layers_maps_is_put_right_and_counted() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &["--audit-interval=200ms"]);
    town.put(&[(&town.here, State::Ready), (&town.there, State::Ready)], |_| ());
    town.node.wait_endpoints("default", "web", 8).unwrap();
    let (node, pid) = (&town.node, daemon.pid());
    let mut found = 0;
    let mut healed = |what: &str| {
        found = wait_healed(node, what, found);
        let (said, code) = town.stage.audit(&[]);
        assert_eq!(code, Some(0), "{what}: {said:#}");
    };

    let mut targets = edge_map::<SlotKey, abi::Target>(pid, abi::TARGETS).unwrap();
    let key = targets.keys().next().unwrap().unwrap();
    let right = targets.get(&key, 0).unwrap();
    targets.remove(&key).unwrap();
    healed("a place in a list deleted");
    assert_eq!(targets.get(&key, 0).unwrap(), right);

    targets.insert(key, abi::Target { port: 7, ..right }, 0).unwrap();
    targets.insert(SlotKey { generation: 1, ..key }, right, 0).unwrap();
    healed("a place changed, and one that is nobody's");
    assert_eq!(targets.get(&key, 0).unwrap(), right);
    assert!(targets.get(&SlotKey { generation: 1, ..key }, 0).is_err());

    let mut frontends = edge_map::<abi::FrontendKey, abi::Frontend>(pid, abi::FRONTENDS).unwrap();
    let all: Vec<_> = frontends.iter().map(Result::unwrap).collect();
    all.iter().for_each(|(key, _)| frontends.remove(key).unwrap());
    healed("every address deleted");
    assert!(all.iter().all(|(key, value)| frontends.get(key, 0).ok().as_ref() == Some(value)));

    let mut servers = edge_map::<abi::ServerKey, abi::Member>(pid, abi::SERVERS).unwrap();
    let key = servers.keys().next().unwrap().unwrap();
    servers.remove(&key).unwrap();
    healed("an endpoint deleted");
    assert!(servers.get(&key, 0).is_ok());

    let mut own = edge_map::<abi::Address, u32>(pid, abi::OWN_ADDRESSES).unwrap();
    let (key, right) = own.iter().next().unwrap().unwrap();
    own.insert(key, right + 1, 0).unwrap();
    healed("an address of the node");
    assert_eq!(own.get(&key, 0).unwrap(), right);

    let mut devices = edge_map::<u32, abi::EdgeDevice>(pid, abi::DEVICES).unwrap();
    let key = devices.keys().next().unwrap().unwrap();
    let right = devices.get(&key, 0).unwrap();
    devices.remove(&key).unwrap();
    healed("a device");
    assert_eq!(devices.get(&key, 0).unwrap(), right);
    daemon.no_errors().unwrap();
}

#[test]
fn changes_of_our_own_are_never_taken_for_somebody_elses() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b", "c", "d"]);
    let all = pods(&backends);
    let daemon = stage.node.daemon(stage.settings().with(&["--audit-interval=1ms"])).unwrap();
    stage.web(&all[..1]);
    let client = loads(&stage);
    let rounds = || metric(&stage.node, "sluice_audit_rounds_total");
    for round in 0..100 {
        if round >= 20 && rounds() > 20 {
            break;
        }
        for ready in [&all[..2], &all[..4], &all[1..3], &all[3..]] {
            stage.web(ready);
        }
        // So that nftables must be read: somebody else changes something of their own.
        nft(&stage.node, &["add", "table", "ip", &format!("foreign-{round}")]);
    }
    for load in client {
        load.more(50).unwrap();
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
    assert_eq!(metric(&stage.node, "sluice_drift_found_total"), 0);
    assert!(rounds() > 20, "only {} rounds", rounds());
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["found"]), (Some(0), &json!(0)), "{said:#}");
    daemon.no_errors().unwrap();
}

#[test]
fn an_audit_by_hand_tells_what_differs_and_puts_it_right_if_asked_to() {
    let stage = Stage::new();
    let backends = stage.backends(&["a"]);
    let mut daemon = stage.node.daemon(stage.settings().with(&["--audit-interval=0"])).unwrap();
    stage.web(&pods(&backends));
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["found"], &said["noDaemon"]), (Some(0), &json!(0), &Value::Null), "{said:#}");

    let gone = "{ 10.96.0.10 . tcp . 80 . 0 }";
    let harm = || nft(&stage.node, &["delete", "element", "ip", "sluice", "endpoints", gone]);
    harm();
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["found"], &said["healed"]), (Some(1), &json!(1), &json!(0)), "{said:#}");
    assert_eq!(said["differences"][0]["what"], "endpoints 10.96.0.10 . tcp . 80 . 0", "{said:#}");
    assert_eq!(said["differences"][0]["service"], "default/web", "{said:#}");
    let (said, code) = stage.audit(&["--fix"]);
    assert_eq!((code, &said["found"], &said["healed"]), (Some(0), &json!(1), &json!(1)), "{said:#}");
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["found"]), (Some(0), &json!(0)), "{said:#}");
    assert_eq!(metric(&stage.node, "sluice_drift_healed_total"), 1);

    daemon.kill9().unwrap();
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["found"]), (Some(2), &json!(0)), "{said:#}");
    assert!(said["noDaemon"].as_str().unwrap().contains("no daemon answers"), "{said:#}");
    let (said, code) = stage.audit(&["--fix"]);
    assert_eq!(code, Some(2), "{said:#}");
    harm();
    let (said, code) = stage.audit(&[]);
    assert_eq!((code, &said["differences"][0]["kernel"]), (Some(1), &json!("0 endpoints")), "{said:#}");
}
