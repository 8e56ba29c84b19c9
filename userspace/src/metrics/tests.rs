//! Names, numbers, and that operators find all of it written down.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::backend::counts::{Layer, PortUse, Tally, Usage};
use crate::backend::{Report, conntrack, dataplane, ebpf, edge, nft};
use crate::desired::Unreached;
use crate::drain::memory::Named;
use crate::drain::{self, Numbers};
use crate::model::sample::{apply_service, apply_slice, delete, service, slice};
use crate::model::{Change, Counts, Kind, Protocol, ServiceName, ServicePortName};

const TABLE: &str = include_str!("../../../docs/metrics.md");

/// One endpoint drains, at the edge and in the packet filter; sockets cannot be told.
fn draining() -> Numbers {
    let by_layer = [(drain::Layer::Edge, 2), (drain::Layer::Nftables, 1)];
    let port = ServicePortName {
        service: ServiceName::new("default", "web"),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family: crate::model::Family::V4,
    };
    let named = Named { port, endpoint: "10.1.0.5:80".parse().unwrap(), by_layer: by_layer.into() };
    Numbers { endpoints: 1, flows: 3, by_layer: by_layer.into(), drained: 4, most: vec![named] }
}

/// A node on which everything works.
fn everything() -> Facts {
    let counters = |names: &[&str]| {
        names.iter().zip(7..).map(|(name, many)| ((*name).to_owned(), many)).collect::<BTreeMap<_, _>>()
    };
    let report = Report {
        running: Some(dataplane::Running {
            dataplane: "ebpf+nftables".to_owned(),
            reason: "it works".to_owned(),
        }),
        ebpf: Some(ebpf::Report {
            pin_dir: "/pins".into(),
            hooks: vec![],
            maps: vec![ebpf::Fill { map: "SERVICES".to_owned(), entries: 1, capacity: 4 }],
            counters: counters(&["connected"]),
            leftovers: vec![],
        }),
        edge: Some(edge::Report {
            devices: vec![edge::DeviceState {
                device: "eth0".to_owned(),
                attached: true,
                first: true,
                ..edge::DeviceState::default()
            }],
            repaired: 2,
            flow_entries: 10,
            flow_room: 100,
            counters: counters(&["opened"]),
            ..edge::Report::default()
        }),
        nftables: Some(nft::Report {
            tables: vec![],
            counters: counters(&["no-endpoint"]),
            stale_flows_removed: 3,
        }),
        conntrack: Some(conntrack::Usage { entries: 5, max: 50 }),
    };
    Facts {
        counts: Counts { services: 4, slices: 5, endpoints: 6 },
        listed: vec![Kind::Service],
        problems: 1,
        unreached: Unreached { internal: [1, 2], external: [3, 4] },
        draining: draining(),
        kernel: report,
    }
}

/// Two service ports that somebody has asked for.
fn used() -> Usage {
    let port = |name: &str, connections| {
        let name = ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        };
        let tally = Tally { connections, refused: 2, dropped: 3, open: Some(1) };
        (name, PortUse { layers: [(Layer::Socket, tally)].into(), endpoints: vec![] })
    };
    Usage { ports: [port("web", 9), port("api", 4)].into(), sees_ends: true }
}

/// Everything that a daemon can show.
fn shown() -> String {
    let metrics = Metrics::new().unwrap();
    metrics.received(&[
        apply_service(service("a", "10.96.0.1", "http:80/TCP")),
        apply_slice(slice("a-1", "a", "http:80/TCP", "10.1.0.1=rs")),
    ]);
    for is_full in [true, false] {
        metrics.passed(Pass {
            took: Duration::from_millis(2),
            since_received: Some(Duration::from_millis(3)),
            is_full,
            written: 11,
            removed: 12,
        });
    }
    metrics.failed();
    metrics.received(&[false, true, false].map(|hears| Change::Hears(Kind::Service, hears)));
    metrics.probed(Probe::Healthz, 503);
    metrics.probed(Probe::Livez, 200);
    metrics.programmed(Family::V6, Duration::from_secs(4));
    metrics.set(everything());
    let mut ledger = Ledger::new(1);
    ledger.take(&used());
    metrics.set_services(&ledger);
    metrics.text().unwrap()
}

/// The value of a sample, by its name and labels as the text has them.
#[track_caller]
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {sample} in:\n{text}")).parse().unwrap()
}

