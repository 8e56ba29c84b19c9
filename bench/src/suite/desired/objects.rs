//! A cluster as in life, of any size and always the same: what the API server would list.
//!
//! Of a hundred Services ten are of type NodePort, five LoadBalancers with the policy `Local`, and the rest
//! have a ClusterIP only; ten have two ports; twelve want a client to come back to the same endpoint; a third
//! have hints for zones. Of a hundred endpoints one is starting and one is on its way out.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use sluice::model::{Applied, Change, Kind, parse};

/// Endpoints of every Service.
pub(super) const ENDPOINTS: u32 = 5;
/// Nodes in the cluster; every other one is in zone `b`.
const NODES: u32 = 500;
/// Services in one namespace.
const CROWD: u32 = 50;
/// The first of all pods.
const POD: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);

/// The node we are.
pub(super) const OWN: &str = "node-000";

/// A Service and its slice.
pub(super) struct Pair {
    pub(super) service: v1::Service,
    pub(super) slice: EndpointSlice,
}

/// Those with this number.
pub(super) fn pair(number: u32) -> Result<Pair> {
    let service = serde_json::from_value(service(number)).context("no Service")?;
    Ok(Pair { service, slice: slice(number, 0)? })
}

/// The slice of a Service, in one of its states: each has another pod in the last place.
pub(super) fn slice(number: u32, state: u32) -> Result<EndpointSlice> {
    let endpoints: Value = (0..ENDPOINTS).map(|place| endpoint(number, place, state)).collect();
    let name = name(number);
    let object = json!({
        "metadata": {
            "name": format!("{name}-a1b2c"),
            "namespace": namespace(number),
            "creationTimestamp": created(number),
            "labels": {
                "app": name,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": name,
            },
        },
        "addressType": "IPv4",
        "ports": ports(number).map(slice_port).collect::<Value>(),
        "endpoints": endpoints,
    });
    serde_json::from_value(object).context("no EndpointSlice")
}

/// Our Node, when it is in this zone.
pub(super) fn node(zone: &str) -> Result<v1::Node> {
    let object = json!({
        "metadata": { "name": OWN, "labels": { "topology.kubernetes.io/zone": zone } },
        "spec": { "podCIDRs": ["10.128.0.0/24"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }] },
    });
    serde_json::from_value(object).context("no Node")
}

/// What a source would report of a Service.
pub(super) fn of_service(service: &v1::Service) -> Change {
    let object = parse::reference(Kind::Service, &service.metadata);
    let (value, problems) = parse::service(service);
    Change::Service(Applied { object, value, problems })
}

/// What a source would report of a slice.
pub(super) fn of_slice(slice: &EndpointSlice) -> Change {
    let object = parse::reference(Kind::EndpointSlice, &slice.metadata);
    let (value, problems) = parse::slice(slice);
    Change::Slice(Applied { object, value, problems })
}

/// What a source would report of our Node.
pub(super) fn of_node(node: &v1::Node) -> Change {
    let object = parse::reference(Kind::Node, &node.metadata);
    let (value, problems) = parse::node(node);
    Change::Node(Applied { object, value, problems })
}

fn name(number: u32) -> String {
    format!("service-{number:05}")
}

fn namespace(number: u32) -> String {
    format!("team-{:04}", number / CROWD)
}

fn created(number: u32) -> String {
    format!("2026-{:02}-{:02}T08:{:02}:00Z", 1 + number % 12, 1 + number % 28, number % 60)
}

fn ip(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number)
}

/// Name, protocol, number at the Service and at its endpoints.
type Port = (&'static str, &'static str, u16, u16);

fn ports(number: u32) -> impl Iterator<Item = Port> {
    let ports: &[_] = match number % 10 {
        9 => &[("dns", "UDP", 53, 5353), ("dns-tcp", "TCP", 53, 5353)],
        _ => &[("http", "TCP", 80, 8080)],
    };
    ports.iter().copied()
}

fn service_port((name, protocol, port, target): Port) -> Value {
    json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target })
}

fn slice_port((name, protocol, _, target): Port) -> Value {
    json!({ "name": name, "protocol": protocol, "port": target })
}

fn service(number: u32) -> Value {
    let address = ip(Ipv4Addr::new(10, 96, 0, 1), number);
    let kind = match number % 20 {
        3 | 13 => "NodePort",
        7 => "LoadBalancer",
        _ => "ClusterIP",
    };
    let mut object = json!({
        "metadata": {
            "name": name(number),
            "namespace": namespace(number),
            "creationTimestamp": created(number),
            "labels": { "app": name(number) },
        },
        "spec": {
            "type": kind,
            "clusterIP": address,
            "clusterIPs": [address],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": if number % 8 == 5 { "ClientIP" } else { "None" },
            "ports": ports(number).map(service_port).collect::<Value>(),
        },
        "status": { "loadBalancer": {} },
    });
    open(&mut object, number, kind);
    object
}

/// Gives it what lets others in from outside. There are more node ports than the usual range holds.
fn open(object: &mut Value, number: u32, kind: &str) {
    let spec = &mut object["spec"];
    if kind == "ClusterIP" {
        return;
    }
    spec["ports"][0]["nodePort"] = json!(20_000 + number / 5);
    spec["externalTrafficPolicy"] = json!("Cluster");
    if kind == "LoadBalancer" {
        spec["externalTrafficPolicy"] = json!("Local");
        spec["healthCheckNodePort"] = json!(30_000 + number / 20);
        let vip = ip(Ipv4Addr::new(198, 18, 0, 1), number / 20);
        object["status"]["loadBalancer"] = json!({ "ingress": [{ "ip": vip, "ipMode": "VIP" }] });
    }
}

fn endpoint(number: u32, place: u32, state: u32) -> Value {
    let pod = number * ENDPOINTS + place;
    let (node, turn) = (pod.wrapping_mul(7919) % NODES, pod % 100);
    // A pod that came later has an address that was free.
    let later = if place == ENDPOINTS - 1 { state << 20 } else { 0 };
    let mut object = json!({
        "addresses": [ip(POD, pod + later)],
        "conditions": { "ready": turn > 1, "serving": turn > 0, "terminating": turn == 1 },
        "nodeName": format!("node-{node:03}"),
        "zone": zone(node),
        "targetRef": { "kind": "Pod", "name": format!("{}-{place}", name(number)) },
    });
    if number.is_multiple_of(3) {
        object["hints"] = json!({ "forZones": [{ "name": zone(node) }] });
    }
    object
}

fn zone(node: u32) -> &'static str {
    if node.is_multiple_of(2) { "a" } else { "b" }
}

#[cfg(test)]
mod tests {
    use sluice::desired::{Context, Desired};
    use sluice::model::{Cluster, Origin};

    use super::*;

    #[test]
    fn nobody_contends_for_an_address_and_nothing_is_wrong() {
        let mut cluster = Cluster::of_node(OWN, Origin::Server);
        cluster.take(of_node(&node("a").unwrap()));
        for number in 0..2_000 {
            let Pair { service, slice } = pair(number).unwrap();
            cluster.take(of_service(&service));
            cluster.take(of_slice(&slice));
        }
        let mut desired = Desired::new(Context::default());
        let dirty = cluster.dirty();
        desired.update(&cluster, dirty);
        assert_eq!((cluster.problems(), desired.problems()), (Vec::new(), Vec::new()));
        assert_eq!(desired.services().count(), 2_000);
        assert_eq!(cluster.counts().endpoints, 2_000 * ENDPOINTS as usize);
    }
}
