//! What is wrong is named; everything else works.

use lab::Protocol;
use lab::manifest::{Service, Slice, file, node};
use serde_json::json;

use crate::stage::{PORT, Stage, V4, V6, WEB4, addresses, web_as};

/// Puts `text` beside a Service that works, expects one problem, and then its end when the file goes.
fn check(text: &str, object: &str, field: &str, words: &[&str]) {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    stage.manifests.put("bad.yaml", text).unwrap();
    let message = stage.node.wait_problem(object, field).unwrap();
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message:?}");
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "everything else works");
    let status = stage.node.status().unwrap();
    let problems = status["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "one clear problem: {problems:#?}");
    stage.manifests.remove("bad.yaml").unwrap();
    lab::wait::until("the end of the problem", std::time::Duration::from_secs(10), || {
        let status = stage.node.status()?;
        anyhow::ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{}", status["problems"]);
        Ok(())
    })
    .unwrap();
}

#[test]
fn a_file_that_is_not_yaml_is_named() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    stage.manifests.put("bad.yaml", "kind: Service\nspec: {").unwrap();
    let problem = lab::wait::until("a problem", std::time::Duration::from_secs(10), || {
        let status = stage.node.status()?;
        let first = status["problems"][0].clone();
        anyhow::ensure!(first["object"].is_string(), "{status}");
        Ok(first)
    })
    .unwrap();
    assert!(problem["object"] == "file bad.yaml" || problem["source"] == "bad.yaml", "{problem}");
    assert!(problem.to_string().contains("line "), "it says where: {problem}");
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "everything else works");
}

#[test]
fn an_address_of_the_wrong_family_is_named() {
    let mut service = Service::new("odd", &["10.96.0.20".parse().unwrap()]).port("", "TCP", 80).object();
    service["spec"]["ipFamilies"] = json!(["IPv6"]);
    check(&file(&[service]), "Service default/odd", "spec.clusterIPs[0]", &["10.96.0.20", "IPv6"]);
}

#[test]
fn an_endpoint_of_the_wrong_family_is_named() {
    let service = Service::new("odd", &["10.96.0.20".parse().unwrap()]).port("", "TCP", 80).object();
    let slice = Slice::v4("odd-1", "odd")
        .port("", "TCP", 80)
        .ready("fd00:1:1::9".parse::<std::net::IpAddr>().unwrap());
    let object = "EndpointSlice default/odd-1";
    check(&file(&[service, slice.object()]), object, "endpoints[0].addresses[0]", &["fd00:1:1::9", "IPv4"]);
}

#[test]
fn a_port_out_of_range_is_named() {
    let mut service = Service::new("odd", &["10.96.0.20".parse().unwrap()]).port("", "TCP", 80).object();
    service["spec"]["ports"][0]["port"] = json!(70_000);
    check(&file(&[service]), "Service default/odd", "spec.ports[0].port", &["70000"]);
}

#[test]
fn a_slice_without_a_service_is_named() {
    let slice = Slice::v4("lost-1", "lost")
        .port("", "TCP", 80)
        .ready("10.1.1.9".parse::<std::net::IpAddr>().unwrap());
    let field = "label kubernetes.io/service-name";
    check(&file(&[slice.object()]), "EndpointSlice default/lost-1", field, &["lost"]);
}

#[test]
fn an_address_that_two_services_claim_stays_with_the_first_and_is_named() {
    let other = Service::new("web-too", &[V4]).port("", "TCP", 80).object();
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    stage.manifests.put("bad.yaml", file(&[other])).unwrap();
    let message = stage.node.wait_problem("Service default/web-too", "spec.clusterIP").unwrap();
    assert!(message.contains("default/web"), "{message}");
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
}

