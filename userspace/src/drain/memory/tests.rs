//! Tests: stories, and random ones against a list that keeps everything.

use proptest::prelude::*;

use super::*;
use crate::desired::{Context, Desired};
use crate::drain::{Reasons, Tally};
use crate::model::sample::{apply_service, apply_slice, delete, name, service, slice};
use crate::model::{Change, Cluster, Family, Kind, Policy, Protocol};

fn web(port: &str) -> ServicePortName {
    ServicePortName { service: name("web"), port: port.into(), protocol: Protocol::Tcp, family: Family::V4 }
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 80))
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn subject(last: u8) -> Subject {
    Subject { port: web("http"), endpoint: at(last), asked: Arc::default() }
}

fn leave(memory: &mut Memory, last: u8, when: u64) {
    let now = Now { run: seconds(when), wall: seconds(1_000_000 + when) };
    memory.leave(subject(last), Why::Gone, Some(now), now.run);
}

/// Who is remembered, by the last byte.
fn who(memory: &Memory) -> Vec<u8> {
    let last = |left: Left| match left.endpoint {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    };
    memory.told(Duration::ZERO).left.into_iter().map(last).collect()
}

/// Flows at the socket (below zero: unknown), the edge, and in the packet filter; none go straight.
fn flows(counts: [i64; 3]) -> Flows {
    let [socket, edge, nftables] =
        counts.map(|count| u64::try_from(count).map_or_else(|_| Tally::unknown("so"), Tally::of));
    Flows { socket, edge, nftables, direct: Tally::of(0) }
}

fn count(memory: &mut Memory, all: &[(u8, [i64; 3])], when: u64) {
    let found = all.iter().map(|(last, counts)| ((web("http"), at(*last)), flows(*counts))).collect();
    memory.counted(&found, seconds(when), seconds(when));
}

#[test]
fn an_endpoint_is_forgotten_when_it_has_been_quiet_for_half_a_minute() {
    let mut memory = Memory::default();
    leave(&mut memory, 1, 10);
    count(&mut memory, &[(1, [-1, 2, 0])], 20);
    assert_eq!((memory.numbers().endpoints, memory.numbers().flows), (1, 2));
    count(&mut memory, &[(1, [-1, 0, 0])], 30);
    assert_eq!(memory.numbers().endpoints, 0);
    assert_eq!((memory.tidy(seconds(59)), who(&memory)), (vec![], vec![1]));
    // A flow that is back begins it anew.
    count(&mut memory, &[(1, [-1, 0, 1])], 59);
    count(&mut memory, &[(1, [-1, 0, 0])], 60);
    assert_eq!(memory.tidy(seconds(89)), []);
    assert_eq!(memory.tidy(seconds(90)), [(web("http"), at(1))]);
    assert_eq!((who(&memory), memory.numbers().drained, memory.is_empty()), (vec![], 1, true));
}

#[test]
fn who_cannot_be_counted_is_forgotten_after_an_hour_without_flows() {
    let mut memory = Memory::default();
    leave(&mut memory, 1, 0);
    leave(&mut memory, 2, 0);
    count(&mut memory, &[(1, [-1, -1, -1]), (2, [-1, 1, -1])], 600);
    memory.tidy(seconds(3600));
    assert_eq!(who(&memory), [2]);
    memory.tidy(seconds(600 + 3599));
    assert_eq!(who(&memory), [2]);
    memory.tidy(seconds(600 + 3600));
    assert_eq!((who(&memory), memory.numbers().drained), (vec![], 0), "nobody knows that it has drained");
}

#[test]
fn who_left_while_others_were_counted_is_not_taken_for_quiet() {
    let mut memory = Memory::default();
    leave(&mut memory, 1, 10);
    let found = [((web("http"), at(1)), flows([0, 0, 0]))].into();
    memory.counted(&found, seconds(9), seconds(11));
    assert_eq!(memory.tidy(seconds(100)), []);
    memory.counted(&found, seconds(10), seconds(100));
    assert_eq!(memory.tidy(seconds(130)).len(), 1);
}

