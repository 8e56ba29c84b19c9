//! The prober, against rules that are written by hand.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use lab::prober::{
    Class, Crossroads, Fate, Layout, MASQUERADE_V4, MASQUERADE_V6, Outlook, Plan, Pods, Probe, Protocol,
    Refusal, claims, contradictions,
};
use lab::{Lab, Node};
use serde_json::{Value, json};

/// What every kind of dataplane may do, each at a port of its own.
const RULES: &str = "
    table inet by-hand {
        chain before {
            type nat hook prerouting priority -100
            jump services
        }
        chain own {
            type nat hook output priority -100
            jump services
        }
        chain services {
            ip daddr 10.96.0.10 meta l4proto { tcp, udp, sctp } th dport 80 dnat ip to 10.1.0.5:8080
            ip6 daddr fd00:96::10 meta l4proto { tcp, udp, sctp } th dport 80 dnat ip6 to [fd00:1::5]:8080
            ip daddr 10.96.0.10 meta l4proto { tcp, udp, sctp } th dport 81 meta mark set 1 dnat ip to 10.1.0.6:8080
            ip6 daddr fd00:96::10 meta l4proto { tcp, udp, sctp } th dport 81 meta mark set 1 dnat ip6 to [fd00:1::6]:8080
            ip daddr 10.96.0.10 meta l4proto { tcp, udp, sctp } th dport 84 dnat ip to 192.0.2.11:8080
            ip6 daddr fd00:96::10 meta l4proto { tcp, udp, sctp } th dport 84 dnat ip6 to [2001:db8::11]:8080
        }
        chain after {
            type nat hook postrouting priority 100
            meta mark 1 masquerade fully-random
        }
        chain refuse {
            type filter hook prerouting priority -50
            jump refusals
        }
        chain refuse-own {
            type filter hook output priority -50
            jump refusals
        }
        chain refusals {
            meta l4proto { tcp, udp, sctp } th dport 82 reject
            meta l4proto { tcp, udp, sctp } th dport 83 drop
            meta l4proto tcp th dport 85 reject with tcp reset
            meta l4proto { icmp, ipv6-icmp } ip daddr 10.96.0.10 reject
        }
    }
";

/// A Service with four ports: for all, for some, for nobody, and for nobody here.
const SERVICE_RULES: &str = "
    table ip by-hand {
        chain before {
            type nat hook prerouting priority -100
            jump services
        }
        chain own {
            type nat hook output priority -100
            jump services
        }
        chain services {
            ip daddr 203.0.113.5 tcp dport 80 dnat to numgen random mod 2 map { 0: 10.1.0.5 . 8080, 1: 10.1.0.6 . 8080 }
            ip daddr 203.0.113.5 tcp dport 81 ip saddr != 100.65.0.0/16 drop
            ip daddr 203.0.113.5 tcp dport 81 meta mark set 1 dnat to 10.1.0.7:8080
            ip daddr 203.0.113.5 tcp dport 82 reject
            ip daddr 203.0.113.5 tcp dport 83 drop
        }
        chain after {
            type nat hook postrouting priority 100
            meta mark 1 masquerade fully-random
            ct status dnat ip saddr 10.1.0.5 ip daddr 10.1.0.5 masquerade fully-random
        }
    }
";

/// What is true of these rules.
fn plan() -> Value {
    let port = |number: u16, ranges: &[&str], flow: Value| {
        let from = json!({ "pod": flow, "node": flow, "outside": flow });
        let kind = "LoadBalancer";
        let address = json!({ "kind": kind, "ip": "203.0.113.5", "port": number, "sourceRanges": ranges, "from": from });
        json!({ "namespace": "default", "name": "web", "portName": "", "protocol": "TCP", "addresses": [address] })
    };
    let forward = |endpoints: &[&str], masquerade: &str| json!({ "action": "forward", "endpoints": endpoints, "masquerade": masquerade });
    let services = [
        port(80, &[], forward(&["10.1.0.5:8080", "10.1.0.6:8080"], "hairpin")),
        port(81, &["100.65.0.0/16"], forward(&["10.1.0.7:8080"], "always")),
        port(82, &[], json!({ "action": "reject" })),
        port(83, &[], json!({ "action": "drop" })),
    ];
    json!({ "services": services, "serviceCIDRs": [] })
}

