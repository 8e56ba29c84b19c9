//! Services.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1;

use super::super::address;
use super::super::{Family, Policy, Service, ServiceName, ServicePort};
use super::external::{self, Reach};
use super::findings::Findings;
use super::{Kind, ObjectRef, PROXY_NAME_LABEL, Parsed, Problem, has_label, port, reference};

const NO_CLUSTER_IP: &str = "has no clusterIP; a folder of manifests cannot allocate one";

/// Seconds of `sessionAffinityConfig.clientIP.timeoutSeconds` that may be asked for, and what counts if nothing is
/// (three hours, as the API server fills in).
const TIMEOUTS: RangeInclusive<u32> = 1..=86_400;
const TIMEOUT: NonZeroU32 = NonZeroU32::new(10_800).expect("three hours are some seconds");

/// What a Service means to us, and what is wrong with it.
pub fn service(object: &v1::Service) -> (Parsed<Service>, Vec<Problem>) {
    let v1::Service { metadata, spec, status } = object;
    let this = reference(Kind::Service, metadata);
    let mut findings = Findings::of(&this);
    if has_label(metadata, PROXY_NAME_LABEL) || spec.as_ref().is_some_and(is_other) {
        return (Parsed::Skip, findings.finish());
    }
    if spec.is_none() {
        findings.note("spec", "is missing");
    }
    let named = is_named(&this, &mut findings);
    let Some(spec) = spec.as_ref().filter(|_| named) else {
        return (Parsed::Skip, findings.finish());
    };
    let reach = external::reach(spec, &mut findings);
    let addresses = addresses(spec, &mut findings);
    let ports = ports(spec, reach, &mut findings);
    let internal_policy = policy("spec.internalTrafficPolicy", &spec.internal_traffic_policy, &mut findings);
    let affinity = affinity(spec, &mut findings);
    let external = external::external(spec, status.as_ref(), reach, &mut findings);
    let external_policy = external::policy(spec, reach, &external, &mut findings);
    if addresses.is_empty() {
        return (Parsed::Skip, findings.finish());
    }
    let ObjectRef { kind: _, namespace, name } = this;
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let name = ServiceName { namespace, name };
    let service =
        Service { name, created, addresses, ports, internal_policy, external_policy, affinity, external };
    (Parsed::Keep(service), findings.finish())
}

/// ExternalName, even with an address left over, and headless ones.
fn is_other(spec: &v1::ServiceSpec) -> bool {
    let headless = |address: &str| address == "None";
    let first = spec.cluster_ips.as_deref().unwrap_or_default().first();
    spec.type_.as_deref() == Some("ExternalName")
        || spec.cluster_ip.as_deref().is_some_and(headless)
        || first.is_some_and(|address| headless(address))
}

fn is_named(ObjectRef { kind: _, namespace, name }: &ObjectRef, findings: &mut Findings) -> bool {
    let mut good = true;
    for (field, text) in [("metadata.namespace", namespace), ("metadata.name", name)] {
        if !port::is_label(text) {
            findings.note(field, format_args!("{text:?} is not a DNS label"));
            good = false;
        }
    }
    good
}

/// One place where the API states an address: the field, the text, and the family it should have.
struct Stated<'a> {
    field: String,
    text: &'a str,
    family: Option<&'a str>,
}

fn addresses(spec: &v1::ServiceSpec, findings: &mut Findings) -> Box<[IpAddr]> {
    let mut found: Vec<IpAddr> = Vec::new();
    let stated = stated(spec);
    if stated.is_empty() {
        findings.note("spec.clusterIP", NO_CLUSTER_IP);
    }
    for one in &stated {
        let Some(address) = read_address(one, findings) else { continue };
        let family = Family::of(address);
        match found.iter().find(|other| Family::of(**other) == family) {
            Some(other) => findings
                .note(&one.field, format_args!("{} is a second {family} address beside {other}", one.text)),
            None => found.push(address),
        }
    }
    found.into()
}

