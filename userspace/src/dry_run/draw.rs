//! From facts and decisions to the document. Pure.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::document::{
    Address, Affinity, Document, Explain, ExplainList, ExplainUnused, Flow, From, HealthCheck, Kind,
    ServicePort,
};
use crate::desired::explain::{self, Explanation};
use crate::desired::{self, Desired, Frontend, List, Outcome, PortId, Routes};
use crate::model::{self, Cluster, Family, Node, ObjectRef, Problem, Protocol, ServiceName};

/// The facts, and what follows from them.
pub struct View<'a> {
    /// All objects.
    pub cluster: &'a Cluster,
    /// What this node should do.
    pub desired: &'a Desired,
    /// Our Node.
    pub node: Option<&'a Node>,
    /// Whether to say why.
    pub explain: bool,
}

/// The whole document.
pub fn document(view: &View<'_>) -> Document {
    let View { cluster, desired, node: _, explain: _ } = view;
    let taken = taken(desired);
    let services: Vec<ServicePort> =
        desired.services().flat_map(|(name, outcome)| service_ports(view, &taken, name, outcome)).collect();
    let health_checks = desired.services().flat_map(|(name, outcome)| health_checks(name, outcome)).collect();
    let mut problems = cluster.problems();
    problems.extend(desired.problems());
    problems.extend(unknown_node(view));
    problems.sort_unstable();
    problems.dedup();
    Document {
        node: cluster.own_name().to_string(),
        services,
        health_checks,
        service_cidrs: cluster.service_cidrs().iter().map(ToString::to_string).collect(),
        problems,
    }
}

/// The ports of some Services, with reasons.
pub fn ports_of(
    view: &View<'_>,
    is_meant: impl Fn(&ServiceName, &PortId, &desired::ServicePort) -> bool,
) -> Vec<ServicePort> {
    let taken = taken(view.desired);
    let meant = |(name, outcome): &(&ServiceName, &Outcome)| {
        outcome.ports.iter().any(|(id, port)| is_meant(name, id, port))
    };
    view.desired
        .services()
        .filter(meant)
        .flat_map(|(name, outcome)| service_ports(view, &taken, name, outcome))
        .collect()
}

/// Addresses that are a Service's own: a node port does not get what is sent to them.
type Taken = BTreeSet<(SocketAddr, Protocol)>;

fn taken(desired: &Desired) -> Taken {
    let ports = || desired.services().flat_map(|(_, outcome)| &outcome.ports);
    let is_node_port = |frontend: &Frontend| frontend.address().is_none();
    if !ports().any(|(_, port)| port.frontends.iter().any(is_node_port)) {
        return Taken::new();
    }
    let of = |(id, port): &(PortId, desired::ServicePort)| {
        let addresses: Vec<_> = port.frontends.iter().filter_map(|one| one.address()).collect();
        let protocol = id.protocol;
        addresses.into_iter().map(move |address| (address, protocol))
    };
    ports().flat_map(of).collect()
}

fn service_ports(view: &View<'_>, taken: &Taken, name: &ServiceName, outcome: &Outcome) -> Vec<ServicePort> {
    let draw = |(id, port): &(PortId, desired::ServicePort)| ServicePort {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        port_name: id.port.to_string(),
        protocol: id.protocol.as_str(),
        family: id.family.as_str(),
        addresses: addresses(view, taken, name, id, port),
        session_affinity: port.affinity.map(|seconds| Affinity { timeout_seconds: seconds.get() }),
        explain: if view.explain { explanation(view, taken, name, id, port) } else { None },
    };
    outcome.ports.iter().map(draw).collect()
}

fn addresses(
    view: &View<'_>,
    taken: &Taken,
    name: &ServiceName,
    id: &PortId,
    port: &desired::ServicePort,
) -> Vec<Address> {
    let mut all = Vec::new();
    for frontend in &port.frontends {
        match *frontend {
            Frontend::ClusterIp(at) => all.push(address(Kind::ClusterIP, at, port, &port.internal)),
            Frontend::ExternalIp(at) => all.push(address(Kind::ExternalIP, at, port, &port.external)),
            Frontend::LoadBalancer(at) => {
                let ranges = port.sources.iter().flatten().map(ToString::to_string).collect();
                let open = address(Kind::LoadBalancer, at, port, &port.external);
                all.push(Address { source_ranges: ranges, ..open });
            }
            Frontend::NodePort(number) => {
                let at = |ip| SocketAddr::new(ip, number.get());
                let here = node_addresses(view, id.family).map(at);
                let free = here.filter(|at| !taken.contains(&(*at, id.protocol)));
                all.extend(free.map(|at| address(Kind::NodePort, at, port, &port.external)));
            }
        }
    }
    all.extend(proxied(view, name, id));
    all.sort_unstable_by_key(|one| (one.kind, one.ip, one.port));
    all
}

fn address(kind: Kind, at: SocketAddr, port: &desired::ServicePort, routes: &Routes) -> Address {
    let flow = |action: desired::Action| {
        let list = match action {
            desired::Action::Forward(list, _) => list,
            desired::Action::Reject | desired::Action::Drop => List::Cluster,
        };
        Flow::of(action, port.list(list))
    };
    let Routes { pod, node, outside } = *routes;
    let from = From { pod: flow(pod), node: flow(node), outside: flow(outside) };
    Address { kind, ip: at.ip(), port: at.port(), source_ranges: Vec::new(), from }
}

