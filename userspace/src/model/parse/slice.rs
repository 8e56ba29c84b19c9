//! EndpointSlices.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::discovery::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff;

use super::super::address;
use super::super::interner::Interner;
use super::super::{Conditions, Endpoint, Family, Hints, Place, ServiceName, Slice, SlicePort, Trigger};
use super::findings::Findings;
use super::{
    HEADLESS_LABEL, Kind, ObjectRef, Parsed, Problem, SERVICE_NAME_LABEL, has_label, label_value, port,
    reference,
};

/// What an EndpointSlice means to us, and what is wrong with it.
pub fn slice(object: &v1::EndpointSlice) -> (Parsed<Slice>, Vec<Problem>) {
    let v1::EndpointSlice { address_type, endpoints: stated, metadata, ports: stated_ports } = object;
    let this = reference(Kind::EndpointSlice, metadata);
    let mut findings = Findings::of(&this);
    if has_label(metadata, HEADLESS_LABEL) {
        return (Parsed::Skip, findings.finish());
    }
    let service = label_value(metadata, SERVICE_NAME_LABEL);
    let Some((name, service, family)) = identity(&this, service, address_type, &mut findings) else {
        return (Parsed::Skip, findings.finish());
    };
    let ports = ports(stated_ports.as_deref().unwrap_or_default(), &mut findings);
    let endpoints = endpoints(stated.as_deref().unwrap_or_default(), family, &mut findings);
    let triggered = trigger(metadata).map(|at| Trigger { family, at });
    (Parsed::Keep(Slice { name, service, ports, endpoints, triggered }), findings.finish())
}

/// When what it answers happened; what cannot be read counts as not said, as with kube-proxy.
fn trigger(metadata: &ObjectMeta) -> Option<i64> {
    let text = metadata.annotations.as_ref()?.get(TRIGGER_ANNOTATION)?;
    let at: jiff::Timestamp = text.parse().ok()?;
    i64::try_from(at.as_nanosecond()).ok()
}

/// Its value is a time as in RFC 3339, with nanoseconds.
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";

type Identity = (Arc<str>, ServiceName, Family);

/// Its name, whose it is, and of which family.
fn identity(
    this: &ObjectRef,
    service: Option<&str>,
    kind: &str,
    findings: &mut Findings,
) -> Option<Identity> {
    let ObjectRef { kind: _, namespace, name } = this;
    let family = family(kind, findings);
    if name.is_empty() {
        findings.note("metadata.name", "is empty");
    }
    let Some(service) = service.filter(|service| !service.is_empty()) else {
        let field = format!("label {SERVICE_NAME_LABEL}");
        let message = if service.is_some() { "is empty" } else { "is missing" };
        findings.note(field, format_args!("{message}; the slice belongs to no Service"));
        return None;
    };
    let name = (!name.is_empty()).then(|| name.clone())?;
    Some((name, ServiceName::new(namespace.clone(), service), family?))
}

/// The family of all addresses. Names instead of addresses (FQDN) are other people's business.
fn family(kind: &str, findings: &mut Findings) -> Option<Family> {
    match kind {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        "FQDN" => None,
        other => {
            findings.note("addressType", format_args!("{other:?} is not a type of address (IPv4 or IPv6)"));
            None
        }
    }
}

fn ports(stated: &[v1::EndpointPort], findings: &mut Findings) -> Arc<[SlicePort]> {
    let mut kept: Vec<SlicePort> = Vec::new();
    for (index, stated) in stated.iter().enumerate() {
        let field = format!("ports[{index}]");
        let Some(port) = read_port(&field, stated, findings) else { continue };
        let SlicePort { name, protocol, port: _ } = &port;
        if kept.iter().any(|other| other.name == *name && other.protocol == *protocol) {
            let message = format!("{name:?} is the name of an earlier {protocol} port");
            findings.note(format_args!("{field}.name"), message);
        } else {
            kept.push(port);
        }
    }
    kept.into()
}

