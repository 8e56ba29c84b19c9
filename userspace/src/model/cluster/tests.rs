//! What changes do to a cluster, one by one and in any order.

use proptest::prelude::*;

use super::*;
use crate::model::Family;
use crate::model::sample::{apply_service, apply_slice, delete, name, service, slice};

#[test]
fn what_is_applied_is_dirty_once() {
    let mut cluster = Cluster::default();
    cluster.take(web());
    cluster.take(web_1("10.1.0.5"));
    assert_eq!(cluster.dirty(), [name("web")].into());
    assert!(cluster.dirty().is_empty());
}

#[test]
fn an_identical_object_is_no_change() {
    check(&[web(), web_1("10.1.0.5")], &[web(), web_1("10.1.0.5")], &[]);
}

#[test]
fn any_difference_in_a_slice_is_a_change() {
    let before = [apply_slice(slice("web-1", "web", "a:80 b:81", "10.1.0.5 10.1.0.6"))];
    for (ports, endpoints) in [
        ("b:81 a:80", "10.1.0.5 10.1.0.6"),
        ("a:80", "10.1.0.5 10.1.0.6"),
        ("a:80 b:81 c:82", "10.1.0.5 10.1.0.6"),
        ("a:80 b:81", "10.1.0.6 10.1.0.5"),
        ("a:80 b:81", "10.1.0.5 10.1.0.6 10.1.0.7"),
        ("a:80 b:81", "10.1.0.5"),
        ("a:80 b:81", "10.1.0.5 10.1.0.6=st"),
    ] {
        check(&before, &[apply_slice(slice("web-1", "web", ports, endpoints))], &["web"]);
    }
}

#[test]
fn exactly_the_services_concerned_are_dirty() {
    let other = apply_service(service("other", "10.96.0.11", ":80"));
    check(&[web(), other.clone()], &[delete(Kind::Service, "other")], &["other"]);
    check(&[web()], &[other], &["other"]);
}

#[test]
fn a_slice_that_moves_concerns_both_services() {
    check(
        &[web_1("10.1.0.5")],
        &[apply_slice(slice("web-1", "other", ":80", "10.1.0.5"))],
        &["other", "web"],
    );
}

#[test]
fn a_slice_that_is_skipped_from_here_on_concerns_its_service() {
    check(&[web_1("10.1.0.5")], &[skip(Kind::EndpointSlice, "web-1", "x")], &["web"]);
}

#[test]
fn a_service_that_is_skipped_from_here_on_is_gone() {
    check(&[web()], &[skip(Kind::Service, "web", "x")], &["web"]);
    check(&[skip(Kind::Service, "web", "x")], &[skip(Kind::Service, "web", "y")], &[]);
}

#[test]
fn deleting_what_nobody_knows_is_no_change() {
    check(&[web()], &[delete(Kind::Service, "other"), delete(Kind::EndpointSlice, "web-1")], &[]);
}

#[test]
fn a_full_listing_removes_exactly_what_it_does_not_name() {
    let before = [web(), web_1("10.1.0.5"), apply_slice(slice("web-2", "web", ":80", "10.1.0.6"))];
    let mut cluster = check(&before, &listing(Kind::EndpointSlice, [web_1("10.1.0.5")]), &["web"]);
    assert_eq!(names(&cluster), "web: web-1");
    cluster.take(Change::Begin(Kind::Service));
    cluster.take(Change::End(Kind::Service));
    assert_eq!(names(&cluster), "");
}

#[test]
fn a_listing_that_names_everything_changes_nothing() {
    check(&[web(), web_1("10.1.0.5")], &listing(Kind::Service, [web()]), &[]);
}

#[test]
fn a_listing_that_begins_anew_forgets_what_the_first_try_named() {
    let before = [web(), apply_service(service("other", "10.96.0.11", ":80"))];
    let changes =
        [Change::Begin(Kind::Service), web(), Change::Begin(Kind::Service), Change::End(Kind::Service)];
    check(&before, &changes, &["other", "web"]);
}

#[test]
fn nothing_is_gone_before_the_end_of_a_listing() {
    check(&[web()], &[Change::Begin(Kind::Service)], &[]);
}

