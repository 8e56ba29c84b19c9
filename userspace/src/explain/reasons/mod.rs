//! From facts and decisions to reasons. Pure.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::{Answering, Candidate, Listed, Question, Reasons, Source, Target};
use crate::desired::{self, Caller, Desired, List, Pods, PortId};
use crate::dry_run::document::{Address, Explain, Flow, Kind, Masquerade, ServicePort};
use crate::dry_run::draw::{View, ports_of, word};
use crate::model::{Cluster, Family, Node, Protocol, ServiceName};

/// Answers a question.
pub fn reasons(cluster: &Cluster, desired: &Desired, question: &Question) -> Reasons {
    let view = &View { cluster, desired, node: cluster.node(), explain: true };
    let Told { caller, why, is_here } = told(view, question.source);
    let is_meant =
        |name: &ServiceName, id: &PortId, port: &desired::ServicePort| is_meant(question, name, id, port);
    let mut answers = Vec::new();
    for port in ports_of(view, is_meant) {
        for address in &port.addresses {
            if names(view, question, &port, address) {
                answers.push(answering(view, question.source, caller, &port, address));
            }
        }
    }
    answers.sort_by_key(|one| (one.kind, one.address));
    let mut notes = if answers.is_empty() { nobody(view, question) } else { Vec::new() };
    if !cluster.synced() {
        notes.push("the daemon has not read all objects yet".to_owned());
    }
    Reasons { node: cluster.own_name().to_string(), caller, why_caller: why, is_here, answers, notes }
}

/// Whether a port may have what is asked for. A node port may stand for any address.
fn is_meant(question: &Question, name: &ServiceName, id: &PortId, port: &desired::ServicePort) -> bool {
    match &question.target {
        Target::Service(wanted, _, protocol) => name == wanted && id.protocol == *protocol,
        Target::Address(at, protocol) => {
            id.protocol == *protocol
                && port.frontends.iter().any(|frontend| match frontend.address() {
                    Some(address) => address == *at,
                    None => {
                        matches!(frontend, desired::Frontend::NodePort(number) if number.get() == at.port())
                    }
                })
        }
    }
}

/// Whether an address is what is asked for.
fn names(view: &View<'_>, question: &Question, port: &ServicePort, address: &Address) -> bool {
    if let Source::Address(source) = question.source
        && Family::of(source) != Family::of(address.ip)
    {
        return false;
    }
    match &question.target {
        Target::Address(at, protocol) => {
            protocol.as_str() == port.protocol && (address.ip, address.port) == (at.ip(), at.port())
        }
        Target::Service(name, wanted, protocol) => {
            let is_port = port.port_name == *wanted || number_of(view, name, port) == wanted.parse().ok();
            is_port && protocol.as_str() == port.protocol
        }
    }
}

/// The number by which the Service's ClusterIP answers at this port.
fn number_of(view: &View<'_>, name: &ServiceName, port: &ServicePort) -> Option<u16> {
    let service = view.cluster.service(name)?;
    let same = |one: &&crate::model::ServicePort| {
        *one.name == *port.port_name && one.protocol.as_str() == port.protocol
    };
    service.ports.iter().find(same).map(|one| one.port.get())
}

/// What a source is.
struct Told {
    caller: Caller,
    why: String,
    is_here: Option<bool>,
}

fn told(view: &View<'_>, source: Source) -> Told {
    let address = match source {
        Source::Any(caller) => {
            let is_here = match caller {
                Caller::Pod => None,
                Caller::Node => Some(true),
                Caller::Outside => Some(false),
            };
            return Told { caller, why: "as asked".to_owned(), is_here };
        }
        Source::Address(address) => address,
    };
    let is_own = view.node.is_some_and(|node| node.addresses.contains(&address)) || address.is_loopback();
    if is_own {
        return Told {
            caller: Caller::Node,
            why: "it is an address of this node".to_owned(),
            is_here: Some(true),
        };
    }
    let is_here = here(view.node, address);
    match &view.desired.context().family(Family::of(address)).pods {
        Some(Pods::Within(range)) if range.contains(&address) => {
            Told { caller: Caller::Pod, why: format!("it is in the pods' range {range}"), is_here }
        }
        Some(Pods::Within(range)) => {
            let why = format!("it is no address of this node, and not in the pods' range {range}");
            Told { caller: Caller::Outside, why, is_here: is_here.or(Some(false)) }
        }
        Some(Pods::Interface(_) | Pods::InterfacePrefix(_)) => {
            let why = "pods are told by their interface, not by an address: it is taken for outside; say `pod` if it is one";
            Told { caller: Caller::Outside, why: why.to_owned(), is_here: is_here.or(Some(false)) }
        }
        None => {
            let why = "pods are not told from others here (no clusterCIDR): they count as outside";
            Told { caller: Caller::Outside, why: why.to_owned(), is_here: is_here.or(Some(false)) }
        }
    }
}

/// Whether a pod's address is one of this node's pods, if the Node says which these are.
fn here(node: Option<&Node>, address: IpAddr) -> Option<bool> {
    let ranges = &node?.pod_cidrs;
    let mut family = ranges.iter().filter(|range| Family::of(range.addr()) == Family::of(address)).peekable();
    family.peek()?;
    Some(family.any(|range: &IpNet| range.contains(&address)))
}

