//! Why a service port has the endpoints it has, in words: which rule made each list, and why somebody is not in it.
//! Computed anew from the facts whenever somebody asks; nothing is kept.

use std::net::SocketAddr;

use super::context::Context;
use super::endpoints::{self, Candidate, Chosen, Rule};
use super::needs;
use super::port::List;
use crate::model::{Cluster, Conditions, Family, Service, ServicePort, ServicePortName, Slice};

/// The reasons for one service port in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// How each list that is used came about.
    pub rules: Vec<(List, String)>,
    /// Endpoints that are not in a list that is used, or not at all.
    pub unused: Vec<Unused>,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

/// An endpoint that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// Where it listens.
    pub address: SocketAddr,
    /// The slice that names it.
    pub slice: String,
    /// The list it is not in; `None`: in none.
    pub list: Option<List>,
    /// Why.
    pub reason: String,
}

/// Explains a port of a Service.
pub fn explain(
    cluster: &Cluster,
    context: &Context,
    service: &Service,
    port: &ServicePort,
    id: &ServicePortName,
) -> Explanation {
    let candidates = endpoints::candidates(cluster.slices(&service.name), id);
    let chosen = endpoints::choose(&candidates, needs(service, port, id.family), context);
    let lists = [(List::Cluster, chosen.cluster), (List::Local, chosen.local)];
    let used = lists.into_iter().filter(|(_, rule)| *rule != Rule::Unused);
    let rules = used.clone().map(|(list, rule)| (list, rule_text(list, rule, &candidates, context)));
    let mut unused = Vec::new();
    for (place, one) in candidates.iter().enumerate() {
        let reasons = used.clone().filter_map(|(list, rule)| {
            let absent = !chosen.uses.get(place).is_some_and(|uses| uses.is_in(list));
            absent.then(|| (list, reason(one, list, rule, context, &chosen, place)))
        });
        unused.extend(merge(one, reasons.collect(), used.clone().count()));
    }
    unused.extend(duplicates(cluster, service, id, &candidates));
    Explanation { rules: rules.collect(), unused, notes: without_port(cluster, service, id) }
}

/// Slices of the family that have endpoints, but not this port: ports are matched by name and protocol, never by
/// number.
fn without_port(cluster: &Cluster, service: &Service, id: &ServicePortName) -> Vec<String> {
    let has_port =
        |slice: &Slice| slice.ports.iter().any(|port| port.name == id.port && port.protocol == id.protocol);
    let is_ours = |slice: &Slice| slice.endpoints.iter().any(|one| Family::of(one.address) == id.family);
    let slices = cluster.slices(&service.name).filter(|slice| is_ours(slice) && !has_port(slice));
    slices
        .map(|slice| format!("slice {} has no port named {:?} for {}", slice.name, id.port, id.protocol))
        .collect()
}

/// One line for an endpoint that is missing in every list for the same reason, else one for each list.
fn merge(one: &Candidate<'_>, reasons: Vec<(List, String)>, lists: usize) -> Vec<Unused> {
    let unused = |list, reason| Unused { address: one.address, slice: one.slice.to_string(), list, reason };
    let same = reasons.windows(2).all(|pair| pair[0].1 == pair[1].1);
    match reasons.as_slice() {
        [(_, reason), ..] if same && reasons.len() == lists => vec![unused(None, reason.clone())],
        _ => reasons.into_iter().map(|(list, reason)| unused(Some(list), reason)).collect(),
    }
}

fn reason(
    one: &Candidate<'_>,
    list: List,
    rule: Rule,
    context: &Context,
    chosen: &Chosen,
    place: usize,
) -> String {
    let here = chosen.uses.get(place).is_some_and(|uses| uses.here);
    if list == List::Local && !here {
        return match one.node {
            Some(node) => format!("not local: it is on node {node}"),
            None => "not local: its node is not known".to_owned(),
        };
    }
    if !one.conditions.ready() {
        return not_ready(one.conditions, rule).to_owned();
    }
    match (rule, one.hints) {
        (Rule::SameZone, Some(hints)) => format!("other zone: it is hinted for {}", words(&hints.zones)),
        (Rule::SameNode, Some(hints)) => format!("other node: it is hinted for {}", words(&hints.nodes)),
        (Rule::SameZone | Rule::SameNode, None)
        | (Rule::Unused | Rule::Ready | Rule::Terminating | Rule::Nobody, _) => {
            format!("not chosen on node {}", context.node)
        }
    }
}

