//! Hints: endpoints that are meant for a zone or a node.

use lab::manifest::{Service, node};
use lab::{Daemon, Protocol};

use crate::stage::{Backend, Stage, WEB4, WEB6, addresses, names, web_as};

/// Three pods, of which `web` has as many as there are hints.
struct Zones {
    stage: Stage,
    backends: Vec<Backend>,
    daemon: Daemon,
}

/// For whom an endpoint is meant.
#[derive(Clone, Copy)]
enum For {
    Anybody,
    Zone(&'static str),
    Node(&'static str),
}

impl Zones {
    /// Our Node is in this zone.
    fn new(zone: &str) -> Self {
        let stage = Stage::new();
        stage.manifests.put("node.yaml", node("n1", zone)).unwrap();
        let backends = stage.backends(&["a", "b", "c"]);
        let daemon = stage.daemon();
        Self { stage, backends, daemon }
    }

    fn hints(&self, hints: &[For]) -> &Self {
        let text = web_as(
            |service: Service| service,
            |slice, ip| {
                hints.iter().zip(&self.backends).fold(slice, |slice, (hint, backend)| {
                    let slice = slice.ready(ip(&backend.pod));
                    match hint {
                        For::Anybody => slice,
                        For::Zone(zone) => slice.for_zones(&[zone]),
                        For::Node(node) => slice.for_nodes(&[node]),
                    }
                })
            },
        );
        self.stage.manifests.put("web.yaml", text).unwrap();
        self
    }

    /// Changes the Node's label.
    fn moves(&self, zone: &str) -> &Self {
        self.stage.manifests.put("node.yaml", node("n1", zone)).unwrap();
        self
    }

    /// Waits until the kernel has these, and asks.
    fn check(&self, expected: &[&str]) -> &Self {
        let of = |backend: &&Backend| expected.contains(&backend.pod.name());
        let pods: Vec<_> = self.backends.iter().filter(of).map(|backend| &backend.pod).collect();
        self.stage.node.wait_active("default", "web", &addresses(&pods)).unwrap();
        // Nobody who has asked before: a flow over UDP that begins where an old one did goes on with that.
        let client = self.stage.node.pod("asks").unwrap();
        for (protocol, to) in [(Protocol::Tcp, WEB4), (Protocol::Udp, WEB6)] {
            let answers = client.calls(protocol, to, 60).unwrap();
            assert_eq!(names(&answers), expected.iter().copied().collect(), "{protocol:?} {to}");
        }
        self
    }
}

#[test]
fn only_the_endpoints_for_the_nodes_zone_are_used_and_a_zone_that_changes_counts_at_once() {
    let zones = Zones::new("east");
    zones.hints(&[For::Zone("east"), For::Zone("west"), For::Zone("west")]).check(&["a"]);
    let pid = zones.daemon.pid();
    zones.moves("west").check(&["b", "c"]);
    zones.moves("north").check(&["a", "b", "c"]);
    zones.moves("east").check(&["a"]);
    assert_eq!(zones.stage.node.status().unwrap()["daemon"]["pid"], pid, "the same daemon");
}

#[test]
fn one_endpoint_without_a_hint_makes_all_of_them_count() {
    let zones = Zones::new("east");
    zones.hints(&[For::Zone("east"), For::Zone("west"), For::Anybody]).check(&["a", "b", "c"]);
    zones.hints(&[For::Zone("east"), For::Zone("west"), For::Zone("east")]).check(&["a", "c"]);
}

#[test]
fn endpoints_for_this_very_node_come_first() {
    let zones = Zones::new("east");
    zones.hints(&[For::Node("n1"), For::Node("n2"), For::Node("n2")]).check(&["a"]);
    zones.hints(&[For::Node("n2"), For::Node("n2")]).check(&["a", "b"]);
}
