//! Services as a whole: ports, families, changes, health checks.

use super::*;
use crate::model::External;
use crate::model::sample::{apply_service, apply_slice, delete, name, service, slice};
use crate::model::{Change, Kind};

#[test]
fn each_port_has_its_own_endpoints() {
    check(
        &[
            apply_service(service("web", "10.96.0.10", "http:80 admin:81")),
            apply_slice(slice("web-1", "web", "http:8080 admin:9090", "10.1.0.5 10.1.0.6")),
        ],
        "admin/TCP/IPv4 10.96.0.10:81 -> 10.1.0.5:9090 10.1.0.6:9090\n\
         http/TCP/IPv4 10.96.0.10:80 -> 10.1.0.5:8080 10.1.0.6:8080",
    );
}

#[test]
fn each_family_has_its_own_endpoints() {
    check(
        &[
            apply_service(service("web", "fd00::10 10.96.0.10", ":80")),
            apply_slice(slice("web-1", "web", ":8080", "10.1.0.5")),
            apply_slice(slice("web-2", "web", ":8080", "fd00::5 fd00::6=st")),
        ],
        "/TCP/IPv4 10.96.0.10:80 -> 10.1.0.5:8080\n\
         /TCP/IPv6 [fd00::10]:80 -> [fd00::5]:8080 kept [fd00::6]:8080",
    );
}

#[test]
fn a_family_without_an_address_is_not_served() {
    check(
        &[
            apply_service(service("web", "10.96.0.10", ":80")),
            apply_slice(slice("web-2", "web", ":8080", "fd00::5")),
        ],
        "/TCP/IPv4 10.96.0.10:80 ->",
    );
}

#[test]
fn a_service_without_slices_still_answers_for_its_address() {
    check(&[apply_service(service("web", "10.96.0.10", "dns:53/UDP"))], "dns/UDP/IPv4 10.96.0.10:53 ->");
}

#[test]
fn slices_without_a_service_do_nothing() {
    check(&[apply_slice(slice("web-1", "web", ":80", "10.1.0.5"))], "");
}

#[test]
fn slices_wait_for_their_service() {
    check(
        &[
            apply_slice(slice("web-1", "web", ":80", "10.1.0.5")),
            apply_service(service("web", "10.96.0.10", ":80")),
        ],
        "/TCP/IPv4 10.96.0.10:80 -> 10.1.0.5:80",
    );
}

#[test]
fn slices_of_other_services_are_not_mixed_in() {
    check(
        &[
            apply_service(service("web", "10.96.0.10", ":80")),
            apply_slice(slice("other-1", "other", ":80", "10.1.0.5")),
        ],
        "/TCP/IPv4 10.96.0.10:80 ->",
    );
}

#[test]
fn a_renamed_port_finds_the_slices_of_its_new_name() {
    let slices = [
        apply_service(service("web", "10.96.0.10", "old:80")),
        apply_slice(slice("web-1", "web", "old:8080 new:9090", "10.1.0.5")),
        apply_service(service("web", "10.96.0.10", "new:80")),
    ];
    check(&slices, "new/TCP/IPv4 10.96.0.10:80 -> 10.1.0.5:9090");
}

#[test]
fn a_removed_port_leaves_the_other() {
    let slices = [
        apply_service(service("web", "10.96.0.10", "a:80 b:81")),
        apply_slice(slice("web-1", "web", "a:80 b:81", "10.1.0.5")),
        apply_service(service("web", "10.96.0.10", "b:81")),
    ];
    check(&slices, "b/TCP/IPv4 10.96.0.10:81 -> 10.1.0.5:81");
}

#[test]
fn an_endpoint_goes_from_ready_to_terminating_to_gone() {
    let mut changes = vec![apply_service(service("web", "10.96.0.10", ":80"))];
    for (endpoints, outcome) in [
        ("10.1.0.5 10.1.0.6", "-> 10.1.0.5:80 10.1.0.6:80"),
        ("10.1.0.5 10.1.0.6=st", "-> 10.1.0.5:80 kept 10.1.0.6:80"),
        ("10.1.0.5 10.1.0.6=t", "-> 10.1.0.5:80"),
        ("10.1.0.5", "-> 10.1.0.5:80"),
        ("10.1.0.5=st", "-> 10.1.0.5:80"),
        ("", "->"),
    ] {
        changes.push(apply_slice(slice("web-1", "web", ":80", endpoints)));
        check(&changes, &format!("/TCP/IPv4 10.96.0.10:80 {outcome}"));
    }
}

#[test]
fn one_of_two_slices_may_go() {
    let changes = [
        apply_service(service("web", "10.96.0.10", ":80")),
        apply_slice(slice("web-1", "web", ":80", "10.1.0.5")),
        apply_slice(slice("web-2", "web", ":80", "10.1.0.6")),
        delete(Kind::EndpointSlice, "web-1"),
    ];
    check(&changes, "/TCP/IPv4 10.96.0.10:80 -> 10.1.0.6:80");
}