#[test]
fn it_is_synced_when_both_kinds_have_been_listed() {
    let mut cluster = Cluster::default();
    for (change, synced) in [
        (Change::Begin(Kind::Service), false),
        (Change::End(Kind::Service), false),
        (Change::End(Kind::Service), false),
        (Change::End(Kind::EndpointSlice), true),
        (Change::Begin(Kind::EndpointSlice), true),
    ] {
        cluster.take(change);
        assert_eq!(cluster.synced(), synced);
    }
}

#[test]
fn a_slice_without_service_is_a_problem_as_soon_as_absence_means_something() {
    let said = "EndpointSlice default/web-1: label kubernetes.io/service-name: \
                there is no Service \"web\" in namespace \"default\", or another proxy serves it";
    check_problems(&[web_1("10.1.0.5")], &[]);
    check_problems(
        &[web_1("10.1.0.5"), Change::End(Kind::Service), Change::End(Kind::EndpointSlice)],
        &[said],
    );
}

#[test]
fn a_slice_whose_service_cannot_be_seen_is_no_problem() {
    let mut cluster = Cluster::of_node("n1", Origin::Server);
    let ends = Kind::NEEDED.map(Change::End);
    [web_1("10.1.0.5")].into_iter().chain(ends.clone()).for_each(|change| cluster.take(change));
    assert_eq!(cluster.problems(), []);
    let unreadable = Change::Unreadable { object: object(Kind::Service, "web"), problems: Vec::new() };
    let mut changes = vec![unreadable, web_1("10.1.0.5")];
    changes.extend(ends);
    check_problems(&changes, &[]);
}

#[test]
fn where_there_are_nodes_ours_should_be_among_them() {
    let value = Parsed::Keep(Node { name: "n2".into(), ..Node::default() });
    let other =
        Change::Node(Applied { object: ObjectRef::new(Kind::Node, "", "n2"), value, problems: Vec::new() });
    for (changes, wrong) in [(vec![], 0), (vec![other], 1)] {
        let mut cluster = Cluster::of_node("n1", Origin::Folder);
        changes.into_iter().for_each(|change| cluster.take(change));
        cluster.take(Change::End(Kind::Node));
        assert_eq!(cluster.problems().len(), wrong);
    }
}

#[test]
fn a_slice_of_a_skipped_service_is_no_problem() {
    let ends = [Change::End(Kind::Service), Change::End(Kind::EndpointSlice)];
    let skipped = Applied { object: object(Kind::Service, "web"), value: Parsed::Skip, problems: Vec::new() };
    let mut changes = vec![web_1("10.1.0.5"), Change::Service(skipped)];
    changes.extend(ends);
    check_problems(&changes, &[]);
}

#[test]
fn problems_go_with_their_object() {
    check_problems(&[skip(Kind::Service, "web", "bad")], &["Service default/web: spec: bad"]);
    check_problems(&[skip(Kind::Service, "web", "bad"), web()], &[]);
    check_problems(&[skip(Kind::Service, "web", "bad"), delete(Kind::Service, "web")], &[]);
    let mut changes = vec![skip(Kind::Service, "web", "bad")];
    changes.extend(listing(Kind::Service, []));
    check_problems(&changes, &[]);
}

#[test]
fn an_object_that_cannot_be_read_stays_what_it_was_until_it_can_be_or_is_gone() {
    let unreadable = || {
        let object = object(Kind::Service, "web");
        let problems = vec![Problem::new(&object, "", "cannot be read")];
        Change::Unreadable { object, problems }
    };
    let mut cluster = check(&[web()], &listing(Kind::Service, [unreadable()]), &[]);
    assert_eq!((cluster.counts().services, cluster.partial()), (1, true));
    assert_eq!(cluster.problems()[0].to_string(), "Service default/web: cannot be read");
    cluster.take(web());
    assert_eq!((cluster.partial(), cluster.problems()), (false, Vec::new()));
    let gone = check(&[web(), unreadable()], &[delete(Kind::Service, "web")], &["web"]);
    assert!(!gone.partial());
    let gone = check(&[unreadable()], &listing(Kind::Service, []), &[]);
    assert!(!gone.partial());
}

