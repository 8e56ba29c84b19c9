//! `sluice plan`: asked by anybody, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::manifest::{Service, Slice, State, file, node};
use lab::{Node, wait};
use serde_json::{Value, json};

use crate::stage::{Stage, V4, V6, web_as};

/// Service port and address.
type Key = (String, SocketAddr);

/// What becomes of new flows: verdict, endpoints, seconds of affinity.
type Fate = (String, BTreeSet<String>, Option<u64>);

type Table = BTreeMap<Key, Fate>;

impl Stage {
    fn plan(&self) -> Value {
        self.node.plan_document(&["--source", self.folder()]).unwrap()
    }

    fn folder(&self) -> &str {
        self.manifests.folder().to_str().unwrap()
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn port(row: &Value) -> String {
    ["namespace", "name", "portName", "protocol", "family"].map(|field| text(&row[field])).join("/")
}

/// What is planned for pods, at every address.
fn planned(plan: &Value) -> Table {
    let mut table = Table::new();
    for service in plan["services"].as_array().unwrap() {
        for address in service["addresses"].as_array().unwrap().iter().filter(|one| one["ip"].is_string()) {
            let at = SocketAddr::new(
                text(&address["ip"]).parse().unwrap(),
                address["port"].as_u64().unwrap().try_into().unwrap(),
            );
            let flow = &address["from"]["pod"];
            let endpoints = flow["endpoints"].as_array().into_iter().flatten().map(text).collect();
            let seconds = service["sessionAffinity"]["timeoutSeconds"].as_u64();
            table.insert((port(service), at), (text(&flow["action"]), endpoints, seconds));
        }
    }
    table
}

/// What the kernel has.
fn programmed(node: &Node) -> Result<Table> {
    let mut active: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for row in node.backends()?.into_iter().filter(|row| row.state == "active") {
        let port = [row.namespace, row.name, row.port_name, row.protocol, row.family].join("/");
        active.entry(port).or_default().insert(row.endpoint);
    }
    let mut table = Table::new();
    for row in node.services()? {
        let port = [row.namespace, row.name, row.port_name, row.protocol, row.family].join("/");
        let endpoints = active.get(&port).cloned().unwrap_or_default();
        let fate = (row.verdict, endpoints, row.affinity_seconds.map(u64::from));
        for address in row.addresses {
            table.insert((port.clone(), address.parse()?), fate.clone());
        }
    }
    Ok(table)
}

/// Endpoints of `web` that nobody calls.
fn web(
    service: impl FnOnce(Service) -> Service,
    endpoints: impl Fn(Slice, &dyn Fn(u8) -> IpAddr) -> Slice,
) -> String {
    let address = |is_v4: bool, number: u8| -> IpAddr {
        if is_v4 { [10, 1, 9, number].into() } else { [0xfd00, 1, 9, 0, 0, 0, 0, number.into()].into() }
    };
    let is_v4 = |slice: &Slice| slice.object()["addressType"] == "IPv4";
    web_as(service, |slice, _| {
        let is_v4 = is_v4(&slice);
        endpoints(slice, &|number| address(is_v4, number))
    })
}

/// Three ready endpoints: two of this node, one of each zone.
fn three(slice: Slice, ip: &dyn Fn(u8) -> IpAddr) -> Slice {
    let slice = slice.ready(ip(1)).on("n1").for_zones(&["east"]);
    slice.ready(ip(2)).on("n1").for_zones(&["west"]).ready(ip(3)).on("n2").for_zones(&["west"])
}

/// One step after the other, each a file that is put or, without text, removed.
fn steps() -> Vec<(&'static str, Option<String>)> {
    let plain = |service: Service| service;
    let external = |service: Service| {
        service.set("externalIPs", json!(["198.51.100.7"])).set("externalTrafficPolicy", "Local")
    };
    let own = Service::new("own", &[V4, "10.96.0.33".parse().unwrap()]).port("", "TCP", 81).object();
    vec![
        (
            "web.yaml",
            Some(web(plain, |slice, ip| slice.ready(ip(1)).ready(ip(2)).endpoint(ip(3), State::NotReady))),
        ),
        ("web.yaml", Some(web(plain, three))),
        ("node.yaml", Some(file(&[node("n1", "west")]))),
        ("node.yaml", Some(file(&[node("n1", "east")]))),
        ("web.yaml", Some(web(|service| service.local().sticky(30), three))),
        ("web.yaml", Some(web(Service::local, |slice, ip| slice.ready(ip(3)).on("n2")))),
        ("web.yaml", Some(web(external, |slice, ip| slice.endpoint(ip(1), State::Draining).on("n1")))),
        ("own.yaml", Some(file(&[own]))),
        ("web.yaml", Some(web(plain, |slice, _| slice))),
        ("late.yaml", Some(file(&[Service::new("a", &[V6]).port("tcp", "TCP", 80).object()]))),
        ("web.yaml", None),
    ]
}

#[test]
fn the_plan_is_what_the_daemon_puts_into_the_kernel_step_by_step() {
    let stage = Stage::of_ebpf();
    // The programs' maps alone: what the packet filter has, the stories compare.
    let _daemon = stage.node.daemon(stage.settings().with(&["--nftables=drain-only"])).unwrap();
    let mut before = Table::new();
    for (number, (name, text)) in steps().into_iter().enumerate() {
        match text {
            Some(text) => stage.manifests.put(name, text).unwrap(),
            None => stage.manifests.remove(name).unwrap(),
        }
        let wanted = planned(&stage.plan());
        assert_ne!(wanted, before, "step {number} changes something");
        wait::until(&format!("the plan of step {number}"), Duration::from_secs(10), || {
            let found = programmed(&stage.node)?;
            ensure!(found == wanted, "the plan is {wanted:#?}\nthe kernel has {found:#?}");
            Ok(())
        })
        .unwrap();
        before = wanted;
    }
}

#[test]
fn anybody_may_ask_and_problems_are_a_failure_only_if_strict() {
    let stage = Stage::of_ebpf();
    stage.manifests.put("web.yaml", web(|service| service, three)).unwrap();
    let code = |more: &[&str]| {
        let arguments = [&["--source", stage.folder()], more].concat();
        let output = stage.node.plan(&arguments).unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!((code(&[]).0, code(&["--strict"]).0), (0, 0));
    let mut wrong = Service::new("odd", &["10.96.0.20".parse().unwrap()]).port("", "TCP", 80).object();
    wrong["spec"]["ports"][0]["port"] = json!(70_000);
    stage.manifests.put("odd.yaml", file(&[wrong])).unwrap();
    let (well, table) = code(&[]);
    let (strict, again) = code(&["--strict"]);
    assert_eq!((well, strict), (0, 1));
    assert_eq!(table, again, "the plan is the same");
    for word in
        ["10.96.0.10:80", "[fd00:96::10]:80", "3 endpoints", "Service default/odd", "spec.ports[0].port"]
    {
        assert!(table.contains(word), "{word} is not in:\n{table}");
    }
    let (_, yaml) = code(&["-o", "yaml"]);
    let documents = lab::objects::documents(&yaml).unwrap();
    assert_eq!(documents, [stage.plan()], "YAML and JSON are one document");
    assert_eq!(documents[0]["problems"][0]["field"], "spec.ports[0].port");
}

#[test]
fn a_plan_for_a_folder_that_is_not_there_names_it() {
    let stage = Stage::of_ebpf();
    let output = stage.node.plan(&["--source", "/nowhere/at/all"]).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("/nowhere/at/all"), "{said}");
    assert!(output.stdout.is_empty(), "no plan is no plan");
}