#[test]
fn whoever_is_back_does_not_drain_and_is_told_anew_when_it_leaves_again() {
    let mut memory = Memory::default();
    leave(&mut memory, 1, 10);
    memory.becomes(&web("http"), at(1), Why::Used);
    assert!(memory.is_empty());
    leave(&mut memory, 1, 20);
    leave(&mut memory, 1, 30);
    let told = memory.told(seconds(32)).left;
    assert_eq!((told.len(), told[0].left_at, told[0].ago_seconds), (1, Some(1_000_020), Some(12)));
    memory.becomes(&web("http"), at(1), Why::NotReady);
    let told = memory.told(seconds(32)).left;
    assert_eq!((told[0].why, told[0].is_now), (Why::Gone, Why::NotReady));
}

#[test]
fn without_room_the_quiet_go_first_then_the_oldest() {
    let mut memory = Memory::with_room(3);
    for last in 1..=3 {
        leave(&mut memory, last, u64::from(last));
    }
    count(&mut memory, &[(1, [0, 1, 0]), (2, [0, 1, 0]), (3, [0, 0, 0])], 5);
    leave(&mut memory, 4, 6);
    assert_eq!((who(&memory), memory.told(Duration::ZERO).forgotten), (vec![1, 2, 4], 0));
    leave(&mut memory, 5, 7);
    assert_eq!((who(&memory), memory.told(Duration::ZERO).forgotten), (vec![2, 4, 5], 1));
}

#[test]
fn a_layer_that_cannot_tell_has_no_sum_and_at_most_a_hundred_are_named() {
    let mut memory = Memory::default();
    assert_eq!(memory.numbers().by_layer[&Layer::Socket], 0, "nobody drains");
    let all: Vec<(u8, [i64; 3])> = (0..150).map(|last| (last, [-1, i64::from(last), 0])).collect();
    all.iter().for_each(|(last, _)| leave(&mut memory, *last, 0));
    count(&mut memory, &all, 1);
    let numbers = memory.numbers();
    assert_eq!(numbers.by_layer.get(&Layer::Socket), None);
    assert_eq!((numbers.by_layer[&Layer::Edge], numbers.endpoints), ((0..150).sum(), 149));
    assert_eq!(numbers.most.len(), 100);
    assert_eq!(numbers.most[0].endpoint, at(149), "those with the most flows");
    assert!(!numbers.most[0].by_layer.contains_key(&Layer::Socket));
}

/// What the loop does with a change, and nothing else of it.
struct Rig {
    cluster: Cluster,
    desired: Desired,
    memory: Memory,
}

impl Rig {
    fn new() -> Self {
        let context = Context { node: "n1".into(), zone: Some("a".into()), ..Context::default() };
        Self { cluster: Cluster::default(), desired: Desired::new(context), memory: Memory::default() }
    }

    fn take(&mut self, changes: impl IntoIterator<Item = Change>, when: u64) {
        changes.into_iter().for_each(|change| self.cluster.take(change));
        let dirty = self.cluster.dirty();
        let changed = self.desired.update(&self.cluster, dirty);
        let now = Now { run: seconds(when), wall: seconds(when) };
        self.memory.follow(&self.cluster, &mut self.desired, &changed, now);
    }

    fn used(&self, port: &ServicePortName) -> Vec<SocketAddr> {
        Reasons::used(&self.desired, port)
    }
}