/// The list counts; an object from before there was a list, or a short manifest, has only the one address.
fn stated(spec: &v1::ServiceSpec) -> Vec<Stated<'_>> {
    let family =
        |index: usize| spec.ip_families.as_deref().unwrap_or_default().get(index).map(String::as_str);
    let list = spec.cluster_ips.as_deref().unwrap_or_default();
    if list.is_empty() {
        let one = spec.cluster_ip.as_deref().filter(|text| !text.is_empty());
        let field = || "spec.clusterIP".to_owned();
        return one.map(|text| Stated { field: field(), text, family: family(0) }).into_iter().collect();
    }
    let numbered = list.iter().enumerate();
    numbered
        .map(|(index, text)| Stated {
            field: format!("spec.clusterIPs[{index}]"),
            text,
            family: family(index),
        })
        .collect()
}

fn read_address(Stated { field, text, family }: &Stated<'_>, findings: &mut Findings) -> Option<IpAddr> {
    let Some(address) = address::parse(text) else {
        findings.note(field, format_args!("{text:?} is not an address"));
        return None;
    };
    if !address::can_be_reached(address) {
        findings.note(field, format_args!("{text} is not an address that connections can go to"));
        return None;
    }
    match family {
        Some(family) if *family != Family::of(address).as_str() => {
            findings.note(field, format_args!("{text} is not an {family} address, as spec.ipFamilies wants"));
            None
        }
        Some(_) | None => Some(address),
    }
}

fn ports(spec: &v1::ServiceSpec, reach: Reach, findings: &mut Findings) -> Box<[ServicePort]> {
    let mut kept: Vec<ServicePort> = Vec::new();
    for (index, stated) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(mut port) = read_port(&field, stated, findings) else { continue };
        port.node_port = external::node_port(&field, stated.node_port, reach, findings);
        if let Some(other) = kept.iter().find(|other| same_node_port(other, &port)) {
            let message =
                format!("{} is the node port of an earlier {} port", number(other.node_port), port.protocol);
            findings.note(format_args!("{field}.nodePort"), message);
            port.node_port = None;
        }
        match kept.iter().find_map(|other| clash(other, &port)) {
            Some((part, message)) => findings.note(format_args!("{field}.{part}"), message),
            None => kept.push(port),
        }
    }
    kept.into()
}

fn same_node_port(first: &ServicePort, second: &ServicePort) -> bool {
    second.node_port.is_some() && (first.node_port, first.protocol) == (second.node_port, second.protocol)
}

fn number(port: Option<NonZeroU16>) -> u16 {
    port.map_or(0, NonZeroU16::get)
}

fn read_port(field: &str, stated: &v1::ServicePort, findings: &mut Findings) -> Option<ServicePort> {
    let name = stated.name.as_deref().unwrap_or_default();
    if !name.is_empty() && !port::is_label(name) {
        findings.note(format_args!("{field}.name"), format_args!("{name:?} is not a DNS label"));
        return None;
    }
    let number = port::number(field, stated.port, findings);
    let protocol = port::protocol(field, stated.protocol.as_deref(), findings);
    Some(ServicePort { name: name.into(), protocol: protocol?, port: number?, node_port: None })
}

/// Why two ports cannot both be served: where the second is wrong, and how.
fn clash(first: &ServicePort, second: &ServicePort) -> Option<(&'static str, String)> {
    let ServicePort { name, protocol, port, node_port: _ } = second;
    if first.protocol != *protocol {
        return None;
    }
    let by_name = first.name == *name;
    let by_number = first.port == *port;
    let named = by_name.then(|| ("name", format!("{name:?} is the name of an earlier {protocol} port")));
    named.or_else(|| {
        by_number.then(|| ("port", format!("{port} is the number of an earlier {protocol} port")))
    })
}

/// A traffic policy; what nobody knows counts as none.
pub(super) fn policy(field: &str, value: &Option<String>, findings: &mut Findings) -> Policy {
    match value.as_deref() {
        None | Some("" | "Cluster") => Policy::Cluster,
        Some("Local") => Policy::Local,
        Some(other) => {
            findings.note(
                field,
                format_args!("{other:?} is neither Cluster nor Local; endpoints of all nodes are used"),
            );
            Policy::Cluster
        }
    }
}

