//! Maps grow before they fill.

use std::net::Ipv4Addr;

use lab::manifest::{Service, Slice, file};
use lab::{Pace, Protocol};

use crate::stage::{Stage, WEB4, pods};

/// A Service with so many endpoints, none of which anybody calls.
pub(crate) fn crowd(count: u16) -> String {
    let service = Service::new("crowd", &["10.96.0.99".parse().unwrap()]).port("", "TCP", 80);
    let indices: Vec<_> = (0..count).collect();
    let slices = indices.chunks(100).enumerate().map(|(number, chunk)| {
        let slice = Slice::v4(&format!("crowd-{number}"), "crowd").port("", "TCP", 80);
        let address = |index: u16| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 2, 0, 0)) + u32::from(index));
        chunk.iter().fold(slice, |slice, index| slice.ready(address(*index))).object()
    });
    file(&std::iter::once(service.object()).chain(slices).collect::<Vec<_>>())
}

fn capacity(stage: &Stage, name: &str) -> u64 {
    let status = stage.node.status().unwrap();
    let maps = status["kernel"]["maps"].as_array().unwrap();
    maps.iter().find(|map| map["map"] == name).unwrap()["capacity"].as_u64().unwrap()
}

#[test]
fn maps_grow_under_load_without_a_failure_and_are_adopted_afterwards() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a", "b"]);
    let small = ["--slots-capacity", "64", "--services-capacity", "64"];
    let mut daemon = stage.node.daemon(stage.settings().with(&small)).unwrap();
    stage.web(&pods(&backends));
    let before = capacity(&stage, "SLOTS");
    let load = stage.client.load(Protocol::Tcp, WEB4, Pace::default()).unwrap();
    let datagrams = stage.client.load(Protocol::Udp, WEB4, Pace { keep: true, ..Pace::default() }).unwrap();
    load.more(20).unwrap();
    stage.manifests.put("crowd.yaml", crowd(500)).unwrap();
    stage.node.wait_endpoints("default", "crowd", 500).unwrap();
    assert!(capacity(&stage, "SLOTS") >= 500, "from {before} to {}", capacity(&stage, "SLOTS"));
    load.more(50).unwrap();

    let rows = (stage.node.services().unwrap(), stage.node.backends().unwrap());
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    assert_eq!((stage.node.services().unwrap(), stage.node.backends().unwrap()), rows);
    load.more(50).unwrap();
    for load in [load, datagrams] {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
}
