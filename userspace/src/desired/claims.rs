//! Who holds an address that two Services ask for: the older one. The API server gives an address to one
//! Service only; manifests in a folder have nobody to see to that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::ServicePort;
use crate::model::{ObjectRef, Problem, Protocol, ServiceName, ServicePortName};

/// All addresses that are asked for, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    asked: BTreeMap<ServiceName, Asked>,
    /// Who asks, the holder first. Never empty.
    claimants: BTreeMap<Frontend, Vec<ServiceName>>,
    /// Frontends with more than one claimant.
    contested: BTreeSet<Frontend>,
}

/// What one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    created: Option<Box<str>>,
    /// Sorted, each once.
    frontends: Box<[Frontend]>,
}

type Frontend = (SocketAddr, Protocol);

impl Claims {
    /// Registers what a Service asks for (nothing: it is gone), and returns the others whose outcome may have
    /// changed.
    pub fn update(
        &mut self,
        name: &ServiceName,
        created: Option<&str>,
        wanted: &BTreeMap<ServicePortName, ServicePort>,
    ) -> BTreeSet<ServiceName> {
        let asked = Asked { created: created.map(Into::into), frontends: frontends(wanted) };
        let same = match self.asked.get(name) {
            Some(before) => *before == asked,
            None => asked.frontends.is_empty(),
        };
        if same {
            return BTreeSet::new();
        }
        let holders_before = self.withdraw(name);
        self.enter(name, asked, holders_before)
    }

    /// Takes away the frontends that another Service holds.
    pub fn settle(
        &self,
        mut wanted: BTreeMap<ServicePortName, ServicePort>,
    ) -> BTreeMap<ServicePortName, ServicePort> {
        for (id, port) in &mut wanted {
            let held = |frontend: &SocketAddr| {
                self.holder(&(*frontend, id.protocol)).is_none_or(|one| *one == id.service)
            };
            port.frontends.retain(held);
        }
        wanted
    }

    /// One for each Service and each frontend that it lost.
    pub fn problems(&self) -> Vec<Problem> {
        self.contested.iter().flat_map(|frontend| self.losses(frontend)).collect()
    }

    fn losses(&self, frontend: &Frontend) -> Vec<Problem> {
        let claimants = self.claimants.get(frontend).map(Vec::as_slice).unwrap_or_default();
        let [holder, others @ ..] = claimants else { return Vec::new() };
        let (address, protocol) = frontend;
        let message = format!("{address}/{protocol} is taken by Service {holder}, which came first");
        others.iter().map(|name| Problem::new(ObjectRef::from(name), "spec.clusterIP", &message)).collect()
    }

    fn holder(&self, frontend: &Frontend) -> Option<&ServiceName> {
        self.claimants.get(frontend)?.first()
    }

    /// Removes all claims of a Service; returns who held each frontend before.
    fn withdraw(&mut self, name: &ServiceName) -> BTreeMap<Frontend, Option<ServiceName>> {
        let Asked { created: _, frontends } = self.asked.remove(name).unwrap_or_default();
        frontends.into_iter().map(|frontend| (frontend, self.withdraw_one(name, frontend))).collect()
    }

    fn withdraw_one(&mut self, name: &ServiceName, frontend: Frontend) -> Option<ServiceName> {
        let claimants = self.claimants.get_mut(&frontend)?;
        let holder = claimants.first().cloned();
        claimants.retain(|other| other != name);
        let left = claimants.len();
        if left == 0 {
            self.claimants.remove(&frontend);
        }
        if left < 2 {
            self.contested.remove(&frontend);
        }
        holder
    }

    /// Enters new claims; returns the others for whom a holder came or went.
    fn enter(
        &mut self,
        name: &ServiceName,
        asked: Asked,
        mut before: BTreeMap<Frontend, Option<ServiceName>>,
    ) -> BTreeSet<ServiceName> {
        for frontend in &asked.frontends {
            before.entry(*frontend).or_insert_with(|| self.holder(frontend).cloned());
        }
        let new = asked.frontends.clone();
        if !new.is_empty() {
            self.asked.insert(name.clone(), asked);
        }
        for frontend in new {
            self.enter_one(name, frontend);
        }
        let moved = before.into_iter().filter_map(|(frontend, before)| {
            let after = self.holder(&frontend).cloned();
            (before != after).then_some([before, after])
        });
        moved.flatten().flatten().filter(|other| other != name).collect()
    }

