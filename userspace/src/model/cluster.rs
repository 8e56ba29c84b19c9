//! All objects, and whose outcome changed since somebody last asked.
//!
//! No order between kinds of objects is assumed: a slice waits for its Service and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::interner::Interner;
use super::parse::SERVICE_NAME_LABEL;
use super::{
    Endpoint, Kind, Node, ObjectRef, Parsed, Place, Problem, Service, ServiceCidr, ServiceName, Slice,
    SlicePort,
};

/// One thing that a source reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A Service as it stands.
    Service(Applied<Service>),
    /// A slice as it stands.
    Slice(Applied<Slice>),
    /// A Node as it stands. Only our own counts.
    Node(Applied<Node>),
    /// A ServiceCIDR as it stands.
    ServiceCidr(Applied<ServiceCidr>),
    /// An object that exists but cannot be read: what it was before it still is.
    Unreadable {
        /// Which one.
        object: ObjectRef,
        /// Why.
        problems: Vec<Problem>,
    },
    /// An object that is gone.
    Deleted(ObjectRef),
    /// All objects of a kind are about to be named.
    Begin(Kind),
    /// All have been named: what was not applied since the beginning is gone.
    End(Kind),
    /// Whether some objects of the source could not be read: then what is installed and named by nobody stays.
    Partial(bool),
    /// What is wrong with something that is no object, such as a file; in place of what was wrong with it
    /// before.
    Problems {
        /// Whose problems: "file a.yaml".
        object: String,
        /// All of them; none if it is well.
        problems: Vec<Problem>,
    },
}

/// An object and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<T> {
    /// Which one.
    pub object: ObjectRef,
    /// What it means to us.
    pub value: Parsed<T>,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Services that are served.
    pub services: usize,
    /// Slices that are in use.
    pub slices: usize,
    /// Endpoints in them, duplicates included.
    pub endpoints: usize,
}

/// What a source shows of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Everything there is, and perhaps no Node at all.
    #[default]
    Folder,
    /// What an API server selects for us: neither other proxies' Services nor other Nodes.
    Server,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    origin: Origin,
    /// The name of our Node.
    own: Arc<str>,
    /// Whether there are Nodes, but not necessarily ours.
    other_nodes: bool,
    node: Option<Node>,
    /// Whether our Node was there and is not any more.
    node_gone: bool,
    service_cidrs: BTreeMap<Arc<str>, ServiceCidr>,
    /// `None`: it exists and is skipped.
    services: BTreeMap<ServiceName, Option<Box<Service>>>,
    /// The slices of each Service, sorted by name. No Service is without slices here, and nearly all have one: a
    /// list costs a tenth of what a map would.
    slices: BTreeMap<ServiceName, Vec<Slice>>,
    /// Every slice that exists, and the name of the Service in its namespace that it belongs to. `None`: it is skipped.
    owners: BTreeMap<SliceName, Option<Arc<str>>>,
    counts: Counts,
    /// Services without an object, but with slices.
    missing: BTreeSet<ServiceName>,
    dirty: BTreeSet<ServiceName>,
    /// While a kind is being listed: what has not been named yet.
    unseen: BTreeMap<Kind, BTreeSet<ObjectRef>>,
    synced: BTreeSet<Kind>,
    partial: bool,
    /// Objects that exist and cannot be read.
    unreadable: BTreeSet<ObjectRef>,
    wrong: BTreeMap<ObjectRef, Vec<Problem>>,
    /// Of things that are no objects.
    wrong_elsewhere: BTreeMap<String, Vec<Problem>>,
    names: Interner<str>,
    ports: Interner<[SlicePort]>,
    places: Interner<Place>,
}

/// Namespace and name.
type SliceName = (Arc<str>, Arc<str>);

impl Cluster {
    /// Nothing yet, seen from the node with this name.
    pub fn of_node(name: impl Into<Arc<str>>, origin: Origin) -> Self {
        Self { own: name.into(), origin, ..Self::default() }
    }

