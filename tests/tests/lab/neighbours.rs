//! Neighbours that interfere with our tables, so that the kernel refuses what we write next: the change is carried out in
//! the end, nothing else is lost, and the log says what was refused.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use lab::client::Pace;
use lab::manifest::{Service, Slice, file};
use lab::{Daemon, Load, Node, Pod, Protocol, wait};

use crate::nftables::{difference, listing, nft};
use crate::stage::{Backend, PORT, Stage, WEB4, names, pods, web};

const PATIENCE: Duration = Duration::from_secs(30);
/// The cluster address of `other`, which nobody interferes with.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20));

/// A node with the packet filter alone, `web`, and `other` under load.
struct Street {
    stage: Stage,
    backends: Vec<Backend>,
    daemon: Daemon,
    loads: [Load; 2],
    _others: Backend,
}

impl Street {
    fn new(dataplane: &str) -> Self {
        let stage = Stage::new();
        let (backends, other) = (stage.backends(&["a", "b"]), stage.backend("o"));
        let daemon = stage.node.daemon(stage.settings().with(&[dataplane])).unwrap();
        let service = Service::new("other", &[OTHER]).port("tcp", "TCP", 80);
        let slice = Slice::v4("other-4", "other").port("tcp", "TCP", PORT).ready(other.pod.v4());
        stage.manifests.put("other.yaml", file(&[service.object(), slice.object()])).unwrap();
        stage.node.wait_endpoints("default", "other", 1).unwrap();
        stage.web(&pods(&backends));
        let loads = [false, true].map(|keep| {
            let pace = Pace { keep, rate: 200.0, ..Pace::default() };
            stage.client.load(Protocol::Tcp, SocketAddr::new(OTHER, 80), pace).unwrap()
        });
        Self { stage, backends, daemon, loads, _others: other }
    }

    fn node(&self) -> &Node {
        &self.stage.node
    }

    fn pod(&self, number: usize) -> &Pod {
        &self.backends[number].pod
    }

    /// Waits until new connections to `web` are answered by these, and by nobody else.
    fn answered_by(&self, expected: &[&str]) {
        wait::until("web to answer", PATIENCE, || {
            let answers = self.stage.client.calls(Protocol::Tcp, WEB4, 24)?;
            ensure!(answers.iter().all(|answer| answer.ok), "{answers:?}");
            let found: Vec<&str> = names(&answers).into_iter().collect();
            ensure!(found == expected, "{found:?}");
            Ok(())
        })
        .unwrap();
    }

    /// Ends: `other` has never been without an answer, nothing is wrong, and there is one table of each family.
    fn ends_well(self) -> Daemon {
        let Self { stage, backends: _backends, daemon, loads, _others } = self;
        for load in loads {
            load.more(20).unwrap();
            let end = load.stop().unwrap();
            assert_eq!(end.failed, 0, "{end:?}");
        }
        daemon.wait_synced().unwrap();
        let status = stage.node.status().unwrap();
        assert_eq!(status["problems"].as_array().map(Vec::len), Some(0), "{status:#}");
        assert_eq!(status["kernel"]["nftables"]["tables"].as_array().map(Vec::len), Some(2), "{status:#}");
        let tables = nft(&stage.node, &["list", "tables"]);
        assert_eq!(tables.lines().filter(|line| line.contains("ip sluice")).count(), 1, "{tables}");
        daemon
    }
}

/// Asserts that the log's errors are refusals, and that one of them names this deed.
fn refused(daemon: &mut Daemon, deed: &str) {
    let errors = daemon.errors();
    assert!(errors.iter().all(|line| line.contains("could not program the kernel")), "{errors:#?}");
    assert!(errors.iter().any(|line| line.contains(deed)), "{deed}: {errors:#?}");
    daemon.wait_log(&["the kernel takes changes again"]).unwrap();
}

