//! Addresses for callers from outside, named by callers on the node itself: at the socket, without a packet filter.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lab::agent::Answer;
use lab::link::batch;
use lab::manifest::{Service, Slice, file};
use lab::{Daemon, Node, Pod, Protocol, wait};
use serde_json::{Value, json};

use crate::nftables::{PATIENCE, PODS};
use crate::stage::{Backend, PORT, Stage, V4, V6, WEB4, WEB6};

const NODE_PORT: u16 = 30_080;
const EXTERNAL: [&str; 2] = ["192.0.2.10", "2001:db8:2::10"];
const BALANCED: [&str; 2] = ["203.0.113.10", "2001:db8:3::10"];
/// An address of the load balancer that asks not to be served (`ipMode: Proxy`).
const PROXIED: &str = "203.0.113.99";
/// Without tables nobody but the socket layer can serve.
const ALONE: &str = "--nftables=drain-only";
const WAYS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::UdpConnected];
const SHORT: Duration = Duration::from_millis(300);

/// Two nodes; a daemon, a client and an endpoint on one, another endpoint on the other.
struct Roads {
    stage: Stage,
    near: Backend,
    far: Backend,
    _distant: Node,
}

impl Roads {
    fn new() -> Self {
        let stage = Stage::of_ebpf();
        let distant = stage.lab.node("n2").unwrap();
        let pod = distant.pod("far").unwrap();
        let far = Backend { _server: pod.serve(PORT).unwrap(), pod };
        Self { near: stage.backend("near"), far, _distant: distant, stage }
    }

    fn daemon(&self, arguments: &[&str]) -> Daemon {
        self.stage.node.daemon(self.stage.settings().with(arguments)).unwrap()
    }

    /// `web` with an address of every kind, and these endpoints.
    fn web(&self, endpoints: &[&Backend], more: impl Fn(Service) -> Service) {
        let plain = Service::new("web", &[V4, V6]).port("tcp", "TCP", 80).port("udp", "UDP", 80);
        let plain = plain.set("type", "LoadBalancer").set("externalIPs", json!(EXTERNAL));
        let mut service = more(plain).object();
        for port in 0..2 {
            service["spec"]["ports"][port]["nodePort"] = json!(NODE_PORT);
        }
        let proxied = json!({ "ip": PROXIED, "ipMode": "Proxy" });
        let ingress = BALANCED.map(|ip| json!({ "ip": ip })).into_iter().chain([proxied]);
        service["status"]["loadBalancer"]["ingress"] = ingress.collect();
        let pods: Vec<&Pod> = endpoints.iter().map(|backend| &backend.pod).collect();
        let slice = |slice: Slice, ip: fn(&Pod) -> IpAddr| {
            let slice = slice.port("tcp", "TCP", PORT).port("udp", "UDP", PORT);
            pods.iter().fold(slice, |slice, pod| slice.ready(ip(pod)).on(pod.node().name())).object()
        };
        let v4 = slice(Slice::v4("web-4", "web"), |pod| pod.v4().into());
        let v6 = slice(Slice::v6("web-6", "web"), |pod| pod.v6().into());
        self.stage.manifests.put("web.yaml", file(&[service, v4, v6])).unwrap();
        let count = u32::try_from(4 * endpoints.len()).unwrap();
        self.stage.node.wait_endpoints("default", "web", count).unwrap();
    }

    /// Every address for outside that is to be served.
    fn addresses(&self) -> Vec<SocketAddr> {
        let node = &self.stage.node;
        let named = EXTERNAL.into_iter().chain(BALANCED).map(|ip| SocketAddr::new(ip.parse().unwrap(), 80));
        named.chain([(node.v4(), NODE_PORT).into(), (node.v6(), NODE_PORT).into()]).collect()
    }

    /// Asks from a pod or from the node.
    fn ask(&self, is_node: bool, protocol: Protocol, to: SocketAddr) -> Answer {
        let Stage { node, client, .. } = &self.stage;
        let answer =
            if is_node { node.call(protocol, to) } else { client.call_within(protocol, to, PATIENCE) };
        answer.unwrap()
    }