/// After `before`, `after` makes 10.1.0.1 leave for this reason.
#[track_caller]
fn check_why(before: &str, after: &str, why: Why) {
    let mut rig = Rig::new();
    let with = |endpoints| apply_slice(slice("web-1", "web", "http:80", endpoints));
    rig.take([apply_service(service("web", "10.96.0.10", "http:80")), with(before)], 1);
    assert!(rig.memory.is_empty());
    rig.take([with(after)], 2);
    let told = rig.memory.told(seconds(2)).left;
    assert_eq!(told.len(), 1, "{before} -> {after}: {told:?}");
    assert_eq!(
        (told[0].endpoint, told[0].why, told[0].left_at),
        (at(1), why, Some(2)),
        "{before} -> {after}"
    );
    assert_eq!(told[0].addresses.first(), Some(&"10.96.0.10:80".parse().unwrap()));
}

#[test]
fn each_way_to_leave_has_its_reason() {
    check_why("10.1.0.1 10.1.0.2", "10.1.0.1=st 10.1.0.2", Why::TerminatingServing);
    check_why("10.1.0.1 10.1.0.2", "10.1.0.1=t 10.1.0.2", Why::Terminating);
    check_why("10.1.0.1 10.1.0.2", "10.1.0.1= 10.1.0.2", Why::NotReady);
    check_why("10.1.0.1 10.1.0.2", "10.1.0.1=s 10.1.0.2", Why::NotReady);
    check_why("10.1.0.1 10.1.0.2", "10.1.0.2", Why::Gone);
    check_why("10.1.0.1", "", Why::Gone);
    check_why("10.1.0.1^a 10.1.0.2^a", "10.1.0.1^b 10.1.0.2^a", Why::HintedElsewhere);
}

#[test]
fn who_goes_with_its_service_its_port_or_its_policy_says_so() {
    let slices = || apply_slice(slice("web-1", "web", "http:80 more:80", "10.1.0.1@n2"));
    let two = || service("web", "10.96.0.10", "http:80 more:81");
    let local = service("web", "10.96.0.10", "http:80 more:81");
    let local = crate::model::Service { internal_policy: Policy::Local, ..local };
    for (change, expected) in [
        (delete(Kind::Service, "web"), vec![Why::ServiceGone; 2]),
        (apply_service(service("web", "10.96.0.10", "http:80")), vec![Why::PortGone]),
        (apply_service(local), vec![Why::NotLocal; 2]),
    ] {
        let mut rig = Rig::new();
        rig.take([apply_service(two()), slices()], 1);
        rig.take([change], 2);
        let told: Vec<Why> = rig.memory.told(seconds(2)).left.iter().map(|left| left.why).collect();
        assert_eq!(told, expected);
    }
}

#[test]
fn a_terminating_endpoint_that_is_used_for_want_of_others_has_not_left() {
    let mut rig = Rig::new();
    let with = |endpoints| apply_slice(slice("web-1", "web", "http:80", endpoints));
    rig.take([apply_service(service("web", "10.96.0.10", "http:80")), with("10.1.0.1")], 1);
    rig.take([with("10.1.0.1=st")], 2);
    assert!(rig.memory.is_empty());
    rig.take([with("10.1.0.1=st 10.1.0.2")], 3);
    assert_eq!(rig.memory.told(seconds(5)).left[0].ago_seconds, Some(2));
    rig.take([with("10.1.0.1=t 10.1.0.2")], 4);
    let left = &rig.memory.told(seconds(5)).left[0];
    assert_eq!(
        (left.why, left.is_now, left.ago_seconds),
        (Why::TerminatingServing, Why::Terminating, Some(2))
    );
}

#[test]
fn who_terminates_when_the_daemon_begins_left_before() {
    let mut rig = Rig::new();
    let endpoints = "10.1.0.1=st 10.1.0.2 10.1.0.3= 10.1.0.4=t";
    let slices = apply_slice(slice("web-1", "web", "http:80", endpoints));
    rig.take([apply_service(service("web", "10.96.0.10", "http:80")), slices], 1);
    assert!(rig.memory.is_empty());
    rig.memory.begin(&rig.cluster, &rig.desired, seconds(1));
    let told = rig.memory.told(seconds(2)).left;
    let told: Vec<_> = told.iter().map(|left| (left.endpoint, left.why, left.left_at)).collect();
    assert_eq!(told, [(at(1), Why::TerminatingServing, None), (at(4), Why::Terminating, None)]);
}

