//! The control plane and the kubelet's stand-in, without a daemon.

use std::time::Duration;

use anyhow::ensure;
use lab::control_plane::ControlPlane;
use lab::kubelet::Kubelet;
use lab::{Lab, Protocol, wait};
use serde_json::json;

#[test]
fn a_pod_becomes_an_endpoint_and_leaves_when_it_is_deleted() {
    let plane = ControlPlane::start().unwrap();
    let lab = Lab::on(plane.wire()).unwrap();
    let node = lab.node("n1").unwrap();
    let client = node.pod("client").unwrap();
    let objects = plane.objects();
    let _kubelet = Kubelet::start(&node, plane.admin_kubeconfig()).unwrap();
    objects
        .apply_file(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/rbac.yaml"))
        .unwrap();
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "echo", "namespace": "default", "labels": { "app": "echo" } },
        "spec": {
            "nodeName": "n1",
            "terminationGracePeriodSeconds": 1,
            "containers": [{ "name": "echo", "image": "none", "ports": [{ "containerPort": 8080 }] }],
        },
    });
    objects.apply(std::slice::from_ref(&pod)).unwrap();
    let limit = Duration::from_secs(20);
    let address = wait::until("the pod's address", limit, || {
        let found =
            objects.get(&pod)?["status"]["podIP"].as_str().unwrap_or_default().parse::<std::net::IpAddr>()?;
        Ok(found)
    });
    assert!(client.call(Protocol::Http, (address.unwrap(), 8080).into()).unwrap().ok);
    objects.delete(&pod).unwrap();
    wait::until("the end of the pod", limit, || {
        ensure!(objects.get(&pod).is_err(), "it is there");
        Ok(())
    })
    .unwrap();
    objects.token("kube-system", "sluice").unwrap();
    plane.stop_server().unwrap();
    plane.forget_the_past().unwrap();
    plane.start_server().unwrap();
    objects.token("kube-system", "sluice").unwrap();
}