fn contradictions_of(scene: &mut Scene, plan: Value) -> Vec<String> {
    let plan: Plan = serde_json::from_value(plan).unwrap();
    let pods = Pods::In(vec!["10.1.0.0/16".parse().unwrap()]);
    let here = ["10.1.0.5", "10.1.0.7"].map(|ip| ip.parse().unwrap());
    let mut outlook = Outlook::new(pods, &[OWN[0].parse().unwrap()], here.into());
    contradictions(&mut scene.roads, &claims(&plan, &mut outlook).unwrap()).unwrap()
}

#[test]
fn a_plan_that_is_true_is_not_contradicted_and_every_other_one_is() {
    let mut scene = Scene::new();
    load(scene.roads.node(), SERVICE_RULES);
    assert_eq!(contradictions_of(&mut scene, plan()), Vec::<String>::new());
    let lies = [
        ("/services/0/addresses/0/from/pod/endpoints/1", json!("10.1.0.9:8080")),
        ("/services/0/addresses/0/from/node/endpoints", json!(["10.1.0.5:8080"])),
        (
            "/services/0/addresses/0/from/outside/endpoints",
            json!(["10.1.0.5:8080", "10.1.0.6:8080", "10.1.0.9:8080"]),
        ),
        ("/services/0/addresses/0/from/node/masquerade", json!("always")),
        ("/services/1/addresses/0/from/outside/masquerade", json!("hairpin")),
        ("/services/1/addresses/0/sourceRanges", json!([])),
        ("/services/1/addresses/0/sourceRanges", json!(["100.65.0.0/16", "10.1.7.0/24"])),
        ("/services/2/addresses/0/from/pod", json!({ "action": "drop" })),
        ("/services/3/addresses/0/from/node", json!({ "action": "reject" })),
        ("/services/3/addresses/0/from/outside", json!({ "action": "pass" })),
        ("/services/3/protocol", json!("UDP")),
        ("/services/2/addresses/0/kind", json!("ClusterIP")),
    ];
    for (place, lie) in lies {
        let mut plan = plan();
        *plan.pointer_mut(place).unwrap() = lie.clone();
        assert!(!contradictions_of(&mut scene, plan).is_empty(), "{place} {lie}");
    }
}

#[test]
fn an_endpoint_of_this_node_that_reaches_itself_must_be_masqueraded() {
    let mut scene = Scene::new();
    load(scene.roads.node(), &SERVICE_RULES.replace("ct status dnat", "ct status snat"));
    let wrong = contradictions_of(&mut scene, plan());
    let [one] = wrong.as_slice() else { panic!("{wrong:#?}") };
    assert!(one.contains("source to itself kept"), "{one}");
}