#[test]
fn problems_of_a_file_replace_its_earlier_ones() {
    let of_file = |messages: &[&str]| Change::Problems {
        object: "file a.yaml".to_owned(),
        problems: messages.iter().map(|message| Problem::new("file a.yaml", "line 3", *message)).collect(),
    };
    check_problems(
        &[of_file(&["x"]), of_file(&["z", "y"])],
        &["file a.yaml: line 3: y", "file a.yaml: line 3: z"],
    );
    check_problems(&[of_file(&["x"]), of_file(&[])], &[]);
}

#[test]
fn only_our_own_node_counts_and_it_stays_known_when_it_is_gone() {
    let node = |name: &str| {
        let value = Parsed::Keep(Node { name: name.into(), ..Node::default() });
        Change::Node(Applied { object: ObjectRef::new(Kind::Node, "", name), value, problems: Vec::new() })
    };
    let mut cluster = Cluster::of_node("n1", Origin::Server);
    cluster.take(node("n2"));
    assert_eq!(cluster.node(), None);
    cluster.take(Change::End(Kind::Node));
    assert!(cluster.problems()[0].message.starts_with("does not exist"));
    cluster.take(node("n1"));
    cluster.take(Change::Deleted(ObjectRef::new(Kind::Node, "", "n2")));
    assert!(cluster.node().is_some() && cluster.problems().is_empty());
    for gone in [vec![Change::Deleted(ObjectRef::new(Kind::Node, "", "n1"))], listing(Kind::Node, [])] {
        gone.into_iter().for_each(|change| cluster.take(change));
        let said = "Node n1: has been deleted; what was known of it stays in force";
        assert!(cluster.node().is_some());
        assert_eq!(cluster.problems()[0].to_string(), said);
        cluster.take(node("n1"));
        assert!(cluster.problems().is_empty());
    }
}

#[test]
fn new_connections_come_to_a_node_that_is_known_and_stays() {
    let node = |leaving| {
        let value = Parsed::Keep(Node { name: "n1".into(), leaving, ..Node::default() });
        Change::Node(Applied { object: ObjectRef::new(Kind::Node, "", "n1"), value, problems: Vec::new() })
    };
    for (origin, unknown) in [(Origin::Server, false), (Origin::Folder, true)] {
        let mut cluster = Cluster::of_node("n1", origin);
        assert_eq!(cluster.takes_connections(), unknown, "{origin:?}");
        for leaving in [false, true] {
            cluster.take(node(leaving));
            assert_eq!(cluster.takes_connections(), !leaving);
            cluster.take(Change::Deleted(ObjectRef::new(Kind::Node, "", "n1")));
            assert_eq!(cluster.takes_connections(), !leaving, "as it was last known");
        }
    }
}

#[test]
fn a_range_stays_until_the_last_object_that_names_it_is_gone() {
    let object = |name: &str| ObjectRef::new(Kind::ServiceCidr, "", name);
    let mut cluster = Cluster::default();
    for name in ["a", "b"] {
        let value = Parsed::Keep(ServiceCidr { cidrs: ["10.96.0.0/12".parse().unwrap()].into() });
        cluster.take(Change::ServiceCidr(Applied { object: object(name), value, problems: Vec::new() }));
    }
    cluster.take(Change::Deleted(object("a")));
    assert_eq!(cluster.service_cidrs().len(), 1);
    listing(Kind::ServiceCidr, []).into_iter().for_each(|change| cluster.take(change));
    assert!(cluster.service_cidrs().is_empty());
}

#[test]
fn endpoints_of_many_slices_share_the_names_of_nodes() {
    let mut cluster = Cluster::default();
    for slice_name in ["web-1", "web-2"] {
        let mut slice = slice(slice_name, "web", "http:80", "10.1.0.5");
        slice.endpoints[0].place = Some(Arc::new(Place { node: Some("node-1".into()), hints: None }));
        cluster.take(apply_slice(slice));
    }
    let web = name("web");
    let slices: Vec<&Slice> = cluster.slices(&web).collect();
    assert!(Arc::ptr_eq(&slices[0].ports[0].name, &slices[1].ports[0].name));
    let nodes: Vec<&Arc<str>> = slices.iter().filter_map(|slice| slice.endpoints[0].node()).collect();
    assert!(Arc::ptr_eq(nodes[0], nodes[1]));
}

