//! Real controllers make pods and slices; the daemon leads clients to them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use lab::control_plane::KUBERNETES;
use lab::kubelet::Kubelet;
use lab::{Protocol, wait};

use crate::stage::{Stage, shared};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_deployment_answers_through_its_service_by_all_protocols_and_families() {
    let stage = Stage::new(shared(), "echo");
    let _kubelet = Kubelet::start(&stage.node, shared().admin_kubeconfig()).unwrap();
    let _daemon = stage.daemon(shared());
    let client = stage.node.pod("client").unwrap();
    let service = stage.service("echo");
    stage.objects.apply(&[service.clone(), stage.deployment("echo", 2)]).unwrap();
    // Two pods, two protocols, two families.
    wait::until("the pods to be endpoints", PATIENCE, || stage.node.wait_endpoints("echo", "echo", 8))
        .unwrap();
    let addresses = stage.addresses(&service);
    assert_eq!(addresses.len(), 2);
    for address in addresses {
        for protocol in Protocol::ALL {
            let to = SocketAddr::new(address, 80);
            let answer = client.call(protocol, to).unwrap();
            assert!(answer.ok && answer.name.starts_with("echo-"), "{protocol:?} {to}: {answer:?}");
            assert_eq!(answer.peer, to.to_string(), "{protocol:?}");
        }
    }
}

#[test]
fn a_deployment_scales_to_zero_and_back() {
    let stage = Stage::new(shared(), "scale");
    let _kubelet = Kubelet::start(&stage.node, shared().admin_kubeconfig()).unwrap();
    let _daemon = stage.daemon(shared());
    let client = stage.node.pod("client").unwrap();
    let service = stage.service("scale");
    stage.objects.apply(&[service.clone(), stage.deployment("scale", 1)]).unwrap();
    let to = SocketAddr::new(stage.addresses(&service)[0], 80);
    let answers = || {
        let answer = client.call(Protocol::Tcp, to)?;
        ensure!(answer.ok, "{answer:?}");
        Ok(answer.name)
    };
    let refuses = || {
        let answer = client.call(Protocol::Tcp, to)?;
        ensure!(answer.error == "ECONNREFUSED", "{answer:?}");
        Ok(())
    };
    let first = wait::until("an answer", PATIENCE, answers).unwrap();
    stage.objects.apply(&[stage.deployment("scale", 0)]).unwrap();
    stage.node.wait_endpoints("scale", "scale", 0).unwrap();
    wait::until("a refusal", PATIENCE, refuses).unwrap();
    stage.objects.apply(&[stage.deployment("scale", 1)]).unwrap();
    let second = wait::until("an answer again", PATIENCE, answers).unwrap();
    assert_ne!(first, second, "another pod");
}

#[test]
fn the_kubernetes_service_leads_a_pod_to_the_api_server() {
    let stage = Stage::new(shared(), "api");
    let _daemon = stage.daemon(shared());
    stage.node.wait_endpoints("default", "kubernetes", 1).unwrap();
    let pod = stage.node.pod("client").unwrap();
    let token = stage.objects.token("kube-system", "sluice").unwrap();
    let kubeconfig = shared().kubeconfig(&token).replace("10.0.0.254:6443", &format!("{KUBERNETES}:443"));
    let file = stage.node.folder().join("by-service");
    std::fs::write(&file, kubeconfig).unwrap();
    // Verified TLS: the server's certificate names the Service's address.
    assert_eq!(pod.api_version(&file).unwrap(), "v1.37.1");
}