    fn enter_one(&mut self, name: &ServiceName, frontend: Frontend) {
        let claimants = self.claimants.entry(frontend).or_insert_with(|| Vec::with_capacity(1));
        let asked = &self.asked;
        let at = claimants.partition_point(|other| age(asked, other) < age(asked, name));
        claimants.insert(at, name.clone());
        if claimants.len() > 1 {
            self.contested.insert(frontend);
        }
    }
}

fn frontends(wanted: &BTreeMap<ServicePortName, ServicePort>) -> Box<[Frontend]> {
    let all =
        wanted.iter().flat_map(|(id, port)| port.frontends.iter().map(|address| (*address, id.protocol)));
    let mut all: Vec<Frontend> = all.collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

/// Smaller is older. A Service without a date is younger than any that has one; of two, the name decides.
fn age<'a>(
    asked: &'a BTreeMap<ServiceName, Asked>,
    name: &'a ServiceName,
) -> (bool, Option<&'a str>, &'a ServiceName) {
    let created = asked.get(name).and_then(|asked| asked.created.as_deref());
    (created.is_none(), created, name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::{Family, sample};

    type Wanted = BTreeMap<ServicePortName, ServicePort>;

    #[test]
    fn an_address_that_one_service_asks_for_is_its_own() {
        check(&[("a", None, &[1, 2])], "a:1,2", 0);
    }

    #[test]
    fn the_older_of_two_services_keeps_the_address() {
        let (old, new) = (Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z"));
        check(&[("a", new, &[1, 2]), ("b", old, &[2, 3])], "a:1 b:2,3", 1);
        check(&[("b", old, &[2, 3]), ("a", new, &[1, 2])], "a:1 b:2,3", 1);
    }

    #[test]
    fn of_two_services_of_one_age_the_name_decides() {
        check(&[("b", None, &[1]), ("a", None, &[1])], "a:1 b:", 1);
    }

    #[test]
    fn a_service_without_a_date_is_younger_than_one_with() {
        check(&[("a", None, &[1]), ("b", Some("2026-01-01T00:00:00Z"), &[1])], "a: b:1", 1);
    }

    #[test]
    fn when_the_holder_goes_the_next_one_takes_over() {
        check(&[("a", None, &[1]), ("b", None, &[1]), ("a", None, &[])], "a: b:1", 0);
    }

    #[test]
    fn a_third_claimant_is_a_second_problem() {
        check(&[("a", None, &[1]), ("b", None, &[1]), ("c", None, &[1])], "a:1 b: c:", 2);
    }

    #[test]
    fn a_date_that_comes_late_counts() {
        check(
            &[("a", None, &[1]), ("b", None, &[1]), ("b", Some("2026-01-01T00:00:00Z"), &[1])],
            "a: b:1",
            1,
        );
    }

    #[test]
    fn the_loser_and_the_holder_are_named() {
        let mut claims = Claims::default();
        claims.update(&sample::name("a"), None, &wanted("a", &[1]));
        claims.update(&sample::name("b"), None, &wanted("b", &[1]));
        let said = "Service default/b: spec.clusterIP: \
                    10.96.0.1:80/TCP is taken by Service default/a, which came first";
        assert_eq!(claims.problems().iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    }

    #[test]
    fn the_same_port_in_another_protocol_is_another_address() {
        let mut claims = Claims::default();
        let tcp = wanted("a", &[1]);
        let udp = wanted("b", &[1])
            .into_iter()
            .map(|(id, port)| (ServicePortName { protocol: Protocol::Udp, ..id }, port));
        let udp: Wanted = udp.collect();
        claims.update(&sample::name("a"), None, &tcp);
        claims.update(&sample::name("b"), None, &udp);
        assert_eq!((claims.settle(tcp.clone()), claims.settle(udp.clone())), (tcp, udp));
    }

    #[test]
    fn nothing_is_left_when_all_are_gone() {
        let mut claims = Claims::default();
        for asked in [&[1, 2][..], &[]] {
            for name in ["a", "b"] {
                claims.update(&sample::name(name), None, &wanted(name, asked));
            }
        }
        let Claims { asked, claimants, contested } = claims;
        assert!(asked.is_empty() && claimants.is_empty() && contested.is_empty());
    }

    proptest! {
        #[test]
        fn whoever_is_not_named_keeps_its_outcome(steps in some_steps()) {
            let mut claims = Claims::default();
            let mut latest: BTreeMap<&str, Wanted> = BTreeMap::new();
            for (name, created, numbers) in steps {
                let before = outcomes(&claims, &latest);
                let wanted = wanted(name, &numbers);
                let named = claims.update(&sample::name(name), created, &wanted);
                latest.insert(name, wanted);
                prop_assert!(!named.contains(&sample::name(name)));
                for (other, outcome) in outcomes(&claims, &latest) {
                    let changed = before.get(other).is_some_and(|before| *before != outcome);
                    prop_assert!(other == name || !changed || named.contains(&sample::name(other)));
                }
            }
        }

        #[test]
        fn the_way_there_does_not_matter(steps in some_steps()) {
            let mut claims = Claims::default();
            let mut last = BTreeMap::new();
            for (name, created, numbers) in steps {
                claims.update(&sample::name(name), created, &wanted(name, &numbers));
                last.insert(name, (created, numbers));
            }
            let mut fresh = Claims::default();
            for (name, (created, numbers)) in last.iter().rev() {
                fresh.update(&sample::name(name), *created, &wanted(name, numbers));
            }
            prop_assert_eq!(claims.problems(), fresh.problems());
            prop_assert_eq!(&claims.contested, &fresh.contested);
            let latest = last.iter().map(|(name, (_, numbers))| (*name, wanted(name, numbers))).collect();
            prop_assert_eq!(outcomes(&claims, &latest), outcomes(&fresh, &latest));
            let held: Vec<SocketAddr> = outcomes(&claims, &latest).into_values().flatten().collect();
            prop_assert_eq!(held.len(), held.iter().collect::<BTreeSet<_>>().len());
        }
    }

    type Step = (&'static str, Option<&'static str>, Vec<u8>);

    fn some_steps() -> impl Strategy<Value = Vec<Step>> {
        let name = prop::sample::select(vec!["a", "b", "c", "d"]);
        let created =
            prop::sample::select(vec![None, Some("2026-01-01T00:00:00Z"), Some("2026-01-02T00:00:00Z")]);
        prop::collection::vec((name, created, prop::collection::vec(1_u8..5, 0..4)), 0..20)
    }

    fn outcomes<'a>(
        claims: &Claims,
        latest: &BTreeMap<&'a str, Wanted>,
    ) -> BTreeMap<&'a str, Vec<SocketAddr>> {
        let settled = latest.iter().map(|(name, wanted)| (*name, claims.settle(wanted.clone())));
        settled
            .map(|(name, ports)| (name, ports.into_values().flat_map(|port| port.frontends).collect()))
            .collect()
    }

    /// Each number stands for the address 10.96.0.number:80.
    fn wanted(name: &str, numbers: &[u8]) -> Wanted {
        let port = |number: &u8| {
            let service = sample::name(name);
            let port = number.to_string().into();
            let id = ServicePortName { service, port, protocol: Protocol::Tcp, family: Family::V4 };
            let frontends = vec![SocketAddr::from(([10, 96, 0, *number], 80))];
            (id, ServicePort { frontends, ..ServicePort::default() })
        };
        numbers.iter().map(port).collect()
    }

    /// Takes the steps one after the other, then looks at who holds what.
    fn check(steps: &[(&'static str, Option<&str>, &[u8])], holds: &str, problems: usize) {
        let mut claims = Claims::default();
        let mut latest = BTreeMap::new();
        for (name, created, numbers) in steps {
            let wanted = wanted(name, numbers);
            claims.update(&sample::name(name), *created, &wanted);
            latest.insert(*name, wanted);
        }
        let last = |address: &SocketAddr| address.to_string().replace("10.96.0.", "").replace(":80", "");
        let outcomes = outcomes(&claims, &latest).into_iter();
        let words = outcomes
            .map(|(name, held)| format!("{name}:{}", held.iter().map(last).collect::<Vec<_>>().join(",")));
        assert_eq!(words.collect::<Vec<_>>().join(" "), holds, "{steps:?}");
        assert_eq!(claims.problems().len(), problems, "{steps:?}");
    }
}