fn read_port(field: &str, stated: &v1::EndpointPort, findings: &mut Findings) -> Option<SlicePort> {
    let v1::EndpointPort { app_protocol: _, name, port: number, protocol } = stated;
    let Some(name) = name else {
        findings.note(format_args!("{field}.name"), "is missing; the port is ignored");
        return None;
    };
    let Some(number) = number else {
        findings.note(format_args!("{field}.port"), "is missing; endpoints on all ports are not served");
        return None;
    };
    let number = port::number(field, *number, findings);
    let protocol = port::protocol(field, protocol.as_deref(), findings);
    Some(SlicePort { name: name.as_str().into(), protocol: protocol?, port: number? })
}

fn endpoints(stated: &[v1::Endpoint], family: Family, findings: &mut Findings) -> Box<[Endpoint]> {
    let (mut names, mut places) = (Interner::<str>::default(), Interner::default());
    let mut kept = Vec::with_capacity(stated.len());
    for (index, stated) in stated.iter().enumerate() {
        let Some(address) = read_address(index, &stated.addresses, family, findings) else { continue };
        let node = stated.node_name.as_deref().map(|node| names.get(node));
        let hints = hints(stated.hints.as_ref(), &mut names);
        let conditions = conditions(stated.conditions.as_ref());
        let mut endpoint = Endpoint::new(address, conditions, Place { node, hints });
        if let Some(place) = &mut endpoint.place {
            places.share(place);
        }
        kept.push(endpoint);
    }
    kept.into()
}

/// Only the first address counts.
fn read_address(index: usize, stated: &[String], family: Family, findings: &mut Findings) -> Option<IpAddr> {
    let field = || format!("endpoints[{index}].addresses");
    let Some(text) = stated.first() else {
        findings.note(field(), "is empty; the endpoint is ignored");
        return None;
    };
    let wrong = match address::parse(text) {
        None => format!("{text:?} is not an address"),
        Some(address) if Family::of(address) != family => {
            format!("{text} is not an {family} address, as addressType says")
        }
        Some(address) if !address::can_be_reached(address) => {
            format!("{text} is not an address that connections can go to")
        }
        Some(address) => return Some(address),
    };
    findings.note(format_args!("{}[0]", field()), wrong);
    None
}

/// Nothing said means ready, serving, and not terminating. `serving` does not follow `ready`.
fn conditions(stated: Option<&v1::EndpointConditions>) -> Conditions {
    let Some(v1::EndpointConditions { ready, serving, terminating }) = stated else {
        return Conditions::new(true, true, false);
    };
    Conditions::new(ready.unwrap_or(true), serving.unwrap_or(true), terminating.unwrap_or(false))
}