fn not_ready(conditions: Conditions, rule: Rule) -> &'static str {
    match (conditions.serving(), conditions.terminating()) {
        (true, true) if rule == Rule::Nobody => "terminating",
        (true, true) => "terminating, and others are ready; it keeps the flows it has",
        (false, true) => "terminating, and serving no more",
        (true, false) => "not ready, though it serves",
        (false, false) => "not ready",
    }
}

/// Those that another entry for the same address has put out.
fn duplicates(
    cluster: &Cluster,
    service: &Service,
    id: &ServicePortName,
    candidates: &[Candidate<'_>],
) -> Vec<Unused> {
    let mut kept: Vec<&Candidate<'_>> = candidates.iter().collect();
    let mut unused = Vec::new();
    for one in endpoints::stated(cluster.slices(&service.name), id) {
        match kept.iter().position(|winner| **winner == one) {
            // Of equal entries one is the winner.
            Some(place) => drop(kept.swap_remove(place)),
            None => {
                unused.extend(candidates.iter().find(|winner| winner.address == one.address).map(|winner| {
                    let kind = if one.conditions.terminating() && !winner.conditions.terminating() {
                        "duplicate: slice {} has the same address, not terminating"
                    } else {
                        "duplicate: slice {} has the same address"
                    };
                    Unused {
                        address: one.address,
                        slice: one.slice.to_string(),
                        list: None,
                        reason: kind.replace("{}", winner.slice),
                    }
                }))
            }
        }
    }
    unused
}

fn rule_text(list: List, rule: Rule, candidates: &[Candidate<'_>], context: &Context) -> String {
    let node = &context.node;
    match (list, rule) {
        (List::Cluster, Rule::Ready) => format!("all ready endpoints{}", no_topology(candidates, context)),
        (List::Local, Rule::Ready) => format!("ready endpoints on node {node}"),
        (_, Rule::SameNode) => format!("ready endpoints hinted for node {node}"),
        (_, Rule::SameZone) => {
            format!("ready endpoints hinted for zone {}", context.zone.as_deref().unwrap_or_default())
        }
        (List::Cluster, Rule::Terminating) => {
            "terminating endpoints that still serve: no endpoint is ready".to_owned()
        }
        (List::Local, Rule::Terminating) => {
            format!("terminating endpoints on node {node} that still serve: none there is ready")
        }
        (List::Cluster, Rule::Nobody) => {
            "nobody: no endpoint is ready, or serves while terminating".to_owned()
        }
        (List::Local, Rule::Nobody) => {
            format!("nobody: no endpoint on node {node} is ready, or serves while terminating")
        }
        (_, Rule::Unused) => "not used".to_owned(),
    }
}

/// Why hints, if there are any, were not followed.
fn no_topology(candidates: &[Candidate<'_>], context: &Context) -> String {
    let ready = || candidates.iter().filter(|one| one.conditions.ready());
    if ready().all(|one| one.hints.is_none()) {
        return String::new();
    }
    let unhinted = ready().find(|one| one.hints.is_none_or(|hints| hints.zones.is_empty()));
    let why = match (unhinted, &context.zone) {
        (Some(one), _) => format!("{} has no hint for a zone", one.address),
        (None, None) => format!("node {} has no zone", context.node),
        (None, Some(zone)) => format!("none is for zone {zone}"),
    };
    format!("; hints do not count: {why}")
}

fn words(names: &[std::sync::Arc<str>]) -> String {
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Policy;
    use crate::model::sample::{apply_service, apply_slice, name, service, slice};

    #[test]
    fn every_ready_endpoint_is_used_and_nothing_needs_a_reason() {
        check("10.1.0.1 10.1.0.2", &["cluster: all ready endpoints"]);
    }

    #[test]
    fn who_is_not_ready_is_told_apart() {
        let lines = [
            "cluster: all ready endpoints",
            "10.1.0.2:80 (web-0): not ready",
            "10.1.0.3:80 (web-0): not ready, though it serves",
            "10.1.0.4:80 (web-0): terminating, and others are ready; it keeps the flows it has",
            "10.1.0.5:80 (web-0): terminating, and serving no more",
        ];
        check("10.1.0.1 10.1.0.2= 10.1.0.3=s 10.1.0.4=st 10.1.0.5=t", &lines);
    }

    #[test]
    fn other_zones_and_nodes_are_named() {
        let lines = [
            "cluster: ready endpoints hinted for zone a",
            "10.1.0.2:80 (web-0): other zone: it is hinted for b, c",
        ];
        check("10.1.0.1^a 10.1.0.2^b,c", &lines);
        let lines = [
            "cluster: ready endpoints hinted for node n1",
            "10.1.0.2:80 (web-0): other node: it is hinted for n2",
        ];
        check("10.1.0.1^a~n1 10.1.0.2^a~n2", &lines);
    }

    #[test]
    fn hints_that_do_not_count_are_explained() {
        let line = "cluster: all ready endpoints; hints do not count: 10.1.0.2:80 has no hint for a zone";
        check("10.1.0.1^a 10.1.0.2", &[line]);
        check("10.1.0.1^b", &["cluster: all ready endpoints; hints do not count: none is for zone a"]);
    }

    #[test]
    fn the_loser_of_two_entries_for_one_address_is_named_with_the_winner() {
        let lines = [
            "cluster: all ready endpoints",
            "10.1.0.1:80 (web-0): duplicate: slice web-1 has the same address, not terminating",
        ];
        check("10.1.0.1=st | 10.1.0.1", &lines);
        let lines = [
            "cluster: all ready endpoints",
            "10.1.0.1:80 (web-1): duplicate: slice web-0 has the same address",
        ];
        check("10.1.0.1 | 10.1.0.1", &lines);
    }

    #[test]
    fn a_local_list_has_its_own_reasons() {
        let lines = [
            "local: ready endpoints on node n1",
            "10.1.0.2:80 (web-0): not local: it is on node n2",
            "10.1.0.3:80 (web-0): not local: its node is not known",
        ];
        check_policy(Policy::Local, "10.1.0.1@n1 10.1.0.2@n2 10.1.0.3", &lines);
    }

    #[test]
    fn a_list_of_nobody_says_why() {
        check(
            "10.1.0.1=",
            &[
                "cluster: nobody: no endpoint is ready, or serves while terminating",
                "10.1.0.1:80 (web-0): not ready",
            ],
        );
    }

    fn check(slices: &str, lines: &[&str]) {
        check_policy(Policy::Cluster, slices, lines);
    }

    /// On node n1 in zone a; slices are separated by bars.
    fn check_policy(internal_policy: Policy, slices: &str, lines: &[&str]) {
        let mut cluster = Cluster::default();
        cluster.take(apply_service(Service { internal_policy, ..service("web", "10.96.0.10", "http:80") }));
        for (number, endpoints) in slices.split('|').enumerate() {
            cluster.take(apply_slice(slice(&format!("web-{number}"), "web", "http:80", endpoints)));
        }
        let context = Context { node: "n1".into(), zone: Some("a".into()), ..Context::default() };
        let service = cluster.service(&name("web")).unwrap();
        let port = &service.ports[0];
        let id = ServicePortName {
            service: name("web"),
            port: port.name.clone(),
            protocol: port.protocol,
            family: Family::V4,
        };
        let Explanation { rules, unused, notes } = explain(&cluster, &context, service, port, &id);
        let list = |list: List| if list == List::Local { "local" } else { "cluster" };
        let mut found: Vec<String> =
            rules.iter().map(|(one, text)| format!("{}: {text}", list(*one))).collect();
        found.extend(unused.iter().map(|one| {
            let within = one.list.map(|one| format!(" {}", list(one))).unwrap_or_default();
            format!("{} ({}){within}: {}", one.address, one.slice, one.reason)
        }));
        found.extend(notes);
        assert_eq!(found, lines, "{slices}");
    }
}
