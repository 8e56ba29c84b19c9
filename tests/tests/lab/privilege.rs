//! The daemon needs three capabilities, and says which is missing.

use lab::{Protocol, Settings};

use crate::stage::{Stage, WEB4};

const NET_ADMIN: u8 = 12;
const PERFMON: u8 = 38;
const BPF: u8 = 39;

fn with(stage: &Stage, capabilities: &[u8]) -> Settings {
    Settings { capabilities: Some(capabilities.to_vec()), ..stage.settings() }
}

#[test]
fn three_capabilities_are_enough() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let mut daemon = stage.node.daemon(with(&stage, &[NET_ADMIN, PERFMON, BPF])).unwrap();
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    assert!(stage.client.call(Protocol::Udp, WEB4).unwrap().ok);
    daemon.no_errors().unwrap();
}

fn check_missing(kept: &[u8], name: &str) {
    let stage = Stage::new();
    let settings = with(&stage, kept).with(&["--dataplane=ebpf"]);
    let mut daemon = stage.node.daemon_unsynced(settings).unwrap();
    let (code, text) = daemon.gives_up().unwrap();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains(name), "{name} is not in:\n{text}");
}

#[test]
fn a_capability_that_ebpf_lacks_is_named() {
    check_missing(&[NET_ADMIN, PERFMON], "CAP_BPF");
    check_missing(&[PERFMON, BPF], "CAP_NET_ADMIN");
    check_missing(&[NET_ADMIN, BPF], "CAP_PERFMON");
}

#[test]
fn with_one_capability_nftables_has_the_traffic() {
    let stage = Stage::of_ebpf();
    let backend = stage.backend("a");
    let daemon = stage.node.daemon(with(&stage, &[NET_ADMIN])).unwrap();
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    let status = String::from_utf8(stage.node.sluice(&["status"]).unwrap().stdout).unwrap();
    assert!(
        status.contains("dataplane nftables: eBPF cannot be used: ") && status.contains("CAP_BPF"),
        "{status}"
    );
    daemon.no_errors().unwrap();
}
