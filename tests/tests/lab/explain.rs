//! `sluice explain`: what becomes of a flow and why, by the daemon's reasons, by the tables, and by the program itself.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::ensure;
use lab::{Node, wait};
use serde_json::{Value, json};

use crate::edge_devices::Gate;
use crate::nftables::nft;
use crate::stage::{PORT, WEB4, WEB6};

/// What is said, and the exit code.
fn explain(node: &Node, source: &str, target: &str) -> (Value, Option<i32>) {
    let output = node.sluice_command(&["explain", source, target, "-o", "json"]).unwrap().output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|wrong| panic!("{wrong}: {error}"));
    (said, output.status.code())
}

/// It says so of its only address, and the kernel agrees.
#[track_caller]
fn check(node: &Node, source: &str, target: &str, layer: &str, why: &str) -> Value {
    let (said, code) = explain(node, source, target);
    assert_eq!(code, Some(0), "{said:#}");
    let addresses = said["addresses"].as_array().unwrap();
    assert_eq!(addresses.len(), 1, "{said:#}");
    assert_eq!(addresses[0]["servedBy"], layer, "{said:#}");
    assert!(addresses[0]["whyServedBy"].as_str().unwrap().contains(why), "{said:#}");
    assert_eq!(addresses[0]["alarms"], json!([]), "{said:#}");
    said
}

fn endpoints(outcomes: &Value) -> Vec<&str> {
    let mut all: Vec<&str> =
        outcomes.as_array().unwrap().iter().map(|one| one["endpoint"].as_str().unwrap()).collect();
    all.sort_unstable();
    all
}

#[test]
fn a_flow_from_outside_is_explained_by_the_program_that_would_take_it() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let mut daemon = gate.daemon(&["--edge=tcx", "--forwarding=redirect"]);
    gate.web(&[&gate.here, &gate.there]);
    gate.wait_source(&gate.asker);
    let at = |of: &dyn Fn(&lab::Pod) -> SocketAddr| [of(&gate.here).to_string(), of(&gate.there).to_string()];
    let expected = [at(&|pod| pod.at(PORT)), at(&|pod| pod.at6(PORT))];
    for (to, mut expected) in gate.node_ports().into_iter().zip(expected) {
        expected.sort_unstable();
        for protocol in ["tcp", "udp"] {
            let said = check(node, "outside", &format!("{to}/{protocol}"), "edge", "before the host's stack");
            let edge = &said["addresses"][0]["kernel"]["edge"];
            assert_eq!(endpoints(&edge["outcomes"]), expected, "{said:#}");
            let computed = &said["addresses"][0]["computed"];
            assert_eq!((&computed["action"], &computed["kind"]), (&json!("forward"), &json!("NodePort")));
        }
    }
    let flows = || {
        let output = node.sluice(&["flows", "-o", "json", "--service", "default/web"]).unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let is_trial =
            |client: &str| ["192.0.2.1:", "[2001:db8::1]:"].iter().any(|of| client.starts_with(of));
        rows.into_iter().filter(|row| is_trial(row["client"].as_str().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(flows(), [] as [Value; 0], "no flow of a trial stays");

    // A client that is there has its flow shown; and nobody needs the daemon for what the kernel has.
    let [to, _] = gate.node_ports();
    let stream = gate.asker.netns().run(|| Ok(TcpStream::connect(to)?)).unwrap();
    let client = stream.local_addr().unwrap();
    let asker = IpAddr::from(gate.asker.v4()).to_string();
    let said = check(node, &asker, &to.to_string(), "edge", "before");
    assert_eq!(said["caller"], "outside");
    let shown = |said: &Value| {
        said["addresses"][0]["kernel"]["flows"]
            .as_array()
            .unwrap()
            .iter()
            .any(|flow| flow["client"] == client.to_string())
    };
    assert!(shown(&said), "{said:#}");
    daemon.kill9().unwrap();
    let said = check(node, &asker, &to.to_string(), "edge", "before");
    assert!(shown(&said) && said["noDaemon"].as_str().unwrap().contains("has ended"), "{said:#}");
    assert_eq!(said["addresses"][0]["computed"], Value::Null);
    let said = explain(node, "outside", "default/web:tcp").0;
    assert!(said["addresses"].as_array().unwrap().len() >= 4, "addresses of both families: {said:#}");
}

#[test]
fn callers_here_are_explained_by_the_socket_layer_and_clusterips_from_outside_by_nftables() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let _daemon = gate.daemon(&["--edge=tcx", "--forwarding=redirect"]);
    gate.web(&[&gate.here, &gate.there]);
    for to in [WEB4, WEB6, gate.node_ports()[0]] {
        check(node, "pod", &to.to_string(), "socket", "connect()");
        check(node, "node", &format!("{to}/udp"), "socket", "connect()");
    }
    let said = check(node, "outside", &WEB4.to_string(), "nftables", "ClusterIPs are for callers on nodes");
    let one = &said["addresses"][0];
    assert!(one["masquerade"].as_str().unwrap().contains("the caller is no pod"), "{said:#}");
    let pod = gate.here.v4().to_string();
    let said = explain(node, &pod, "default/web:80").0;
    assert_eq!(said["caller"], "pod", "{said:#}");
    assert!(said["whyCaller"].as_str().unwrap().contains("pods' range"), "{said:#}");
    let text = node.sluice(&["explain", "pod", &WEB4.to_string()]).unwrap();
    let text = String::from_utf8(text.stdout).unwrap();
    for part in ["served by   socket layer", "ENDPOINT", "cannot be run for a test", "default/web:tcp"] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
}

#[test]
fn what_no_service_has_is_told_apart() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let _daemon = gate.daemon(&["--edge=off"]);
    gate.web(&[&gate.here]);
    for (target, part) in [
        ("10.96.0.10:81", "is the ClusterIP of default/web"),
        ("198.51.100.9:80", "none of ours"),
        ("default/web:nosuch", "its ports: tcp 80/TCP"),
        ("default/nobody:80", "knows no Service default/nobody"),
    ] {
        let (said, code) = explain(node, "pod", target);
        assert_eq!(code, Some(0), "{said:#}");
        assert!(said["notes"].to_string().contains(part), "{part}: {said:#}");
    }
}

#[test]
fn a_kernel_that_is_not_as_computed_is_an_alarm() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let _daemon = gate.daemon(&["--edge=off"]);
    gate.web(&[&gate.here, &gate.there]);
    check(node, "outside", &WEB4.to_string(), "nftables", "");
    nft(node, &["delete", "element", "ip", "sluice", "services", "{ 10.96.0.10 . tcp . 80 }"]);
    wait::until("an alarm", Duration::from_secs(10), || {
        let (said, code) = explain(node, "outside", &WEB4.to_string());
        ensure!(code == Some(4), "{said:#}");
        ensure!(said["addresses"][0]["alarms"].to_string().contains("nftables has nothing"), "{said:#}");
        Ok(())
    })
    .unwrap();
    // The others are as they should be.
    check(node, "outside", &WEB6.to_string(), "nftables", "");
}
