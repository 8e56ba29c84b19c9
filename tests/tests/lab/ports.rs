//! Several ports, named ports, several slices.

use std::net::SocketAddr;

use lab::manifest::{Service, Slice, file};
use lab::{Ports, Protocol};

use crate::stage::{Stage, V4, V6};

#[test]
fn each_port_leads_to_its_own_targets() {
    let stage = Stage::new();
    let pod = stage.node.pod("a").unwrap();
    let _server = pod.serve_on(&Ports { tcp: vec![8080, 9090], ..Ports::default() }).unwrap();
    let _daemon = stage.daemon();
    let service = Service::new("many", &[V4]).port("http", "TCP", 80).port("admin", "TCP", 90);
    let slice =
        Slice::v4("many-1", "many").port("http", "TCP", 8080).port("admin", "TCP", 9090).ready(pod.v4());
    stage.manifests.put("many.yaml", file(&[service.object(), slice.object()])).unwrap();
    stage.node.wait_endpoints("default", "many", 2).unwrap();
    for port in [80, 90] {
        assert!(stage.client.call(Protocol::Tcp, SocketAddr::new(V4, port)).unwrap().ok, "{port}");
    }
    let backends = stage.node.backends().unwrap();
    let found: Vec<_> = backends.iter().map(|row| (row.port_name.as_str(), row.endpoint.clone())).collect();
    assert!(found.contains(&("http", pod.at(8080).to_string())), "{found:?}");
    assert!(found.contains(&("admin", pod.at(9090).to_string())), "{found:?}");
}

#[test]
fn one_port_number_for_tcp_and_udp_is_two_ports() {
    let stage = Stage::new();
    let (tcp, udp) = (stage.node.pod("tcp").unwrap(), stage.node.pod("udp").unwrap());
    let _servers = [tcp.serve(53).unwrap(), udp.serve(53).unwrap()];
    let _daemon = stage.daemon();
    let service = Service::new("dns", &[V6]).port("dns-tcp", "TCP", 53).port("dns", "UDP", 53);
    let by_tcp = Slice::v6("dns-1", "dns").port("dns-tcp", "TCP", 53).ready(tcp.v6());
    let by_udp = Slice::v6("dns-2", "dns").port("dns", "UDP", 53).ready(udp.v6());
    stage.manifests.put("dns.yaml", file(&[service.object(), by_tcp.object(), by_udp.object()])).unwrap();
    stage.node.wait_endpoints("default", "dns", 2).unwrap();
    let to = SocketAddr::new(V6, 53);
    assert_eq!(stage.client.call(Protocol::Tcp, to).unwrap().name, "tcp");
    assert_eq!(stage.client.call(Protocol::Udp, to).unwrap().name, "udp");
}

/// A named target port may be another number in another slice.
#[test]
fn an_unnamed_port_takes_all_slices_whatever_number_they_name() {
    let stage = Stage::new();
    let (a, b) = (stage.node.pod("a").unwrap(), stage.node.pod("b").unwrap());
    let _servers = [a.serve(8080).unwrap(), b.serve(8081).unwrap()];
    let _daemon = stage.daemon();
    let service = Service::new("plain", &[V4]).port("", "TCP", 80);
    let one = Slice::v4("plain-1", "plain").port("", "TCP", 8080).ready(a.v4());
    let two = Slice::v4("plain-2", "plain").port("", "TCP", 8081).ready(b.v4());
    stage.manifests.put("plain.yaml", file(&[service.object(), one.object(), two.object()])).unwrap();
    stage.node.wait_endpoints("default", "plain", 2).unwrap();
    let answers = stage.client.calls(Protocol::Tcp, SocketAddr::new(V4, 80), 60).unwrap();
    let names: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.name.as_str()).collect();
    assert_eq!(names, ["a", "b"].into());
}