proptest! {
    #[test]
    fn the_way_there_does_not_matter(changes in some_changes()) {
        let mut cluster = Cluster::default();
        changes.iter().for_each(|change| cluster.take(change.clone()));
        let rebuilt = rebuild(&changes);
        prop_assert_eq!(&cluster.services, &rebuilt.services);
        prop_assert_eq!(&cluster.slices, &rebuilt.slices);
        prop_assert_eq!(&cluster.owners, &rebuilt.owners);
        prop_assert_eq!(cluster.counts(), recount(&cluster));
        prop_assert_eq!(&cluster.missing, &rebuilt.missing);
        prop_assert_eq!(&cluster.wrong, &rebuilt.wrong);
    }

    #[test]
    fn no_change_is_missed_and_none_is_made_up(changes in some_changes()) {
        let mut cluster = Cluster::default();
        for change in changes {
            let before = cluster.clone();
            cluster.take(change);
            let dirty = cluster.dirty();
            for service in ["a", "b", "c"].map(name) {
                let same = before.service(&service) == cluster.service(&service)
                    && before.slices(&service).eq(cluster.slices(&service));
                prop_assert_eq!(dirty.contains(&service), !same, "{}", service);
            }
        }
    }

    #[test]
    fn a_listing_leaves_exactly_what_it_names(before in some_changes(), listed in some_changes()) {
        let mut listed = listed;
        listed.retain(|change| matches!(change, Change::Service(_)));
        let mut cluster = Cluster::default();
        before.into_iter().for_each(|change| cluster.take(change));
        cluster.take(Change::Begin(Kind::Service));
        listed.iter().for_each(|change| cluster.take(change.clone()));
        cluster.take(Change::End(Kind::Service));
        let alone = rebuild(&listed);
        prop_assert_eq!(&cluster.services, &alone.services);
        prop_assert_eq!(cluster.counts(), recount(&cluster));
    }
}

/// The cluster that one gets from the last word about each object.
fn rebuild(changes: &[Change]) -> Cluster {
    let mut last = BTreeMap::new();
    for change in changes {
        match change {
            Change::Service(Applied { object, .. })
            | Change::Slice(Applied { object, .. })
            | Change::Node(Applied { object, .. })
            | Change::ServiceCidr(Applied { object, .. }) => {
                last.insert(object.clone(), change.clone());
            }
            Change::Deleted(object) => {
                last.remove(object);
            }
            Change::Begin(_)
            | Change::End(_)
            | Change::Partial(_)
            | Change::Hears(..)
            | Change::Unreadable { .. }
            | Change::Problems { .. } => {}
        }
    }
    let mut cluster = Cluster::default();
    last.into_values().rev().for_each(|change| cluster.take(change));
    cluster
}

fn recount(cluster: &Cluster) -> Counts {
    let slices = || cluster.slices.values().flatten();
    let endpoints = slices().map(|slice| slice.endpoints.len()).sum();
    Counts { services: cluster.names().count(), slices: slices().count(), endpoints }
}

fn some_changes() -> impl Strategy<Value = Vec<Change>> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let address = prop::sample::select(vec!["10.96.0.10", "10.96.0.11"]);
    let endpoints = prop::collection::vec("10\\.1\\.0\\.[1-3]=r?s?t?", 0..3);
    let one = prop_oneof![
        3 => (name(), address).prop_map(|(name, address)| apply_service(service(name, address, ":80"))),
        4 => (name(), name(), endpoints)
            .prop_map(|(name, of, endpoints)| apply_slice(slice(name, of, ":80", &endpoints.join(" ")))),
        2 => (some_kind(), name()).prop_map(|(kind, name)| delete(kind, name)),
        2 => (some_kind(), name(), "[xy]").prop_map(|(kind, name, said)| skip(kind, name, &said)),
    ];
    prop::collection::vec(one, 0..24)
}

fn some_kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(Kind::NEEDED.to_vec())
}

