//! Services.

use std::net::IpAddr;

use k8s_openapi::api::core::v1;

use super::super::address;
use super::super::{Family, Protocol, Service, ServiceName, ServicePort};
use super::findings::Findings;
use super::{Kind, ObjectRef, PROXY_NAME_LABEL, Parsed, Problem, has_label, port, reference};

const NO_CLUSTER_IP: &str = "has no clusterIP; a folder of manifests cannot allocate one";
const LIKE_CLUSTER_IP: &str = "only the ClusterIP answers";

/// What a Service means to us, and what is wrong with it.
pub fn service(object: &v1::Service) -> (Parsed<Service>, Vec<Problem>) {
    let v1::Service { metadata, spec, status: _ } = object;
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
    let addresses = addresses(spec, &mut findings);
    let ports = ports(spec, &mut findings);
    note_not_served(spec, &mut findings);
    if addresses.is_empty() {
        return (Parsed::Skip, findings.finish());
    }
    let ObjectRef { kind: _, namespace, name } = this;
    let created = metadata.creation_timestamp.as_ref().map(|time| time.0.to_string());
    let name = ServiceName { namespace, name };
    (Parsed::Keep(Service { name, created, addresses, ports }), findings.finish())
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

fn addresses(spec: &v1::ServiceSpec, findings: &mut Findings) -> Vec<IpAddr> {
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
    found.shrink_to_fit();
    found
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

fn ports(spec: &v1::ServiceSpec, findings: &mut Findings) -> Vec<ServicePort> {
    let mut kept: Vec<ServicePort> = Vec::new();
    for (index, stated) in spec.ports.iter().flatten().enumerate() {
        let field = format!("spec.ports[{index}]");
        let Some(port) = read_port(&field, stated, findings) else { continue };
        match kept.iter().find_map(|other| clash(other, &port)) {
            Some((part, message)) => findings.note(format_args!("{field}.{part}"), message),
            None => kept.push(port),
        }
    }
    kept.shrink_to_fit();
    kept
}

fn read_port(field: &str, stated: &v1::ServicePort, findings: &mut Findings) -> Option<ServicePort> {
    let name = stated.name.as_deref().unwrap_or_default();
    if !name.is_empty() && !port::is_label(name) {
        findings.note(format_args!("{field}.name"), format_args!("{name:?} is not a DNS label"));
        return None;
    }
    let number = port::number(field, stated.port, findings);
    let protocol = port::protocol(field, stated.protocol.as_deref(), findings);
    let (port, protocol) = (number?, protocol?);
    match protocol {
        Protocol::Tcp | Protocol::Udp => Some(ServicePort { name: name.into(), protocol, port }),
        Protocol::Sctp => {
            findings.not_served(format_args!("{field}.protocol"), "SCTP", "this port does not answer");
            None
        }
    }
}

/// Why two ports cannot both be served: where the second is wrong, and how.
fn clash(first: &ServicePort, second: &ServicePort) -> Option<(&'static str, String)> {
    let ServicePort { name, protocol, port } = second;
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

/// Fields whose meaning is not built; the ClusterIP works as if they were not there.
fn note_not_served(spec: &v1::ServiceSpec, findings: &mut Findings) {
    match spec.type_.as_deref() {
        None | Some("ClusterIP" | "") => {}
        Some(kind @ ("NodePort" | "LoadBalancer")) => findings.not_served("spec.type", kind, LIKE_CLUSTER_IP),
        Some(other) => {
            findings.note("spec.type", format_args!("{other:?} is not a type of Service; {LIKE_CLUSTER_IP}"))
        }
    }
    choice(
        "spec.sessionAffinity",
        &spec.session_affinity,
        ["None", "ClientIP"],
        "each connection is spread",
        findings,
    );
    let spread = "endpoints of all nodes are used";
    choice(
        "spec.internalTrafficPolicy",
        &spec.internal_traffic_policy,
        ["Cluster", "Local"],
        spread,
        findings,
    );
    let external = spec.external_ips.as_deref().unwrap_or_default().iter();
    let external: Vec<&str> = external.map(|text| text.trim()).filter(|text| !text.is_empty()).collect();
    if !external.is_empty() {
        findings.not_served("spec.externalIPs", &external.join(", "), LIKE_CLUSTER_IP);
    }
}

/// A field with a value that is served and one that is not.
fn choice(field: &str, value: &Option<String>, known: [&str; 2], instead: &str, findings: &mut Findings) {
    let [served, not_served] = known;
    match value.as_deref() {
        None | Some("") => {}
        Some(value) if value == served => {}
        Some(value) if value == not_served => findings.not_served(field, value, instead),
        Some(other) => {
            findings.note(field, format_args!("{other:?} is neither {served} nor {not_served}; {instead}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

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
    fn sctp_is_not_served_yet() {
        let said = "spec.ports[0].protocol: SCTP is not served yet; this port does not answer";
        let ports = json!([{"name": "a", "port": 80, "protocol": "SCTP"}, {"name": "b", "port": 80}]);
        check_ports(ports, "10.96.0.10 | b:80/TCP", &[said]);
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
    fn what_is_not_served_yet_is_said_once_a_field_and_the_cluster_ip_works() {
        let spec = json!({"clusterIP": "10.96.0.10", "type": "LoadBalancer", "sessionAffinity": "ClientIP",
            "internalTrafficPolicy": "Local", "externalIPs": ["192.0.2.1", " ", "192.0.2.2"],
            "ports": [{"port": 80, "nodePort": 30080}]});
        let said = [
            "spec.type: LoadBalancer is not served yet; only the ClusterIP answers",
            "spec.sessionAffinity: ClientIP is not served yet; each connection is spread",
            "spec.internalTrafficPolicy: Local is not served yet; endpoints of all nodes are used",
            "spec.externalIPs: 192.0.2.1, 192.0.2.2 is not served yet; only the ClusterIP answers",
        ];
        check(spec, "10.96.0.10 | :80/TCP", &said);
    }

    #[test]
    fn what_the_api_fills_in_is_no_problem() {
        let spec = json!({"clusterIP": "10.96.0.10", "type": "ClusterIP", "sessionAffinity": "None",
            "internalTrafficPolicy": "Cluster", "externalIPs": [""]});
        check(spec, "10.96.0.10 |", &[]);
    }

    #[test]
    fn a_value_nobody_knows_is_a_problem() {
        let said = r#"spec.type: "clusterip" is not a type of Service; only the ClusterIP answers"#;
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
    fn the_time_of_creation_is_kept_as_text() {
        let meta = json!({"name": "web", "creationTimestamp": "2026-09-15T10:00:00Z"});
        let object =
            serde_json::from_value(json!({"metadata": meta, "spec": {"clusterIP": "10.96.0.10"}})).unwrap();
        let kept = service(&object).0.kept().unwrap();
        assert_eq!(kept.created.as_deref(), Some("2026-09-15T10:00:00Z"));
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

    fn render(Service { name: _, created: _, addresses, ports }: &Service) -> String {
        let mut words: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        words.push("|".to_owned());
        words.extend(ports.iter().map(|port| format!("{}:{}/{}", port.name, port.port, port.protocol)));
        words.join(" ")
    }
}
