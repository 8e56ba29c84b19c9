//! Tables that fill while clients are served: bigger ones take their place, and nobody notices.

use anyhow::ensure;
use lab::client::{Load, Pace};
use lab::manifest::{Service, Slice, file};
use lab::{Protocol, wait};
use serde_json::json;

use crate::edge_crowd::Crowd;
use crate::stage::{PORT, V4};
use crate::stream::Stream;
use crate::town::{FAMILIES, PATIENCE, Town, edge, node_port, own, wait_seen};

/// Twelve times what there is room for at first.
const FLOWS: u32 = 12_000;

#[test]
fn a_table_of_flows_that_fills_is_replaced_by_a_bigger_one_and_every_flow_goes_on() {
    let town = Town::new();
    let mut daemon = town.daemon(&town.node, &["--edge-flows=1024-65536"]);
    town.web(&[&town.here, &town.there]);
    let stream = Stream::start(&town.asker, &FAMILIES.map(|v6| node_port(&town.node, v6)), 400);
    let pace = Pace { keep: true, workers: 8, rate: 400.0, ..Pace::default() };
    let load = Load::start(&town.asker.place(), Protocol::Tcp, node_port(&town.node, false), pace).unwrap();
    load.more(100).unwrap();

    let crowd = Crowd::new(&town);
    let before = crowd.ask(0..FLOWS);
    assert_eq!(before.len(), FLOWS as usize, "{}", edge(&town.node));
    // What nftables served while the table was full comes into the bigger one with its next datagram.
    let grown = || {
        ensure!(crowd.ask(0..FLOWS) == before, "each has the endpoint that it had");
        let report = edge(&town.node);
        ensure!(report["flowRoom"].as_u64() >= Some(4 * u64::from(FLOWS) / 3), "{report}");
        Ok(())
    };
    wait::until("a bigger table", PATIENCE, grown).unwrap();
    daemon.wait_log(&["brought flows to a bigger table"]).unwrap();

    // It is not given up by the next daemon, who would have begun with a small one.
    let room = edge(&town.node)["flowRoom"].as_u64();
    daemon.kill9().unwrap();
    daemon.restart().unwrap();
    assert!(crowd.ask(0..FLOWS) == before, "each has the endpoint that it had");
    // It may have grown once more.
    assert!(edge(&town.node)["flowRoom"].as_u64() >= room, "{}", edge(&town.node));

    load.more(100).unwrap();
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    for lane in stream.stop() {
        assert_eq!(lane.lost(), 0, "{:?} of {}", lane.gaps(), lane.sent());
    }
    daemon.no_errors().unwrap();
}

/// Addresses, lists and places: more than the maps have room for at first.
#[test]
fn more_services_than_there_was_room_for_are_served_by_the_edge() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &["--services-capacity=16", "--slots-capacity=16"]);
    town.web(&[&town.here]);
    let stream = Stream::start(&town.asker, &FAMILIES.map(|v6| node_port(&town.node, v6)), 400);
    for number in 0..60_u16 {
        let name = format!("more-{number}");
        let mut service = Service::new(&name, &[V4]).port("tcp", "TCP", 80).set("type", "NodePort").object();
        service["spec"]["ports"][0]["nodePort"] = json!(31_000 + number);
        let slice = Slice::v4(&format!("{name}-4"), &name).port("tcp", "TCP", PORT);
        let slice = slice.ready(town.here.v4()).on(town.here.node().name()).object();
        town.stage.manifests.put(&format!("{name}.yaml"), file(&[service, slice])).unwrap();
    }
    town.node.wait_endpoints("default", "more-59", 1).unwrap();
    // The endpoint sees the client: the edge layer serves.
    for port in [31_000, 31_030, 31_059] {
        let to = (town.node.v4(), port).into();
        wait_seen(&town.asker, Protocol::Tcp, to, (town.here.name(), own(&town.asker, false)));
    }
    assert!(edge(&town.node)["down"].is_null(), "{}", edge(&town.node));
    for lane in stream.stop() {
        assert_eq!(lane.lost(), 0, "{:?} of {}", lane.gaps(), lane.sent());
    }
    daemon.no_errors().unwrap();
}
