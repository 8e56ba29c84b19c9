//! Who holds an address that two Services ask for. The API server gives a ClusterIP and a node port to one Service only, and
//! nobody else may take them: else whoever can write an external IP could take another Service's traffic. Of claims of
//! one kind the older Service's counts. Manifests in a folder have nobody to see to any of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU16;

use super::{Frontend, PortId, ServicePort};
use crate::model::{Family, ObjectRef, Problem, Protocol, ServiceName};

/// All addresses that are asked for, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    asked: BTreeMap<ServiceName, Asked>,
    /// Who asks, the holder first. Never empty.
    claimants: BTreeMap<Claim, Vec<ServiceName>>,
    /// Claims with more than one claimant.
    contested: BTreeSet<Claim>,
}

/// What one Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    created: Option<i64>,
    /// Sorted, each claim once.
    claims: Box<[(Claim, Part)]>,
}

/// The part of a Service that asks. What comes first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    ClusterIp,
    Port,
    LoadBalancer,
    ExternalIp,
}

impl Part {
    const fn field(self) -> &'static str {
        match self {
            Self::ClusterIp => "spec.clusterIP",
            Self::Port => "spec.ports",
            Self::ExternalIp => "spec.externalIPs",
            Self::LoadBalancer => "status.loadBalancer",
        }
    }
}

/// What only one Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// A port at an address of its own.
    Address(SocketAddr, Protocol),
    /// A port at the node's addresses.
    NodePort(NonZeroU16, Protocol, Family),
}

impl Claim {
    fn of(id: &PortId, frontend: Frontend) -> (Self, Part) {
        let at = |address| Self::Address(address, id.protocol);
        match frontend {
            Frontend::NodePort(port) => (Self::NodePort(port, id.protocol, id.family), Part::Port),
            Frontend::ClusterIp(address) => (at(address), Part::ClusterIp),
            Frontend::ExternalIp(address) => (at(address), Part::ExternalIp),
            Frontend::LoadBalancer(address) => (at(address), Part::LoadBalancer),
        }
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address, protocol) => write!(f, "{address}/{protocol}"),
            Self::NodePort(port, protocol, family) => write!(f, "node port {port}/{protocol} ({family})"),
        }
    }
}

impl Claims {
    /// Registers what a Service asks for (nothing: it is gone), and returns the others whose outcome may have
    /// changed.
    pub fn update(
        &mut self,
        name: &ServiceName,
        created: Option<i64>,
        wanted: &[(PortId, ServicePort)],
    ) -> BTreeSet<ServiceName> {
        let asked = Asked { created, claims: claims(wanted) };
        let same = match self.asked.get(name) {
            Some(before) => *before == asked,
            None => asked.claims.is_empty(),
        };
        if same {
            return BTreeSet::new();
        }
        let holders_before = self.withdraw(name);
        self.enter(name, asked, holders_before)
    }

    /// Takes away the addresses that another Service holds.
    pub fn settle(&self, name: &ServiceName, wanted: &mut [(PortId, ServicePort)]) {
        if self.contested.is_empty() {
            return;
        }
        for (id, port) in wanted {
            let held = |frontend: &Frontend| {
                self.holder(&Claim::of(id, *frontend).0).is_none_or(|holder| holder == name)
            };
            if !port.frontends.iter().all(held) {
                port.frontends = port.frontends.iter().copied().filter(held).collect();
            }
        }
    }

    /// One for each Service and each address that it lost.
    pub fn problems(&self) -> Vec<Problem> {
        self.contested.iter().flat_map(|claim| self.losses(claim)).collect()
    }

    fn losses(&self, claim: &Claim) -> Vec<Problem> {
        let claimants = self.claimants.get(claim).map(Vec::as_slice).unwrap_or_default();
        let [holder, others @ ..] = claimants else { return Vec::new() };
        let message = format!("{claim} is taken by Service {holder}, which goes first");
        let problem = |name| Problem::new(ObjectRef::from(name), self.field(name, claim), &message);
        others.iter().map(problem).collect()
    }

