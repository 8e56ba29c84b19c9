//! The Node object, what depends on it, and the plan as the daemon's own account sees it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use lab::control_plane::KUBERNETES;
use lab::kubelet::Kubelet;
use lab::manifest::node;
use lab::{Node, Protocol};
use serde_json::{Value, json};

use crate::stage::{Stage, shared};

const EAST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const WEST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));

/// A slice with one endpoint for each of two zones.
fn zoned(stage: &Stage) -> Value {
    let mut slice = stage.slice("web", &[]);
    let one = |address: IpAddr, zone: &str| json!({ "addresses": [address], "hints": { "forZones": [{ "name": zone }] } });
    slice["endpoints"] = json!([one(EAST, "east"), one(WEST, "west")]);
    slice
}

#[test]
fn the_nodes_zone_decides_and_is_followed_and_a_node_that_is_deleted_stays_as_it_was() {
    let stage = Stage::new(shared(), "zone");
    let ours = node("zone", "east");
    let others = node("zone-other", "west");
    stage.objects.apply(&[ours.clone(), others, stage.bare_service("web"), zoned(&stage)]).unwrap();
    let daemon = stage.daemon(shared());
    stage.node.wait_active("zone", "web", &[EAST]).unwrap();
    stage.objects.apply(&[node("zone", "west")]).unwrap();
    stage.node.wait_active("zone", "web", &[WEST]).unwrap();
    stage.objects.delete(&ours).unwrap();
    let message = stage.node.wait_problem("Node zone", "").unwrap();
    assert!(message.contains("deleted"), "{message}");
    stage.node.wait_active("zone", "web", &[WEST]).unwrap();
    stage.objects.apply(&[ours]).unwrap();
    stage.node.wait_active("zone", "web", &[EAST]).unwrap();
    daemon.no_errors().unwrap();
}

#[test]
fn a_node_that_is_not_there_is_named_and_not_waited_for_and_counts_when_it_comes() {
    let stage = Stage::new(shared(), "nobody");
    stage.objects.apply(&[stage.bare_service("web"), zoned(&stage)]).unwrap();
    let _daemon = stage.daemon(shared());
    stage.node.wait_active("nobody", "web", &[EAST, WEST]).unwrap();
    let message = stage.node.wait_problem("Node nobody", "").unwrap();
    assert!(message.contains("does not exist"), "{message}");
    stage.objects.apply(&[node("nobody", "east")]).unwrap();
    stage.node.wait_active("nobody", "web", &[EAST]).unwrap();
    let status = stage.node.status().unwrap();
    let problems = status["problems"].as_array().unwrap();
    assert!(!problems.iter().any(|problem| problem["object"] == "Node nobody"), "{problems:#?}");
}

#[test]
fn the_rules_of_deploy_are_enough_for_a_plan_which_knows_the_ranges_of_cluster_addresses() {
    let stage = Stage::new(shared(), "plan");
    stage.settings(shared(), "kube-system", "sluice");
    let file = stage.node.folder().join("kubeconfig");
    let plan = stage.node.plan_document(&["--kubeconfig", file.to_str().unwrap()]).unwrap();
    assert_eq!(plan["serviceCIDRs"], json!(["10.96.0.0/12", "fd00:10:96::/112"]));
    let services = plan["services"].as_array().unwrap();
    let found = services.iter().find(|one| one["namespace"] == "default" && one["name"] == "kubernetes");
    let address = &found.unwrap()["addresses"][0];
    assert_eq!((&address["kind"], &address["ip"]), (&json!("ClusterIP"), &json!(KUBERNETES)));
    assert_eq!(address["from"]["pod"]["endpoints"], json!(["10.0.0.254:6443"]));
}

/// A pod of the application `web` on a node.
fn pod(stage: &Stage, node: &Node) -> Value {
    let ports = [json!({ "containerPort": 8080 }), json!({ "containerPort": 8080, "protocol": "UDP" })];
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": node.name(), "namespace": stage.namespace(), "labels": { "app": "web" } },
        "spec": {
            "nodeName": node.name(),
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": "echo", "image": "none", "ports": ports }],
        },
    })
}

#[test]
fn with_the_policy_local_clients_reach_pods_of_their_own_node_until_there_are_none() {
    let stage = Stage::new(shared(), "local");
    let far = stage.lab.node("local-far").unwrap();
    let _kubelets =
        [&stage.node, &far].map(|node| Kubelet::start(node, shared().admin_kubeconfig()).unwrap());
    let daemons =
        [stage.daemon(shared()), far.daemon(stage.settings(shared(), "kube-system", "sluice")).unwrap()];
    let nodes = [&stage.node, &far];
    let clients = nodes.map(|node| node.pod("client").unwrap());
    let mut service = stage.service("web");
    service["spec"]["internalTrafficPolicy"] = json!("Local");
    let pods = [pod(&stage, &stage.node), pod(&stage, &far)];
    stage.objects.apply(std::slice::from_ref(&service)).unwrap();
    stage.objects.apply(&pods).unwrap();
    let addresses = stage.addresses(&service);
    for (node, client) in nodes.into_iter().zip(&clients) {
        // One pod, two protocols, two families.
        node.wait_endpoints("local", "web", 4).unwrap();
        for (address, protocol) in addresses.iter().zip([Protocol::Tcp, Protocol::Udp]) {
            let answers = client.calls(protocol, SocketAddr::new(*address, 80), 12).unwrap();
            assert!(answers.iter().all(|answer| answer.name == node.name()), "{protocol:?}: {answers:?}");
        }
    }
    stage.objects.delete(&pods[0]).unwrap();
    stage.node.wait_verdict("local", "web", "drop").unwrap();
    let to = SocketAddr::new(addresses[0], 80);
    let answer = clients[0].call_within(Protocol::Tcp, to, Duration::from_millis(300)).unwrap();
    assert!(!answer.ok && answer.error != "ECONNREFUSED", "{answer:?}");
    stage.objects.delete(&pods[1]).unwrap();
    stage.node.wait_verdict("local", "web", "reject").unwrap();
    assert_eq!(clients[0].call(Protocol::Tcp, to).unwrap().error, "ECONNREFUSED");
    daemons.iter().for_each(|daemon| daemon.no_errors().unwrap());
}
