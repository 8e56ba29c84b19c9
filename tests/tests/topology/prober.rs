//! The prober, against rules that are written by hand.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use lab::prober::{Class, Crossroads, Fate, Layout, MASQUERADE_V4, MASQUERADE_V6, Probe, Protocol, Refusal};
use lab::{Lab, Node};

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

fn rules(node: &Node) {
    let mut nft = node.place().command("nft");
    let mut nft = nft.args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(RULES.as_bytes()).unwrap();
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
    rules(scene.roads.node());
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
    rules(scene.roads.node());
    let ports: Vec<u16> = (0..1000).map(|number| 20_000 + number).collect();
    let template = probes(&[80], &[Protocol::Udp], SERVICE)[0];
    let with = |port: &u16| Probe { source: SocketAddr::new(template.source.ip(), *port), ..template };
    let all: Vec<Probe> = ports.iter().map(with).collect();
    let to = "10.1.0.5:8080".parse().unwrap();
    scene.check(&all, |probe| Fate::Forwarded { to, source: probe.source.ip(), is_here: false });
}