/// A slice with each of four endpoints absent, or in some condition.
fn some_slice() -> impl Strategy<Value = Change> {
    let endpoint = prop_oneof![Just(None), "=(rs|s|st|t|)(\\^a|\\^b|)".prop_map(Some)];
    let all = proptest::collection::vec(endpoint, 4);
    (0..2_u8, all).prop_map(|(number, endpoints)| {
        let named = endpoints
            .iter()
            .zip(1..)
            .filter_map(|(one, last)| one.as_ref().map(|condition| format!("10.1.0.{last}{condition}")));
        let text = named.collect::<Vec<_>>().join(" ");
        apply_slice(slice(&format!("web-{number}"), "web", "http:80", &text))
    })
}

fn some_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        8 => some_slice(),
        1 => Just(apply_service(service("web", "10.96.0.10", "http:80"))),
        1 => Just(apply_service(service("web", "10.96.0.10", "http:80 more:81"))),
        1 => Just(delete(Kind::Service, "web")),
        1 => Just(delete(Kind::EndpointSlice, "web-0")),
    ]
}

proptest! {
    /// A list of all lists there ever were: whoever was in one and is in none now is remembered, with the time of its last
    /// leaving, and nobody else is.
    #[test]
    fn whoever_was_used_and_is_not_is_remembered_and_nobody_else(
        changes in proptest::collection::vec(some_change(), 1..30)
    ) {
        let mut rig = Rig::new();
        let ports = [web("http"), web("more")];
        let mut left_at: BTreeMap<(ServicePortName, SocketAddr), u64> = BTreeMap::new();
        for (when, change) in (1..).zip(changes) {
            let before: Vec<Vec<SocketAddr>> = ports.iter().map(|port| rig.used(port)).collect();
            rig.take([change], when);
            for (port, before) in ports.iter().zip(before) {
                let after = rig.used(port);
                let gone = before.into_iter().filter(|one| !after.contains(one));
                left_at.extend(gone.map(|one| ((port.clone(), one), when)));
                left_at.retain(|(other, one), _| other != port || !after.contains(one));
            }
            let told = rig.memory.told(seconds(when)).left;
            let found = told.iter().map(|left| {
                let Subject { port, endpoint, asked: _ } = left.subject().unwrap();
                ((port, endpoint), left.left_at.unwrap())
            });
            prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), left_at.clone());
            prop_assert!(told.iter().all(|left| left.why != Why::Used && left.is_now != Why::Used));
        }
    }

    /// Whatever happens, no more than there is room for are remembered, and everybody is accounted for.
    #[test]
    fn no_more_than_there_is_room_for_are_remembered(
        steps in proptest::collection::vec((0..4_u8, 0..40_u8, -1..2_i64), 1..200)
    ) {
        let mut memory = Memory::with_room(8);
        let (mut entered, mut back, mut old) = (0_usize, 0, 0);
        for (when, (step, last, flows)) in (1..).zip(steps) {
            let has = who(&memory).contains(&last);
            match step {
                0 | 1 => {
                    leave(&mut memory, last, when * 10);
                    entered += usize::from(!has);
                }
                2 => {
                    memory.becomes(&web("http"), at(last), Why::Used);
                    back += usize::from(has);
                }
                _ => {
                    count(&mut memory, &[(last, [-1, flows, 0])], when * 10);
                    let before = who(&memory).len();
                    old += before - memory.tidy(seconds(when * 10)).len() - who(&memory).len();
                }
            }
            let (kept, told) = (who(&memory).len(), memory.told(Duration::ZERO));
            prop_assert!(kept <= 8);
            let ended = memory.numbers().drained as usize + told.forgotten as usize;
            prop_assert_eq!(entered, kept + back + old + ended);
        }
    }
}