#[test]
fn what_somebody_deleted_of_a_service_does_not_keep_its_next_change_from_being_carried_out() {
    let street = Street::new("--dataplane=nftables");
    let Street { stage, backends, .. } = &street;
    stage.web(&[street.pod(1)]);
    let with_one = listing(street.node());
    stage.web(&pods(backends));

    let (a, b) = (street.pod(0).v4(), street.pod(1).v4());
    for (map, element) in [
        ("services", "{ 10.96.0.10 . tcp . 80 }".to_owned()),
        ("endpoints", "{ 10.96.0.10 . udp . 80 . 1 }".to_owned()),
        ("hairpins", format!("{{ {a} . {a}, {b} . {b} }}")),
    ] {
        nft(street.node(), &["delete", "element", "ip", "sluice", map, &element]);
    }
    let limit = Duration::from_millis(300);
    assert!(!stage.client.call_within(Protocol::Tcp, WEB4, limit).unwrap().ok, "nobody knows the address");

    stage.web(&[street.pod(1)]);
    street.answered_by(&["b"]);
    let now = listing(street.node());
    assert!(now == with_one, "{}", difference(&now, &with_one));
    let mut daemon = street.ends_well();
    refused(&mut daemon, "could not delete elements of services");
}

#[test]
fn a_chain_that_somebody_deleted_is_there_again_when_a_change_needs_it() {
    let street = Street::new("--dataplane=nftables");
    // It is always in our tables, and nothing leads there as long as every Service has endpoints.
    nft(street.node(), &["delete", "chain", "ip", "sluice", "refuse"]);
    street.stage.manifests.put("web.yaml", web(&[], &[])).unwrap();
    wait::until("a refusal", PATIENCE, || {
        let answer = street.stage.client.call(Protocol::Tcp, WEB4)?;
        ensure!(answer.error == "ECONNREFUSED", "{answer:?}");
        Ok(())
    })
    .unwrap();
    street.stage.web(&pods(&street.backends));
    street.answered_by(&["a", "b"]);
    let mut daemon = street.ends_well();
    refused(&mut daemon, "could not add elements of services");
}

#[test]
fn while_ebpf_has_the_traffic_a_refused_change_is_carried_out_later() {
    let street = Street::new("--dataplane=auto");
    nft(street.node(), &["delete", "element", "ip", "sluice", "services", "{ 10.96.0.10 . tcp . 80 }"]);
    street.stage.web(&[street.pod(1)]);
    street.answered_by(&["b"]);
    let warning = street.daemon.wait_log(&["the packet filter cannot be programmed"]).unwrap();
    assert!(warning.contains("could not delete elements of services"), "{warning}");
    street.daemon.wait_log(&["the packet filter can be programmed again"]).unwrap();
    let services = nft(street.node(), &["list", "map", "ip", "sluice", "services"]);
    assert!(
        services.contains("10.96.0.10 . tcp . 80 comment \"default/web:tcp\" : goto cluster-1"),
        "{services}"
    );
    street.ends_well().no_errors().unwrap();
}

/// Chains of Services with affinity.
fn affine_chains(node: &Node) -> Vec<String> {
    let text = nft(node, &["list", "table", "ip", "sluice"]);
    let chains = text.lines().filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"));
    let of_affinity = |chain: &&str| chain.starts_with("affine-") || chain.starts_with("remember-");
    chains.filter(of_affinity).map(str::to_owned).collect()
}

#[test]
fn a_neighbours_rule_that_leads_into_our_chains_holds_up_nothing_but_their_removal() {
    let mut street = Street::new("--dataplane=nftables");
    let node = street.stage.node.clone();
    street.stage.sticky_web(Some(60), &pods(&street.backends));
    let held = affine_chains(&node);
    assert!(held.len() > 4, "{held:?}");
    nft(&node, &["add", "chain", "ip", "sluice", "theirs"]);
    for chain in &held {
        nft(&node, &["add", "rule", "ip", "sluice", "theirs", "jump", chain]);
    }

    for pod in [street.pod(1), street.pod(0)] {
        street.stage.sticky_web(Some(60), &[pod]);
        street.answered_by(&[pod.name()]);
        let there = affine_chains(&node);
        assert!(held.iter().all(|chain| there.contains(chain)), "{there:?}");
    }
    street.daemon.no_errors().unwrap();
    street.daemon.kill9().unwrap();
    street.daemon.restart().unwrap();
    street.stage.sticky_web(Some(60), &[street.pod(1)]);
    street.answered_by(&["b"]);

    nft(&node, &["flush", "chain", "ip", "sluice", "theirs"]);
    street.stage.web(&pods(&street.backends));
    street.answered_by(&["a", "b"]);
    wait::until("chains that nobody needs to go", PATIENCE, || {
        let there = affine_chains(&node);
        ensure!(there.is_empty(), "{there:?}");
        Ok(())
    })
    .unwrap();
    assert!(nft(&node, &["list", "chain", "ip", "sluice", "theirs"]).contains("theirs"), "it is not ours");
    street.ends_well().no_errors().unwrap();
}