fn answering(
    view: &View<'_>,
    source: Source,
    caller: Caller,
    port: &ServicePort,
    address: &Address,
) -> Answering {
    let flow = match caller {
        Caller::Pod => &address.from.pod,
        Caller::Node => &address.from.node,
        Caller::Outside => &address.from.outside,
    };
    let list = flow.list.map(|list| listed(port, list));
    let masqueraded = flow.masquerade.map(|when| (when, why_masquerade(view, address.kind, caller, when)));
    Answering {
        service: format!("{}/{}{}", port.namespace, port.name, named(&port.port_name)),
        protocol: port.protocol.to_owned(),
        kind: address.kind,
        address: SocketAddr::new(address.ip, address.port),
        source_ranges: address.source_ranges.clone(),
        admitted: admitted(source, &address.source_ranges),
        action: flow.action,
        candidates: candidates(port, flow, list.as_ref()),
        list,
        masquerade: masqueraded.as_ref().map(|(when, _)| *when),
        why_masquerade: masqueraded.map(|(_, why)| why),
        affinity_seconds: port.session_affinity.map(|affinity| affinity.timeout_seconds),
        notes: port.explain.iter().flat_map(|explain| explain.notes.clone()).collect(),
    }
}

fn named(port: &str) -> String {
    if port.is_empty() { String::new() } else { format!(":{port}") }
}

fn admitted(source: Source, ranges: &[String]) -> Option<bool> {
    let within = |address: IpAddr| {
        ranges.iter().filter_map(|range| range.parse::<IpNet>().ok()).any(|range| range.contains(&address))
    };
    match source {
        _ if ranges.is_empty() => Some(true),
        Source::Address(address) => Some(within(address)),
        Source::Any(_) => None,
    }
}

fn listed(port: &ServicePort, list: List) -> Listed {
    let name = word(list);
    let rules = port.explain.iter().flat_map(|explain| &explain.lists);
    let rule = rules.filter(|one| one.list == name).map(|one| one.rule.clone()).next();
    Listed { list: name.to_owned(), rule: rule.unwrap_or_default() }
}

/// Who is in the list, then who is not.
fn candidates(port: &ServicePort, flow: &Flow, list: Option<&Listed>) -> Vec<Candidate> {
    let rule = list.map_or_else(|| "listed".to_owned(), |list| list.rule.clone());
    let used = flow.endpoints.iter().flatten();
    let used = used.map(|one| Candidate { endpoint: one.clone(), used: true, why: rule.clone() });
    let unused = port.explain.iter().flat_map(|Explain { unused, .. }| unused);
    let of_list = unused.filter(|one| match (one.list, list) {
        (None, _) | (_, None) => true,
        (Some(name), Some(list)) => name == list.list,
    });
    let unused = of_list.map(|one| Candidate {
        endpoint: one.endpoint.clone(),
        used: false,
        why: format!("{} (slice {})", one.reason, one.slice),
    });
    used.chain(unused).collect()
}

fn why_masquerade(view: &View<'_>, kind: Kind, caller: Caller, when: Masquerade) -> String {
    let all = view.desired.context().masquerade_all;
    let why = match (when, kind, caller) {
        (Masquerade::Hairpin, _, _) => {
            "only where the endpoint is the caller itself: it would answer itself past this node"
        }
        (Masquerade::Always, Kind::ClusterIP, _) if all => "masqueradeAll is set",
        (Masquerade::Always, Kind::ClusterIP, _) => {
            "the caller is no pod: answers must come back by this node"
        }
        (Masquerade::Always, _, Caller::Outside | Caller::Pod | Caller::Node) => {
            "the endpoint may be on another node, and its answers must come back by this one (externalTrafficPolicy: Cluster)"
        }
    };
    why.to_owned()
}

/// What becomes of a flow to an address that no Service has at this port.
fn nobody(view: &View<'_>, question: &Question) -> Vec<String> {
    let (at, protocol) = match &question.target {
        Target::Service(name, port, protocol) => return vec![no_port(view, name, port, *protocol)],
        Target::Address(at, protocol) => (*at, *protocol),
    };
    let owner = view.desired.services().find(|(_, outcome)| {
        let mut frontends = outcome.ports.iter().flat_map(|(_, port)| &port.frontends);
        frontends.any(|one| matches!(one, desired::Frontend::ClusterIp(address) if address.ip() == at.ip()))
    });
    let range = view.cluster.service_cidrs().into_iter().find(|range| range.contains(&at.ip()));
    let what = match (owner, range) {
        (Some((name, _)), _) => format!(
            "{} is the ClusterIP of {name}, which has no port {}/{}: new flows are rejected",
            at.ip(),
            at.port(),
            protocol.as_str()
        ),
        (None, Some(range)) => {
            format!("no Service has {at}, which is in the ServiceCIDR {range}: new flows are dropped")
        }
        (None, None) => format!("no Service has {at}/{}: the flow is none of ours", protocol.as_str()),
    };
    vec![what]
}

fn no_port(view: &View<'_>, name: &ServiceName, port: &str, protocol: Protocol) -> String {
    let Some(service) = view.cluster.service(name) else {
        return format!("the daemon knows no Service {name}");
    };
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|one| {
            format!(
                "{}{}/{}",
                if one.name.is_empty() { String::new() } else { format!("{} ", one.name) },
                one.port,
                one.protocol
            )
        })
        .collect();
    let ports = if ports.is_empty() { "none".to_owned() } else { ports.join(", ") };
    format!("{name} has no port {port}/{} that is served here; its ports: {ports}", protocol.as_str())
}

#[cfg(test)]
mod tests;
