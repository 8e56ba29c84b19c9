//! Who holds an address that two Services ask for. The API server gives a ClusterIP and a node port to one Service only, and
//! nobody else may take them: else whoever can write an external IP could take another Service's traffic. Of claims of
//! one kind the older Service's counts. Manifests in a folder have nobody to see to any of that.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU16;

use super::{Frontend, PortId, ServicePort};
use crate::model::{Family, ObjectRef, Problem, Protocol, ServiceName};

/// All addresses that are asked for, and by whom.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    asked: BTreeMap<Claim, Claimants>,
    /// What more than one Service asks for.
    contested: BTreeSet<Claim>,
    /// What each Service asks for that is contested, or was when the Service was settled last: there its outcome does
    /// not tell what it asks for.
    rivals: BTreeMap<ServiceName, BTreeSet<Claim>>,
}

/// What only one Service can have. There is one for nearly every address: kept without padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    /// IPv6 address, or IPv4 as IPv4-mapped; unspecified for a node port.
    ip: [u8; 16],
    port: NonZeroU16,
    protocol: Protocol,
    /// The family of a node port.
    node: Option<Family>,
}

/// Who asks for one thing. Nearly always it is one.
#[derive(Clone, Debug)]
enum Claimants {
    One(Claimant),
    /// The holder first; more than one.
    Many(Vec<Claimant>),
}

/// A Service that asks; smaller goes first: by kind, then by age, and of one age the name decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claimant {
    part: Part,
    /// Seconds since 1970. A Service without a date is younger than any that has one.
    created: i64,
    name: ServiceName,
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
            Self::LoadBalancer => "status.loadBalancer",
            Self::ExternalIp => "spec.externalIPs",
        }
    }
}

impl Claim {
    /// `None` for port zero, which no Service has.
    fn of(id: &PortId, frontend: Frontend) -> Option<(Self, Part)> {
        let at = |address: SocketAddr| {
            let ip = match address.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let port = NonZeroU16::new(address.port())?;
            Some(Self { ip, port, protocol: id.protocol, node: None })
        };
        Some(match frontend {
            Frontend::NodePort(port) => {
                let claim = Self { ip: [0; 16], port, protocol: id.protocol, node: Some(id.family) };
                (claim, Part::Port)
            }
            Frontend::ClusterIp(address) => (at(address)?, Part::ClusterIp),
            Frontend::ExternalIp(address) => (at(address)?, Part::ExternalIp),
            Frontend::LoadBalancer(address) => (at(address)?, Part::LoadBalancer),
        })
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ip, port, protocol, node } = self;
        match node {
            None => {
                let ip = Ipv6Addr::from(*ip).to_canonical();
                write!(f, "{}/{protocol}", SocketAddr::new(ip, port.get()))
            }
            Some(family) => write!(f, "node port {port}/{protocol} ({family})"),
        }
    }
}

impl Claimants {
    fn all(&self) -> &[Claimant] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(all) => all,
        }
    }
}

impl Claims {
    /// Registers what a Service asks for (nothing: it is gone), in place of what it asked for when `before` was its
    /// outcome. Returns the others whose outcome may have changed.
    pub fn update(
        &mut self,
        name: &ServiceName,
        created: Option<i64>,
        before: &[(PortId, ServicePort)],
        wanted: &[(PortId, ServicePort)],
    ) -> BTreeSet<ServiceName> {
        let wanted = claims(wanted);
        let mut moved = BTreeSet::new();
        for claim in self.asked_before(name, before) {
            if !wanted.contains_key(&claim) {
                self.change(claim, name, None, &mut moved);
            }
        }
        for (claim, part) in wanted {
            let created = created.unwrap_or(i64::MAX);
            let claimant = Claimant { part, created, name: name.clone() };
            self.change(claim, name, Some(claimant), &mut moved);
        }
        moved.remove(name);
        moved
    }

    fn asked_before(&self, name: &ServiceName, before: &[(PortId, ServicePort)]) -> BTreeSet<Claim> {
        let mut all: BTreeSet<Claim> = claims(before).into_keys().collect();
        all.extend(self.rivals.get(name).into_iter().flatten());
        all
    }

