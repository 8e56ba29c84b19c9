//! What this node should do for each service port: which addresses answer, who gets new flows, whose flows
//! may stay.
//!
//! Pure, and computed from scratch for one Service at a time: the answer depends on the facts, never on what
//! was desired before. [`Claims`] is the exception, an index over all Services, because two of them may ask
//! for one address.

#![forbid(unsafe_code)]

pub mod claims;
pub mod endpoints;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::model::{self, Cluster, Family, Service, ServiceName, ServicePortName};

pub use claims::Claims;
pub use endpoints::{Endpoints, of_port, select};

/// What this node does for one service port in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Addresses that answer, sorted.
    pub frontends: Vec<SocketAddr>,
    /// Who gets new flows; sorted, each once.
    pub endpoints: Vec<SocketAddr>,
    /// Who gets no new flows but still serves those that are there; sorted, each once.
    pub draining: Vec<SocketAddr>,
}

/// What this node does for one Service; nothing, if it is gone or skipped.
pub fn for_service(cluster: &Cluster, name: &ServiceName) -> BTreeMap<ServicePortName, ServicePort> {
    let mut wanted = BTreeMap::new();
    let Some(service) = cluster.service(name) else { return wanted };
    let Service { name: _, created: _, addresses, ports } = service;
    for port in ports {
        let model::ServicePort { name: port_name, protocol, port: number } = port;
        for address in addresses {
            let family = Family::of(*address);
            let service = name.clone();
            let id = ServicePortName { service, port: port_name.clone(), protocol: *protocol, family };
            let Endpoints { endpoints, draining } = select(&of_port(cluster.slices(name), &id));
            let frontends = vec![SocketAddr::new(*address, number.get())];
            wanted.insert(id, ServicePort { frontends, endpoints, draining });
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;
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
             /TCP/IPv6 [fd00::10]:80 -> [fd00::5]:8080 draining [fd00::6]:8080",
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
            ("10.1.0.5 10.1.0.6=st", "-> 10.1.0.5:80 draining 10.1.0.6:80"),
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

    fn check(changes: &[Change], outcome: &str) {
        let mut cluster = Cluster::default();
        changes.iter().for_each(|change| cluster.take(change.clone()));
        let lines: Vec<String> = for_service(&cluster, &name("web")).iter().map(render).collect();
        assert_eq!(lines.join("\n"), outcome, "{changes:?}");
    }

    fn render((id, port): (&ServicePortName, &ServicePort)) -> String {
        let ServicePort { frontends, endpoints, draining } = port;
        let words = |list: &[SocketAddr]| list.iter().map(|one| format!(" {one}")).collect::<String>();
        let mut line =
            format!("{}/{}/{}{} ->{}", id.port, id.protocol, id.family, words(frontends), words(endpoints));
        if !draining.is_empty() {
            line += &format!(" draining{}", words(draining));
        }
        line
    }
}