    /// Where a Service asks for it.
    fn field(&self, name: &ServiceName, claim: &Claim) -> &'static str {
        self.part(name, claim).map_or("spec", Part::field)
    }

    fn part(&self, name: &ServiceName, claim: &Claim) -> Option<Part> {
        let asked = &self.asked.get(name)?.claims;
        let place = asked.binary_search_by_key(claim, |(one, _)| *one).ok()?;
        asked.get(place).map(|(_, part)| *part)
    }

    /// Smaller goes first: by kind, then by age. A Service without a date is younger than any that has one; of two, the
    /// name decides.
    fn rank<'a>(
        &self,
        name: &'a ServiceName,
        claim: &Claim,
    ) -> (Option<Part>, bool, Option<i64>, &'a ServiceName) {
        let created = self.asked.get(name).and_then(|asked| asked.created);
        (self.part(name, claim), created.is_none(), created, name)
    }

    fn holder(&self, claim: &Claim) -> Option<&ServiceName> {
        self.claimants.get(claim)?.first()
    }

    /// Removes all claims of a Service; returns who held each before.
    fn withdraw(&mut self, name: &ServiceName) -> BTreeMap<Claim, Option<ServiceName>> {
        let Asked { created: _, claims } = self.asked.remove(name).unwrap_or_default();
        claims.into_iter().map(|(claim, _)| (claim, self.withdraw_one(name, claim))).collect()
    }

    fn withdraw_one(&mut self, name: &ServiceName, claim: Claim) -> Option<ServiceName> {
        let claimants = self.claimants.get_mut(&claim)?;
        let holder = claimants.first().cloned();
        claimants.retain(|other| other != name);
        let left = claimants.len();
        if left == 0 {
            self.claimants.remove(&claim);
        }
        if left < 2 {
            self.contested.remove(&claim);
        }
        holder
    }

    /// Enters new claims; returns the others for whom a holder came or went.
    fn enter(
        &mut self,
        name: &ServiceName,
        asked: Asked,
        mut before: BTreeMap<Claim, Option<ServiceName>>,
    ) -> BTreeSet<ServiceName> {
        for (claim, _) in &asked.claims {
            before.entry(*claim).or_insert_with(|| self.holder(claim).cloned());
        }
        let new = asked.claims.clone();
        if !new.is_empty() {
            self.asked.insert(name.clone(), asked);
        }
        for (claim, _) in new {
            self.enter_one(name, claim);
        }
        let moved = before.into_iter().filter_map(|(claim, before)| {
            let after = self.holder(&claim).cloned();
            (before != after).then_some([before, after])
        });
        moved.flatten().flatten().filter(|other| other != name).collect()
    }

    fn enter_one(&mut self, name: &ServiceName, claim: Claim) {
        let others = self.claimants.get(&claim).map(Vec::as_slice).unwrap_or_default();
        let ours = self.rank(name, &claim);
        let at = others.partition_point(|other| self.rank(other, &claim) < ours);
        let claimants = self.claimants.entry(claim).or_insert_with(|| Vec::with_capacity(1));
        claimants.insert(at, name.clone());
        if claimants.len() > 1 {
            self.contested.insert(claim);
        }
    }
}

