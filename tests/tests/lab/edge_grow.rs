//! Tables that fill while clients are served: bigger ones take their place, and nobody notices.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::manifest::{Service, Slice, V4, file};
use lab::server::PORT;
use lab::wait;
use serde_json::json;

use crate::edge_devices::Gate;

/// How long a bigger table may take to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// Datagram flows: more than the first table has room for.
const FLOWS: u16 = 3000;

/// What somebody who is asked says who asked: his own source, as the endpoint saw it.
fn ask(socket: &UdpSocket) -> Result<String> {
    socket.send(b"who")?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

fn client(to: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(("0.0.0.0", 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    Ok(socket)
}

#[test]
fn a_table_of_flows_that_fills_is_replaced_by_a_bigger_one_and_every_flow_goes_on() {
    let gate = Gate::new();
    let daemon = gate.daemon(&["--edge=tcx", "--forwarding=redirect", "--edge-flows=1024-16384"]);
    gate.web(&[&gate.here, &gate.there]);
    let [to, _] = gate.node_ports();
    let connection = gate.asker.connect(to).unwrap();
    let begun = Instant::now();
    let sockets: Vec<UdpSocket> =
        gate.asker.place().within(|| (0..FLOWS).map(|_| client(to)).collect::<Result<_>>()).unwrap().unwrap();
    let first: Vec<String> = sockets.iter().map(|socket| ask(socket).unwrap()).collect();
    let grown = || {
        let edge = gate.edge();
        ensure!(edge["flowRoom"].as_u64() >= Some(4 * 1024), "{edge}");
        Ok(())
    };
    wait::until("a bigger table", PATIENCE, grown).unwrap();
    println!("{} flows and a bigger table after {:?}", FLOWS, begun.elapsed());
    for (socket, before) in sockets.iter().zip(&first) {
        assert_eq!(&ask(socket).unwrap(), before, "the same endpoint sees the same source");
    }
    connection.no_gap().unwrap();
    daemon.wait_log(&["brought flows to a bigger table"]).unwrap();
    daemon.no_errors().unwrap();
}

/// More addresses than the maps had room for at first.
#[test]
fn more_services_than_there_was_room_for_are_served_by_the_edge() {
    let gate = Gate::new();
    let daemon = gate.daemon(&["--edge=tcx", "--services-capacity=16", "--slots-capacity=16"]);
    gate.web(&[&gate.here]);
    for number in 0..60_u16 {
        let name = format!("more-{number}");
        let mut service = Service::new(&name, &[V4]).port("tcp", "TCP", 80).set("type", "NodePort").object();
        service["spec"]["ports"][0]["nodePort"] = json!(31_000 + number);
        let slice = Slice::v4(&format!("{name}-4"), &name).port("tcp", "TCP", PORT);
        let slice = slice.ready(gate.here.v4().into()).on(gate.here.node().name()).object();
        gate.stage.manifests.put(&format!("{name}.yaml"), file(&[service, slice])).unwrap();
    }
    gate.stage.node.wait_endpoints("default", "more-59", 1).unwrap();
    gate.wait_source(&gate.asker);
    let status = gate.edge();
    assert!(status["down"].is_null(), "{status}");
    daemon.no_errors().unwrap();
}