/// For how many seconds a client gets the same endpoint.
fn affinity(spec: &v1::ServiceSpec, findings: &mut Findings) -> Option<NonZeroU32> {
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => None,
        Some("ClientIP") => Some(timeout(client_ip.and_then(|config| config.timeout_seconds), findings)),
        Some(other) => {
            let message = format_args!("{other:?} is neither None nor ClientIP; each connection is spread");
            findings.note("spec.sessionAffinity", message);
            None
        }
    }
}

fn timeout(stated: Option<i32>, findings: &mut Findings) -> NonZeroU32 {
    let Some(stated) = stated else { return TIMEOUT };
    let seconds = u32::try_from(stated).ok().filter(|seconds| TIMEOUTS.contains(seconds));
    seconds.and_then(NonZeroU32::new).unwrap_or_else(|| {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        findings.note(field, format_args!("{stated} is not within 1-86400; {TIMEOUT} counts"));
        TIMEOUT
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::External;

    #[test]
    fn a_plain_service_has_its_address_and_ports() {
        let spec = json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}]});
        check(spec, "10.96.0.10 | http:80/TCP dns:53/UDP", &[]);
    }

    #[test]
    fn a_dual_stack_service_has_one_address_of_each_family() {
        let spec = json!({"clusterIP": "fd00::10", "clusterIPs": ["fd00::10", "10.96.0.10"],
            "ipFamilies": ["IPv6", "IPv4"], "ports": [{"port": 80}]});
        check(spec, "fd00::10 10.96.0.10 | :80/TCP", &[]);
    }

    #[test]
    fn without_families_the_address_says_its_own() {
        check(json!({"clusterIP": "fd00::10", "ports": [{"port": 80}]}), "fd00::10 | :80/TCP", &[]);
    }

    #[test]
    fn a_missing_second_address_leaves_the_first() {
        let spec =
            json!({"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "ipFamilies": ["IPv4", "IPv6"]});
        check(spec, "10.96.0.10 |", &[]);
    }

    #[test]
    fn addresses_are_read_leniently_and_rendered_canonically() {
        check(json!({"clusterIP": "010.096.000.010"}), "10.96.0.10 |", &[]);
        check(json!({"clusterIPs": ["::ffff:10.96.0.10"], "ipFamilies": ["IPv4"]}), "10.96.0.10 |", &[]);
    }

    #[test]
    fn headless_services_are_skipped_in_silence() {
        check(json!({"clusterIP": "None", "ports": [{"port": 70000}]}), "skip", &[]);
        check(json!({"clusterIPs": ["None"]}), "skip", &[]);
    }

    #[test]
    fn an_external_name_is_skipped_even_with_an_address() {
        check(
            json!({"type": "ExternalName", "externalName": "example.org", "clusterIP": "10.96.0.10"}),
            "skip",
            &[],
        );
    }

    #[test]
    fn a_service_of_another_proxy_is_skipped_whatever_the_label_says() {
        for value in ["", "other"] {
            let meta = json!({"namespace": "default", "name": "web", "labels": {PROXY_NAME_LABEL: value}});
            check_object(json!({"metadata": meta, "spec": {"clusterIP": "10.96.0.10"}}), "skip", &[]);
        }
    }

    #[test]
    fn without_an_address_there_is_nothing_to_serve_and_it_is_said() {
        let said = "spec.clusterIP: has no clusterIP; a folder of manifests cannot allocate one";
        check(json!({"ports": [{"port": 80}]}), "skip", &[said]);
        check(json!({"clusterIP": "", "clusterIPs": []}), "skip", &[said]);
    }

    #[test]
    fn an_address_that_is_none_is_named() {
        check(
            json!({"clusterIP": "10.96.0.300"}),
            "skip",
            &[r#"spec.clusterIP: "10.96.0.300" is not an address"#],
        );
        let said = "spec.clusterIP: 0.0.0.0 is not an address that connections can go to";
        check(json!({"clusterIP": "0.0.0.0"}), "skip", &[said]);
    }

    #[test]
    fn an_address_of_the_wrong_family_is_left_out_and_the_other_serves() {
        let spec = json!({"clusterIPs": ["10.96.0.10", "10.96.0.11"], "ipFamilies": ["IPv4", "IPv6"]});
        let said = "spec.clusterIPs[1]: 10.96.0.11 is not an IPv6 address, as spec.ipFamilies wants";
        check(spec, "10.96.0.10 |", &[said]);
    }

    #[test]
    fn a_second_address_of_one_family_is_left_out() {
        let said = "spec.clusterIPs[1]: 10.96.0.11 is a second IPv4 address beside 10.96.0.10";
        check(json!({"clusterIPs": ["10.96.0.10", "10.96.0.11"]}), "10.96.0.10 |", &[said]);
    }

    #[test]
    fn one_bad_port_does_not_lose_the_others() {
        let bad = |port: i32| format!("spec.ports[0].port: {port} is not a port (1-65535)");
        for port in [0, -1, 65536, 70000, i32::MIN, i32::MAX] {
            let ports = json!([{"name": "a", "port": port}, {"name": "b", "port": 65535}]);
            check_ports(ports, "10.96.0.10 | b:65535/TCP", &[&bad(port)]);
        }
    }

    #[test]
    fn a_protocol_nobody_knows_is_named() {
        let said = r#"spec.ports[0].protocol: "tcp" is not a protocol (TCP, UDP or SCTP)"#;
        check_ports(json!([{"port": 80, "protocol": "tcp"}]), "10.96.0.10 |", &[said]);
    }

    #[test]
    fn sctp_is_a_protocol_like_the_others() {
        let ports = json!([{"name": "a", "port": 80, "protocol": "SCTP"}, {"name": "b", "port": 80}]);
        check_ports(ports, "10.96.0.10 | a:80/SCTP b:80/TCP", &[]);
    }

    #[test]
    fn of_two_ports_with_one_name_or_number_the_first_counts() {
        let by_name = json!([{"name": "a", "port": 80}, {"name": "a", "port": 81}]);
        let said = r#"spec.ports[1].name: "a" is the name of an earlier TCP port"#;
        check_ports(by_name, "10.96.0.10 | a:80/TCP", &[said]);
        let by_number = json!([{"name": "a", "port": 80}, {"name": "b", "port": 80}]);
        let said = "spec.ports[1].port: 80 is the number of an earlier TCP port";
        check_ports(by_number, "10.96.0.10 | a:80/TCP", &[said]);
    }

    #[test]
    fn one_name_and_number_may_serve_two_protocols() {
        let ports = json!([{"name": "dns", "port": 53}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        check_ports(ports, "10.96.0.10 | dns:53/TCP dns:53/UDP", &[]);
    }

    #[test]
    fn policies_and_affinity_are_read() {
        let spec = json!({"clusterIP": "10.96.0.10", "type": "NodePort", "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local"});
        check(spec.clone(), "10.96.0.10 | internal=Local external=Local affinity=10800", &[]);
        let mut spec = spec;
        for (seconds, kept) in [(1, 1), (86_400, 86_400)] {
            spec["sessionAffinityConfig"] = json!({"clientIP": {"timeoutSeconds": seconds}});
            check(spec.clone(), &format!("10.96.0.10 | internal=Local external=Local affinity={kept}"), &[]);
        }
    }

    #[test]
    fn a_timeout_out_of_range_is_named() {
        for seconds in [0, -1, 86_401] {
            let spec = json!({"clusterIP": "10.96.0.10", "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
            let said = format!(
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: {seconds} is not within 1-86400; 10800 counts"
            );
            check(spec, "10.96.0.10 | affinity=10800", &[&said]);
        }
    }

    #[test]
    fn a_local_external_policy_counts_only_where_somebody_outside_can_come() {
        let spec = |more: Value| {
            let mut spec = json!({"clusterIP": "10.96.0.10", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000});
            spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            spec
        };
        check(spec(json!({})), "10.96.0.10 |", &[]);
        check(spec(json!({"externalIPs": ["192.0.2.1"]})), "10.96.0.10 | external=Local ip=192.0.2.1", &[]);
        check(spec(json!({"type": "NodePort"})), "10.96.0.10 | external=Local", &[]);
        check(spec(json!({"type": "LoadBalancer"})), "10.96.0.10 | external=Local health=32000", &[]);
    }

    #[test]
    fn a_local_load_balancer_without_a_health_check_port_is_named() {
        let spec =
            json!({"clusterIP": "10.96.0.10", "type": "LoadBalancer", "externalTrafficPolicy": "Local"});
        let said =
            "spec.healthCheckNodePort: 0 is not a port (1-65535); the load balancer cannot ask for endpoints";
        check(spec, "10.96.0.10 | external=Local", &[said]);
    }

    #[test]
    fn external_addresses_get_their_one_form_and_blank_ones_are_passed_over() {
        let spec = json!({"clusterIP": "10.96.0.10", "externalIPs": ["192.0.2.010", " ", "", "fd00::0:1", "x", "192.0.2.10"]});
        let said = r#"spec.externalIPs[4]: "x" is not an address"#;
        check(spec, "10.96.0.10 | ip=192.0.2.10,fd00::1", &[said]);
    }

    #[test]
    fn ingress_addresses_are_served_unless_the_load_balancer_proxies() {
        let ingress = json!([{"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "VIP"},
            {"ip": "203.0.113.3", "ipMode": "Proxy"}, {"hostname": "lb.example"}, {"ip": "x"}]);
        let object = json!({"metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.10"},
            "status": {"loadBalancer": {"ingress": ingress}}});
        let said = r#"status.loadBalancer.ingress[4].ip: "x" is not an address"#;
        check_object(object, "10.96.0.10 | vip=203.0.113.1,203.0.113.2 proxied=203.0.113.3", &[said]);
    }

    #[test]
    fn source_ranges_get_their_one_form_and_blanks_around_them_are_cut() {
        let spec = json!({"clusterIP": "10.96.0.10", "loadBalancerSourceRanges": [" 192.0.2.9/24 ", " ", "fd00::/16", "x"]});
        let said = r#"spec.loadBalancerSourceRanges[3]: "x" is not a range such as 192.0.2.0/24"#;
        check(spec, "10.96.0.10 | ranges=192.0.2.0/24,fd00::/16", &[said]);
    }

    #[test]
    fn where_no_range_can_be_read_the_load_balancer_stays_closed() {
        let object = json!({"metadata": {"name": "web"},
            "spec": {"clusterIP": "10.96.0.10", "loadBalancerSourceRanges": ["192.0.2.0/33"]},
            "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}});
        let said = [
            r#"spec.loadBalancerSourceRanges[0]: "192.0.2.0/33" is not a range such as 192.0.2.0/24"#,
            "spec.loadBalancerSourceRanges: no IPv4 range can be read; the load balancer's IPv4 addresses are not served",
        ];
        check_object(object, "10.96.0.10 |", &said);
    }

    #[test]
    fn node_ports_are_read_whatever_the_type_and_named_if_they_cannot_be() {
        let ports = json!([{"name": "a", "port": 80, "nodePort": 30080}, {"name": "b", "port": 81, "nodePort": 70000},
            {"name": "c", "port": 82, "nodePort": 30080}, {"name": "d", "port": 80, "nodePort": 30080, "protocol": "UDP"}]);
        let said = [
            "spec.ports[1].nodePort: 70000 is not a port (1-65535)",
            "spec.ports[2].nodePort: 30080 is the node port of an earlier TCP port",
        ];
        check_ports(ports, "10.96.0.10 | a:80/TCP@30080 b:81/TCP c:82/TCP d:80/UDP@30080", &said);
        let spec = json!({"clusterIP": "10.96.0.10", "type": "NodePort", "ports": [{"port": 80}]});
        let said = "spec.ports[0].nodePort: is missing; a folder of manifests cannot allocate one";
        check(spec, "10.96.0.10 | :80/TCP", &[said]);
    }

    #[test]
    fn what_the_api_fills_in_is_no_problem() {
        let spec = json!({"clusterIP": "10.96.0.10", "type": "ClusterIP", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "externalIPs": [""]});
        check(spec, "10.96.0.10 |", &[]);
    }

    #[test]
    fn a_value_nobody_knows_is_a_problem() {
        let said = r#"spec.type: "clusterip" is not a type of Service; it counts as ClusterIP"#;
        check(json!({"clusterIP": "10.96.0.10", "type": "clusterip"}), "10.96.0.10 |", &[said]);
        let said =
            r#"spec.sessionAffinity: "Cookie" is neither None nor ClientIP; each connection is spread"#;
        check(json!({"clusterIP": "10.96.0.10", "sessionAffinity": "Cookie"}), "10.96.0.10 |", &[said]);
    }

    #[test]
    fn a_name_that_is_no_label_is_refused() {
        let object = json!({"metadata": {"name": "Web_1"}, "spec": {"clusterIP": "10.96.0.10"}});
        check_object(object, "skip", &[r#"metadata.name: "Web_1" is not a DNS label"#]);
        let object = json!({"metadata": {"namespace": "default"}, "spec": {"clusterIP": "10.96.0.10"}});
        check_object(object, "skip", &[r#"metadata.name: "" is not a DNS label"#]);
        let said = r#"spec.ports[0].name: "a/b" is not a DNS label"#;
        check_ports(json!([{"name": "a/b", "port": 80}]), "10.96.0.10 |", &[said]);
    }

    #[test]
    fn a_service_without_spec_is_a_problem() {
        check_object(
            json!({"metadata": {"namespace": "default", "name": "web"}}),
            "skip",
            &["spec: is missing"],
        );
    }

    #[test]
    fn the_time_of_creation_is_kept_in_seconds() {
        let meta = json!({"name": "web", "creationTimestamp": "2026-09-15T10:00:00Z"});
        let object =
            serde_json::from_value(json!({"metadata": meta, "spec": {"clusterIP": "10.96.0.10"}})).unwrap();
        let kept = service(&object).0.kept().unwrap();
        assert_eq!(kept.created, Some(1_789_466_400));
        assert_eq!(kept.name.to_string(), "default/web");
    }

    fn check_ports(ports: Value, kept: &str, problems: &[&str]) {
        check(json!({"clusterIP": "10.96.0.10", "ports": ports}), kept, problems);
    }

    fn check(spec: Value, kept: &str, problems: &[&str]) {
        check_object(
            json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec}),
            kept,
            problems,
        );
    }

    fn check_object(object: Value, kept: &str, problems: &[&str]) {
        let (parsed, found) = service(&serde_json::from_value(object.clone()).unwrap());
        let found: Vec<String> = found.iter().map(|one| format!("{}: {}", one.field, one.message)).collect();
        assert_eq!(found, problems, "{object}");
        assert_eq!(parsed.kept().map_or_else(|| "skip".to_owned(), |kept| render(&kept)), kept, "{object}");
    }

    fn render(service: &Service) -> String {
        let Service {
            name: _,
            created: _,
            addresses,
            ports,
            internal_policy,
            external_policy,
            affinity,
            external,
        } = service;
        let mut words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        words.push("|".to_owned());
        words.extend(ports.iter().map(|port| {
            let node_port = port.node_port.map(|port| format!("@{port}")).unwrap_or_default();
            format!("{}:{}/{}{node_port}", port.name, port.port, port.protocol)
        }));
        for (word, policy) in [("internal", internal_policy), ("external", external_policy)] {
            words.extend((*policy == Policy::Local).then(|| format!("{word}=Local")));
        }
        words.extend(affinity.map(|seconds| format!("affinity={seconds}")));
        let External { external_ips, load_balancer, proxied, source_ranges, health_check_port } =
            external.as_deref().cloned().unwrap_or_default();
        let list =
            |word: &str, list: Vec<String>| (!list.is_empty()).then(|| format!("{word}={}", list.join(",")));
        let addresses = |list: Box<[IpAddr]>| list.iter().map(ToString::to_string).collect();
        words.extend(list("ip", addresses(external_ips)));
        words.extend(list("vip", addresses(load_balancer)));
        words.extend(list("proxied", addresses(proxied)));
        words.extend(list("ranges", source_ranges.iter().map(ToString::to_string).collect()));
        words.extend(health_check_port.map(|port| format!("health={port}")));
        words.join(" ")
    }
}
