//! `sluice probe` says what would run, and leaves nothing.

use lab::Node;
use serde_json::Value;

use crate::stage::Stage;

const NET_ADMIN: u8 = 12;
const PERFMON: u8 = 38;
const BPF: u8 = 39;

fn ruleset(node: &Node) -> String {
    nft(node, &["list", "ruleset"])
}

fn nft(node: &Node, arguments: &[&str]) -> String {
    let output = node.place().command("nft").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failed(said: &Value) -> Vec<&str> {
    let features = said["features"].as_array().unwrap().iter();
    features.filter(|row| row["works"] == false).map(|row| row["feature"].as_str().unwrap()).collect()
}

#[test]
fn all_works_here_and_nothing_is_left() {
    let stage = Stage::new();
    let (well, said) = stage.node.probe(None, &[]).unwrap();
    assert!(well && failed(&said).is_empty(), "{said:#}");
    assert_eq!((&said["dataplane"], &said["reason"]), (&"ebpf+nftables".into(), &"eBPF works here".into()));
    for tried in ["CAP_BPF", "cgroup v2", "program connect4", "jhash", "the tables as a whole", "TCX"] {
        let mut rows = said["features"].as_array().unwrap().iter();
        assert!(rows.any(|row| row["feature"] == tried), "{tried} is not in {said:#}");
    }
    assert_eq!(ruleset(&stage.node), "");
    assert!(!stage.node.pin_dir().exists(), "no pin is made");
}

#[test]
fn beside_a_daemon_it_changes_none_of_its_tables() {
    let stage = Stage::new();
    let daemon = stage.daemon();
    let before = ruleset(&stage.node);
    assert!(before.contains("table ip6 sluice"), "{before}");
    let (well, said) = stage.node.probe(None, &["--dataplane=nftables"]).unwrap();
    assert!(well && failed(&said).is_empty(), "{said:#}");
    assert_eq!(said["dataplane"], "nftables");
    assert_eq!(ruleset(&stage.node), before);
    daemon.no_errors().unwrap();
}

#[test]
fn without_the_capability_for_ebpf_nftables_would_run() {
    let stage = Stage::new();
    let (well, said) = stage.node.probe(Some(vec![NET_ADMIN, PERFMON]), &[]).unwrap();
    assert!(well, "{said:#}");
    assert_eq!(said["dataplane"], "nftables");
    assert!(said["reason"].as_str().unwrap().contains("CAP_BPF is missing"), "{said:#}");
    assert!(failed(&said).contains(&"CAP_BPF"), "{said:#}");
    let (well, said) = stage.node.probe(Some(vec![NET_ADMIN, PERFMON]), &["--dataplane=ebpf"]).unwrap();
    assert!(!well && said["dataplane"].is_null(), "{said:#}");
}

#[test]
fn without_the_capability_that_all_need_nothing_runs_and_it_is_named() {
    let stage = Stage::new();
    let (well, said) = stage.node.probe(Some(vec![PERFMON, BPF]), &[]).unwrap();
    assert!(!well && said["dataplane"].is_null(), "{said:#}");
    assert!(said["reason"].as_str().unwrap().contains("CAP_NET_ADMIN is missing"), "{said:#}");
    assert!(failed(&said).contains(&"the tables as a whole"), "{said:#}");
}

/// This kernel has all that is needed, so somebody stands in the way: a map of the same name with another key.
#[test]
fn what_the_kernel_refuses_is_named_and_fails_the_whole() {
    let stage = Stage::new();
    nft(&stage.node, &["add", "table", "ip", "sluice-probe"]);
    let map = "{ type ipv4_addr : verdict ; }";
    nft(&stage.node, &["add", "map", "ip", "sluice-probe", "services", map]);
    let before = ruleset(&stage.node);
    let (well, said) = stage.node.probe(None, &["--dataplane=nftables"]).unwrap();
    assert!(!well, "{said:#}");
    assert_eq!(failed(&said), ["keys of several fields", "the tables as a whole"], "{said:#}");
    let reason = said["reason"].as_str().unwrap();
    assert!(reason.contains("keys of several fields: ip: could not add set services"), "{reason}");
    assert_eq!(ruleset(&stage.node), before);
}