    /// Who answers when a pod or the node asks often. All see the caller's own address, and the caller the one it named.
    fn reached(
        &self,
        is_node: bool,
        protocol: Protocol,
        to: SocketAddr,
        expected: usize,
    ) -> BTreeSet<String> {
        let Stage { node, client, .. } = &self.stage;
        let own: [IpAddr; 2] = if is_node {
            [node.v4().into(), node.v6().into()]
        } else {
            [client.v4().into(), client.v6().into()]
        };
        let one = |_| {
            let answer = self.ask(is_node, protocol, to);
            assert!(answer.ok && answer.peer == to.to_string(), "{protocol:?} {to} {is_node}: {answer:?}");
            let source: SocketAddr = answer.source.parse().unwrap();
            assert!(own.contains(&source.ip()), "{protocol:?} {to} {is_node}: {answer:?}");
            answer.name
        };
        // Chance may be one-sided for long: whoever is still missing after so many calls is not in the list.
        let mut names: BTreeSet<String> = (0..12).map(one).collect();
        for number in 0..60 {
            if names.len() >= expected {
                break;
            }
            names.insert(one(number));
        }
        names
    }

    /// Who answers at every address for outside.
    fn expect(&self, is_node: bool, names: &[&str]) {
        let names: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
        for to in self.addresses() {
            for protocol in WAYS {
                assert_eq!(
                    self.reached(is_node, protocol, to, names.len()),
                    names,
                    "{protocol:?} {to} {is_node}"
                );
            }
        }
    }

    fn row(&self) -> Value {
        let output = self.stage.node.sluice(&["services", "-o", "json"]).unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
        let fits = |row: &&Value| row["protocol"] == "TCP" && row["family"] == "IPv4";
        rows.iter().find(fits).cloned().unwrap()
    }
}

#[test]
fn callers_on_the_node_are_served_at_every_address_at_the_socket() {
    let roads = Roads::new();
    let mut daemon = roads.daemon(&[ALONE, PODS]);
    roads.web(&[&roads.near, &roads.far], |service| service);
    for is_node in [false, true] {
        roads.expect(is_node, &["near", "far"]);
    }
    let at_socket = json!(["*:30080", "10.96.0.10:80", "192.0.2.10:80", "203.0.113.10:80"]);
    assert_eq!(roads.row()["atSocket"], at_socket);
    let proxied = SocketAddr::new(PROXIED.parse().unwrap(), 80);
    assert!(!roads.stage.client.call_within(Protocol::Tcp, proxied, SHORT).unwrap().ok);
    let said = roads.stage.node.wait_problem("Service default/web", "spec.externalIPs").unwrap();
    assert!(said.contains("is served to callers on this node only"), "{said}");
    daemon.kill9().unwrap();
    roads.expect(false, &["near", "far"]);
    daemon.restart().unwrap();
    roads.expect(true, &["near", "far"]);
}

#[test]
fn where_nobody_serves_every_call_is_refused_at_once() {
    let roads = Roads::new();
    let _daemon = roads.daemon(&[ALONE, PODS]);
    roads.web(&[], |service| service);
    roads.stage.node.wait_verdict("default", "web", "reject").unwrap();
    for to in roads.addresses() {
        for (protocol, is_node) in WAYS.into_iter().flat_map(|protocol| [(protocol, false), (protocol, true)])
        {
            let answer = roads.ask(is_node, protocol, to);
            assert_eq!(answer.error, "ECONNREFUSED", "{protocol:?} {to} {is_node}");
        }
    }
}

fn local(service: Service) -> Service {
    service.set("externalTrafficPolicy", "Local")
}

#[test]
fn with_a_local_policy_callers_here_reach_every_endpoint_as_if_they_had_gone_out() {
    let roads = Roads::new();
    let _daemon = roads.daemon(&[ALONE, PODS]);
    roads.web(&[&roads.far], local);
    for is_node in [false, true] {
        roads.expect(is_node, &["far"]);
    }
    roads.web(&[&roads.near, &roads.far], |service| local(service).local());
    for is_node in [false, true] {
        roads.expect(is_node, &["near", "far"]);
        assert_eq!(
            roads.reached(is_node, Protocol::Tcp, WEB4, 1),
            ["near".to_owned()].into(),
            "its own policy"
        );
    }
}

/// The node still has the short way: its addresses are known.
#[test]
fn where_pods_are_not_known_a_local_policy_keeps_them_to_endpoints_here() {
    let roads = Roads::new();
    let _daemon = roads.daemon(&[ALONE]);
    roads.web(&[&roads.near, &roads.far], local);
    roads.expect(false, &["near"]);
    roads.expect(true, &["near", "far"]);
    roads.web(&[&roads.far], local);
    roads.expect(true, &["far"]);
    let before = roads.stage.node.counter("noLocalEndpoint").unwrap();
    for to in roads.addresses() {
        let answer = roads.stage.client.call_within(Protocol::Udp, to, SHORT).unwrap();
        assert!(!answer.ok && answer.name.is_empty(), "{to}: {answer:?}");
    }
    let counted = roads.stage.node.counter("noLocalEndpoint").unwrap() - before;
    assert_eq!(counted, roads.addresses().len() as u64, "left to a packet filter");
}

