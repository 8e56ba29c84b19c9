//! The packet filter as a dataplane: what it serves that sockets never see, what becomes of its tables, and how it and
//! eBPF stand in for one another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::Answer;
use lab::client::Pace;
use lab::manifest::{Service, Slice, file};
use lab::{Node, Pod, Protocol, Settings, wait};
use nix::mount::{MsFlags, mount};
use serde_json::{Value, json};

use crate::stage::{PORT, Stage, V4, V6, WEB4, WEB6};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// All pods of the laboratory.
pub(crate) const PODS: &str = "--cluster-cidr=10.1.0.0/16,fd00:1::/32";
const NODE_PORT: u16 = 30_080;
const EXTERNAL4: &str = "203.0.113.7";
const BALANCED4: &str = "203.0.113.9";

/// A node with the packet filter alone, and another one without a daemon.
struct Filter {
    stage: Stage,
    distant: Node,
    here: Pod,
    there: Pod,
    _servers: [lab::Server; 2],
}

impl Filter {
    fn new() -> Self {
        let stage = Stage::new();
        let distant = stage.lab.node("n2").unwrap();
        let (here, there) = (stage.node.pod("here").unwrap(), distant.pod("there").unwrap());
        let servers = [here.serve(PORT).unwrap(), there.serve(PORT).unwrap()];
        Self { stage, distant, here, there, _servers: servers }
    }

    fn settings(&self) -> Settings {
        self.stage.settings().with(&["--dataplane=nftables", PODS])
    }

    /// Puts `web` there and waits until the kernel has it.
    fn web(&self, more: impl Fn(Service) -> Service) {
        self.put(more);
        self.stage.node.wait_endpoints("default", "web", 4).unwrap();
    }

    /// `web` with an endpoint on each node, and everything that is said of the Service.
    fn put(&self, more: impl Fn(Service) -> Service) {
        let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).set("type", "LoadBalancer");
        let mut service = more(plain).object();
        service["spec"]["ports"][0]["nodePort"] = json!(NODE_PORT);
        service["status"]["loadBalancer"]["ingress"] = json!([{ "ip": BALANCED4 }]);
        let slice = |slice: Slice, v6: bool| {
            let ip = |pod: &Pod| if v6 { pod.v6().into() } else { std::net::IpAddr::from(pod.v4()) };
            slice
                .port("tcp", "TCP", PORT)
                .ready(ip(&self.here))
                .on("n1")
                .ready(ip(&self.there))
                .on("n2")
                .object()
        };
        let slices = [slice(Slice::v4("web-4", "web"), false), slice(Slice::v6("web-6", "web"), true)];
        let [v4, v6] = slices;
        self.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
    }

    /// What the two servers see when somebody asks often: name and source.
    fn seen(&self, ask: impl Fn() -> Result<Answer>) -> BTreeSet<(String, String)> {
        (0..24)
            .map(|_| {
                let answer = ask().unwrap();
                assert!(answer.ok, "{answer:?}");
                let source: std::net::SocketAddr = answer.source.parse().unwrap();
                (answer.name, source.ip().to_string())
            })
            .collect()
    }
}

fn set(pairs: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    pairs.iter().map(|(name, source)| ((*name).to_owned(), (*source).to_owned())).collect()
}

fn at(ip: &str, port: u16) -> std::net::SocketAddr {
    std::net::SocketAddr::new(ip.parse().unwrap(), port)
}

