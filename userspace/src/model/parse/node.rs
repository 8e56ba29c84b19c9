//! The Node, and ServiceCIDRs.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::networking::v1 as networking;

use super::super::{Node, ServiceCidr, address};
use super::findings::Findings;
use super::{Kind, Parsed, Problem, label_value, reference};

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The cluster autoscaler puts this on a node that it is about to remove.
const AUTOSCALER_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What a Node means to us, and what is wrong with it.
pub fn node(object: &v1::Node) -> (Parsed<Node>, Vec<Problem>) {
    let v1::Node { metadata, spec, status } = object;
    let this = reference(Kind::Node, metadata);
    let mut findings = Findings::of(&this);
    if this.name.is_empty() {
        findings.note("metadata.name", "is empty");
        return (Parsed::Skip, findings.finish());
    }
    let stated = status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    let taints = spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let marked = taints.iter().any(|taint| taint.key == AUTOSCALER_TAINT);
    let node = Node {
        name: this.name.clone(),
        zone: label_value(metadata, ZONE_LABEL).filter(|zone| !zone.is_empty()).map(Into::into),
        addresses: addresses(stated, &mut findings),
        pod_cidrs: pod_cidrs(spec.as_ref(), &mut findings),
        leaving: marked || metadata.deletion_timestamp.is_some(),
    };
    (Parsed::Keep(node), findings.finish())
}

/// What a ServiceCIDR means to us, and what is wrong with it.
pub fn service_cidr(object: &networking::ServiceCIDR) -> (Parsed<ServiceCidr>, Vec<Problem>) {
    let networking::ServiceCIDR { metadata, spec, status: _ } = object;
    let mut findings = Findings::of(&reference(Kind::ServiceCidr, metadata));
    let stated = spec.as_ref().and_then(|spec| spec.cidrs.as_deref()).unwrap_or_default();
    let cidrs = ranges("spec.cidrs", stated, &mut findings);
    (Parsed::Keep(ServiceCidr { cidrs }), findings.finish())
}

/// InternalIPs in order, then ExternalIPs; names are passed over.
fn addresses(stated: &[v1::NodeAddress], findings: &mut Findings) -> Box<[IpAddr]> {
    let mut found: Vec<IpAddr> = Vec::new();
    for kind in ["InternalIP", "ExternalIP"] {
        for (index, one) in stated.iter().enumerate().filter(|(_, one)| one.type_ == kind) {
            match address::parse(&one.address) {
                Some(address) if found.contains(&address) => {}
                Some(address) => found.push(address),
                None => findings.note(
                    format_args!("status.addresses[{index}].address"),
                    format_args!("{:?} is not an address", one.address),
                ),
            }
        }
    }
    found.into()
}

/// The list counts; an object from before there was a list has only the one range.
fn pod_cidrs(spec: Option<&v1::NodeSpec>, findings: &mut Findings) -> Box<[IpNet]> {
    let Some(spec) = spec else { return Box::default() };
    match spec.pod_cidrs.as_deref().unwrap_or_default() {
        [] => ranges("spec.podCIDR", spec.pod_cidr.as_slice(), findings),
        list => ranges("spec.podCIDRs", list, findings),
    }
}

fn ranges(field: &str, stated: &[String], findings: &mut Findings) -> Box<[IpNet]> {
    let mut found = Vec::new();
    for (index, text) in stated.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        match address::parse_range(text.trim()) {
            Some(range) => found.push(range),
            None => findings.note(format_args!("{field}[{index}]"), format_args!("{text:?} is not a range")),
        }
    }
    found.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn addresses_are_internal_ones_first_and_names_are_passed_over() {
        let addresses = json!([{"type": "Hostname", "address": "n1"},
            {"type": "ExternalIP", "address": "192.0.2.1"}, {"type": "InternalIP", "address": "10.0.0.1"},
            {"type": "InternalIP", "address": "fd00::1"}, {"type": "InternalIP", "address": "10.0.0.1"}]);
        check(json!({"status": {"addresses": addresses}}), "- | 10.0.0.1 fd00::1 192.0.2.1 | ", &[]);
    }

    #[test]
    fn the_zone_is_a_label_that_says_something() {
        let zone = |zone: &str| json!({"metadata": {"name": "n1", "labels": {ZONE_LABEL: zone}}});
        check(zone("a"), "a |  | ", &[]);
        check(zone(""), "- |  | ", &[]);
    }

    #[test]
    fn pod_ranges_keep_their_order_and_the_old_field_counts_alone() {
        let spec = json!({"podCIDR": "10.9.0.0/24", "podCIDRs": ["fd00:1::/64", "10.1.0.0/24"]});
        check(json!({ "spec": spec }), "- |  | fd00:1::/64 10.1.0.0/24", &[]);
        check(json!({"spec": {"podCIDR": "10.9.0.0/24"}}), "- |  | 10.9.0.0/24", &[]);
    }

    #[test]
    fn a_node_that_is_deleted_or_marked_by_the_autoscaler_is_leaving() {
        let meta = json!({"name": "n1", "deletionTimestamp": "2026-01-01T00:00:00Z"});
        check(json!({ "metadata": meta }), "- |  |  leaving", &[]);
        let taint = |key: &str| json!({"spec": {"taints": [{"key": key, "effect": "NoSchedule"}]}});
        check(taint(AUTOSCALER_TAINT), "- |  |  leaving", &[]);
        check(taint("node.kubernetes.io/unschedulable"), "- |  | ", &[]);
    }

    #[test]
    fn what_cannot_be_read_is_named_and_the_rest_is_kept() {
        let object = json!({"spec": {"podCIDRs": ["10.1.0.0/99", "10.1.0.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.x"}]}});
        let said = [
            r#"status.addresses[0].address: "10.0.0.x" is not an address"#,
            r#"spec.podCIDRs[0]: "10.1.0.0/99" is not a range"#,
        ];
        check(object, "- |  | 10.1.0.0/24", &said);
    }

    #[test]
    fn a_service_cidr_has_its_ranges_in_one_form() {
        let object = json!({"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.1.1/16", "x"]}});
        let (parsed, problems) = service_cidr(&serde_json::from_value(object).unwrap());
        let Parsed::Keep(ServiceCidr { cidrs }) = parsed else { panic!("skipped") };
        assert_eq!(cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.97.0.0/16"]);
        assert_eq!(problems[0].to_string(), r#"ServiceCIDR more: spec.cidrs[1]: "x" is not a range"#);
    }

    fn check(mut object: Value, kept: &str, problems: &[&str]) {
        object.as_object_mut().unwrap().entry("metadata").or_insert(json!({"name": "n1"}));
        let (parsed, found) = node(&serde_json::from_value(object.clone()).unwrap());
        let found: Vec<String> = found.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
        assert_eq!(found, problems, "{object}");
        assert_eq!(parsed.kept().map_or_else(|| "skip".to_owned(), |kept| render(&kept)), kept, "{object}");
    }

    fn render(Node { name: _, zone, addresses, pod_cidrs, leaving }: &Node) -> String {
        let words = |list: Vec<String>| list.join(" ");
        let zone = zone.as_deref().unwrap_or("-");
        let addresses = words(addresses.iter().map(ToString::to_string).collect());
        let cidrs = words(pod_cidrs.iter().map(ToString::to_string).collect());
        format!("{zone} | {addresses} | {cidrs}{}", if *leaving { " leaving" } else { "" })
    }
}
