//! What the socket layer cannot do yet for a service port. Pure.

#![forbid(unsafe_code)]

use crate::desired::{Action, Frontend, ServicePort};
use crate::model::{ObjectRef, Problem, Protocol, ServicePortName};

/// One problem for each kind of thing that is asked for and not served. Of a service port that is not served at all only
/// that is said.
pub(super) fn problems(name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
    match name.protocol {
        Protocol::Tcp | Protocol::Udp => outside(name, port).into_iter().chain(dropped(name, port)).collect(),
        Protocol::Sctp => vec![sctp(name, port)],
    }
}

fn sctp(name: &ServicePortName, port: &ServicePort) -> Problem {
    let address = port.frontends.iter().find_map(|frontend| frontend.address());
    let which = address
        .map_or_else(|| format!("port {:?}", &*name.port), |address| format!("port {}", address.port()));
    problem(name, "spec.ports", format!("{which}/SCTP is not served yet"))
}

fn outside(name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
    let (mut node_ports, mut external, mut balanced) = (Vec::new(), Vec::new(), Vec::new());
    for frontend in &port.frontends {
        match *frontend {
            Frontend::ClusterIp(_) => {}
            Frontend::NodePort(number) => node_ports.push(number.to_string()),
            Frontend::ExternalIp(address) => external.push(address.to_string()),
            Frontend::LoadBalancer(address) => balanced.push(address.to_string()),
        }
    }
    let kinds = [
        ("spec.ports", "NodePort", node_ports),
        ("spec.externalIPs", "externalIP", external),
        ("status.loadBalancer", "load balancer address", balanced),
    ];
    let asked = kinds.into_iter().filter(|(_, _, which)| !which.is_empty());
    asked
        .map(|(field, kind, which)| {
            let which = which.join(" ");
            let what = format!("{kind} {which}/{} is not served yet; the ClusterIP answers", name.protocol);
            problem(name, field, what)
        })
        .collect()
}

/// Drop means here that nobody translates: there is no packet filter yet that stops what such a call sends.
fn dropped(name: &ServicePortName, port: &ServicePort) -> Option<Problem> {
    match port.internal.pod {
        Action::Forward(..) | Action::Reject => None,
        Action::Drop => Some(problem(
            name,
            "spec.internalTrafficPolicy",
            "Local, and no endpoint is here: calls are not dropped yet, but leave the node untranslated"
                .to_owned(),
        )),
    }
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
        check(Protocol::Tcp, &[Frontend::ClusterIp(at("10.96.0.1:80"))], &[]);
    }

    #[test]
    fn a_node_port_is_named() {
        check(
            Protocol::Tcp,
            &[Frontend::ClusterIp(at("10.96.0.1:80")), Frontend::NodePort(NonZeroU16::MAX)],
            &["Service default/s1: spec.ports: NodePort 65535/TCP is not served yet; the ClusterIP answers"],
        );
    }

    #[test]
    fn there_is_one_problem_for_each_kind() {
        let balanced = ["203.0.113.1:53", "203.0.113.2:53"].map(|text| Frontend::LoadBalancer(at(text)));
        check(
            Protocol::Udp,
            &[Frontend::ExternalIp(at("[2001:db8::1]:53")), balanced[0], balanced[1]],
            &[
                "Service default/s1: spec.externalIPs: \
                 externalIP [2001:db8::1]:53/UDP is not served yet; the ClusterIP answers",
                "Service default/s1: status.loadBalancer: load balancer address \
                 203.0.113.1:53 203.0.113.2:53/UDP is not served yet; the ClusterIP answers",
            ],
        );
    }

    #[test]
    fn of_a_port_that_is_not_served_at_all_only_that_is_said() {
        check(
            Protocol::Sctp,
            &[Frontend::ClusterIp(at("10.96.0.1:80")), Frontend::NodePort(NonZeroU16::MAX)],
            &["Service default/s1: spec.ports: port 80/SCTP is not served yet"],
        );
    }

    #[test]
    fn it_is_said_that_what_should_be_dropped_leaves_the_node() {
        let port = ServicePort { internal: everywhere(Action::Drop), ..port(1, &[1], &[]) };
        let said = "Service default/s1: spec.internalTrafficPolicy: Local, and no endpoint is here: \
                    calls are not dropped yet, but leave the node untranslated";
        assert_eq!(problems(&name(1), &port).iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    }

    fn check(protocol: Protocol, frontends: &[Frontend], said: &[&str]) {
        let port = ServicePort { frontends: frontends.into(), ..port(1, &[], &[]) };
        let found = problems(&ServicePortName { protocol, ..name(1) }, &port);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), said);
    }
}