#[test]
fn who_comes_from_where_decides_about_endpoints_and_sources() {
    let filter = Filter::new();
    let Filter { stage, distant, .. } = &filter;
    let _daemon = stage.node.daemon(filter.settings()).unwrap();
    let client = stage.client.v4().to_string();
    let (own, other) = (stage.node.v4().to_string(), distant.v4().to_string());
    // A route for what no interface has: the wire knows nodes and pods only.
    let from_pod = |to| filter.seen(|| stage.client.call(Protocol::Tcp, to));
    let from_node = |to| filter.seen(|| stage.node.call(Protocol::Tcp, to));
    let from_outside = |to| filter.seen(|| distant.call(Protocol::Tcp, to));
    let node_port = at(&own, NODE_PORT);

    filter.web(|service| service);
    assert_eq!(from_pod(WEB4), set(&[("here", &client), ("there", &client)]), "a pod is seen as it is");
    assert_eq!(from_node(WEB4), set(&[("here", &own), ("there", &own)]));
    for to in [node_port, at(BALANCED4, 80)] {
        assert_eq!(from_pod(to), set(&[("here", &own), ("there", &own)]), "{to}");
    }
    assert_eq!(from_outside(node_port), set(&[("here", &own), ("there", &own)]));
    let v6 = stage.client.v6().to_string();
    assert_eq!(from_pod(WEB6), set(&[("here", &v6), ("there", &v6)]));

    filter.web(|service| service.set("externalTrafficPolicy", "Local"));
    assert_eq!(from_outside(node_port), set(&[("here", &other)]), "only here, and the client is seen");
    assert_eq!(from_pod(node_port), set(&[("here", &client), ("there", &client)]), "as if it had gone out");
    assert_eq!(from_node(node_port), set(&[("here", &own), ("there", &own)]));
    assert_eq!(from_node(at(BALANCED4, 80)), set(&[("here", &own), ("there", &own)]));
}

#[test]
fn an_endpoint_that_asks_its_own_service_may_reach_itself() {
    let filter = Filter::new();
    let _daemon = filter.stage.node.daemon(filter.settings()).unwrap();
    filter.web(|service| service);
    let (itself, own) = (filter.here.v4().to_string(), filter.stage.node.v4().to_string());
    let seen = filter.seen(|| filter.here.call(Protocol::Tcp, WEB4));
    assert_eq!(seen, set(&[("here", &own), ("there", &itself)]));
}

#[test]
fn source_ranges_keep_others_away_from_the_load_balancers_address_and_from_nothing_else() {
    let filter = Filter::new();
    let Filter { stage, .. } = &filter;
    let _daemon = stage.node.daemon(filter.settings()).unwrap();
    let range = format!("{}/32", stage.client.v4());
    filter.web(|service| {
        service.set("loadBalancerSourceRanges", json!([range])).set("externalIPs", json!([EXTERNAL4]))
    });
    let blocked = filter.here.clone();
    let limit = Duration::from_millis(500);
    assert!(stage.client.call(Protocol::Tcp, at(BALANCED4, 80)).unwrap().ok);
    assert!(!blocked.call_within(Protocol::Tcp, at(BALANCED4, 80), limit).unwrap().ok);
    assert!(blocked.call(Protocol::Tcp, at(EXTERNAL4, 80)).unwrap().ok);
    assert!(blocked.call(Protocol::Tcp, at(&stage.node.v4().to_string(), NODE_PORT)).unwrap().ok);
    let status = stage.node.status().unwrap();
    assert!(status["kernel"]["nftables"]["counters"]["filtered"].as_u64().unwrap() > 0, "{status:#}");
}

