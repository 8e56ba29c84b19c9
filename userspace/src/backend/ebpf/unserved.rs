//! What the socket layer cannot do for a service port where it is alone. Pure.

#![forbid(unsafe_code)]

use crate::desired::{Action, Frontend, ServicePort};
use crate::model::{ObjectRef, Problem, Protocol, ServicePortName};

/// One problem for each kind of thing that is asked for and not served. `outside`: callers from outside are served by
/// somebody else. Of a service port that is not served at all only that is said.
pub(super) fn problems(name: &ServicePortName, port: &ServicePort, outside: bool) -> Vec<Problem> {
    match name.protocol {
        Protocol::Tcp | Protocol::Udp => {
            beyond(name, port, outside).into_iter().chain(dropped(name, port)).collect()
        }
        Protocol::Sctp => vec![sctp(name, port)],
    }
}

fn sctp(name: &ServicePortName, port: &ServicePort) -> Problem {
    let address = port.frontends.iter().find_map(|frontend| frontend.address());
    let which = address
        .map_or_else(|| format!("port {:?}", &*name.port), |address| format!("port {}", address.port()));
    problem(name, "spec.ports", format!("{which}/SCTP is not served yet"))
}

/// Addresses for outside: callers on this node are served at the socket, if all sources are let in.
fn beyond(name: &ServicePortName, port: &ServicePort, outside: bool) -> Vec<Problem> {
    let (mut node_ports, mut external, mut balanced) = (Vec::new(), Vec::new(), Vec::new());
    for frontend in &port.frontends {
        match *frontend {
            Frontend::ClusterIp(_) => {}
            Frontend::NodePort(number) => node_ports.push(number.to_string()),
            Frontend::ExternalIp(address) => external.push(address.to_string()),
            Frontend::LoadBalancer(address) => balanced.push(address.to_string()),
        }
    }
    let here_only = (!outside).then_some("is served to callers on this node only");
    let filtered = match (port.sources.is_some(), outside) {
        (false, _) => here_only,
        (true, false) => Some("is not served: source ranges are nothing that a socket can tell"),
        (true, true) => {
            Some("is not served to callers on this node: source ranges are nothing that a socket can tell")
        }
    };
    let kinds = [
        ("spec.ports", "NodePort", node_ports, here_only),
        ("spec.externalIPs", "externalIP", external, here_only),
        ("status.loadBalancer", "load balancer address", balanced, filtered),
    ];
    let asked = kinds.into_iter().filter(|(_, _, which, _)| !which.is_empty());
    asked
        .filter_map(|(field, kind, which, how)| {
            let what = format!("{kind} {}/{} {}", which.join(" "), name.protocol, how?);
            Some(problem(name, field, what))
        })
        .collect()
}

/// Drop means here that nobody translates: there is no packet filter that stops what such a call sends.
fn dropped(name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
    let drops = |action: Action| matches!(action, Action::Drop);
    let is_outside = |frontend: &Frontend| !matches!(frontend, Frontend::ClusterIp(_));
    let external = drops(port.external.pod) || drops(port.external.node);
    let policies = [
        ("spec.internalTrafficPolicy", drops(port.internal.pod)),
        ("spec.externalTrafficPolicy", external && port.frontends.iter().any(is_outside)),
    ];
    let what = "Local, and no endpoint is here: calls are not dropped yet, but leave the node untranslated";
    let policies = policies.into_iter().filter(|(_, drops)| *drops);
    policies.map(|(field, _)| problem(name, field, what.to_owned())).collect()
}

fn problem(name: &ServicePortName, field: &str, message: String) -> Problem {
    Problem::new(ObjectRef::from(&name.service), field, message)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::problems;
    use crate::backend::ebpf::sample::{at, everywhere, name, port};
    use crate::desired::{Action, Frontend, ServicePort};
    use crate::model::{Protocol, ServicePortName};

    #[test]
    fn a_cluster_ip_is_served() {
        for outside in [false, true] {
            check(Protocol::Tcp, &[Frontend::ClusterIp(at("10.96.0.1:80"))], outside, &[]);
        }
    }

    #[test]
    fn a_node_port_is_served_to_callers_here_only() {
        let frontends = [Frontend::ClusterIp(at("10.96.0.1:80")), Frontend::NodePort(NonZeroU16::MAX)];
        let said =
            "Service default/s1: spec.ports: NodePort 65535/TCP is served to callers on this node only";
        check(Protocol::Tcp, &frontends, false, &[said]);
        check(Protocol::Tcp, &frontends, true, &[]);
    }

    #[test]
    fn there_is_one_problem_for_each_kind() {
        let balanced = ["203.0.113.1:53", "203.0.113.2:53"].map(|text| Frontend::LoadBalancer(at(text)));
        check(
            Protocol::Udp,
            &[Frontend::ExternalIp(at("[2001:db8::1]:53")), balanced[0], balanced[1]],
            false,
            &[
                "Service default/s1: spec.externalIPs: \
                 externalIP [2001:db8::1]:53/UDP is served to callers on this node only",
                "Service default/s1: status.loadBalancer: load balancer address \
                 203.0.113.1:53 203.0.113.2:53/UDP is served to callers on this node only",
            ],
        );
    }

    #[test]
    fn source_ranges_keep_a_load_balancers_address_from_being_served() {
        let said =
            "Service default/s1: status.loadBalancer: load balancer address 203.0.113.1:53/TCP is not served";
        for (outside, more) in [(false, ""), (true, " to callers on this node")] {
            let ranged = ServicePort {
                frontends: [Frontend::LoadBalancer(at("203.0.113.1:53"))].into(),
                sources: Some(Box::default()),
                ..port(1, &[], &[])
            };
            let found = problems(&name(1), &ranged, outside);
            let words = format!("{said}{more}: source ranges are nothing that a socket can tell");
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [words]);
        }
    }

    #[test]
    fn of_a_port_that_is_not_served_at_all_only_that_is_said() {
        check(
            Protocol::Sctp,
            &[Frontend::ClusterIp(at("10.96.0.1:80")), Frontend::NodePort(NonZeroU16::MAX)],
            false,
            &["Service default/s1: spec.ports: port 80/SCTP is not served yet"],
        );
    }

    #[test]
    fn it_is_said_that_what_should_be_dropped_leaves_the_node() {
        let inside = ServicePort { internal: everywhere(Action::Drop), ..port(1, &[1], &[]) };
        let outside = ServicePort {
            frontends: [Frontend::ExternalIp(at("192.0.2.1:80"))].into(),
            external: everywhere(Action::Drop),
            ..port(1, &[1], &[])
        };
        for (field, port) in [("internal", inside), ("external", outside)] {
            let said = format!(
                "Service default/s1: spec.{field}TrafficPolicy: Local, and no endpoint is here: \
                 calls are not dropped yet, but leave the node untranslated"
            );
            let found = problems(&name(1), &port, true);
            assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
        }
    }

    fn check(protocol: Protocol, frontends: &[Frontend], outside: bool, said: &[&str]) {
        let port = ServicePort { frontends: frontends.into(), ..port(1, &[], &[]) };
        let found = problems(&ServicePortName { protocol, ..name(1) }, &port, outside);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), said);
    }
}