#[test]
fn all_that_is_known_is_shown() {
    let text = shown();
    for (sample, expected) in [
        ("sluice_synced", 0.0),
        ("sluice_source_failing{kind=\"Service\"}", 1.0),
        ("sluice_source_failures_total{kind=\"Service\"}", 2.0),
        ("sluice_problems", 1.0),
        ("sluice_objects{kind=\"endpoint\"}", 6.0),
        ("sluice_source_listed{kind=\"Service\"}", 1.0),
        ("sluice_source_listed{kind=\"Node\"}", 0.0),
        ("sluice_dataplane_info{dataplane=\"ebpf+nftables\"}", 1.0),
        ("sluice_map_fill_ratio{map=\"services\"}", 0.25),
        ("sluice_events_total{layer=\"socket\",event=\"connected\"}", 7.0),
        ("sluice_events_total{layer=\"edge\",event=\"opened\"}", 7.0),
        ("sluice_events_total{layer=\"nftables\",event=\"no-endpoint\"}", 7.0),
        ("sluice_edge_device_attached{device=\"eth0\"}", 1.0),
        ("sluice_edge_hooks_repaired_total", 2.0),
        ("sluice_flows{layer=\"edge\"}", 5.0),
        ("sluice_flows_capacity{layer=\"edge\"}", 50.0),
        ("sluice_conntrack_entries", 5.0),
        (
            "sluice_service_connections_total{namespace=\"default\",service=\"web\",port=\"http\",layer=\"socket\"}",
            9.0,
        ),
        (
            "sluice_service_connections_total{namespace=\"_others\",service=\"_others\",port=\"_others\",layer=\"socket\"}",
            4.0,
        ),
        ("sluice_service_ports_counted{labels=\"shared\"}", 1.0),
        ("sluice_stale_flows_removed_total", 3.0),
        ("sluice_draining_endpoints", 1.0),
        ("sluice_drained_endpoints_total", 4.0),
        ("sluice_draining_flows{layer=\"edge\"}", 2.0),
        (
            "sluice_draining_endpoint_flows{service=\"default/web:http\",protocol=\"TCP\",endpoint=\"10.1.0.5:80\",\
             layer=\"nftables\"}",
            1.0,
        ),
        ("sluice_kernel_entries_written_total", 22.0),
        ("kubeproxy_proxy_healthz_total{code=\"503\"}", 1.0),
        ("kubeproxy_proxy_livez_total{code=\"200\"}", 1.0),
        ("sluice_change_duration_seconds_count", 2.0),
        ("kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}", 2.0),
        ("kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv6\"}", 1.0),
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 0.0),
        ("kubeproxy_sync_proxy_rules_nftables_sync_failures_total{ip_family=\"IPv4\"}", 1.0),
        ("kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"4\"}", 1.0),
        ("kubeproxy_network_programming_duration_seconds_bucket{ip_family=\"IPv6\",le=\"3\"}", 0.0),
        (
            "kubeproxy_sync_proxy_rules_no_local_endpoints_total{traffic_policy=\"external\",ip_family=\"IPv6\"}",
            4.0,
        ),
    ] {
        assert_eq!(value(&text, sample), expected, "{sample}");
    }
}

#[test]
fn changes_wait_until_a_pass_has_brought_them_into_force() {
    let metrics = Metrics::new().unwrap();
    metrics.received(&[
        apply_service(service("a", "10.96.0.1", "http:80/TCP")),
        delete(Kind::Service, "b"),
        delete(Kind::EndpointSlice, "b-1"),
        Change::Begin(Kind::Node),
    ]);
    let text = metrics.text().unwrap();
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_service_changes_pending"), 2.0);
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_endpoint_changes_pending"), 1.0);
    assert_eq!(value(&text, "kubeproxy_sync_proxy_rules_service_changes_total"), 2.0);
    let queued = value(&text, "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=\"IPv4\"}");
    assert!(queued > 1.7e9, "{queued}");
}

#[test]
fn a_pass_that_writes_nothing_says_nothing_of_how_long_changes_take() {
    let metrics = Metrics::new().unwrap();
    metrics.passed(Pass {
        took: Duration::ZERO,
        since_received: None,
        is_full: false,
        written: 0,
        removed: 0,
    });
    assert_eq!(value(&metrics.text().unwrap(), "sluice_change_duration_seconds_count"), 0.0);
}

/// Prometheus refuses a whole scrape over one wrong name.
#[test]
fn names_and_labels_are_such_as_prometheus_takes() {
    let is_name = |name: &str| {
        name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let (mut kinds, mut samples) = (BTreeMap::new(), BTreeSet::new());
    for line in shown().lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(is_name(name), "{name}");
            assert!(kinds.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} twice");
            assert_eq!(
                kind == "counter",
                name.ends_with("_total") && name != "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
                "{name} is a {kind}"
            );
        } else if !line.starts_with('#') {
            let (sample, number) = line.rsplit_once(' ').unwrap();
            number.parse::<f64>().unwrap();
            assert!(samples.insert(sample.to_owned()), "{sample} twice");
        }
    }
    assert!(kinds.len() > 25, "{kinds:?}");
}

#[test]
fn each_is_in_the_table_for_operators_and_nothing_else_is() {
    let stated: BTreeSet<String> = TABLE
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("sluice_") || name.starts_with("kubeproxy_"))
        .collect();
    let text = shown();
    let shown: BTreeSet<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("process_"))
        .collect();
    assert_eq!(shown, stated);
}

/// Names in an expression, without what histograms add to theirs.
fn names_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let ours = words.filter(|word| word.starts_with("sluice_") || word.starts_with("kubeproxy_"));
    let bare = |word: &str| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word).to_owned()
    };
    ours.map(bare).collect()
}

/// An alert over a name that nobody shows never fires.
#[test]
fn alerts_and_dashboard_ask_for_what_there_is() {
    let (text, known) = (shown(), names_in(TABLE));
    let rules: serde_json::Value =
        serde_norway::from_str(include_str!("../../../deploy/monitoring/rules.yaml")).unwrap();
    let dashboard: serde_json::Value =
        serde_json::from_str(include_str!("../../../deploy/monitoring/dashboard.json")).unwrap();
    let rules = rules["groups"][0]["rules"].as_array().unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let of_panels = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let expressions: Vec<&str> =
        rules.iter().chain(of_panels).map(|one| one["expr"].as_str().unwrap()).collect();
    assert!(expressions.len() > 20, "{expressions:?}");
    for expression in expressions {
        let names = names_in(expression);
        assert!(names.is_subset(&known), "{expression}");
        assert!(names.iter().all(|name| text.contains(&format!("# TYPE {name} "))), "{expression}");
    }
    for rule in rules {
        let texts = ["summary", "description"].map(|key| rule["annotations"][key].as_str());
        assert!(texts.iter().all(Option::is_some), "{rule}");
    }
}