    /// Enters a claim of a Service anew, or takes it out; notes between whom it has moved.
    fn change(
        &mut self,
        claim: Claim,
        name: &ServiceName,
        claimant: Option<Claimant>,
        moved: &mut BTreeSet<ServiceName>,
    ) {
        let known = self.asked.get(&claim).map(Claimants::all).unwrap_or_default();
        if let [only] = known
            && Some(only) == claimant.as_ref()
        {
            return;
        }
        let before = known.first().map(|one| one.name.clone());
        let mut all: Vec<Claimant> = known.iter().filter(|one| one.name != *name).cloned().collect();
        if let Some(claimant) = claimant {
            let place = all.partition_point(|one| *one < claimant);
            all.insert(place, claimant);
        }
        let after = all.first().map(|one| one.name.clone());
        if before != after {
            moved.extend([before, after].into_iter().flatten());
        }
        self.put(claim, name, all);
    }

    fn put(&mut self, claim: Claim, changed: &ServiceName, all: Vec<Claimant>) {
        if all.len() > 1 {
            self.contested.insert(claim);
            for one in &all {
                self.rivals.entry(one.name.clone()).or_default().insert(claim);
            }
        } else {
            self.contested.remove(&claim);
        }
        if !all.iter().any(|one| one.name == *changed)
            && let Some(claims) = self.rivals.get_mut(changed)
        {
            claims.remove(&claim);
        }
        let mut rest = all.into_iter();
        match (rest.next(), rest.len()) {
            (None, _) => drop(self.asked.remove(&claim)),
            (Some(one), 0) => drop(self.asked.insert(claim, Claimants::One(one))),
            (Some(one), _) => {
                let all = std::iter::once(one).chain(rest).collect();
                self.asked.insert(claim, Claimants::Many(all));
            }
        }
    }

    /// Takes away the addresses that another Service holds. The outcome says from now on what the Service asks for,
    /// except where that is contested.
    pub fn settle(&mut self, name: &ServiceName, wanted: &mut [(PortId, ServicePort)]) {
        let Some(mut claims) = self.rivals.remove(name) else { return };
        for (id, port) in wanted {
            let held = |frontend: &Frontend| {
                Claim::of(id, *frontend)
                    .is_none_or(|(claim, _)| self.holder(&claim).is_none_or(|one| one == name))
            };
            if !port.frontends.iter().all(held) {
                port.frontends = port.frontends.iter().copied().filter(held).collect();
            }
        }
        claims.retain(|claim| self.contested.contains(claim));
        if !claims.is_empty() {
            self.rivals.insert(name.clone(), claims);
        }
    }

    /// One for each Service and each address that it lost.
    pub fn problems(&self) -> Vec<Problem> {
        self.contested.iter().flat_map(|claim| self.losses(claim)).collect()
    }

    fn losses(&self, claim: &Claim) -> Vec<Problem> {
        let claimants = self.asked.get(claim).map(Claimants::all).unwrap_or_default();
        let [holder, others @ ..] = claimants else { return Vec::new() };
        let message = format!("{claim} is taken by Service {}, which goes first", holder.name);
        let problem = |one: &Claimant| Problem::new(ObjectRef::from(&one.name), one.part.field(), &message);
        others.iter().map(problem).collect()
    }

    fn holder(&self, claim: &Claim) -> Option<&ServiceName> {
        self.asked.get(claim)?.all().first().map(|one| &one.name)
    }
}

