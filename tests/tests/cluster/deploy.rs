//! What `deploy/` holds: the kustomization and the chart make the same objects, and an API server takes them all.

use std::path::{Path, PathBuf};

use lab::Lab;
use lab::deploy::{Rendered, folder};
use serde_json::{Value, json};

use crate::stage::shared;

/// As `deploy/cluster` has it before anybody fills it in.
const EXAMPLE: &str = "192.0.2.1";

/// `deploy/` as somebody copies it, with a change of `cluster/kustomization.yaml`.
fn copied(lab: &Lab, from: &str, to: &str) -> PathBuf {
    let copy = lab.folder().join("deploy");
    let done = std::process::Command::new("cp").arg("-r").arg(folder()).arg(&copy).status().expect("cp");
    assert!(done.success());
    let file = copy.join("cluster/kustomization.yaml");
    let text = std::fs::read_to_string(&file).expect("a file");
    assert!(text.contains(from), "{from} is not in {text}");
    std::fs::write(&file, text.replace(from, to)).expect("a file");
    copy.join("cluster")
}

#[track_caller]
fn check_same(kustomization: &Path, mut values: Value) {
    values["apiServer"] = json!({ "host": EXAMPLE });
    let (one, other) =
        (Rendered::kustomize(kustomization).expect("objects"), Rendered::chart(&values).expect("objects"));
    assert_eq!(one.differences(&other).expect("objects with names"), Vec::<String>::new());
}

fn check_component(name: &str, values: Value) {
    let lab = Lab::new().expect("a lab");
    let plain = Rendered::kustomize(&folder().join("cluster")).expect("objects");
    let to = format!("components:\n  - ../components/{name}\n");
    let kustomization = copied(&lab, "components: []\n", &to);
    let changed = Rendered::kustomize(&kustomization).expect("objects");
    assert_ne!(
        plain.differences(&changed).expect("objects with names"),
        Vec::<String>::new(),
        "{name} changes nothing"
    );
    check_same(&kustomization, values);
}

#[test]
fn the_chart_and_the_kustomization_make_the_same_objects() {
    check_same(&folder().join("cluster"), json!({}));
}

#[test]
fn a_component_does_what_the_chart_does_with_a_value() {
    check_component("pod-monitor", json!({ "podMonitor": { "enabled": true } }));
    check_component("cleanup", json!({ "cleanup": true }));
}

#[test]
fn values_arrive_where_they_belong() {
    let values = json!({
        "apiServer": { "host": "fd00::1", "port": 443 },
        "image": { "repository": "mirror.test/sluice", "digest": format!("sha256:{}", "a".repeat(64)) },
        "bindAddress": "::", "healthzPort": 1, "metricsPort": 2,
        "config": { "clusterCIDR": "10.1.0.0/16", "detectLocalMode": "ClusterCIDR" },
        "extraArgs": ["--edge=off"],
        "hostPaths": { "cgroup": "/sys/fs/cgroup/unified" },
        "imagePullSecrets": [{ "name": "mirror" }],
    });
    let rendered = Rendered::chart(&values).unwrap();
    let address = &rendered.object("ConfigMap", "sluice-api-server").unwrap()["data"];
    assert_eq!(address, &json!({ "host": "fd00::1", "port": "443" }));
    let file = rendered.object("ConfigMap", "sluice").unwrap()["data"]["config.conf"].as_str().unwrap();
    for line in ["healthzBindAddress: '[::]:1'", "metricsBindAddress: '[::]:2'", "clusterCIDR: 10.1.0.0/16"] {
        assert!(file.contains(line), "{line} is not in {file}");
    }
    let pod = rendered.pod().unwrap();
    let container = &pod["containers"][0];
    assert_eq!(container["image"], format!("mirror.test/sluice@sha256:{}", "a".repeat(64)));
    assert_eq!(container["command"][3], "--edge=off");
    assert_eq!(container["ports"][0]["containerPort"], 1);
    assert_eq!(pod["imagePullSecrets"][0]["name"], "mirror");
    assert!(pod["volumes"].to_string().contains("/sys/fs/cgroup/unified"), "{pod:#}");
}

#[test]
fn the_chart_refuses_values_that_would_not_work() {
    let refused = |values: Value, word: &str| {
        let error = format!("{:#}", Rendered::chart(&values).unwrap_err());
        assert!(error.contains(word), "{word} is not in: {error}");
    };
    refused(json!({}), "apiServer.host must be set");
    refused(json!({ "apiServer": { "host": EXAMPLE }, "extraArg": [] }), "extraArg");
    let port = json!({ "metricsBindAddress": "0.0.0.0:1" });
    refused(json!({ "apiServer": { "host": EXAMPLE }, "config": port }), "metricsBindAddress");
}

/// Values that are told about one by one.
const GROUPS: [&str; 4] = ["apiServer", "hostPaths", "image", "podMonitor"];

#[test]
fn every_value_and_its_default_stand_in_the_table_of_docs_install() {
    let read = |name: &str| std::fs::read_to_string(folder().join(name)).unwrap();
    let values: Value = serde_norway::from_str(&read("chart/values.yaml")).unwrap();
    let manual = read("../docs/install.md");
    for (name, value) in values.as_object().unwrap() {
        let rows = match value.as_object().filter(|_| GROUPS.contains(&name.as_str())) {
            Some(group) => {
                group.iter().map(|(below, value)| format!("| `{name}.{below}` | `{value}` |")).collect()
            }
            None => vec![format!("| `{name}` | `{value}` |")],
        };
        for row in rows {
            assert!(manual.contains(&row), "docs/install.md lacks the row {row}");
        }
    }
    for value in GROUPS {
        assert!(values[value].is_object(), "there is no {value}");
    }
}

/// The server drops no field and knows every one: what is applied by one tool is what the other would apply.
#[test]
fn an_api_server_takes_every_object() {
    let objects = shared().objects();
    let one = Rendered::kustomize(&folder().join("cluster")).unwrap();
    objects.apply(&one.0).unwrap();
    let state = |object: &Value| objects.get(object).unwrap()["metadata"]["generation"].clone();
    let set = one.object("DaemonSet", "sluice").unwrap();
    let before = state(set);
    let other = Rendered::chart(&json!({ "apiServer": { "host": EXAMPLE } })).unwrap();
    objects.apply(&other.0).unwrap();
    assert_eq!(before, state(set));
    let stored = objects.get(set).unwrap();
    let wanted = &set["spec"]["template"]["spec"]["containers"][0]["securityContext"];
    assert_eq!(&stored["spec"]["template"]["spec"]["containers"][0]["securityContext"], wanted);
}
