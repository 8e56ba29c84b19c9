//! Objects arrive in the kernel, and leave it.

use serde_json::json;

use crate::stage::{Stage, shared};

#[test]
fn services_and_slices_that_are_created_changed_and_removed_arrive_in_the_kernel() {
    let stage = Stage::new(shared(), "arrive");
    let _daemon = stage.daemon(shared());
    let (node, namespace) = (&stage.node, stage.namespace());
    let service = stage.bare_service("web");
    stage.objects.apply(std::slice::from_ref(&service)).unwrap();
    node.wait_endpoints(namespace, "web", 0).unwrap();
    stage.objects.apply(&[stage.slice("web", &["10.1.0.1", "10.1.0.2"])]).unwrap();
    node.wait_endpoints(namespace, "web", 2).unwrap();
    stage.objects.apply(&[stage.slice("web", &["10.1.0.2", "10.1.0.3", "10.1.0.4"])]).unwrap();
    node.wait_endpoints(namespace, "web", 3).unwrap();
    let backends = node.backends().unwrap();
    let mut found: Vec<_> =
        backends.iter().filter(|row| row.namespace == namespace).map(|row| row.endpoint.as_str()).collect();
    found.sort_unstable();
    assert_eq!(found, ["10.1.0.2:8080", "10.1.0.3:8080", "10.1.0.4:8080"]);
    stage.objects.delete(&stage.slice("web", &[])).unwrap();
    node.wait_endpoints(namespace, "web", 0).unwrap();
    stage.objects.delete(&service).unwrap();
    node.wait_gone(namespace, "web").unwrap();
}

#[test]
fn a_service_that_another_proxy_serves_leaves_and_comes_back() {
    let stage = Stage::new(shared(), "label");
    let _daemon = stage.daemon(shared());
    let service = stage.bare_service("web");
    stage.objects.apply(std::slice::from_ref(&service)).unwrap();
    stage.node.wait_endpoints("label", "web", 0).unwrap();
    let label =
        |value| json!({ "metadata": { "labels": { "service.kubernetes.io/service-proxy-name": value } } });
    stage.objects.merge(&service, &label(json!("other"))).unwrap();
    stage.node.wait_gone("label", "web").unwrap();
    stage.objects.merge(&service, &label(json!(null))).unwrap();
    stage.node.wait_endpoints("label", "web", 0).unwrap();
}

#[test]
fn a_headless_service_and_its_slices_are_left_alone() {
    let stage = Stage::new(shared(), "headless");
    let mut headless = stage.bare_service("quiet");
    headless["spec"]["clusterIP"] = json!("None");
    stage.objects.apply(&[headless, stage.slice("quiet", &["10.1.0.1"])]).unwrap();
    let _daemon = stage.daemon(shared());
    stage.objects.apply(&[stage.bare_service("loud")]).unwrap();
    stage.node.wait_endpoints("headless", "loud", 0).unwrap();
    stage.node.wait_gone("headless", "quiet").unwrap();
}

#[test]
fn a_service_takes_another_port_and_another_name_for_it() {
    let stage = Stage::new(shared(), "ports");
    let _daemon = stage.daemon(shared());
    let mut service = stage.bare_service("web");
    stage.objects.apply(&[service.clone(), stage.slice("web", &["10.1.0.1"])]).unwrap();
    stage.node.wait_endpoints("ports", "web", 1).unwrap();
    service["spec"]["ports"] = json!([{ "name": "other", "protocol": "TCP", "port": 81 }]);
    stage.objects.apply(&[service]).unwrap();
    stage.node.wait_endpoints("ports", "web", 0).unwrap();
    let services = stage.node.services().unwrap();
    let row = services.iter().find(|row| row.namespace == "ports").unwrap();
    assert_eq!((row.port_name.as_str(), row.addresses[0].ends_with(":81")), ("other", true), "{row:?}");
}