fn load(node: &Node, rules: &str) {
    let mut nft = node.place().command("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}

fn source(class: Class, is_v4: bool) -> IpAddr {
    let text = match (class, is_v4) {
        (Class::Pod, true) => "10.1.0.9",
        (Class::Pod, false) => "fd00:1::9",
        (Class::Node, true) => "192.0.2.11",
        (Class::Node, false) => "2001:db8::11",
        (Class::Outside, true) => "100.65.0.9",
        (Class::Outside, false) => "2001:db8:65::9",
    };
    text.parse().unwrap()
}

/// One probe of every class to everything that a story may tell of.
fn probes(ports: &[u16], protocols: &[Protocol], destinations: [&str; 2]) -> Vec<Probe> {
    let mut all = Vec::new();
    for (from, protocol) in
        Class::ALL.into_iter().flat_map(|from| protocols.iter().map(move |one| (from, *one)))
    {
        for (ip, port) in destinations.into_iter().flat_map(|ip| ports.iter().map(move |port| (ip, *port))) {
            let to = SocketAddr::new(ip.parse().unwrap(), port);
            let source = SocketAddr::new(source(from, to.is_ipv4()), 4000);
            all.push(Probe { from, protocol, source, to });
        }
    }
    all
}

const SERVICE: [&str; 2] = ["10.96.0.10", "fd00:96::10"];
const OWN: [&str; 2] = ["192.0.2.11", "2001:db8::11"];

struct Scene {
    _lab: Lab,
    roads: Crossroads,
}

impl Scene {
    fn new() -> Self {
        let lab = Lab::new().unwrap();
        let node = lab.node("n1").unwrap();
        let addresses = OWN.map(|ip| ip.parse().unwrap());
        let roads = Crossroads::around(&node, &Layout { addresses: &addresses, pod_link: "p9" }).unwrap();
        Self { _lab: lab, roads }
    }

    fn check(&mut self, probes: &[Probe], expected: impl Fn(&Probe) -> Fate) {
        let fates = self.roads.send(probes).unwrap();
        for (probe, fate) in probes.iter().zip(fates) {
            assert_eq!(fate, expected(probe), "{probe:?}");
        }
    }
}

fn endpoint(probe: &Probe, v4: &str, v6: &str) -> SocketAddr {
    if probe.to.is_ipv4() { v4.parse().unwrap() } else { v6.parse().unwrap() }
}

#[test]
fn without_any_rule_probes_pass_or_come_to_the_node() {
    let mut scene = Scene::new();
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp, Protocol::Icmp];
    scene.check(&probes(&[80], &all[..3], SERVICE), |probe| Fate::Passed { source: probe.source.ip() });
    scene.check(&probes(&[0], &all[3..], SERVICE), |probe| Fate::Passed { source: probe.source.ip() });
    scene.check(&probes(&[80], &all[..3], OWN), |_| Fate::Delivered);
}

#[test]
fn a_probe_tells_what_was_done_with_it() {
    let mut scene = Scene::new();
    load(scene.roads.node(), RULES);
    let protocols = Protocol::OF_SERVICES;
    scene.check(&probes(&[80], &protocols, SERVICE), |probe| Fate::Forwarded {
        to: endpoint(probe, "10.1.0.5:8080", "[fd00:1::5]:8080"),
        source: probe.source.ip(),
        is_here: false,
    });
    scene.check(&probes(&[81], &protocols, SERVICE), |probe| Fate::Forwarded {
        to: endpoint(probe, "10.1.0.6:8080", "[fd00:1::6]:8080"),
        source: if probe.to.is_ipv4() { MASQUERADE_V4.into() } else { MASQUERADE_V6.into() },
        is_here: false,
    });
    scene.check(&probes(&[84], &protocols, SERVICE), |probe| Fate::Forwarded {
        to: endpoint(probe, "192.0.2.11:8080", "[2001:db8::11]:8080"),
        source: probe.source.ip(),
        is_here: true,
    });
    for addresses in [SERVICE, OWN] {
        scene.check(&probes(&[82], &protocols, addresses), |_| Fate::Refused(Refusal::PortUnreachable));
        scene.check(&probes(&[83], &protocols, addresses), |_| Fate::Dropped);
        scene.check(&probes(&[85], &[Protocol::Tcp], addresses), |_| Fate::Refused(Refusal::Reset));
    }
    let echo: Vec<Probe> =
        probes(&[0], &[Protocol::Icmp], [SERVICE[0], SERVICE[0]]).into_iter().step_by(2).collect();
    scene.check(&echo, |_| Fate::Refused(Refusal::PortUnreachable));
}

#[test]
fn a_thousand_probes_are_all_accounted_for() {
    let mut scene = Scene::new();
    load(scene.roads.node(), RULES);
    let ports: Vec<u16> = (0..1000).map(|number| 20_000 + number).collect();
    let template = probes(&[80], &[Protocol::Udp], SERVICE)[0];
    let with = |port: &u16| Probe { source: SocketAddr::new(template.source.ip(), *port), ..template };
    let all: Vec<Probe> = ports.iter().map(with).collect();
    let to = "10.1.0.5:8080".parse().unwrap();
    scene.check(&all, |probe| Fate::Forwarded { to, source: probe.source.ip(), is_here: false });
}
