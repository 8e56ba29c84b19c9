//! Who answers for a service port: what all slices say, and which of it is used for what.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::sync::Arc;

use super::context::Context;
use super::port::Uses;
use crate::model::{Conditions, Endpoint, Family, Hints, ServicePortName, Slice, SlicePort};

/// One endpoint of a service port, as the slices have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its condition.
    pub conditions: Conditions,
    /// The node it runs on.
    pub node: Option<&'a Arc<str>>,
    /// For whom it is meant first.
    pub hints: Option<&'a Hints>,
    /// The slice that says so.
    pub slice: &'a Arc<str>,
}

/// Which lists a service port uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Endpoints of the whole cluster.
    pub cluster: bool,
    /// Endpoints on this node.
    pub local: bool,
}

/// What decided who is in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing of this port uses the list.
    Unused,
    /// Ready endpoints.
    Ready,
    /// Ready endpoints that are hinted for this node.
    SameNode,
    /// Ready endpoints that are hinted for this node's zone.
    SameZone,
    /// None is ready: those that terminate and still serve.
    Terminating,
    /// Nobody can be used.
    Nobody,
}

/// Who is used for what, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// What each candidate is used for, in their order.
    pub uses: Vec<Uses>,
    /// What decided about the cluster's list.
    pub cluster: Rule,
    /// What decided about this node's list.
    pub local: Rule,
    /// Whether anybody in the cluster could serve: then traffic that finds nobody here is dropped, not refused.
    pub reachable: bool,
}

/// What all slices of a Service say about one port, sorted by address, each once. The order of the slices does not
/// matter.
pub fn candidates<'a>(slices: impl Iterator<Item = &'a Slice>, id: &ServicePortName) -> Vec<Candidate<'a>> {
    each_once(stated(slices, id))
}

/// The same of some addresses only, which are sorted.
pub fn candidates_at<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    id: &ServicePortName,
    addresses: &[SocketAddr],
) -> Vec<Candidate<'a>> {
    each_once(gather(slices, id, |address| addresses.binary_search(&address).is_ok()))
}

fn each_once(mut all: Vec<Candidate<'_>>) -> Vec<Candidate<'_>> {
    all.sort_unstable_by(|a, b| a.address.cmp(&b.address).then_with(|| rank(b).cmp(&rank(a))));
    all.dedup_by(|later, first| later.address == first.address);
    all
}

/// The same before duplicates are taken out, in the order of the slices.
pub fn stated<'a>(slices: impl Iterator<Item = &'a Slice>, id: &ServicePortName) -> Vec<Candidate<'a>> {
    gather(slices, id, |_| true)
}

fn gather<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    id: &ServicePortName,
    is_wanted: impl Fn(SocketAddr) -> bool,
) -> Vec<Candidate<'a>> {
    let mut all = Vec::new();
    for Slice { name: slice, service: _, ports, endpoints, triggered: _ } in slices {
        for port in ports.iter().filter(|port| belongs(port, id)) {
            let ours = endpoints.iter().filter(|endpoint| Family::of(endpoint.address) == id.family);
            let all_ours = ours.map(|endpoint| candidate(endpoint, port, slice));
            all.extend(all_ours.filter(|one| is_wanted(one.address)));
        }
    }
    all
}

fn candidate<'a>(endpoint: &'a Endpoint, port: &SlicePort, slice: &'a Arc<str>) -> Candidate<'a> {
    let Endpoint { address, conditions, place: _ } = endpoint;
    Candidate {
        address: SocketAddr::new(*address, port.port.get()),
        conditions: *conditions,
        node: endpoint.node(),
        hints: endpoint.hints(),
        slice,
    }
}

/// A slice's port belongs to a service port by name and protocol; its number is the endpoints' own.
fn belongs(port: &SlicePort, id: &ServicePortName) -> bool {
    let SlicePort { name, protocol, port: _ } = port;
    *protocol == id.protocol && *name == id.port
}

/// One endpoint may be named twice: it moves between slices, or a new pod got the address of one that is still
/// terminating. Then the one that does not terminate counts. Beyond that the API leaves it open; the rest makes the
/// answer the same for every order.
fn rank<'a>(one: &Candidate<'a>) -> impl Ord + use<'a> {
    let Candidate { address: _, conditions, node, hints, slice } = *one;
    (!conditions.terminating(), conditions.ready(), conditions.serving(), node, hints, Reverse(slice))
}