/// The node's addresses at which node ports are served, in the order of the Node.
fn node_addresses<'a>(view: &'a View<'_>, family: Family) -> impl Iterator<Item = IpAddr> + use<'a> {
    let accepting = &view.desired.context().family(family).node_ports;
    let known = view.node.map(|node| &*node.addresses).unwrap_or_default().iter().copied();
    let known = known.filter(move |ip| Family::of(*ip) == family);
    known.filter(|ip| accepting.accepts(*ip))
}

/// Addresses that are left to the load balancer: whoever asks for them leaves the node.
fn proxied(view: &View<'_>, name: &ServiceName, id: &PortId) -> Vec<Address> {
    let service = view.cluster.service(name);
    let external = service.and_then(|service| service.external.as_ref());
    let number = port_of(view, name, id).map(|port| port.port.get());
    let (Some(external), Some(port)) = (external, number) else { return Vec::new() };
    let ours = external.proxied.iter().filter(|ip| Family::of(**ip) == id.family);
    // One that is asked for in another way too is served.
    let served = |ip: &IpAddr| {
        external.external_ips.contains(ip) || service.is_some_and(|one| one.addresses.contains(ip))
    };
    let ours = ours.filter(|ip| !served(ip));
    let pass = |ip: &IpAddr| Address {
        kind: Kind::LoadBalancer,
        ip: *ip,
        port,
        source_ranges: Vec::new(),
        from: From { pod: Flow::pass(), node: Flow::pass(), outside: Flow::pass() },
    };
    ours.map(pass).collect()
}

fn port_of<'a>(view: &View<'a>, name: &ServiceName, id: &PortId) -> Option<&'a model::ServicePort> {
    let service = view.cluster.service(name)?;
    service.ports.iter().find(|port| port.name == id.port && port.protocol == id.protocol)
}

fn health_checks(name: &ServiceName, outcome: &Outcome) -> Vec<HealthCheck> {
    let several = outcome.health_checks.len() > 1;
    let draw = |check: &desired::HealthCheck| HealthCheck {
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        family: several.then(|| check.family.as_str()),
        port: check.port.get(),
        local_endpoints: check.local_endpoints,
    };
    outcome.health_checks.iter().map(draw).collect()
}

/// Without the Node it is not known where node ports are served.
fn unknown_node(View { cluster, desired, node, explain: _ }: &View<'_>) -> Option<Problem> {
    let known = node.is_some_and(|node| !node.addresses.is_empty());
    let mut ports = desired.services().flat_map(|(_, outcome)| &outcome.ports);
    let matters = ports.any(|(_, port)| port.frontends.iter().any(|one| one.address().is_none()));
    let object = ObjectRef::new(model::Kind::Node, "", cluster.own_name().clone());
    let message = "there is no such Node with an address, so NodePorts are listed nowhere; --node-address names addresses";
    (matters && !known).then(|| Problem::new(object, "status.addresses", message))
}

fn explanation(
    view: &View<'_>,
    taken: &Taken,
    name: &ServiceName,
    id: &PortId,
    port: &desired::ServicePort,
) -> Option<Explain> {
    let service = view.cluster.service(name)?;
    let context = view.desired.context();
    let found = explain::explain(view.cluster, context, service, port_of(view, name, id)?, &id.of(name));
    let Explanation { rules, unused, notes } = found;
    let mut all_notes = notes;
    all_notes.extend(address_notes(view, taken, id, port));
    Some(Explain {
        lists: rules.into_iter().map(|(list, rule)| ExplainList { list: word(list), rule }).collect(),
        unused: unused.into_iter().map(unused_entry).collect(),
        notes: all_notes,
    })
}

fn unused_entry(explain::Unused { address, slice, list, reason }: explain::Unused) -> ExplainUnused {
    ExplainUnused { endpoint: address.to_string(), slice, list: list.map(word), reason }
}

/// What is not to be seen in the addresses themselves.
fn address_notes(view: &View<'_>, taken: &Taken, id: &PortId, port: &desired::ServicePort) -> Vec<String> {
    let mut notes = Vec::new();
    let always = |routes: &Routes| {
        [routes.pod, routes.node, routes.outside]
            .iter()
            .any(|action| matches!(action, desired::Action::Forward(_, desired::Masquerade::Always)))
    };
    if always(&port.internal) || (port.frontends.len() > 1 && always(&port.external)) {
        notes.push(
            "masquerade \"always\" is what packets need; a flow that is translated at connect() keeps its \
             source address, and so may one to an endpoint on this node"
                .to_owned(),
        );
    }
    for frontend in &port.frontends {
        let Frontend::NodePort(number) = *frontend else { continue };
        let at = |ip| SocketAddr::new(ip, number.get());
        if node_addresses(view, id.family).next().is_none() {
            notes.push(format!("node port {number}: no {} address of the node accepts it", id.family));
        }
        let lost = node_addresses(view, id.family).map(at).filter(|at| taken.contains(&(*at, id.protocol)));
        notes.extend(
            lost.map(|at| format!("node port {at}: a Service has this very address, which comes first")),
        );
    }
    notes
}

pub(crate) const fn word(list: List) -> &'static str {
    match list {
        List::Cluster => "cluster",
        List::Local => "local",
    }
}
