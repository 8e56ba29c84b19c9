//! What is read off the state of things: objects, maps, hooks, flows, events. Pure.

#![forbid(unsafe_code)]

use super::family::Family;
use crate::backend::{Report, edge};
use crate::desired::Unreached;
use crate::drain::{Layer, Numbers};
use crate::model::{Counts, Family as IpFamily, Kind};

/// The state of things at one moment, as the loop saw it.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// How much there is.
    pub counts: Counts,
    /// Kinds of objects that have been listed once.
    pub listed: Vec<Kind>,
    /// How much is wrong with them, and with us.
    pub problems: usize,
    /// Service ports whose Local policy finds no endpoint here, while there are others.
    pub unreached: Unreached,
    /// Endpoints that left and still have flows.
    pub draining: Numbers,
    /// What the kernel has.
    pub kernel: Report,
}

/// All of it.
pub(super) fn families(facts: &Facts) -> Vec<Family> {
    let mut all = vec![
        Family::gauge("sluice_build_info", "The daemon's version.")
            .with([("version", env!("CARGO_PKG_VERSION"))], 1.0),
        Family::gauge("sluice_problems", "How much is wrong; `sluice status` names each.")
            .of(count(facts.problems)),
        objects(&facts.counts),
        listed(&facts.listed),
        unreached(&facts.unreached),
    ];
    all.extend(draining(&facts.draining));
    all.extend(kernel(&facts.kernel));
    all
}

fn draining(numbers: &Numbers) -> [Family; 4] {
    let Numbers { endpoints, flows: _, by_layer, drained, most } = numbers;
    let layers = Family::gauge(
        "sluice_draining_flows",
        "Flows of endpoints that get no new ones, by layer; a layer that cannot tell is missing.",
    );
    let layers = by_layer
        .iter()
        .fold(layers, |family, (layer, flows)| family.with([("layer", layer.as_str())], *flows as f64));
    let named = Family::gauge(
        "sluice_draining_endpoint_flows",
        "The same by endpoint, for the hundred that have the most.",
    );
    let named = most.iter().fold(named, |family, one| {
        let service = one.port.to_string();
        let endpoint = one.endpoint.to_string();
        one.by_layer.iter().fold(family, |family, (layer, flows): (&Layer, &u64)| {
            let labels = [
                ("service", service.as_str()),
                ("protocol", one.port.protocol.as_str()),
                ("endpoint", &endpoint),
                ("layer", layer.as_str()),
            ];
            family.with(labels, *flows as f64)
        })
    });
    [
        Family::gauge(
            "sluice_draining_endpoints",
            "Endpoints that get no new flows and are known to have some.",
        )
        .of(count(*endpoints)),
        Family::counter(
            "sluice_drained_endpoints_total",
            "Endpoints that left and of whose flows no layer knows any more.",
        )
        .of(*drained as f64),
        layers,
        named,
    ]
}

fn objects(counts: &Counts) -> Family {
    let Counts { services, slices, endpoints } = *counts;
    Family::gauge("sluice_objects", "Objects that are served: Services, EndpointSlices, endpoints in them.")
        .with([("kind", "service")], count(services))
        .with([("kind", "endpointslice")], count(slices))
        .with([("kind", "endpoint")], count(endpoints))
}

fn listed(listed: &[Kind]) -> Family {
    let family = Family::gauge(
        "sluice_source_listed",
        "Whether all objects of a kind have been listed since the daemon began.",
    );
    Kind::ALL
        .into_iter()
        .fold(family, |family, kind| family.with([("kind", kind.as_str())], bit(listed.contains(&kind))))
}

fn unreached(unreached: &Unreached) -> Family {
    let family = Family::gauge(
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total",
        "Service ports whose Local traffic policy finds no usable endpoint here, while there are some elsewhere.",
    );
    let Unreached { internal, external } = *unreached;
    let mut family = family;
    for (policy, counts) in [("internal", internal), ("external", external)] {
        for (ip, many) in IpFamily::ALL.into_iter().zip(counts) {
            family = family.with([("traffic_policy", policy), ("ip_family", ip_family(ip))], count(many));
        }
    }
    family
}

/// As kube-proxy calls it.
pub(super) const fn ip_family(family: IpFamily) -> &'static str {
    match family {
        IpFamily::V4 => "IPv4",
        IpFamily::V6 => "IPv6",
    }
}

