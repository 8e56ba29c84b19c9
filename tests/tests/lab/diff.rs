//! `sluice diff`: the objects beside the kernel, whoever programs it.

use lab::Node;
use serde_json::{Value, json};

use crate::nftables::nft;
use crate::stage::{Stage, pods, web};

/// What is said, and the exit code.
fn diff(stage: &Stage) -> (Value, Option<i32>) {
    let folder = stage.manifests.folder().to_str().unwrap().to_owned();
    let node: &Node = &stage.node;
    let flags = ["diff", "--source", &folder, "--node", node.name(), "-o", "json"];
    let output = node.sluice_command(&flags).unwrap().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| json!({ "error": error }));
    (said, output.status.code())
}

/// How many differences of a dataplane there are.
fn of(said: &Value, dataplane: &str) -> usize {
    let all = said["differences"].as_array().unwrap();
    all.iter().filter(|one| one["dataplane"] == dataplane).count()
}

#[test]
fn a_kernel_that_is_as_the_objects_say_is_no_difference_with_or_without_the_daemon() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b"]);
    let mut daemon = stage.daemon();
    stage.web_with(&[&backends[0].pod], &[&backends[1].pod]);
    let (said, code) = diff(&stage);
    assert_eq!((code, &said["differences"]), (Some(0), &json!([])), "{said:#}");
    assert_eq!(said["compared"], json!(["ebpf", "nftables"]));
    daemon.kill9().unwrap();
    let (said, code) = diff(&stage);
    assert_eq!((code, &said["differences"]), (Some(0), &json!([])), "{said:#}");

    // The daemon does not see this; the next one does.
    stage.manifests.put("web.yaml", web(&pods(&backends), &[])).unwrap();
    let (said, code) = diff(&stage);
    assert_eq!(code, Some(1), "{said:#}");
    assert!(of(&said, "ebpf") > 0 && of(&said, "nftables") > 0, "{said:#}");
    let endpoint = backends[1].pod.v4().to_string();
    assert!(said["differences"].to_string().contains(&endpoint), "{said:#}");
    daemon.restart().unwrap();
    let (said, code) = diff(&stage);
    assert_eq!((code, &said["differences"]), (Some(0), &json!([])), "{said:#}");
}

#[test]
fn an_element_that_somebody_deleted_is_named() {
    let stage = Stage::new();
    let backends = stage.backends(&["a"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    nft(&stage.node, &["delete", "element", "ip", "sluice", "services", "{ 10.96.0.10 . tcp . 80 }"]);
    let (said, code) = diff(&stage);
    assert_eq!(code, Some(1), "{said:#}");
    let expected = json!([{
        "dataplane": "nftables", "service": "default/web:tcp", "what": "services 10.96.0.10 . tcp . 80",
        "plan": "goto cluster-1-masquerade-unless-pod", "kernel": null,
    }]);
    let mut found = said["differences"].clone();
    // How it is masqueraded depends on the settings of the ring.
    found[0]["plan"] = expected[0]["plan"].clone();
    assert_eq!(found, expected, "{said:#}");
}

#[test]
fn the_running_daemon_is_asked_for_its_settings_and_flags_win() {
    let stage = Stage::new();
    let backends = stage.backends(&["a"]);
    let settings = stage.settings().with(&["--nodeport-addresses=10.0.0.0/8,fd00::/16", "--masquerade-all"]);
    let mut daemon = stage.node.daemon(settings).unwrap();
    stage.web(&pods(&backends));
    let asked = |more: &[&str]| {
        let output =
            stage.node.sluice_command(&[&["diff", "-o", "json"], more].concat()).unwrap().output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        (said, output.status.code())
    };
    let (said, code) = asked(&[]);
    assert_eq!((code, &said["settings"]), (Some(0), &json!("those of the running daemon")), "{said:#}");
    assert_eq!(said["node"], stage.node.name());
    let folder = stage.manifests.folder().to_str().unwrap().to_owned();
    let (said, _) = asked(&["--node", "n9", "--source", &folder]);
    assert_eq!(said["node"], "n9", "{said:#}");

    let file = stage.lab.folder().join("other.yaml");
    let other = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    std::fs::write(&file, other).unwrap();
    let file = file.to_str().unwrap();
    let (said, code) = asked(&["--config", file, "--source", &folder, "--node", "n1"]);
    assert_eq!((code, &said["settings"]), (Some(1), &json!(format!("--config {file}"))), "{said:#}");
    assert!(said["differences"].to_string().contains("node-port-addresses of IPv4"), "{said:#}");

    nft(&stage.node, &["add", "element", "ip", "sluice", "cluster-ranges", "{ 192.0.2.0/24 }"]);
    let (said, code) = asked(&[]);
    assert_eq!(
        (code, &said["differences"][0]["what"]),
        (Some(1), &json!("cluster-ranges of IPv4")),
        "{said:#}"
    );
    daemon.kill9().unwrap();
    let (said, _) = asked(&["--source", &folder, "--node", "n1"]);
    assert!(said["settings"].as_str().unwrap().starts_with("defaults"), "{said:#}");
}

#[test]
fn what_cannot_be_compared_has_a_code_of_its_own() {
    let stage = Stage::new();
    let (said, code) = diff(&stage);
    assert_eq!(code, Some(2), "{said:#}");
    assert!(said["error"].as_str().unwrap().contains("nothing is installed here"), "{said:#}");
}