/// What a Service asks for with these ports; what it asks for twice, by the part that goes first.
fn claims(ports: &[(PortId, ServicePort)]) -> BTreeMap<Claim, Part> {
    let mut all = BTreeMap::new();
    for (id, port) in ports {
        for (claim, part) in port.frontends.iter().filter_map(|one| Claim::of(id, *one)) {
            let known = all.entry(claim).or_insert(part);
            *known = part.min(*known);
        }
    }
    all
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
        claims.update(&sample::name("a"), None, &[], &wanted(&[1]));
        claims.update(&sample::name("b"), None, &[], &wanted(&[1]));
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
        claims.update(&sample::name("a"), None, &[], &tcp);
        claims.update(&sample::name("b"), None, &[], &udp);
        assert!(claims.problems().is_empty());
    }

    #[test]
    fn a_node_port_is_contested_like_an_address() {
        let mut claims = Claims::default();
        let mut both = wanted(&[1]);
        both[0].1.frontends = [Frontend::NodePort(NonZeroU16::MAX)].into();
        claims.update(&sample::name("a"), None, &[], &both);
        claims.update(&sample::name("b"), None, &[], &both);
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
        claims.update(&sample::name("a"), Some(1), &[], &external);
        assert_eq!(claims.update(&sample::name("b"), Some(2), &[], &ingress), [sample::name("a")].into());
        assert_eq!(claims.update(&sample::name("c"), None, &[], &own), [sample::name("b")].into());
        for (name, wanted, held) in [("a", &mut external, 0), ("b", &mut ingress, 0), ("c", &mut own, 1)] {
            claims.settle(&sample::name(name), wanted);
            assert_eq!(wanted[0].1.frontends.len(), held, "{name}");
        }
    }

    #[test]
    fn nothing_is_left_when_all_are_gone() {
        let mut world = World::default();
        for asked in [&[1, 2][..], &[]] {
            for name in ["a", "b"] {
                world.step(name, None, asked);
            }
        }
        let Claims { asked, contested, rivals } = world.claims;
        assert!(asked.is_empty() && contested.is_empty() && rivals.is_empty(), "{rivals:?}");
    }

    proptest! {
        #[test]
        fn whoever_is_not_named_keeps_its_outcome(steps in some_steps()) {
            let mut world = World::default();
            for (name, created, numbers) in steps {
                let named = world.step(name, created, &numbers);
                prop_assert!(!named.contains(&sample::name(name)));
                // Only those named were settled again.
                prop_assert_eq!(world.kept(), world.settled_anew());
            }
        }

        #[test]
        fn the_way_there_does_not_matter(steps in some_steps()) {
            let mut world = World::default();
            let mut last = BTreeMap::new();
            for (name, created, numbers) in steps {
                world.step(name, created, &numbers);
                last.insert(name, (created, numbers));
            }
            let mut fresh = World::default();
            for (name, (created, numbers)) in last.iter().rev() {
                fresh.step(name, *created, numbers);
            }
            prop_assert_eq!(world.claims.problems(), fresh.claims.problems());
            prop_assert_eq!(&world.claims.contested, &fresh.claims.contested);
            prop_assert_eq!(world.kept(), fresh.kept());
            let held: Vec<SocketAddr> = world.kept().into_values().flatten().collect();
            prop_assert_eq!(held.len(), held.iter().collect::<BTreeSet<_>>().len());
        }
    }

    /// Claims, and what their owner does with them.
    #[derive(Default)]
    struct World {
        claims: Claims,
        wanted: BTreeMap<ServiceName, Wanted>,
        settled: BTreeMap<ServiceName, Wanted>,
    }

    impl World {
        /// Registers what a Service asks for; settles it and those named.
        fn step(&mut self, name: &str, created: Option<i64>, numbers: &[u8]) -> BTreeSet<ServiceName> {
            let (name, wanted) = (sample::name(name), wanted(numbers));
            let before = self.settled.get(&name).cloned().unwrap_or_default();
            let named = self.claims.update(&name, created, &before, &wanted);
            self.wanted.insert(name.clone(), wanted);
            for one in named.iter().chain([&name]) {
                let mut settled = self.wanted.get(one).cloned().unwrap_or_default();
                self.claims.settle(one, &mut settled);
                self.settled.insert(one.clone(), settled);
            }
            named
        }

        fn kept(&self) -> BTreeMap<ServiceName, Vec<SocketAddr>> {
            self.settled.iter().map(|(name, wanted)| (name.clone(), addresses(wanted))).collect()
        }

        fn settled_anew(&self) -> BTreeMap<ServiceName, Vec<SocketAddr>> {
            let mut claims = self.claims.clone();
            let settled = |(name, wanted): (&ServiceName, &Wanted)| {
                let mut wanted = wanted.clone();
                claims.settle(name, &mut wanted);
                (name.clone(), addresses(&wanted))
            };
            self.wanted.iter().map(settled).collect()
        }
    }

    fn addresses(wanted: &Wanted) -> Vec<SocketAddr> {
        wanted.iter().flat_map(|(_, port)| &port.frontends).filter_map(|one| one.address()).collect()
    }

    type Step = (&'static str, Option<i64>, Vec<u8>);

    fn some_steps() -> impl Strategy<Value = Vec<Step>> {
        let name = prop::sample::select(vec!["a", "b", "c", "d"]);
        let created = prop::sample::select(vec![None, Some(1), Some(2)]);
        prop::collection::vec((name, created, prop::collection::vec(1_u8..5, 0..4)), 0..20)
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
        let mut world = World::default();
        for (name, created, numbers) in steps {
            world.step(name, *created, numbers);
        }
        let last = |address: &SocketAddr| address.to_string().replace("10.96.0.", "").replace(":80", "");
        let words = world.kept().into_iter().map(|(name, held)| {
            format!("{}:{}", name.name, held.iter().map(last).collect::<Vec<_>>().join(","))
        });
        assert_eq!(words.collect::<Vec<_>>().join(" "), holds, "{steps:?}");
        assert_eq!(world.claims.problems().len(), problems, "{steps:?}");
    }
}