/// Two Services, `one` and `two`, that ask for the same thing beside addresses of their own; the second is named, and both
/// answer at what is theirs.
fn check_contested(field: &str, words: &[&str], claim: impl Fn(Service) -> Service) {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    for (name, address) in [("one", "10.96.0.21"), ("two", "10.96.0.22")] {
        let service = claim(Service::new(name, &[address.parse().unwrap()])).port("", "TCP", 80).object();
        let slice = Slice::v4(&format!("{name}-1"), name).port("", "TCP", PORT).ready(backend.pod.v4());
        let mut objects = [service, slice.object()];
        if field == "spec.ports" {
            objects[0]["spec"]["ports"][0]["nodePort"] = json!(30_080);
        }
        stage.manifests.put(&format!("{name}.yaml"), file(&objects)).unwrap();
        stage.node.wait_endpoints("default", name, 1).unwrap();
    }
    let message = stage.node.wait_problem("Service default/two", field).unwrap();
    assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message:?}");
    for to in ["10.96.0.21:80", "10.96.0.22:80"] {
        assert!(stage.client.call(Protocol::Tcp, to.parse().unwrap()).unwrap().ok, "{to}");
    }
}

#[test]
fn a_node_port_that_two_services_claim_stays_with_the_first_and_is_named() {
    check_contested("spec.ports", &["30080/TCP", "default/one", "is taken by"], |service| {
        service.set("type", "NodePort")
    });
}

#[test]
fn an_external_address_that_two_services_claim_stays_with_the_first_and_is_named() {
    check_contested("spec.externalIPs", &["198.51.100.7:80/TCP", "default/one", "is taken by"], |service| {
        service.set("externalIPs", json!(["198.51.100.7"]))
    });
}

#[test]
fn a_node_that_cannot_be_read_is_named() {
    let text = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDRs: 5}\n";
    check(text, "Node n1", "spec.podCIDRs", &["5"]);
}

#[test]
fn a_node_of_which_only_an_address_is_wrong_keeps_its_zone() {
    let stage = Stage::new();
    let (a, b) = (stage.backend("a"), stage.backend("b"));
    let _daemon = stage.daemon();
    let mut half = node("n1", "east");
    half["status"]["addresses"] = json!([{ "type": "InternalIP", "address": "10.0.0.x" }]);
    stage.manifests.put("node.yaml", file(&[half])).unwrap();
    let text = web_as(
        |service| service,
        |slice, ip| slice.ready(ip(&a.pod)).for_zones(&["east"]).ready(ip(&b.pod)).for_zones(&["west"]),
    );
    stage.manifests.put("web.yaml", text).unwrap();
    let message = stage.node.wait_problem("Node n1", "status.addresses[0].address").unwrap();
    assert!(message.contains("10.0.0.x"), "{message}");
    stage.node.wait_active("default", "web", &addresses(&[&a.pod])).unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
}

#[test]
fn an_object_of_which_only_a_part_is_wrong_keeps_the_rest() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    let mut service = Service::new("half", &[V6]).port("good", "TCP", 80).port("bad", "TCP", 81).object();
    service["spec"]["ports"][1]["port"] = json!(0);
    let slice = Slice::v6("half-6", "half").port("good", "TCP", 8080).ready(backend.pod.v6());
    stage.manifests.put("half.yaml", file(&[service, slice.object()])).unwrap();
    stage.node.wait_endpoints("default", "half", 1).unwrap();
    stage.node.wait_problem("Service default/half", "spec.ports[1].port").unwrap();
    assert!(stage.client.call(Protocol::Tcp, (V6, 80).into()).unwrap().ok);
}

#[test]
fn wrong_flags_are_reported_all_at_once() {
    let stage = Stage::new();
    let settings =
        stage.settings().with(&["--no-such-flag", "--slots-capacity", "many", "--services-capacity", "1"]);
    let mut daemon = stage.node.daemon_unsynced(settings).unwrap();
    let (code, text) = daemon.gives_up().unwrap();
    assert_eq!(code, Some(2), "{text}");
    for word in ["--no-such-flag", "many", "--services-capacity"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}