/// Runs nft in the node.
pub(crate) fn nft(node: &Node, arguments: &[&str]) -> String {
    let output = node.place().command("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A ruleset without handles, counts and the order in which things came; rules keep their place in their chain.
pub(crate) fn listing(node: &Node) -> BTreeSet<String> {
    let text = nft(node, &["-j", "list", "ruleset"]);
    let mut all: Value = serde_json::from_str(&text).unwrap();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let objects = all["nftables"].as_array_mut().unwrap().iter_mut();
    let lines = objects.filter(|object| object.get("metainfo").is_none()).map(|object| {
        let (kind, body) = object.as_object_mut().unwrap().iter_mut().next().unwrap();
        let body = body.as_object_mut().unwrap();
        ["handle", "packets", "bytes"].iter().for_each(|field| drop(body.remove(*field)));
        if let Some(elements) = body.get_mut("elem").and_then(Value::as_array_mut) {
            elements.sort_by_key(ToString::to_string);
        }
        let chain = format!(
            "{} {} {}",
            body["family"],
            body.get("table").unwrap_or(&Value::Null),
            body.get("chain").unwrap_or(&Value::Null)
        );
        let place = places.entry(format!("{kind} {chain}")).or_default();
        *place += usize::from(kind == "rule");
        format!("{kind} {place} {}", Value::Object(body.clone()))
    });
    lines.collect()
}

/// What one has and the other has not.
pub(crate) fn difference(one: &BTreeSet<String>, other: &BTreeSet<String>) -> String {
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join("\n")
    };
    format!("only the first:\n{}\nonly the second:\n{}", only(one, other), only(other, one))
}

#[test]
fn the_ruleset_of_the_plan_is_what_the_daemon_loads() {
    let filter = Filter::new();
    let Filter { stage, distant, .. } = &filter;
    let ranges = json!(["192.0.2.0/24", "198.51.100.0/25", "2001:db8::/32"]);
    let policies = |service: Service| {
        let service = service.set("externalTrafficPolicy", "Local").set("externalIPs", json!([EXTERNAL4]));
        service.set("loadBalancerSourceRanges", ranges.clone())
    };
    filter.put(|service| policies(service).sticky(30));
    let cidr = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": { "name": "kubernetes" },
        "spec": { "cidrs": ["10.96.0.0/16", "10.97.0.0/16", "fd00:96::/112"] },
    });
    stage.manifests.put("cidr.yaml", file(&[cidr])).unwrap();
    // With eBPF above it, so that all of it is there.
    let _daemon = stage.node.daemon(stage.settings().with(&["--dataplane=auto", PODS])).unwrap();
    let config = stage.lab.folder().join("config.yaml");
    let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.1.0.0/16,fd00:1::/32\n";
    std::fs::write(&config, text).unwrap();
    let config = config.display().to_string();
    let planned = stage
        .node
        .plan(&["--source", stage.manifests.folder().to_str().unwrap(), "--config", &config, "-o", "nft"])
        .unwrap();
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));
    let path = stage.lab.folder().join("planned.nft");
    std::fs::write(&path, planned.stdout).unwrap();
    let path = path.display().to_string();
    nft(distant, &["-c", "-f", &path]);
    assert_eq!(listing(distant), BTreeSet::new(), "a check changes nothing");
    nft(distant, &["-f", &path]);
    let (loaded, planned) = (listing(&stage.node), listing(distant));
    assert!(loaded == planned, "{}", difference(&loaded, &planned));
}

/// Waits until new connections are served again, and by one table of each family.
fn rebuilt(stage: &Stage) {
    wait::until("the tables to come back", PATIENCE, || {
        let answer = stage.client.call(Protocol::Tcp, WEB4)?;
        ensure!(answer.ok, "{answer:?}");
        let tables = nft(&stage.node, &["list", "tables"]);
        ensure!(tables.lines().filter(|line| line.contains(" sluice")).count() == 2, "{tables}");
        Ok(())
    })
    .unwrap();
}

#[test]
fn whoever_flushes_the_ruleset_finds_it_rebuilt_and_established_connections_go_on() {
    let filter = Filter::new();
    let Filter { stage, .. } = &filter;
    let daemon = stage.node.daemon(filter.settings()).unwrap();
    filter.web(|service| service);
    // A pause between two requests is longer than the gap: an answer that left the node untranslated, because nobody had
    // acknowledged it in time, would end the connection.
    let kept = Pace { keep: true, workers: 1, rate: 5.0, ..Pace::default() };
    let load = stage.client.load(Protocol::Tcp, WEB4, kept).unwrap();
    load.more(3).unwrap();
    nft(&stage.node, &["flush", "ruleset"]);
    rebuilt(stage);
    load.more(3).unwrap();
    nft(&stage.node, &["flush", "table", "ip", "sluice"]);
    rebuilt(stage);
    load.more(3).unwrap();
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    daemon.no_errors().unwrap();
}