/// Empty lists are the same as no hints.
fn hints(stated: Option<&v1::EndpointHints>, names: &mut Interner<str>) -> Option<Hints> {
    let v1::EndpointHints { for_nodes, for_zones } = stated?;
    let mut sorted = |list: &mut dyn Iterator<Item = &String>| {
        let mut list: Vec<Arc<str>> = list.map(|name| names.get(name)).collect();
        list.sort_unstable();
        list.dedup();
        Box::from(list)
    };
    let hints = Hints {
        zones: sorted(&mut for_zones.iter().flatten().map(|zone| &zone.name)),
        nodes: sorted(&mut for_nodes.iter().flatten().map(|node| &node.name)),
    };
    (hints != Hints::default()).then_some(hints)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_plain_slice_has_its_ports_and_endpoints() {
        let object = json!({"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.1.0.5"], "nodeName": "n1", "conditions": {"ready": true}}]});
        check(object, "default/web | http:8080/TCP | 10.1.0.5@n1=rs", &[]);
    }

    #[test]
    fn what_conditions_leave_open_is_decided() {
        check_conditions(json!(null), "rs");
        check_conditions(json!({}), "rs");
        check_conditions(json!({"ready": false}), "s");
        check_conditions(json!({"ready": false, "serving": false}), "");
        check_conditions(json!({"serving": false}), "r");
        check_conditions(json!({"terminating": true}), "rst");
        check_conditions(json!({"ready": false, "serving": true, "terminating": true}), "st");
    }

    #[test]
    fn a_port_without_name_or_number_is_ignored() {
        let ports = json!([{"port": 80}, {"name": "a"}, {"name": "b", "port": 0}, {"name": "", "port": 81}]);
        let said = [
            "ports[0].name: is missing; the port is ignored",
            "ports[1].port: is missing; endpoints on all ports are not served",
            "ports[2].port: 0 is not a port (1-65535)",
        ];
        check_ports(ports, "default/web | :81/TCP |", &said);
    }

    #[test]
    fn of_two_ports_with_one_name_the_first_counts() {
        let ports = json!([{"name": "a", "port": 80}, {"name": "a", "port": 81},
            {"name": "a", "port": 82, "protocol": "UDP"}]);
        let said = r#"ports[1].name: "a" is the name of an earlier TCP port"#;
        check_ports(ports, "default/web | a:80/TCP a:82/UDP |", &[said]);
    }

    #[test]
    fn two_names_may_share_a_number() {
        let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]);
        check_ports(ports, "default/web | a:80/TCP b:80/TCP |", &[]);
    }

    #[test]
    fn only_the_first_address_counts_and_an_endpoint_without_one_is_ignored() {
        let endpoints = json!([{"addresses": []}, {"addresses": ["10.1.0.5", "garbage"]}]);
        let said = "endpoints[0].addresses: is empty; the endpoint is ignored";
        check_endpoints(endpoints, "default/web | | 10.1.0.5=rs", &[said]);
    }

    #[test]
    fn a_bad_address_is_named_and_the_others_are_kept() {
        let endpoints = json!([{"addresses": ["fd00::5"]}, {"addresses": ["10.1.0.500"]},
            {"addresses": ["0.0.0.0"]}, {"addresses": ["010.1.0.6"]}]);
        let said = [
            "endpoints[0].addresses[0]: fd00::5 is not an IPv4 address, as addressType says",
            r#"endpoints[1].addresses[0]: "10.1.0.500" is not an address"#,
            "endpoints[2].addresses[0]: 0.0.0.0 is not an address that connections can go to",
        ];
        check_endpoints(endpoints, "default/web | | 10.1.0.6=rs", &said);
    }

    #[test]
    fn an_ipv4_mapped_address_is_not_ipv6() {
        let object = json!({"addressType": "IPv6", "endpoints": [{"addresses": ["::ffff:10.1.0.5"]}]});
        let said = "endpoints[0].addresses[0]: ::ffff:10.1.0.5 is not an IPv6 address, as addressType says";
        check(object, "default/web | |", &[said]);
    }

    #[test]
    fn names_instead_of_addresses_are_skipped_in_silence() {
        check(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.org"]}]}), "skip", &[]);
    }

    #[test]
    fn a_type_of_address_nobody_knows_is_named() {
        let said = r#"addressType: "ipv4" is not a type of address (IPv4 or IPv6)"#;
        check(json!({"addressType": "ipv4", "endpoints": []}), "skip", &[said]);
    }

    #[test]
    fn a_slice_of_a_headless_service_is_skipped_whatever_the_label_says() {
        for value in ["", "true"] {
            check_labels(json!({HEADLESS_LABEL: value, SERVICE_NAME_LABEL: "web"}), "skip", &[]);
        }
    }

    #[test]
    fn a_slice_that_names_no_service_is_a_problem() {
        let field = "label kubernetes.io/service-name";
        check_labels(json!({}), "skip", &[&format!("{field}: is missing; the slice belongs to no Service")]);
        let said = format!("{field}: is empty; the slice belongs to no Service");
        check_labels(json!({SERVICE_NAME_LABEL: ""}), "skip", &[&said]);
    }

    #[test]
    fn the_proxy_name_of_a_slice_is_not_looked_at() {
        let labels = json!({SERVICE_NAME_LABEL: "web", super::super::PROXY_NAME_LABEL: "other"});
        check_labels(labels, "default/web | |", &[]);
    }

    #[test]
    fn endpoints_of_one_node_share_its_name() {
        let meta = json!({"name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"}});
        let endpoint = |address: &str| json!({"addresses": [address], "nodeName": "n1"});
        let endpoints = [endpoint("10.1.0.5"), endpoint("10.1.0.6")];
        let object = json!({"metadata": meta, "addressType": "IPv4", "endpoints": endpoints});
        let kept = slice(&serde_json::from_value(object).unwrap()).0.kept().unwrap();
        let nodes: Vec<&Arc<str>> = kept.endpoints.iter().filter_map(Endpoint::node).collect();
        assert!(Arc::ptr_eq(nodes[0], nodes[1]));
    }

    fn check_conditions(conditions: Value, letters: &str) {
        let endpoints = json!([{"addresses": ["10.1.0.5"], "conditions": conditions}]);
        check_endpoints(endpoints, &format!("default/web | | 10.1.0.5={letters}"), &[]);
    }

    fn check_ports(ports: Value, kept: &str, problems: &[&str]) {
        check(json!({"addressType": "IPv4", "endpoints": [], "ports": ports}), kept, problems);
    }

    fn check_endpoints(endpoints: Value, kept: &str, problems: &[&str]) {
        check(json!({"addressType": "IPv4", "endpoints": endpoints}), kept, problems);
    }

    fn check_labels(labels: Value, kept: &str, problems: &[&str]) {
        let meta = json!({"namespace": "default", "name": "web-1", "labels": labels});
        check(json!({"addressType": "IPv4", "endpoints": [], "metadata": meta}), kept, problems);
    }

    fn check(mut object: Value, kept: &str, problems: &[&str]) {
        let meta = json!({"namespace": "default", "name": "web-1", "labels": {SERVICE_NAME_LABEL: "web"}});
        object.as_object_mut().unwrap().entry("metadata").or_insert(meta);
        let (parsed, found) = slice(&serde_json::from_value(object.clone()).unwrap());
        let found: Vec<String> = found.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
        assert_eq!(found, problems, "{object}");
        assert_eq!(parsed.kept().map_or_else(|| "skip".to_owned(), |kept| render(&kept)), kept, "{object}");
    }

    #[test]
    fn when_what_it_answers_happened_is_known_where_it_says_so_in_full() {
        let key = "endpoints.kubernetes.io/last-change-trigger-time";
        for (text, expected) in [
            ("2026-09-15T10:00:00.123456789Z", Some(1_789_466_400_123_456_789)),
            ("2026-09-15T12:00:00+02:00", Some(1_789_466_400_000_000_000)),
            ("yesterday", None),
            ("", None),
            ("9999-12-31T00:00:00Z", None),
        ] {
            let object = json!({
                "addressType": "IPv6", "endpoints": [],
                "metadata": {
                    "namespace": "default", "name": "web-1",
                    "labels": {SERVICE_NAME_LABEL: "web"}, "annotations": {key: text},
                },
            });
            let (parsed, problems) = slice(&serde_json::from_value(object).unwrap());
            let expected = expected.map(|at| Trigger { family: Family::V6, at });
            assert_eq!((parsed.kept().unwrap().triggered, problems.len()), (expected, 0), "{text:?}");
        }
    }

    fn render(Slice { name: _, service, ports, endpoints, triggered: _ }: &Slice) -> String {
        let mut words = vec![service.to_string(), "|".to_owned()];
        words.extend(ports.iter().map(|port| format!("{}:{}/{}", port.name, port.port, port.protocol)));
        words.push("|".to_owned());
        words.extend(endpoints.iter().map(render_endpoint));
        words.join(" ")
    }

    #[test]
    fn hints_are_sorted_sets_and_empty_lists_are_none() {
        let zones = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Value>();
        let hint = |hints: Value| json!([{"addresses": ["10.1.0.5"], "hints": hints}]);
        let both = json!({"forZones": zones(&["b", "a", "b"]), "forNodes": zones(&["n1"])});
        check_endpoints(hint(both), "default/web | | 10.1.0.5=rs^a,b~n1", &[]);
        check_endpoints(hint(json!({"forZones": [], "forNodes": null})), "default/web | | 10.1.0.5=rs", &[]);
    }

    fn render_endpoint(endpoint: &Endpoint) -> String {
        let (Endpoint { address, conditions, place: _ }, hints) = (endpoint, endpoint.hints());
        let letters =
            [(conditions.ready(), 'r'), (conditions.serving(), 's'), (conditions.terminating(), 't')];
        let letters: String = letters.into_iter().filter_map(|(on, letter)| on.then_some(letter)).collect();
        let node = endpoint.node().map(|node| format!("@{node}")).unwrap_or_default();
        let list = |mark: &str, names: &[Arc<str>]| match names {
            [] => String::new(),
            names => format!("{mark}{}", names.join(",")),
        };
        let hints = hints.map(|hints| list("^", &hints.zones) + &list("~", &hints.nodes));
        format!("{address}{node}={letters}{}", hints.unwrap_or_default())
    }
}
