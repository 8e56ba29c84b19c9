//! Clusters nobody thought of: objects that an API server takes, from a seed.

use fastrand::Rng;
use serde_json::{Value, json};

/// Nodes that endpoints are on; the first is ours.
const NODES: [&str; 3] = ["n1", "n2", "n3"];
const ZONES: [&str; 2] = ["a", "b"];
const FAMILIES: [&[&str]; 4] = [&["IPv4"], &["IPv6"], &["IPv4", "IPv6"], &["IPv6", "IPv4"]];
const PROTOCOLS: [&str; 3] = ["TCP", "UDP", "SCTP"];
/// Sources that a load balancer may be open to: some of each class, and the other family.
const RANGES: [&str; 8] = [
    "10.1.0.0/17",
    "10.1.7.0/24",
    "192.0.2.0/24",
    "100.65.0.0/17",
    "203.0.113.0/24",
    "2001:db8:65::/65",
    "2001:db8::/64",
    "fd00:1::/49",
];

/// One Service as it was made: what its slices must fit.
struct Draft {
    number: usize,
    families: Vec<&'static str>,
    ports: Vec<Value>,
}

/// One of these.
pub(super) fn one<'a, T>(rng: &mut Rng, all: &'a [T]) -> &'a T {
    &all[rng.usize(..all.len())]
}

/// Once in so many times.
fn once_in(rng: &mut Rng, times: u32) -> bool {
    rng.u32(..times) == 0
}

/// The node of the story, in a zone or in none.
pub(super) fn node(rng: &mut Rng) -> Value {
    let labels =
        if once_in(rng, 4) { json!({}) } else { json!({ "topology.kubernetes.io/zone": one(rng, &ZONES) }) };
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": NODES[0], "labels": labels },
        "spec": { "podCIDR": "10.1.1.0/24", "podCIDRs": ["10.1.1.0/24", "fd00:1:1::/64"] },
    })
}

/// A Service of this number, with all its slices.
pub(super) fn service(rng: &mut Rng, number: usize) -> Vec<Value> {
    let families = *one(rng, &FAMILIES);
    let kind = *one(rng, &["ClusterIP", "NodePort", "LoadBalancer"]);
    let ports = ports(rng, number, kind);
    let draft = Draft { number, families: families.to_vec(), ports };
    let mut object = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name(number), "namespace": "default" },
        "spec": spec(rng, &draft, kind),
    });
    if kind == "LoadBalancer" {
        object["status"] = json!({ "loadBalancer": { "ingress": ingress(rng, &draft) } });
    }
    let mut all = vec![object];
    for family in families {
        for piece in 0..2 {
            all.push(slice(rng, &draft, family, piece));
        }
    }
    all
}

/// What a Service of this number is called.
pub(super) fn name(number: usize) -> String {
    format!("g{number:02}")
}

fn ports(rng: &mut Rng, number: usize, kind: &str) -> Vec<Value> {
    let count = rng.usize(1..=3);
    let with = |(index, protocol): (usize, &&str)| {
        let mut port = json!({ "name": format!("p{index}"), "protocol": protocol, "port": 80 + index % 2 });
        if kind != "ClusterIP" {
            port["nodePort"] = json!(30_000 + 10 * number + index);
        }
        port
    };
    let mut protocols = PROTOCOLS;
    rng.shuffle(&mut protocols);
    protocols.iter().take(count).enumerate().map(with).collect()
}

fn spec(rng: &mut Rng, draft: &Draft, kind: &str) -> Value {
    let addresses: Vec<String> =
        draft.families.iter().map(|family| cluster_ip(family, draft.number)).collect();
    let mut spec = json!({
        "type": kind,
        "clusterIP": addresses[0],
        "clusterIPs": addresses,
        "ipFamilies": draft.families,
        "ipFamilyPolicy": if draft.families.len() > 1 { "RequireDualStack" } else { "SingleStack" },
        "internalTrafficPolicy": one(rng, &["Cluster", "Cluster", "Local"]),
        "sessionAffinity": one(rng, &["None", "None", "None", "ClientIP"]),
        "ports": draft.ports,
    });
    let has_external = once_in(rng, 3);
    if has_external {
        let ips: Vec<String> =
            draft.families.iter().map(|family| external_ip(family, draft.number)).collect();
        spec["externalIPs"] = json!(ips);
    }
    if kind != "ClusterIP" || has_external {
        spec["externalTrafficPolicy"] = json!(one(rng, &["Cluster", "Local"]));
    }
    if kind == "LoadBalancer" {
        balance(rng, draft.number, &mut spec);
    }
    spec
}