/// Chooses among the candidates. The two lists fall back to terminating endpoints each on its own, and hints are
/// never applied to this node's list.
pub fn choose(candidates: &[Candidate<'_>], needs: Needs, context: &Context) -> Chosen {
    let here =
        |one: &Candidate<'_>| !context.node.is_empty() && one.node.is_some_and(|node| *node == context.node);
    let uses = candidates.iter().map(|one| Uses { cluster: false, local: false, here: here(one) });
    let mut uses: Vec<Uses> = uses.collect();
    let mut chosen =
        Chosen { cluster: Rule::Unused, local: Rule::Unused, reachable: false, uses: Vec::new() };
    if needs.cluster {
        chosen.cluster = cluster_rule(candidates, context);
        for (one, uses) in candidates.iter().zip(&mut uses) {
            uses.cluster = is_in(one, chosen.cluster, context);
        }
        chosen.reachable = chosen.cluster != Rule::Nobody;
    }
    if needs.local {
        let is_usable = |one: &Candidate<'_>| one.conditions.ready() || is_fallback(one);
        chosen.reachable |= candidates.iter().any(is_usable);
        chosen.local = plain_rule(&mut candidates.iter().filter(|one| here(one)));
        for (one, uses) in candidates.iter().zip(&mut uses) {
            uses.local = uses.here && is_in(one, chosen.local, context);
        }
    }
    chosen.uses = uses;
    chosen
}

fn cluster_rule(candidates: &[Candidate<'_>], context: &Context) -> Rule {
    let plain = plain_rule(&mut candidates.iter());
    if plain == Rule::Ready { topology(candidates, context) } else { plain }
}

/// The ready ones; if there are none, those that go away but still serve. Whoever is ready is used whatever else it
/// is: a Service can publish endpoints that are not ready, or that terminate.
fn plain_rule(candidates: &mut dyn Iterator<Item = &Candidate<'_>>) -> Rule {
    let mut rule = Rule::Nobody;
    for one in candidates {
        if one.conditions.ready() {
            return Rule::Ready;
        }
        if is_fallback(one) {
            rule = Rule::Terminating;
        }
    }
    rule
}

/// Hints count only if every ready endpoint has one of the kind and one of them is for us; nodes come before zones
/// (KEP-3015, KEP-2433).
fn topology(candidates: &[Candidate<'_>], context: &Context) -> Rule {
    let ready = || candidates.iter().filter(|one| one.conditions.ready());
    for rule in [Rule::SameNode, Rule::SameZone] {
        let all_hinted = ready().all(|one| !names(one, rule).is_empty());
        if all_hinted && ready().any(|one| is_hinted(one, rule, context)) {
            return rule;
        }
    }
    Rule::Ready
}

/// Whom the hints of an endpoint name, by the rule that they are for.
fn names<'a>(one: &Candidate<'a>, rule: Rule) -> &'a [Arc<str>] {
    let Some(Hints { zones, nodes }) = one.hints else { return &[] };
    match rule {
        Rule::SameNode => nodes,
        Rule::SameZone => zones,
        Rule::Unused | Rule::Ready | Rule::Terminating | Rule::Nobody => &[],
    }
}

fn is_hinted(one: &Candidate<'_>, rule: Rule, context: &Context) -> bool {
    let us = match rule {
        Rule::SameNode => Some(&context.node),
        Rule::SameZone => context.zone.as_ref(),
        Rule::Unused | Rule::Ready | Rule::Terminating | Rule::Nobody => None,
    };
    us.is_some_and(|us| names(one, rule).contains(us))
}

/// Whether a candidate is in the list that a rule makes.
fn is_in(one: &Candidate<'_>, rule: Rule, context: &Context) -> bool {
    match rule {
        Rule::Unused | Rule::Nobody => false,
        Rule::Ready => one.conditions.ready(),
        Rule::SameNode | Rule::SameZone => one.conditions.ready() && is_hinted(one, rule, context),
        Rule::Terminating => is_fallback(one),
    }
}

fn is_fallback(one: &Candidate<'_>) -> bool {
    one.conditions.serving() && one.conditions.terminating()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Protocol;
    use crate::model::sample::{name, slice};

    #[test]
    fn without_endpoints_there_is_nobody() {
        check("", "", "");
    }

    #[test]
    fn when_nothing_is_ready_and_nothing_terminates_there_is_nobody() {
        check("10.1.0.1= 10.1.0.2=", "", "");
    }

    #[test]
    fn one_ready_endpoint_gets_everything() {
        check("10.1.0.1=rs 10.1.0.2=", "10.1.0.1", "");
    }

    #[test]
    fn a_terminating_endpoint_is_used_when_nothing_else_is_ready() {
        check("10.1.0.1=st 10.1.0.2=st 10.1.0.3=", "10.1.0.1 10.1.0.2", "");
    }

    #[test]
    fn a_terminating_endpoint_keeps_its_flows_while_others_get_the_new_ones() {
        check("10.1.0.1=rs 10.1.0.2=st", "10.1.0.1", "10.1.0.2");
    }

    #[test]
    fn a_terminating_endpoint_that_does_not_serve_is_no_fallback() {
        check("10.1.0.1=t", "", "");
    }

    #[test]
    fn an_endpoint_that_is_not_ready_is_no_fallback_even_if_it_serves() {
        check("10.1.0.1=s", "", "10.1.0.1");
        check("10.1.0.1=s 10.1.0.2=st", "10.1.0.2", "10.1.0.1");
    }

    #[test]
    fn a_ready_endpoint_is_used_even_if_it_terminates_or_does_not_serve() {
        check("10.1.0.1=rst 10.1.0.2=r 10.1.0.3=rt", "10.1.0.1 10.1.0.2 10.1.0.3", "");
    }

    #[test]
    fn the_result_is_sorted() {
        check("10.1.0.10 10.1.0.9 10.1.0.2", "10.1.0.2 10.1.0.9 10.1.0.10", "");
    }

    #[test]
    fn slices_are_united_and_duplicates_are_one() {
        check("10.1.0.1 10.1.0.2 | 10.1.0.2 10.1.0.3", "10.1.0.1 10.1.0.2 10.1.0.3", "");
    }

    #[test]
    fn of_duplicates_the_one_that_stays_counts() {
        check("10.1.0.1=st | 10.1.0.1=rs | 10.1.0.1=st", "10.1.0.1", "");
        check("10.1.0.1=rs | 10.1.0.1=st | 10.1.0.1=st", "10.1.0.1", "");
        check("10.1.0.1=st 10.1.0.1=rs", "10.1.0.1", "");
        check("10.1.0.1=st | 10.1.0.1=", "", "");
        check("10.1.0.1=rst | 10.1.0.1=s", "", "10.1.0.1");
    }

    #[test]
    fn duplicates_of_different_readiness_are_one_endpoint() {
        check("10.1.0.1=rs 10.1.0.2=rs | 10.1.0.1= 10.1.0.2=rs", "10.1.0.1 10.1.0.2", "");
    }

    #[test]
    fn ports_are_matched_by_name() {
        check_ports(&["http:8080 admin:9090"], "http", "10.1.0.1:8080");
        check_ports(&["http:8080"], "", "");
        check_ports(&[":8080"], "", "10.1.0.1:8080");
    }

    #[test]
    fn ports_are_matched_by_protocol() {
        check_ports(&["http:8080/UDP http:8081/TCP"], "http", "10.1.0.1:8081");
    }

    #[test]
    fn a_port_may_have_another_number_in_each_slice() {
        check_ports(&["http:8080", "http:9090"], "http", "10.1.0.1:8080 10.1.0.1:9090");
    }

    #[test]
    fn endpoints_of_the_other_family_are_left_out() {
        let slices = [slice("a", "web", "http:80", "fd00::5"), slice("b", "web", "http:80", "10.1.0.5")];
        for (family, one) in [(Family::V4, "10.1.0.5:80"), (Family::V6, "[fd00::5]:80")] {
            assert_eq!(render(&select(&slices, &ServicePortName { family, ..port("http") })[0]), one);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_slices_does_not_matter(
            (slices, shuffled) in some_slices()
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            let id = port("http");
            prop_assert_eq!(candidates(slices.iter(), &id), candidates(shuffled.iter(), &id));
        }

        #[test]
        fn every_endpoint_is_accounted_for(slices in some_slices()) {
            let id = port("http");
            let all = candidates(slices.iter(), &id);
            let [used, kept] = select(&slices, &id);
            for Candidate { address, conditions, .. } in &all {
                let is_used = used.contains(address);
                prop_assert!(is_used || !conditions.ready());
                prop_assert_eq!(is_used || kept.contains(address), conditions.ready() || conditions.serving());
            }
            prop_assert!(all.windows(2).all(|pair| pair[0].address < pair[1].address));
        }

        #[test]
        fn a_slice_more_never_empties_the_list(mut slices in some_slices(), more in "10\\.1\\.0\\.[5-9]=rs") {
            slices.push(slice("more", "web", "http:80", &more));
            prop_assert!(!select(&slices, &port("http"))[0].is_empty());
        }
    }

    fn some_slices() -> impl Strategy<Value = Vec<Slice>> {
        let endpoint = "10\\.1\\.0\\.[1-4]=r?s?t?(@n[12])?(\\^[ab])?";
        let one = (
            prop::collection::vec(endpoint, 0..6),
            prop::sample::select(vec!["http:80", "http:81", "dns:80"]),
        );
        let slice = one.prop_map(|(endpoints, port)| slice("any", "web", port, &endpoints.join(" ")));
        prop::collection::vec(slice, 0..6)
    }

    #[test]
    fn hints_for_the_zone_are_followed_if_every_ready_endpoint_has_one() {
        check_hints("10.1.0.1^a 10.1.0.2^b 10.1.0.3^a,b", Rule::SameZone, "10.1.0.1 10.1.0.3");
        check_hints("10.1.0.1^a 10.1.0.2^b 10.1.0.3", Rule::Ready, "10.1.0.1 10.1.0.2 10.1.0.3");
        check_hints("10.1.0.1^c 10.1.0.2^b", Rule::Ready, "10.1.0.1 10.1.0.2");
    }

    #[test]
    fn hints_of_endpoints_that_are_not_ready_neither_help_nor_hurt() {
        check_hints("10.1.0.1^a 10.1.0.2=s^b 10.1.0.3=st", Rule::SameZone, "10.1.0.1");
        check_hints("10.1.0.1=^a 10.1.0.2^b 10.1.0.3^c", Rule::Ready, "10.1.0.2 10.1.0.3");
    }

    #[test]
    fn hints_for_the_node_come_before_those_for_the_zone() {
        check_hints("10.1.0.1^a~n1 10.1.0.2^a~n2", Rule::SameNode, "10.1.0.1");
        check_hints("10.1.0.1^a~n1 10.1.0.2^a", Rule::SameZone, "10.1.0.1 10.1.0.2");
        check_hints("10.1.0.1^a~n3 10.1.0.2^b~n2", Rule::SameZone, "10.1.0.1");
        check_hints("10.1.0.1~n1 10.1.0.2", Rule::Ready, "10.1.0.1 10.1.0.2");
    }

    #[test]
    fn without_a_zone_of_our_own_hints_for_zones_do_not_count() {
        let slice = slice("a", "web", "http:80", "10.1.0.1^a 10.1.0.2^b");
        let id = port("http");
        let all = candidates([&slice].into_iter(), &id);
        assert_eq!(choose(&all, CLUSTER, &Context::default()).cluster, Rule::Ready);
    }

    #[test]
    fn hints_do_not_count_among_terminating_endpoints() {
        check_hints("10.1.0.1=st^a 10.1.0.2=st^b", Rule::Terminating, "10.1.0.1 10.1.0.2");
    }

    #[test]
    fn each_list_falls_back_on_its_own() {
        check_both("10.1.0.1@n2 10.1.0.2=@n1 10.1.0.3=st@n1 10.1.0.4=st@n2", "10.1.0.1", "10.1.0.3", true);
        check_both("10.1.0.1=st@n1 10.1.0.2=st@n2", "10.1.0.1 10.1.0.2", "10.1.0.1", true);
    }

    #[test]
    fn hints_are_not_applied_to_the_local_list() {
        check_both("10.1.0.1@n1^b 10.1.0.2@n2^a", "10.1.0.2", "10.1.0.1", true);
    }

    #[test]
    fn endpoints_elsewhere_make_the_service_reachable_though_not_here() {
        check_both("10.1.0.1@n2", "10.1.0.1", "", true);
        check_both("10.1.0.1=st@n2", "10.1.0.1", "", true);
        check_both("10.1.0.1=s@n2 10.1.0.2=t@n1", "", "", false);
        check_both("", "", "", false);
    }

    #[test]
    fn an_endpoint_without_a_node_is_nowhere_local() {
        check_both("10.1.0.1", "10.1.0.1", "", true);
    }

    #[test]
    fn a_list_that_is_not_used_is_not_made() {
        let slice = slice("a", "web", "http:80", "10.1.0.1@n2");
        let id = port("http");
        let all = candidates([&slice].into_iter(), &id);
        let local = choose(&all, Needs { cluster: false, local: true }, &context());
        assert_eq!((local.cluster, local.local, local.reachable), (Rule::Unused, Rule::Nobody, true));
        let cluster = choose(&all, CLUSTER, &context());
        assert_eq!((cluster.cluster, cluster.local), (Rule::Ready, Rule::Unused));
    }

    const CLUSTER: Needs = Needs { cluster: true, local: false };

    /// Node n1 in zone a.
    fn context() -> Context {
        Context { node: "n1".into(), zone: Some("a".into()), ..Context::default() }
    }

    fn check_hints(endpoints: &str, rule: Rule, used: &str) {
        let slice = slice("a", "web", "http:80", endpoints);
        let id = port("http");
        let all = candidates([&slice].into_iter(), &id);
        let chosen = choose(&all, CLUSTER, &context());
        let list = listed(&all, &chosen, |uses| uses.cluster).replace(":80", "");
        assert_eq!((chosen.cluster, list.as_str()), (rule, used), "{endpoints}");
    }

    fn check_both(endpoints: &str, cluster: &str, local: &str, reachable: bool) {
        let slice = slice("a", "web", "http:80", endpoints);
        let id = port("http");
        let all = candidates([&slice].into_iter(), &id);
        let chosen = choose(&all, Needs { cluster: true, local: true }, &context());
        let lists = [|uses: Uses| uses.cluster, |uses: Uses| uses.local];
        let lists = lists.map(|pick| listed(&all, &chosen, pick).replace(":80", ""));
        assert_eq!(lists, [cluster, local], "{endpoints}");
        assert_eq!(chosen.reachable, reachable, "{endpoints}");
    }

    fn listed(all: &[Candidate<'_>], chosen: &Chosen, pick: impl Fn(Uses) -> bool) -> String {
        let both = all.iter().zip(&chosen.uses).filter(|(_, uses)| pick(**uses));
        render(&both.map(|(one, _)| one.address).collect::<Vec<_>>())
    }

    /// In the cluster's list, and serving beside it.
    fn select(slices: &[Slice], id: &ServicePortName) -> [Vec<SocketAddr>; 2] {
        let all = candidates(slices.iter(), id);
        let chosen = choose(&all, CLUSTER, &Context::default());
        let both = || all.iter().zip(&chosen.uses);
        let used = both().filter(|(_, uses)| uses.cluster).map(|(one, _)| one.address);
        let kept = both().filter(|(one, uses)| !uses.cluster && one.conditions.serving());
        [used.collect(), kept.map(|(one, _)| one.address).collect()]
    }

    /// Slices are separated by bars; all listen on port 80.
    fn check(slices: &str, used: &str, draining: &str) {
        let slices: Vec<Slice> =
            slices.split('|').map(|endpoints| slice("any", "web", "http:80", endpoints)).collect();
        let found = select(&slices, &port("http")).map(|list| render(&list).replace(":80", ""));
        assert_eq!(found, [used, draining], "{slices:?}");
    }

    fn check_ports(slices: &[&str], wanted: &str, endpoints: &str) {
        let slices: Vec<Slice> = slices.iter().map(|ports| slice("any", "web", ports, "10.1.0.1")).collect();
        assert_eq!(render(&select(&slices, &port(wanted))[0]), endpoints);
    }

    fn port(port: &str) -> ServicePortName {
        ServicePortName {
            service: name("web"),
            port: port.into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn render(list: &[SocketAddr]) -> String {
        list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    }
}