    /// Takes in what a source reports.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Service(Applied { object, value, problems }) => {
                self.note(&object, problems);
                self.put_service(&object, value);
            }
            Change::Slice(Applied { object, value, problems }) => {
                self.note(&object, problems);
                self.put_slice(object, value);
            }
            Change::Node(Applied { object, value, problems }) => {
                if object.name == self.own {
                    self.note(&object, problems);
                    self.node_gone = false;
                    self.node = value.kept().or(self.node.take());
                } else {
                    self.other_nodes = true;
                }
            }
            Change::ServiceCidr(Applied { object, value, problems }) => {
                self.note(&object, problems);
                self.service_cidrs.insert(object.name, value.kept().unwrap_or_default());
            }
            Change::Unreadable { object, problems } => {
                self.note(&object, problems);
                self.unreadable.insert(object);
            }
            Change::Deleted(object) => self.delete(&object),
            Change::Begin(kind) => self.begin(kind),
            Change::End(kind) => self.end(kind),
            Change::Partial(partial) => self.partial = partial,
            Change::Problems { object, problems } => {
                set_or_clear(&mut self.wrong_elsewhere, object, problems)
            }
        }
    }

    /// The Services whose outcome may have changed since the last call.
    pub fn dirty(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.dirty)
    }

    /// Whether Services and slices have been listed once. Until then absence means nothing.
    pub fn synced(&self) -> bool {
        Kind::NEEDED.iter().all(|kind| self.listed(*kind))
    }

    /// Whether a kind has been listed once.
    pub fn listed(&self, kind: Kind) -> bool {
        self.synced.contains(&kind)
    }

    /// The name of our Node.
    pub fn own_name(&self) -> &Arc<str> {
        &self.own
    }

    /// Our Node. One that has been deleted stays as it was last known: the pods are still there.
    pub fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// The ranges that ClusterIPs come from, sorted, each once. A range that two objects name stays until both are
    /// gone.
    pub fn service_cidrs(&self) -> BTreeSet<IpNet> {
        self.service_cidrs.values().flat_map(|one| one.cidrs.iter().copied()).collect()
    }

    /// Whether some objects could not be read: then absence does not mean much.
    pub fn partial(&self) -> bool {
        self.partial || self.unreadable.iter().any(|object| Kind::NEEDED.contains(&object.kind))
    }

    /// A Service that is served.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)?.as_deref()
    }

    /// The slices of a Service, by name, whether or not there is such a Service.
    pub fn slices(&self, name: &ServiceName) -> impl Iterator<Item = &Slice> {
        self.slices.get(name).into_iter().flatten()
    }

    /// The Services that are served.
    pub fn names(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.iter().filter_map(|(name, service)| service.as_ref().map(|_| name))
    }

    /// How much there is.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Everything that is wrong, in order, each thing once.
    pub fn problems(&self) -> Vec<Problem> {
        let stated = self.wrong.values().chain(self.wrong_elsewhere.values()).flatten().cloned();
        let mut all: Vec<Problem> = stated.chain(self.strays()).chain(self.no_node()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Our Node, if it is not there. A folder need not have Nodes; if it has some, ours should be among them.
    fn no_node(&self) -> Option<Problem> {
        let expected = self.origin == Origin::Server || self.other_nodes;
        let message = match &self.node {
            Some(_) => self.node_gone.then_some("has been deleted; what was known of it stays in force")?,
            None => (expected && self.listed(Kind::Node)).then_some(
                "does not exist; if that is not this node's name, no endpoint is local and no hint is followed",
            )?,
        };
        Some(Problem::new(ObjectRef::new(Kind::Node, "", self.own.clone()), "", message))
    }

    /// Slices whose Service does not exist. An API server does not show Services of other proxies, and has slices of
    /// theirs.
    fn strays(&self) -> impl Iterator<Item = Problem> {
        let certain = self.synced() && self.origin == Origin::Folder;
        let unreadable = |name: &ServiceName| self.unreadable.contains(&ObjectRef::from(name));
        let names = self.missing.iter().filter(move |name| certain && !unreadable(name));
        names.flat_map(|name| self.slices(name)).map(stray)
    }

    fn note(&mut self, object: &ObjectRef, problems: Vec<Problem>) {
        if let Some(unseen) = self.unseen.get_mut(&object.kind) {
            unseen.remove(object);
        }
        self.unreadable.remove(object);
        set_or_clear(&mut self.wrong, object.clone(), problems);
    }

    fn put_service(&mut self, object: &ObjectRef, value: Parsed<Service>) {
        let mut name = ServiceName { namespace: object.namespace.clone(), name: object.name.clone() };
        self.share_name(&mut name);
        let mut value = value.kept().map(Box::new);
        if let Some(service) = &mut value {
            service.name.clone_from(&name);
            service.ports.iter_mut().for_each(|port| self.names.share(&mut port.name));
        }
        self.counts.services += usize::from(value.is_some());
        let before = self.services.insert(name.clone(), value);
        self.counts.services -= usize::from(matches!(before, Some(Some(_))));
        let same = before.flatten().as_deref() == self.service(&name);
        self.touch(name, !same);
    }

    fn put_slice(&mut self, ObjectRef { kind: _, namespace, name }: ObjectRef, value: Parsed<Slice>) {
        let mut value = value.kept();
        if let Some(slice) = &mut value {
            self.share_names(slice);
        }
        let mut namespace = namespace;
        self.names.share(&mut namespace);
        let owner = value.as_ref().map(|slice| slice.service.name.clone());
        let before = self.owners.insert((namespace.clone(), name.clone()), owner.clone()).flatten();
        if let Some(before) = before.filter(|before| Some(before) != owner.as_ref()) {
            self.drop_slice(ServiceName { namespace, name: before }, &name);
        }
        if let Some(slice) = value {
            self.store_slice(Slice { name, ..slice });
        }
    }

    fn store_slice(&mut self, slice: Slice) {
        let owner = slice.service.clone();
        let endpoints = slice.endpoints.len();
        let of_owner = self.slices.entry(owner.clone()).or_default();
        match find(of_owner, &slice.name) {
            Ok(at) if of_owner[at] == slice => return,
            Ok(at) => {
                let before = std::mem::replace(&mut of_owner[at], slice);
                self.uncount(&before);
            }
            Err(at) => {
                of_owner.reserve_exact(1);
                of_owner.insert(at, slice);
            }
        }
        self.counts.slices += 1;
        self.counts.endpoints += endpoints;
        self.touch(owner, true);
    }

    fn drop_slice(&mut self, owner: ServiceName, name: &str) {
        let Some(of_owner) = self.slices.get_mut(&owner) else { return };
        let Ok(at) = find(of_owner, name) else { return };
        let before = of_owner.remove(at);
        if of_owner.is_empty() {
            self.slices.remove(&owner);
        }
        self.uncount(&before);
        self.touch(owner, true);
    }

    fn uncount(&mut self, gone: &Slice) {
        self.counts.slices -= 1;
        self.counts.endpoints -= gone.endpoints.len();
    }

    /// Looks at a Service again after it or one of its slices came, went or changed.
    fn touch(&mut self, name: ServiceName, changed: bool) {
        if self.slices.contains_key(&name) && !self.services.contains_key(&name) {
            self.missing.insert(name.clone());
        } else {
            self.missing.remove(&name);
        }
        if changed {
            self.dirty.insert(name);
        }
    }

    fn delete(&mut self, object: &ObjectRef) {
        self.note(object, Vec::new());
        let ObjectRef { kind, namespace, name } = object;
        match kind {
            Kind::Service => {
                self.delete_service(ServiceName { namespace: namespace.clone(), name: name.clone() })
            }
            Kind::EndpointSlice => {
                let owner = self.owners.remove(&(namespace.clone(), name.clone())).flatten();
                if let Some(owner) = owner {
                    self.drop_slice(ServiceName { namespace: namespace.clone(), name: owner }, name);
                }
            }
            Kind::Node => self.node_gone |= *name == self.own && self.node.is_some(),
            Kind::ServiceCidr => {
                self.service_cidrs.remove(name);
            }
        }
    }

    fn delete_service(&mut self, name: ServiceName) {
        let before = self.services.remove(&name).flatten();
        self.counts.services -= usize::from(before.is_some());
        self.touch(name, before.is_some());
    }

    /// A listing may break off and begin anew.
    fn begin(&mut self, kind: Kind) {
        let known =
            |namespace: &Arc<str>, name: &Arc<str>| ObjectRef::new(kind, namespace.clone(), name.clone());
        let mut unseen: BTreeSet<ObjectRef> = match kind {
            Kind::Service => self.services.keys().map(|one| known(&one.namespace, &one.name)).collect(),
            Kind::EndpointSlice => {
                self.owners.keys().map(|(namespace, name)| known(namespace, name)).collect()
            }
            Kind::Node => self.node.iter().map(|node| known(&"".into(), &node.name)).collect(),
            Kind::ServiceCidr => self.service_cidrs.keys().map(|name| known(&"".into(), name)).collect(),
        };
        unseen.extend(self.unreadable.iter().filter(|object| object.kind == kind).cloned());
        self.unseen.insert(kind, unseen);
    }

    fn end(&mut self, kind: Kind) {
        for object in self.unseen.remove(&kind).unwrap_or_default() {
            self.delete(&object);
        }
        self.synced.insert(kind);
    }

    fn share_name(&mut self, ServiceName { namespace, name }: &mut ServiceName) {
        self.names.share(namespace);
        self.names.share(name);
    }

    fn share_names(&mut self, slice: &mut Slice) {
        let Slice { name: _, service, ports, endpoints } = slice;
        self.share_name(service);
        self.ports.share(ports);
        for Endpoint { address: _, conditions: _, place } in endpoints {
            if let Some(place) = place {
                self.places.share(place);
            }
        }
    }
}

/// Where a slice is, or would be.
fn find(slices: &[Slice], name: &str) -> Result<usize, usize> {
    slices.binary_search_by(|slice| (*slice.name).cmp(name))
}

fn set_or_clear<K: Ord>(wrong: &mut BTreeMap<K, Vec<Problem>>, key: K, problems: Vec<Problem>) {
    if problems.is_empty() {
        wrong.remove(&key);
    } else {
        wrong.insert(key, problems);
    }
}

fn stray(slice: &Slice) -> Problem {
    let ServiceName { namespace, name } = &slice.service;
    let object = ObjectRef::new(Kind::EndpointSlice, namespace.clone(), slice.name.clone());
    let message =
        format!("there is no Service {name:?} in namespace {namespace:?}, or another proxy serves it");
    Problem::new(object, format!("label {SERVICE_NAME_LABEL}"), message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::sample::{apply_service, apply_slice, delete, name, service, slice};
    use super::*;

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
        let other = Change::Node(Applied {
            object: ObjectRef::new(Kind::Node, "", "n2"),
            value,
            problems: Vec::new(),
        });
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
        let skipped =
            Applied { object: object(Kind::Service, "web"), value: Parsed::Skip, problems: Vec::new() };
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
            problems: messages
                .iter()
                .map(|message| Problem::new("file a.yaml", "line 3", *message))
                .collect(),
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
            Change::Node(Applied {
                object: ObjectRef::new(Kind::Node, "", name),
                value,
                problems: Vec::new(),
            })
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
}