#[test]
fn node_ports_follow_the_nodes_addresses_and_answer_at_those_that_are_meant() {
    let roads = Roads::new();
    let node = &roads.stage.node;
    let _daemon = roads.daemon(&[ALONE, PODS, "--nodeport-addresses=10.0.9.0/24,fd00::/112"]);
    roads.web(&[&roads.near], |service| service);
    let new = SocketAddr::new("10.0.9.1".parse().unwrap(), NODE_PORT);
    let answers = |to: SocketAddr| node.call(Protocol::Tcp, to).unwrap().ok;
    let until = |wanted: bool| {
        wait::until("node ports to follow an address", PATIENCE, || {
            let ok = roads.stage.client.call_within(Protocol::Tcp, new, SHORT)?.ok;
            anyhow::ensure!(ok == wanted, "answered: {ok}");
            Ok(())
        })
        .unwrap();
    };
    assert!(!roads.stage.client.call_within(Protocol::Tcp, new, SHORT).unwrap().ok);
    assert!(!answers((node.v4(), NODE_PORT).into()), "not within the ranges");
    assert!(answers((node.v6(), NODE_PORT).into()));
    for loopback in ["127.0.0.1", "::1"] {
        assert!(!answers(SocketAddr::new(loopback.parse().unwrap(), NODE_PORT)), "{loopback}");
    }
    for _ in 0..2 {
        batch(node.netns(), "addr add 10.0.9.1/32 dev lo\n").unwrap();
        until(true);
        batch(node.netns(), "addr del 10.0.9.1/32 dev lo\n").unwrap();
        until(false);
    }
}

/// nftables masquerades what goes to an address for outside; the socket layer does not.
#[test]
fn with_tables_below_the_socket_serves_first_and_leaves_source_ranges_to_them() {
    let roads = Roads::new();
    let Stage { node, client, .. } = &roads.stage;
    let _daemon = roads.daemon(&[PODS]);
    roads.web(&[&roads.near, &roads.far], |service| service);
    roads.expect(false, &["near", "far"]);
    let balanced = SocketAddr::new(BALANCED[0].parse().unwrap(), 80);
    let ranges = |pod: &Pod| json!([format!("{}/32", pod.v4()), format!("{}/128", pod.v6())]);
    roads.web(&[&roads.near, &roads.far], |service| service.set("loadBalancerSourceRanges", ranges(client)));
    wait::until("source ranges", PATIENCE, || {
        let source: SocketAddr = client.call(Protocol::Tcp, balanced)?.source.parse()?;
        anyhow::ensure!(source.ip() == node.v4(), "{source}: not masqueraded, so not by the tables");
        Ok(())
    })
    .unwrap();
    let at_socket = json!(["*:30080", "10.96.0.10:80", "192.0.2.10:80"]);
    assert_eq!(roads.row()["atSocket"], at_socket);
    assert!(!roads.near.pod.call_within(Protocol::Tcp, balanced, SHORT).unwrap().ok, "kept out");
    let external = SocketAddr::new(EXTERNAL[0].parse().unwrap(), 80);
    assert_eq!(roads.reached(false, Protocol::Tcp, external, 2).len(), 2, "there is no filter there");
}

#[test]
fn a_client_stays_with_its_endpoint_over_all_addresses_of_a_service_port() {
    let roads = Roads::new();
    let more = roads.stage.backends(&["a", "b"]);
    let _daemon = roads.daemon(&[ALONE, PODS]);
    roads.web(&[&roads.near, &roads.far, &more[0], &more[1]], |service| service.sticky(60));
    roads.stage.node.wait_affinity("default", "web", Some(60)).unwrap();
    for is_node in [false, true] {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            for (cluster_ip, is_v6) in [(WEB4, false), (WEB6, true)] {
                let all =
                    roads.addresses().into_iter().filter(|to| to.is_ipv6() == is_v6).chain([cluster_ip]);
                let met: BTreeSet<String> =
                    all.flat_map(|to| roads.reached(is_node, protocol, to, 1)).collect();
                assert_eq!(met.len(), 1, "{protocol:?} {cluster_ip} {is_node}: {met:?}");
            }
        }
    }
}
