//! Who answers for a service port.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;

use crate::model::{Conditions, Endpoint, Family, ServicePortName, Slice, SlicePort};

/// The endpoints of one service port, by what they are used for. Both lists are sorted and name nobody twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    /// They get new flows.
    pub endpoints: Vec<SocketAddr>,
    /// They serve, and get no new flows.
    pub draining: Vec<SocketAddr>,
}

/// Merges what all slices of a Service say about one port. The order of the slices does not matter.
pub fn of_port<'a>(
    slices: impl Iterator<Item = &'a Slice>,
    id: &ServicePortName,
) -> BTreeMap<SocketAddr, Conditions> {
    let mut merged = BTreeMap::new();
    for Slice { name: _, service: _, ports, endpoints } in slices {
        for port in ports.iter().filter(|port| belongs(port, id)) {
            for Endpoint { address, conditions, node: _ } in endpoints {
                if Family::of(*address) == id.family {
                    add(&mut merged, SocketAddr::new(*address, port.port.get()), *conditions);
                }
            }
        }
    }
    merged
}

/// Chooses among merged endpoints: the ready ones; if there are none, those that go away but still serve. An
/// endpoint that is ready is used whatever else it is.
pub fn select(all: &BTreeMap<SocketAddr, Conditions>) -> Endpoints {
    let any_ready = all.values().any(|conditions| conditions.ready());
    let mut chosen = Endpoints::default();
    for (&endpoint, conditions) in all {
        let is_fallback = conditions.serving() && conditions.terminating();
        if conditions.ready() || (!any_ready && is_fallback) {
            chosen.endpoints.push(endpoint);
        } else if conditions.serving() {
            chosen.draining.push(endpoint);
        }
    }
    chosen
}

/// A slice's port belongs to a service port by name and protocol; its number is the endpoints' own.
fn belongs(SlicePort { name, protocol, port: _ }: &SlicePort, id: &ServicePortName) -> bool {
    *name == id.port && *protocol == id.protocol
}

/// One endpoint may be named twice: it moves between slices, or a new pod got the address of one that is
/// still terminating. Then the one that stays counts.
fn add(merged: &mut BTreeMap<SocketAddr, Conditions>, endpoint: SocketAddr, conditions: Conditions) {
    match merged.entry(endpoint) {
        Entry::Vacant(entry) => {
            entry.insert(conditions);
        }
        Entry::Occupied(mut entry) if rank(conditions) > rank(*entry.get()) => {
            entry.insert(conditions);
        }
        Entry::Occupied(_) => {}
    }
}

/// Beyond "not terminating" the API leaves it open which duplicate counts; the rest makes the answer the same
/// for every order.
fn rank(conditions: Conditions) -> (bool, bool, bool) {
    (!conditions.terminating(), conditions.ready(), conditions.serving())
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
            let found = select(&of_port(slices.iter(), &ServicePortName { family, ..port("http") }));
            assert_eq!(render(&found.endpoints), one);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_slices_does_not_matter(
            (slices, shuffled) in some_slices()
                .prop_flat_map(|all| (Just(all.clone()), Just(all).prop_shuffle()))
        ) {
            prop_assert_eq!(of_port(slices.iter(), &port("http")), of_port(shuffled.iter(), &port("http")));
        }

        #[test]
        fn every_endpoint_is_accounted_for(slices in some_slices()) {
            let all = of_port(slices.iter(), &port("http"));
            let Endpoints { endpoints, draining } = select(&all);
            for (endpoint, conditions) in &all {
                let used = endpoints.contains(endpoint);
                let drains = draining.contains(endpoint);
                prop_assert!(!(used && drains));
                prop_assert!(used || !conditions.ready());
                prop_assert_eq!(used || drains, conditions.ready() || conditions.serving());
            }
            prop_assert!(endpoints.is_sorted() && draining.is_sorted());
        }

        #[test]
        fn a_slice_more_never_empties_the_list(mut slices in some_slices(), more in "10\\.1\\.0\\.[5-9]=rs") {
            slices.push(slice("more", "web", "http:80", &more));
            prop_assert!(!select(&of_port(slices.iter(), &port("http"))).endpoints.is_empty());
        }
    }

    fn some_slices() -> impl Strategy<Value = Vec<Slice>> {
        let endpoint = "10\\.1\\.0\\.[1-4]=r?s?t?";
        let one = (
            prop::collection::vec(endpoint, 0..6),
            prop::sample::select(vec!["http:80", "http:81", "dns:80"]),
        );
        let slice = one.prop_map(|(endpoints, port)| slice("any", "web", port, &endpoints.join(" ")));
        prop::collection::vec(slice, 0..6)
    }

    /// Slices are separated by bars; all listen on port 80.
    fn check(slices: &str, used: &str, draining: &str) {
        let slices: Vec<Slice> =
            slices.split('|').map(|endpoints| slice("any", "web", "http:80", endpoints)).collect();
        let found = select(&of_port(slices.iter(), &port("http")));
        let found = [found.endpoints, found.draining].map(|list| render(&list).replace(":80", ""));
        assert_eq!(found, [used, draining], "{slices:?}");
    }

    fn check_ports(slices: &[&str], wanted: &str, endpoints: &str) {
        let slices: Vec<Slice> = slices.iter().map(|ports| slice("any", "web", ports, "10.1.0.1")).collect();
        assert_eq!(render(&select(&of_port(slices.iter(), &port(wanted))).endpoints), endpoints);
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