fn balance(rng: &mut Rng, number: usize, spec: &mut Value) {
    if spec["externalTrafficPolicy"] == "Local" {
        spec["healthCheckNodePort"] = json!(32_000 + number);
    }
    if rng.bool() {
        let count = rng.usize(1..=3);
        spec["loadBalancerSourceRanges"] = json!(rng.choose_multiple(RANGES, count));
    }
}

fn ingress(rng: &mut Rng, draft: &Draft) -> Vec<Value> {
    let modes = ["VIP", "VIP", "VIP", "Proxy"];
    let each = draft.families.iter();
    each.map(|family| json!({ "ip": balanced_ip(family, draft.number), "ipMode": one(rng, &modes) }))
        .collect()
}

fn slice(rng: &mut Rng, draft: &Draft, family: &str, piece: usize) -> Value {
    let Draft { number, ports, families: _ } = draft;
    let ports: Vec<Value> = ports
        .iter()
        .map(
            |port| json!({ "name": port["name"], "protocol": port["protocol"], "port": 8080 + rng.u32(..2) }),
        )
        .collect();
    let (count, hints) = (rng.usize(..=3), rng.u32(..5));
    let endpoints: Vec<Value> =
        (0..count).map(|index| endpoint(rng, family, 100 * piece + 4 * number + index + 1, hints)).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": format!("{}-{}-{piece}", name(*number), family.to_lowercase()),
            "namespace": "default",
            "labels": { "kubernetes.io/service-name": name(*number) },
        },
        "addressType": family,
        "ports": ports,
        "endpoints": endpoints,
    })
}

fn endpoint(rng: &mut Rng, family: &str, host: usize, hints: u32) -> Value {
    let place = rng.usize(..NODES.len());
    let node = place + 1;
    let address = match family {
        "IPv4" => format!("10.1.{node}.{host}"),
        _ => format!("fd00:1:{node}::{host:x}"),
    };
    let conditions = match rng.u32(..6) {
        0 => json!({ "ready": false, "serving": true, "terminating": true }),
        1 => json!({ "ready": false, "serving": false, "terminating": true }),
        2 => json!({ "ready": false, "serving": false, "terminating": false }),
        _ => json!({ "ready": true }),
    };
    let mut endpoint = json!({ "addresses": [address], "nodeName": NODES[place], "conditions": conditions });
    match hints {
        0 => endpoint["hints"] = json!({ "forZones": [{ "name": one(rng, &ZONES) }] }),
        1 => {
            endpoint["hints"] =
                json!({ "forZones": [{ "name": "a" }], "forNodes": [{ "name": one(rng, &NODES) }] })
        }
        2 if rng.bool() => endpoint["hints"] = json!({ "forZones": [{ "name": "b" }] }),
        _ => {}
    }
    endpoint
}

fn cluster_ip(family: &str, number: usize) -> String {
    if family == "IPv4" { format!("10.96.7.{}", number + 1) } else { format!("fd00:10:96::7{number:02x}") }
}

fn external_ip(family: &str, number: usize) -> String {
    if family == "IPv4" {
        format!("198.51.100.{}", number + 1)
    } else {
        format!("2001:db8:100::{:x}", number + 1)
    }
}

fn balanced_ip(family: &str, number: usize) -> String {
    if family == "IPv4" {
        format!("203.0.113.{}", number + 1)
    } else {
        format!("2001:db8:113::{:x}", number + 1)
    }
}
