//! Sequences of changes: what is kept up to date equals what is computed anew, in whatever order things are heard of.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::generate::{SERVICES, SLICES, some_context, some_service, some_slice};
use crate::desired::{Context, Desired, Frontend, Outcome, PortId, of_service};
use crate::model::sample::{apply_service, apply_slice, delete};
use crate::model::{Applied, Change, Cluster, Kind, ObjectRef, Parsed, Problem, ServiceName};

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Context(Context),
}

proptest! {
    #[test]
    fn what_is_kept_up_to_date_is_what_would_be_computed_anew(steps in vec(some_step(), 1..16)) {
        let mut world = World::default();
        for step in steps {
            let before = world.outcomes();
            let told = world.step(step.clone());
            prop_assert_eq!(&told, &differences(&before, &world.outcomes()), "what {:?} changes", step);
            prop_assert_eq!(world.everything(), world.anew(), "after {:?}", step);
            prop_assert_eq!(world.outcomes(), world.one_by_one(), "after {:?}", step);
        }
    }

    #[test]
    fn the_order_in_which_objects_are_heard_of_does_not_matter(
        changes in vec((some_change(), any::<u16>(), any::<bool>()), 1..16), context in some_context(),
    ) {
        let mut in_order = World::of(context.clone());
        changes.iter().for_each(|(change, _, look)| in_order.take(change.clone(), *look));
        let mut shuffled = World::of(context);
        shuffle(&changes).into_iter().for_each(|(change, look)| shuffled.take(change, look));
        in_order.look();
        shuffled.look();
        prop_assert_eq!(in_order.everything(), shuffled.everything());
    }
}

/// A cluster, and what is made of it change by change.
#[derive(Default)]
struct World {
    cluster: Cluster,
    desired: Desired,
}

type Outcomes = BTreeMap<ServiceName, Outcome>;

impl World {
    fn of(context: Context) -> Self {
        Self { cluster: Cluster::default(), desired: Desired::new(context) }
    }

    /// Returns the Services that are said to have changed.
    fn step(&mut self, step: Step) -> Vec<ServiceName> {
        let changed = match step {
            Step::Change(change) => {
                self.cluster.take(change);
                let dirty = self.cluster.dirty();
                self.desired.update(&self.cluster, dirty)
            }
            Step::Context(context) => self.desired.set_context(context, &self.cluster),
        };
        changed.into_iter().collect()
    }

    /// Several changes may come before anybody looks.
    fn take(&mut self, change: Change, look: bool) {
        self.cluster.take(change);
        if look {
            self.look();
        }
    }

    fn look(&mut self) {
        let dirty = self.cluster.dirty();
        self.desired.update(&self.cluster, dirty);
    }

    fn outcomes(&self) -> Outcomes {
        outcomes(&self.desired)
    }

    fn everything(&self) -> (Outcomes, Vec<Problem>) {
        (self.outcomes(), sorted(self.desired.problems()))
    }

    /// Each Service for itself, less the addresses that an older one asks for.
    fn one_by_one(&self) -> Outcomes {
        let alone =
            |name: &ServiceName| (name.clone(), of_service(&self.cluster, self.desired.context(), name));
        let all: Outcomes = self.cluster.names().map(alone).collect();
        let left = |(name, outcome): (&ServiceName, &Outcome)| {
            let Outcome { mut ports, health_checks } = outcome.clone();
            for (id, port) in &mut ports {
                let keeps = |one: &&Frontend| !self.is_held_by_another(&all, name, id, **one);
                port.frontends = port.frontends.iter().filter(keeps).copied().collect();
            }
            (name.clone(), Outcome { ports, health_checks })
        };
        all.iter().map(left).filter(|(_, outcome)| *outcome != Outcome::default()).collect()
    }

    fn is_held_by_another(
        &self,
        all: &Outcomes,
        name: &ServiceName,
        id: &PortId,
        frontend: Frontend,
    ) -> bool {
        let others = all.iter().filter(|(other, _)| *other != name);
        let mut ports =
            others.flat_map(|(other, outcome)| outcome.ports.iter().map(move |port| (other, port)));
        ports.any(|(other, (other_id, port))| {
            let mut colliding =
                port.frontends.iter().filter(|one| collide((other_id, **one), (id, frontend)));
            let goes_first =
                |one: &Frontend| (kind(*one), self.age(other)) < (kind(frontend), self.age(name));
            other_id.protocol == id.protocol && colliding.any(goes_first)
        })
    }