fn claims(wanted: &[(PortId, ServicePort)]) -> Box<[(Claim, Part)]> {
    let all = wanted.iter().flat_map(|(id, port)| port.frontends.iter().map(|one| Claim::of(id, *one)));
    let mut all: Vec<(Claim, Part)> = all.collect();
    all.sort_unstable();
    all.dedup_by_key(|(claim, _)| *claim);
    all.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::desired::port::{Action, Routes};
    use crate::model::sample;

    type Wanted = Vec<(PortId, ServicePort)>;

    #[test]
    fn an_address_that_one_service_asks_for_is_its_own() {
        check(&[("a", None, &[1, 2])], "a:1,2", 0);
    }

    #[test]
    fn the_older_of_two_services_keeps_the_address() {
        let (old, new) = (Some(1), Some(2));
        check(&[("a", new, &[1, 2]), ("b", old, &[2, 3])], "a:1 b:2,3", 1);
        check(&[("b", old, &[2, 3]), ("a", new, &[1, 2])], "a:1 b:2,3", 1);
    }

    #[test]
    fn of_two_services_of_one_age_the_name_decides() {
        check(&[("b", None, &[1]), ("a", None, &[1])], "a:1 b:", 1);
    }

    #[test]
    fn a_service_without_a_date_is_younger_than_one_with() {
        check(&[("a", None, &[1]), ("b", Some(1), &[1])], "a: b:1", 1);
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
        check(&[("a", None, &[1]), ("b", None, &[1]), ("b", Some(1), &[1])], "a: b:1", 1);
    }

    #[test]
    fn the_loser_and_the_holder_are_named() {
        let mut claims = Claims::default();
        claims.update(&sample::name("a"), None, &wanted(&[1]));
        claims.update(&sample::name("b"), None, &wanted(&[1]));
        let said = "Service default/b: spec.clusterIP: \
                    10.96.0.1:80/TCP is taken by Service default/a, which goes first";
        assert_eq!(claims.problems().iter().map(ToString::to_string).collect::<Vec<_>>(), [said]);
    }

    #[test]
    fn the_same_port_in_another_protocol_is_another_address() {
        let mut claims = Claims::default();
        let tcp = wanted(&[1]);
        let udp = wanted(&[1]).into_iter().map(|(id, port)| (PortId { protocol: Protocol::Udp, ..id }, port));
        let udp: Wanted = udp.collect();
        claims.update(&sample::name("a"), None, &tcp);
        claims.update(&sample::name("b"), None, &udp);
        assert!(claims.problems().is_empty());
    }

    #[test]
    fn a_node_port_is_contested_like_an_address() {
        let mut claims = Claims::default();
        let mut both = wanted(&[1]);
        both[0].1.frontends = [Frontend::NodePort(NonZeroU16::MAX)].into();
        claims.update(&sample::name("a"), None, &both);
        claims.update(&sample::name("b"), None, &both);
        let said = "Service default/b: spec.ports: \
                    node port 65535/TCP (IPv4) is taken by Service default/a, which goes first";
        assert_eq!(claims.problems()[0].to_string(), said);
        claims.settle(&sample::name("b"), &mut both);
        assert!(both[0].1.frontends.is_empty());
    }

    #[test]
    fn a_cluster_ip_goes_before_any_other_address_however_old() {
        let mut claims = Claims::default();
        let [mut external, mut ingress, mut own] = [wanted(&[1]), wanted(&[1]), wanted(&[1])];
        let address = own[0].1.frontends[0].address().unwrap();
        external[0].1.frontends = [Frontend::ExternalIp(address)].into();
        ingress[0].1.frontends = [Frontend::LoadBalancer(address)].into();
        claims.update(&sample::name("a"), Some(1), &external);
        assert_eq!(claims.update(&sample::name("b"), Some(2), &ingress), [sample::name("a")].into());
        assert_eq!(claims.update(&sample::name("c"), None, &own), [sample::name("b")].into());
        for (name, wanted, held) in [("a", &mut external, 0), ("b", &mut ingress, 0), ("c", &mut own, 1)] {
            claims.settle(&sample::name(name), wanted);
            assert_eq!(wanted[0].1.frontends.len(), held, "{name}");
        }
    }

    #[test]
    fn nothing_is_left_when_all_are_gone() {
        let mut claims = Claims::default();
        for asked in [&[1, 2][..], &[]] {
            for name in ["a", "b"] {
                claims.update(&sample::name(name), None, &wanted(asked));
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
                let wanted = wanted(&numbers);
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
                claims.update(&sample::name(name), created, &wanted(&numbers));
                last.insert(name, (created, numbers));
            }
            let mut fresh = Claims::default();
            for (name, (created, numbers)) in last.iter().rev() {
                fresh.update(&sample::name(name), *created, &wanted(numbers));
            }
            prop_assert_eq!(claims.problems(), fresh.problems());
            prop_assert_eq!(&claims.contested, &fresh.contested);
            let latest = last.iter().map(|(name, (_, numbers))| (*name, wanted(numbers))).collect();
            prop_assert_eq!(outcomes(&claims, &latest), outcomes(&fresh, &latest));
            let held: Vec<SocketAddr> = outcomes(&claims, &latest).into_values().flatten().collect();
            prop_assert_eq!(held.len(), held.iter().collect::<BTreeSet<_>>().len());
        }
    }

    type Step = (&'static str, Option<i64>, Vec<u8>);

    fn some_steps() -> impl Strategy<Value = Vec<Step>> {
        let name = prop::sample::select(vec!["a", "b", "c", "d"]);
        let created = prop::sample::select(vec![None, Some(1), Some(2)]);
        prop::collection::vec((name, created, prop::collection::vec(1_u8..5, 0..4)), 0..20)
    }

    fn outcomes<'a>(
        claims: &Claims,
        latest: &BTreeMap<&'a str, Wanted>,
    ) -> BTreeMap<&'a str, Vec<SocketAddr>> {
        let settled = |(name, wanted): (&&'a str, &Wanted)| {
            let mut wanted = wanted.clone();
            claims.settle(&sample::name(name), &mut wanted);
            let held = wanted.into_iter().flat_map(|(_, port)| port.frontends);
            (*name, held.filter_map(Frontend::address).collect())
        };
        latest.iter().map(settled).collect()
    }

    /// Each number stands for the address 10.96.0.number:80.
    fn wanted(numbers: &[u8]) -> Wanted {
        let port = |number: &u8| {
            let id = PortId { port: number.to_string().into(), protocol: Protocol::Tcp, family: Family::V4 };
            let refused = Routes { pod: Action::Reject, node: Action::Reject, outside: Action::Reject };
            let port = ServicePort {
                frontends: [Frontend::ClusterIp(SocketAddr::from(([10, 96, 0, *number], 80)))].into(),
                internal: refused,
                external: refused,
                sources: None,
                affinity: None,
                endpoints: Box::default(),
            };
            (id, port)
        };
        let mut all: Wanted = numbers.iter().map(port).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all.dedup_by(|(a, _), (b, _)| a == b);
        all
    }

    /// Takes the steps one after the other, then looks at who holds what.
    fn check(steps: &[(&'static str, Option<i64>, &[u8])], holds: &str, problems: usize) {
        let mut claims = Claims::default();
        let mut latest = BTreeMap::new();
        for (name, created, numbers) in steps {
            let wanted = wanted(numbers);
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
