//! The plan for people.

use super::document::{
    Address, Document, Explain, ExplainUnused, Flow, From, HealthCheck, Masquerade, ServicePort,
};
use super::draw::word;
use crate::inspect::table::table;
use crate::model::Problem;

const HEAD: [&str; 9] =
    ["NAMESPACE", "SERVICE", "PORT", "KIND", "ADDRESS", "FROM PODS", "FROM NODE", "FROM OUTSIDE", "SOURCES"];

/// One row for each address; below it, where asked for, the reasons; then health checks and problems.
pub(super) fn text(document: &Document, wide: bool) -> String {
    let Document { node, services, health_checks, service_cidrs, problems } = document;
    let rows: Vec<Vec<String>> = services.iter().flat_map(|service| rows(service, wide)).collect();
    let mut text = format!("node          {node}\n");
    if !service_cidrs.is_empty() {
        text += &format!("service cidrs {}\n", service_cidrs.join(", "));
    }
    text += "\n";
    text += &table(&HEAD, &rows);
    text.extend(services.iter().filter_map(explanation));
    text.extend(lists(health_checks, problems));
    text
}

fn rows(service: &ServicePort, wide: bool) -> Vec<Vec<String>> {
    let port = match service.port_name.as_str() {
        "" => service.protocol.to_owned(),
        name => format!("{name}/{}", service.protocol),
    };
    let row = |address: &Address| {
        let Address { kind, ip, port: number, source_ranges, from } = address;
        let From { pod, node, outside } = from;
        let place = std::net::SocketAddr::new(*ip, *number).to_string();
        let sources = if source_ranges.is_empty() { "all".to_owned() } else { source_ranges.join(",") };
        let mut row =
            vec![service.namespace.clone(), service.name.clone(), port.clone(), format!("{kind:?}")];
        row.extend([place, flow(pod, wide), flow(node, wide), flow(outside, wide), sources]);
        row
    };
    service.addresses.iter().map(row).collect()
}

/// Such as `3 endpoints, masquerade`; with room, the endpoints themselves.
fn flow(Flow { action, endpoints, masquerade, list: _ }: &Flow, wide: bool) -> String {
    let Some(endpoints) = endpoints else { return format!("{action:?}").to_lowercase() };
    let plural = if endpoints.len() == 1 { "" } else { "s" };
    let masqueraded = if *masquerade == Some(Masquerade::Always) { ", masquerade" } else { "" };
    if wide {
        return endpoints.join(",") + masqueraded;
    }
    format!("{} endpoint{plural}{masqueraded}", endpoints.len())
}

fn explanation(service: &ServicePort) -> Option<String> {
    let Explain { lists, unused, notes } = service.explain.as_ref()?;
    let ServicePort {
        namespace,
        name,
        port_name,
        protocol,
        family,
        addresses: _,
        session_affinity: _,
        explain: _,
    } = service;
    let mut text = format!("\n{namespace}/{name}:{port_name} {protocol} {family}\n");
    for list in lists {
        text += &format!("  {} list: {}\n", list.list, list.rule);
        let used = used(service, list.list);
        if !used.is_empty() {
            text += &format!("    {}\n", used.join(" "));
        }
    }
    for ExplainUnused { endpoint, slice, list, reason } in unused {
        let within = list.map(|list| format!(" in the {list} list")).unwrap_or_default();
        text += &format!("  not used{within}: {endpoint} (slice {slice}): {reason}\n");
    }
    text.extend(notes.iter().map(|note| format!("  note: {note}\n")));
    Some(text)
}

/// The endpoints of a list, taken from a flow that goes to it.
fn used(service: &ServicePort, list: &str) -> Vec<String> {
    let flows = service.addresses.iter().flat_map(|one| [&one.from.pod, &one.from.node, &one.from.outside]);
    let is_list = |flow: &&Flow| flow.list.is_some_and(|one| word(one) == list);
    let mut of_list = flows.filter(is_list).filter_map(|flow| flow.endpoints.clone());
    of_list.next().unwrap_or_default()
}

fn lists(health_checks: &[HealthCheck], problems: &[Problem]) -> Vec<String> {
    let mut parts = Vec::new();
    if !health_checks.is_empty() {
        let row = |check: &HealthCheck| {
            let HealthCheck { namespace, name, family, port, local_endpoints } = check;
            let family = family.unwrap_or("-").to_owned();
            vec![namespace.clone(), name.clone(), family, port.to_string(), local_endpoints.to_string()]
        };
        let rows: Vec<Vec<String>> = health_checks.iter().map(row).collect();
        let head = ["NAMESPACE", "SERVICE", "FAMILY", "HEALTH CHECK PORT", "LOCAL ENDPOINTS"];
        parts.push(format!("\n{}", table(&head, &rows)));
    }
    if !problems.is_empty() {
        let row = |problem: &Problem| {
            let Problem { object, field, message, source } = problem.clone();
            vec![object, field, message, source.unwrap_or_default()]
        };
        let rows: Vec<Vec<String>> = problems.iter().map(row).collect();
        parts.push(format!("\n{}", table(&["PROBLEM WITH", "FIELD", "WHAT", "FILE"], &rows)));
    }
    parts
}
