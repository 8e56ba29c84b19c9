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
    SlicePort, Trigger,
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
    /// Whether the source hears of the changes of a kind. What is known stays so while it does not.
    Hears(Kind, bool),
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
    /// From when on causes of changes count; nanoseconds since 1970.
    counted_since: Option<i64>,
    /// Causes of changes that nobody has asked for yet.
    triggers: Vec<(ServiceName, Trigger)>,
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
            Change::Hears(..) => {}
            Change::Problems { object, problems } => {
                set_or_clear(&mut self.wrong_elsewhere, object, problems)
            }
        }
    }

    /// Remembers causes of changes that happened later than this, in nanoseconds since 1970.
    pub fn count_triggers_since(&mut self, at: i64) {
        self.counted_since = Some(at);
    }

    /// What caused the changes of slices since the last call. A slice that has gone takes the causes of its Service with it: what it
    /// told is not what has come into force.
    pub fn take_triggers(&mut self) -> Vec<Trigger> {
        std::mem::take(&mut self.triggers).into_iter().map(|(_, trigger)| trigger).collect()
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

    /// Whether our Node is one to send new connections to: it is known, and not about to go. A folder may name no Node.
    pub fn takes_connections(&self) -> bool {
        match (&self.node, self.origin) {
            (Some(node), _) => !node.leaving,
            (None, Origin::Folder) => true,
            (None, Origin::Server) => false,
        }
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
        let (endpoints, trigger) = (slice.endpoints.len(), slice.triggered);
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
        let counts = |trigger: &Trigger| self.counted_since.is_some_and(|since| trigger.at > since);
        self.triggers.extend(trigger.filter(counts).map(|trigger| (owner.clone(), trigger)));
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
        self.triggers.retain(|(of, _)| *of != owner);
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
        let Slice { name: _, service, ports, endpoints, triggered: _ } = slice;
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
mod tests;
