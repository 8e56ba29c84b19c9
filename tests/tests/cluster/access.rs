//! The rules of `deploy/` are enough, and none is too much.

use std::time::Duration;

use anyhow::ensure;
use lab::wait;
use serde_json::{Value, json};

use crate::stage::{Stage, own, role, shared};

#[test]
fn the_rules_of_deploy_are_enough() {
    let stage = Stage::new(shared(), "access");
    let daemon = stage.daemon(shared());
    stage.node.wait_endpoints("default", "kubernetes", 1).unwrap();
    daemon.no_errors().unwrap();
    let log = daemon.log();
    assert!(!log.iter().any(|line| line.contains("orbidden")), "{log:#?}");
}

/// The role without one of its rules, for an account of its own.
fn lesser(index: usize) -> [Value; 3] {
    let name = format!("lesser-{index}");
    let mut role = role();
    role["metadata"] = json!({ "name": name });
    role["rules"].as_array_mut().expect("rules").remove(index);
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": name, "namespace": "kube-system" },
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": "kube-system" }],
    });
    [account, role, binding]
}

/// ServiceCIDRs are no reason to wait. Nor are events, and they are no problem either: the log has what they would tell.
#[test]
fn without_any_one_of_the_rules_the_daemon_says_what_is_forbidden_and_waits_for_what_it_needs() {
    let plane = own();
    let rules = role()["rules"].as_array().unwrap().clone();
    for (index, rule) in rules.iter().enumerate() {
        let stage = Stage::new(&plane, &format!("without-{index}"));
        stage.objects.apply(&lesser(index)).unwrap();
        let settings = stage.settings(&plane, "kube-system", &format!("lesser-{index}"));
        let daemon = stage.node.daemon_unsynced(settings).unwrap();
        let line = daemon.wait_log(&["orbidden"]).unwrap();
        let resource = rule["resources"][0].as_str().unwrap();
        assert!(line.contains(resource), "{line} does not name {resource}");
        if resource == "events" {
            daemon.wait_synced().unwrap();
            continue;
        }
        let named = |problem: &Value| problem["message"].as_str().unwrap_or_default().contains(resource);
        // The watch logs it before the loop hears of it.
        let told = || {
            let status = stage.node.status()?;
            let is_named = status["problems"].as_array().is_some_and(|all| all.iter().any(named));
            ensure!(is_named, "{status:#}");
            Ok(status)
        };
        let status = wait::until("the problem", Duration::from_secs(10), told).unwrap();
        if resource == "servicecidrs" {
            daemon.wait_synced().unwrap();
        } else {
            assert_eq!(status["daemon"]["synced"], false, "without {rule}");
        }
    }
}