    /// Without a date it is the youngest; of the same date, the name decides.
    fn age<'a>(&'a self, name: &'a ServiceName) -> (i64, &'a ServiceName) {
        let created = self.cluster.service(name).and_then(|service| service.created);
        (created.unwrap_or(i64::MAX), name)
    }

    fn anew(&self) -> (Outcomes, Vec<Problem>) {
        let mut desired = Desired::new(self.desired.context().clone());
        desired.update(&self.cluster, self.cluster.names().cloned().collect());
        (outcomes(&desired), sorted(desired.problems()))
    }
}

/// A ClusterIP cannot be taken by an address that somebody wrote down, nor what a load balancer got by an external IP.
fn kind(frontend: Frontend) -> u8 {
    match frontend {
        Frontend::ClusterIp(_) => 0,
        Frontend::NodePort(_) => 1,
        Frontend::LoadBalancer(_) => 2,
        Frontend::ExternalIp(_) => 3,
    }
}

/// The same address and port, or the same node port in the same family.
fn collide((first_id, first): (&PortId, Frontend), (second_id, second): (&PortId, Frontend)) -> bool {
    match (first.address(), second.address()) {
        (Some(first), Some(second)) => first == second,
        (None, None) => first == second && first_id.family == second_id.family,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn outcomes(desired: &Desired) -> Outcomes {
    desired.services().map(|(name, outcome)| (name.clone(), outcome.clone())).collect()
}

fn sorted(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_unstable();
    problems
}

fn differences(before: &Outcomes, after: &Outcomes) -> Vec<ServiceName> {
    let names = SERVICES.map(|name| ServiceName::new("default", name));
    names.into_iter().filter(|name| before.get(name) != after.get(name)).collect()
}

fn some_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        9 => some_change().prop_map(Step::Change),
        1 => some_context().prop_map(Step::Context),
    ]
}

fn some_change() -> impl Strategy<Value = Change> {
    let deleted =
        |kind, names: &'static [&'static str]| select(names).prop_map(move |name| delete(kind, name));
    prop_oneof![
        5 => some_service().prop_map(apply_service),
        5 => some_slice().prop_map(apply_slice),
        1 => deleted(Kind::Service, &SERVICES),
        1 => deleted(Kind::EndpointSlice, &SLICES),
        1 => select(&SERVICES[..]).prop_map(|name| Change::Service(skipped(Kind::Service, name))),
        1 => select(&SLICES[..]).prop_map(|name| Change::Slice(skipped(Kind::EndpointSlice, name))),
    ]
}

/// As after a label is put on it that gives it to another proxy.
fn skipped<T>(kind: Kind, name: &str) -> Applied<T> {
    Applied { object: ObjectRef::new(kind, "default", name), value: Parsed::Skip, problems: Vec::new() }
}

/// Changes of different objects change places, those of one object do not.
fn shuffle(changes: &[(Change, u16, bool)]) -> Vec<(Change, bool)> {
    let mut places: BTreeMap<ObjectRef, Vec<u16>> = BTreeMap::new();
    for (change, place, _) in changes {
        places.entry(object(change)).or_default().push(*place);
    }
    places.values_mut().for_each(|places| places.sort_unstable_by(|a, b| b.cmp(a)));
    let mut placed: Vec<(u16, Change, bool)> = Vec::new();
    for (change, _, look) in changes {
        let place = places.get_mut(&object(change)).and_then(Vec::pop).unwrap();
        placed.push((place, change.clone(), *look));
    }
    placed.sort_by_key(|(place, _, _)| *place);
    placed.into_iter().map(|(_, change, look)| (change, look)).collect()
}

fn object(change: &Change) -> ObjectRef {
    match change {
        Change::Service(applied) => applied.object.clone(),
        Change::Slice(applied) => applied.object.clone(),
        Change::Deleted(object) => object.clone(),
        Change::Node(_)
        | Change::ServiceCidr(_)
        | Change::Unreadable { .. }
        | Change::Begin(_)
        | Change::End(_)
        | Change::Partial(_)
        | Change::Hears(..)
        | Change::Problems { .. } => unreachable!("not generated"),
    }
}