/// A slice of `web` with these endpoints, whose cause happened at this time.
fn caused(name: &str, endpoints: &str, at: i64) -> Change {
    let trigger = Trigger { family: Family::V4, at };
    apply_slice(Slice { triggered: Some(trigger), ..slice(name, "web", ":80", endpoints) })
}

#[test]
fn causes_count_once_and_only_if_they_are_later_than_the_beginning() {
    let mut cluster = Cluster::default();
    cluster.take(caused("web-0", "10.1.0.9", 200));
    assert_eq!(cluster.take_triggers(), [], "nobody counts yet");
    cluster.count_triggers_since(100);
    for change in [
        caused("web-1", "10.1.0.5", 100),
        caused("web-1", "10.1.0.6", 101),
        caused("web-1", "10.1.0.6", 101),
        caused("web-2", "10.1.0.7", 102),
        web_1("10.1.0.8"),
    ] {
        cluster.take(change);
    }
    let times = |cluster: &mut Cluster| -> Vec<i64> {
        cluster.take_triggers().into_iter().map(|trigger| trigger.at).collect()
    };
    assert_eq!(times(&mut cluster), [101, 102]);
    assert!(times(&mut cluster).is_empty());
}

#[test]
fn a_slice_that_goes_takes_its_services_causes_with_it() {
    let mut cluster = Cluster::default();
    cluster.count_triggers_since(0);
    let other = Slice {
        triggered: Some(Trigger { family: Family::V4, at: 7 }),
        ..slice("other-1", "other", ":80", "10.1.0.7")
    };
    for change in [caused("web-1", "10.1.0.5", 5), caused("web-2", "10.1.0.6", 6), apply_slice(other)] {
        cluster.take(change);
    }
    cluster.take(delete(Kind::EndpointSlice, "web-1"));
    assert_eq!(cluster.take_triggers(), [Trigger { family: Family::V4, at: 7 }]);
}

/// Takes both, and looks at what the second made dirty.
fn check(before: &[Change], changes: &[Change], dirty: &[&str]) -> Cluster {
    let mut cluster = Cluster::default();
    before.iter().for_each(|change| cluster.take(change.clone()));
    cluster.dirty();
    changes.iter().for_each(|change| cluster.take(change.clone()));
    assert_eq!(cluster.dirty(), dirty.iter().map(|one| name(one)).collect(), "{before:?} {changes:?}");
    cluster
}

fn check_problems(changes: &[Change], problems: &[&str]) {
    let mut cluster = Cluster::default();
    changes.iter().for_each(|change| cluster.take(change.clone()));
    let found: Vec<String> = cluster.problems().iter().map(ToString::to_string).collect();
    assert_eq!(found, problems, "{changes:?}");
}

fn web() -> Change {
    apply_service(service("web", "10.96.0.10", ":80"))
}

fn web_1(endpoints: &str) -> Change {
    apply_slice(slice("web-1", "web", ":80", endpoints))
}

fn object(kind: Kind, name: &str) -> ObjectRef {
    ObjectRef::new(kind, "default", name)
}

/// An object that is skipped, with one problem.
fn skip(kind: Kind, name: &str, message: &str) -> Change {
    let object = object(kind, name);
    let problems = vec![Problem::new(&object, "spec", message)];
    match kind {
        Kind::Service => Change::Service(Applied { object, value: Parsed::Skip, problems }),
        Kind::EndpointSlice => Change::Slice(Applied { object, value: Parsed::Skip, problems }),
        Kind::Node => Change::Node(Applied { object, value: Parsed::Skip, problems }),
        Kind::ServiceCidr => Change::ServiceCidr(Applied { object, value: Parsed::Skip, problems }),
    }
}

fn listing(kind: Kind, named: impl IntoIterator<Item = Change>) -> Vec<Change> {
    let named = named.into_iter();
    [Change::Begin(kind)].into_iter().chain(named).chain([Change::End(kind)]).collect()
}

fn names(cluster: &Cluster) -> String {
    let line = |service: &ServiceName| {
        let slices: Vec<&str> = cluster.slices(service).map(|slice| &*slice.name).collect();
        format!("{}: {}", service.name, slices.join(" "))
    };
    cluster.names().map(line).collect::<Vec<_>>().join(", ")
}