fn kernel(report: &Report) -> Vec<Family> {
    let mut all = vec![events(report), maps(report), hooks(report)];
    if let Some(running) = &report.running {
        let family = Family::gauge("sluice_dataplane_info", "Which dataplane works.");
        all.push(family.with([("dataplane", &running.dataplane)], 1.0));
    }
    if let Some(nftables) = &report.nftables {
        let removed = nftables.stale_flows_removed as f64;
        all.push(
            Family::counter(
                "sluice_stale_flows_removed_total",
                "Flows over UDP taken out of connection tracking because their endpoint had gone.",
            )
            .of(removed),
        );
    }
    if let Some(usage) = &report.conntrack {
        all.push(
            Family::gauge("sluice_conntrack_entries", "Flows that connection tracking knows.")
                .of(usage.entries as f64),
        );
        all.push(
            Family::gauge(
                "sluice_conntrack_limit",
                "How many flows connection tracking has room for; zero: no limit.",
            )
            .of(usage.max as f64),
        );
    }
    all.extend(report.edge.iter().flat_map(edge_layer));
    all
}

fn edge_layer(report: &edge::Report) -> Vec<Family> {
    let devices = Family::gauge(
        "sluice_edge_device_attached",
        "Whether the edge layer's programs hang on a device, before all others (1) or behind some (0.5), or not (0).",
    );
    let standing = |state: &edge::DeviceState| match (state.attached, state.first) {
        (true, true) => 1.0,
        (true, false) => 0.5,
        (false, _) => 0.0,
    };
    let devices = report
        .devices
        .iter()
        .fold(devices, |family, state| family.with([("device", &state.device)], standing(state)));
    vec![
        Family::gauge("sluice_edge_up", "Whether the edge layer is in force.").of(bit(report.down.is_none())),
        devices,
        Family::counter(
            "sluice_edge_hooks_repaired_total",
            "How often a hook was put right that somebody had changed.",
        )
        .of(report.repaired as f64),
        Family::gauge("sluice_flows", "Flows that a layer serves, in its own table.")
            .with([("layer", "edge")], (report.flow_entries / 2) as f64),
        Family::gauge("sluice_flows_capacity", "How many flows that table has room for.")
            .with([("layer", "edge")], (report.flow_room / 2) as f64),
    ]
}

/// Counts of all layers, under one name.
fn events(report: &Report) -> Family {
    let mut family = Family::counter(
        "sluice_events_total",
        "What became of calls and packets, by layer; docs/metrics.md says what each counts.",
    );
    let layers = [
        ("socket", report.ebpf.as_ref().map(|ebpf| &ebpf.counters)),
        ("edge", report.edge.as_ref().map(|edge| &edge.counters)),
        ("nftables", report.nftables.as_ref().map(|nftables| &nftables.counters)),
    ];
    for (layer, counters) in layers {
        for (event, many) in counters.into_iter().flatten() {
            family = family.with([("layer", layer), ("event", event)], *many as f64);
        }
    }
    family
}

fn maps(report: &Report) -> Family {
    let mut family = Family::gauge(
        "sluice_map_fill_ratio",
        "How full a map of the socket layer is, from 0 to 1. Maps grow before they are full.",
    );
    for fill in report.ebpf.iter().flat_map(|ebpf| &ebpf.maps) {
        let ratio = fill.entries as f64 / f64::from(fill.capacity.max(1));
        family = family.with([("map", &fill.map.to_lowercase())], ratio);
    }
    family
}

fn hooks(report: &Report) -> Family {
    let all = report.ebpf.iter().flat_map(|ebpf| &ebpf.hooks).count();
    let tables = report.nftables.iter().flat_map(|nftables| &nftables.tables).count();
    let missing = report.detached().len();
    Family::gauge(
        "sluice_hooks",
        "Hooks of the socket layer and tables of nftables, by whether they are there.",
    )
    .with([("state", "attached")], count((all + tables).saturating_sub(missing)))
    .with([("state", "missing")], count(missing))
}

fn bit(is_so: bool) -> f64 {
    if is_so { 1.0 } else { 0.0 }
}

fn count(many: usize) -> f64 {
    many as f64
}