#[test]
fn a_daemon_that_starts_again_takes_its_tables_over_and_writes_nothing() {
    let filter = Filter::new();
    let Filter { stage, .. } = &filter;
    let mut daemon = stage.node.daemon(filter.settings()).unwrap();
    filter.web(|service| service.set("externalTrafficPolicy", "Local").sticky(30));
    let before = listing(&stage.node);
    for _ in 0..2 {
        daemon.kill9().unwrap();
        daemon.restart().unwrap();
        let line = daemon.wait_log(&["synced; the dataplane is in force"]).unwrap();
        assert!(line.contains(r#""written":0,"removed":0"#), "{line}");
        let now = listing(&stage.node);
        assert!(now == before, "{}", difference(&now, &before));
    }
    daemon.terminate().unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "without a daemon it still answers");
}

#[test]
fn tables_of_others_are_left_alone_and_work_beside_ours() {
    let filter = Filter::new();
    let Filter { stage, .. } = &filter;
    let rules = "table ip sluice { comment \"somebody's\"\n }\ntable inet guard {\n chain forward { type filter hook forward \
                 priority filter; policy drop; ip daddr 10.1.0.0/16 accept; ip saddr 10.1.0.0/16 accept\n }\n}\n";
    let path = stage.lab.folder().join("others.nft");
    std::fs::write(&path, rules).unwrap();
    nft(&stage.node, &["-f", &path.display().to_string()]);
    let theirs = |node: &Node| {
        nft(node, &["list", "table", "ip", "sluice"]) + &nft(node, &["list", "table", "inet", "guard"])
    };
    let before = theirs(&stage.node);
    let mut daemon = stage.node.daemon(filter.settings()).unwrap();
    filter.web(|service| service);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    daemon.terminate().unwrap();
    assert_eq!(theirs(&stage.node), before);
    assert!(stage.node.sluice(&["cleanup"]).unwrap().status.success());
    assert_eq!(theirs(&stage.node), before);
    assert!(!nft(&stage.node, &["list", "ruleset"]).contains("services"), "ours are gone");
}

/// `sluice status -o json`: which dataplane runs.
fn running(node: &Node) -> Result<Value> {
    Ok(node.status()?["kernel"]["dataplane"].clone())
}

#[test]
fn where_ebpf_cannot_be_installed_the_packet_filter_serves_until_it_can() {
    let stage = Stage::of_ebpf();
    let backend = stage.backend("a");
    let pins = stage.lab.folder().join("pins");
    std::fs::create_dir(&pins).unwrap();
    let place = format!("--pin-dir={}/sluice", pins.display());
    let daemon = stage.node.daemon(stage.settings().with(&[&place])).unwrap();
    daemon.wait_log(&["eBPF cannot be used; nftables has the traffic"]).unwrap();
    stage.web(&[&backend.pod]);
    assert_eq!(running(&stage.node).unwrap(), "nftables");
    let load = stage.client.load(Protocol::Tcp, WEB4, Pace::default()).unwrap();
    load.more(50).unwrap();
    mount(Some("bpf"), &pins, Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
    wait::until("eBPF to come back", PATIENCE, || {
        ensure!(running(&stage.node)? == "ebpf+nftables", "not yet");
        Ok(())
    })
    .unwrap();
    load.more(50).unwrap();
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    daemon.no_errors().unwrap();
}

#[test]
fn the_dataplane_can_be_exchanged_under_load() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b"]);
    let mut daemon = stage.daemon();
    stage.web(&[&backends[0].pod, &backends[1].pod]);
    let kept = Pace { keep: true, ..Pace::default() };
    let loads = [
        stage.client.load(Protocol::Tcp, WEB4, Pace::default()).unwrap(),
        stage.client.load(Protocol::Tcp, WEB4, kept).unwrap(),
        stage.client.load(Protocol::Http, WEB6, Pace::default()).unwrap(),
    ];
    for dataplane in ["nftables", "ebpf", "nftables", "auto"] {
        daemon.terminate().unwrap();
        daemon = stage.node.daemon(stage.settings().with(&[&format!("--dataplane={dataplane}")])).unwrap();
        for load in &loads {
            load.more(50).unwrap();
        }
        let expected = if dataplane == "nftables" { "nftables" } else { "ebpf+nftables" };
        assert_eq!(running(&stage.node).unwrap(), expected);
    }
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
}

#[test]
fn two_daemons_do_not_program_one_node() {
    let filter = Filter::new();
    let _daemon = filter.stage.node.daemon(filter.settings()).unwrap();
    let second = filter.stage.lab.folder().join("second.sock");
    let settings = filter.settings().with(&["--socket", &second.display().to_string()]);
    let mut other = filter.stage.node.daemon_unsynced(settings).unwrap();
    let (code, text) = other.gives_up().unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("another sluice daemon programs the packet filter"), "{text}");
}