#[test]
fn a_service_that_is_gone_wants_nothing() {
    let changes = [
        apply_service(service("web", "10.96.0.10", ":80")),
        apply_slice(slice("web-1", "web", ":80", "10.1.0.5")),
        delete(Kind::Service, "web"),
    ];
    check(&changes, "");
}

#[test]
fn only_the_services_concerned_are_reported() {
    let mut cluster = Cluster::default();
    let mut desired = Desired::default();
    let mut step = |changes: &[Change], concerned: &[&str]| {
        changes.iter().for_each(|change| cluster.take(change.clone()));
        let dirty = cluster.dirty();
        let changed = desired.update(&cluster, dirty);
        assert_eq!(changed, concerned.iter().map(|one| name(one)).collect(), "{changes:?}");
    };
    let web = || apply_service(service("web", "10.96.0.10", ":80"));
    step(&[web(), apply_service(service("other", "10.96.0.11", ":80"))], &["other", "web"]);
    step(&[apply_slice(slice("web-1", "web", ":80", "10.1.0.5"))], &["web"]);
    step(&[web()], &[]);
    // An endpoint that neither serves nor is ready changes nothing.
    step(&[apply_slice(slice("web-1", "web", ":80", "10.1.0.5 10.1.0.6="))], &[]);
    step(&[apply_service(service("late", "10.96.0.10", ":80"))], &["late", "web"]);
    step(&[delete(Kind::Service, "late")], &["late", "web"]);
    step(&[delete(Kind::Service, "web"), delete(Kind::Service, "other")], &["other", "web"]);
}

#[test]
fn another_zone_concerns_everybody_whose_endpoints_are_hinted() {
    let mut cluster = Cluster::default();
    for (one, hint) in [("web", "^a"), ("other", "")] {
        let address = if one == "web" { "10.96.0.10" } else { "10.96.0.11" };
        cluster.take(apply_service(service(one, address, ":80")));
        let endpoints = format!("10.1.0.5{hint} 10.1.0.6{}", hint.replace('a', "b"));
        cluster.take(apply_slice(slice(&format!("{one}-1"), one, ":80", &endpoints)));
    }
    let zone = |zone: &str| Context { zone: Some(zone.into()), ..Context::default() };
    let mut desired = Desired::new(zone("a"));
    desired.update(&cluster, cluster.names().cloned().collect());
    assert_eq!(desired.set_context(zone("b"), &cluster), [name("web")].into());
    assert_eq!(desired.set_context(zone("b"), &cluster), BTreeSet::new());
}

#[test]
fn a_load_balancer_is_told_of_ready_endpoints_here_by_distinct_address() {
    check_health("10.1.0.5@n1 10.1.0.6@n2", &[(Family::V4, 1)]);
    check_health("10.1.0.5@n1 10.1.0.6=st@n1", &[(Family::V4, 1)]);
    check_health("10.1.0.5=st@n1 10.1.0.6=s@n1", &[(Family::V4, 0)]);
    check_health("", &[(Family::V4, 0)]);
}

/// Each endpoint has both ports of the Service.
fn check_health(endpoints: &str, told: &[(Family, usize)]) {
    let mut cluster = Cluster::default();
    let external = External { health_check_port: NonZeroU16::new(32000), ..External::default() };
    let external = Some(Box::new(external));
    cluster.take(apply_service(Service { external, ..service("web", "10.96.0.10", "a:80 b:81") }));
    cluster.take(apply_slice(slice("web-1", "web", "a:80 b:81", endpoints)));
    let context = Context { node: "n1".into(), ..Context::default() };
    let found = of_service(&cluster, &context, &name("web")).health_checks;
    let found: Vec<_> = found.iter().map(|check| (check.family, check.local_endpoints)).collect();
    assert_eq!(found, told, "{endpoints}");
}

fn check(changes: &[Change], outcome: &str) {
    let mut cluster = Cluster::default();
    changes.iter().for_each(|change| cluster.take(change.clone()));
    let found = of_service(&cluster, &Context::default(), &name("web"));
    let lines: Vec<String> = found.ports.iter().map(render).collect();
    assert_eq!(lines.join("\n"), outcome, "{changes:?}");
}

fn render((id, port): &(PortId, ServicePort)) -> String {
    let frontends = port.frontends.iter().filter_map(|one| one.address()).map(|one| format!(" {one}"));
    let mut line = format!("{}/{}/{}{} ->", id.port, id.protocol, id.family, frontends.collect::<String>());
    line.extend(port.list(List::Cluster).map(|one| format!(" {one}")));
    let mut kept = port.endpoints.iter().filter(|one| !one.uses.cluster && !one.uses.local).peekable();
    if kept.peek().is_some() {
        line += " kept";
        line.extend(kept.map(|one| format!(" {}", one.address())));
    }
    line
}
