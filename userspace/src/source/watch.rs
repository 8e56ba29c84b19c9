//! The API server as a source: one watch for each kind, recovered whenever it breaks.
//!
//! A watch that works again does not say so until an object changes: kube takes up a broken watch where it was, in
//! silence. It counts as recovered, too, when it has not failed for a while.

use std::fmt;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::api::ListParams;
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Changes, until};
use crate::model::{Applied, Change, Kind, Problem, parse};

/// Services of other proxies, by label, and headless ones are never sent to us.
const SERVICE_LABELS: &str = "!service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
/// Nor are the slices of headless Services.
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// Pauses after errors begin between this and its double.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// They grow to between this and its double: by chance, so that the nodes of a cluster do not all come back at once.
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// A server that does not know a kind may be upgraded.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(300);

/// A watch that has not failed for so long works, whether or not it has said anything.
const QUIET: Duration = Duration::from_secs(25);

/// A kind of object that is watched.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static {
    const KIND: Kind;
    /// Which objects of the kind count, for the node with this name.
    fn selector(node: &str) -> Selector;
    fn change(&self) -> Change;
}

/// Which objects of a kind the server is asked for.
#[derive(Default)]
struct Selector {
    labels: &'static str,
    fields: String,
}

impl Selector {
    fn watch(self) -> watcher::Config {
        watcher::Config::default().labels(self.labels).fields(&self.fields)
    }

    fn list(self) -> ListParams {
        ListParams::default().labels(self.labels).fields(&self.fields)
    }
}

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn selector(_: &str) -> Selector {
        Selector { labels: SERVICE_LABELS, fields: SERVICE_FIELDS.to_owned() }
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::service(self);
        Change::Service(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn selector(_: &str) -> Selector {
        Selector { labels: SLICE_LABELS, ..Selector::default() }
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::slice(self);
        Change::Slice(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }
}

impl Watched for Node {
    const KIND: Kind = Kind::Node;

    fn selector(node: &str) -> Selector {
        Selector { fields: format!("metadata.name={node}"), ..Selector::default() }
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::node(self);
        Change::Node(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }
}

impl Watched for ServiceCIDR {
    const KIND: Kind = Kind::ServiceCidr;

    fn selector(_: &str) -> Selector {
        Selector::default()
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::service_cidr(self);
        Change::ServiceCidr(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }
}

/// The loop has ended; nobody listens any more.
struct Closed;

/// Why a watch is begun anew.
enum Anew {
    /// The server has forgotten the version the watch would go on from.
    Expired,
    /// The server does not stream lists.
    NoStreaming,
    /// The server does not know the kind.
    Unknown,
}

/// Sends what the API server says until nobody listens. `node` is our Node's name.
pub async fn follow(client: Client, node: &str, changes: Changes) {
    tokio::join!(
        follow_kind::<Service>(client.clone(), node, changes.clone()),
        follow_kind::<EndpointSlice>(client.clone(), node, changes.clone()),
        follow_kind::<Node>(client.clone(), node, changes.clone()),
        follow_kind::<ServiceCIDR>(client, node, changes)
    );
}

/// What the API server says just now, as one listing.
pub async fn once(client: Client, node: &str) -> kube::Result<Vec<Change>> {
    let (services, slices, nodes, cidrs) = tokio::try_join!(
        list::<Service>(client.clone(), node),
        list::<EndpointSlice>(client.clone(), node),
        list::<Node>(client.clone(), node),
        list::<ServiceCIDR>(client, node)
    )?;
    let begin = Kind::ALL.map(Change::Begin).into_iter();
    let objects = services.into_iter().chain(slices).chain(nodes).chain(cidrs);
    Ok(begin.chain(objects).chain(Kind::ALL.map(Change::End)).collect())
}

async fn list<K: Watched>(client: Client, node: &str) -> kube::Result<Vec<Change>> {
    let api: Api<DeserializeGuard<K>> = Api::all(client);
    match api.list(&K::selector(node).list()).await {
        Ok(found) => Ok(found.items.into_iter().map(change).collect()),
        Err(error) if Kind::NEEDED.contains(&K::KIND) => Err(error),
        Err(error) if is_status(&error, 404) => Ok(Vec::new()),
        // Whoever asks may be allowed to see Services only.
        Err(error) => Ok(vec![problems(K::KIND, vec![problem(K::KIND, &error.to_string())])]),
    }
}

async fn follow_kind<K: Watched>(client: Client, node: &str, changes: Changes) {
    // A streamed list costs the server far less memory than pages do (KEP-3157); older servers refuse it.
    let mut streaming = true;
    let mut watch = Watch::new(K::KIND, changes);
    loop {
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let config = K::selector(node).watch();
        let config = if streaming { config.streaming_lists() } else { config };
        match watch.run(Box::pin(watcher::watcher(api, config)), streaming).await {
            Err(Closed) => return,
            Ok(Anew::Expired) => {}
            Ok(Anew::NoStreaming) => streaming = false,
            Ok(Anew::Unknown) => sleep(UNKNOWN_PAUSE).await,
        }
    }
}

/// What an object says, or that it cannot be read.
fn change<K: Watched>(object: DeserializeGuard<K>) -> Change {
    match object.0 {
        Ok(object) => object.change(),
        Err(invalid) => {
            let object = parse::reference(K::KIND, &invalid.metadata);
            let message = format!("cannot be read: {}; what it said before stays in force", invalid.error);
            let problems = vec![Problem::new(&object, "", message)];
            Change::Unreadable { object, problems }
        }
    }
}

/// What lasts longer than one of kube's watchers.
struct Watch {
    kind: Kind,
    changes: Changes,
    /// While it fails: when it counts as recovered if it does not fail again.
    failing: Option<Instant>,
    pauses: ExponentialBackoff,
}

fn pauses() -> ExponentialBackoff {
    let builder = ExponentialBuilder::new().with_min_delay(FIRST_PAUSE).with_max_delay(LAST_PAUSE);
    builder.without_max_times().with_jitter().build()
}

impl Watch {
    fn new(kind: Kind, changes: Changes) -> Self {
        Self { kind, changes, failing: None, pauses: pauses() }
    }

    async fn run<K: Watched>(
        &mut self,
        mut events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>> + Unpin,
        streaming: bool,
    ) -> Result<Anew, Closed> {
        let mut begun = false;
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = until(self.failing) => {
                    self.recovered().await?;
                    continue;
                }
            };
            match event {
                Some(Ok(event)) => {
                    begun = true;
                    self.pass(event).await?;
                }
                Some(Err(error)) if streaming && !begun && refuses_streaming(&error) => {
                    info!(kind = %self.kind, "the API server does not stream lists; listing in pages");
                    return Ok(Anew::NoStreaming);
                }
                Some(Err(error)) if self.is_unknown(&error) => {
                    info!(kind = %self.kind, "the API server does not know this kind; going on without it");
                    self.recovered().await?;
                    self.send(Change::Begin(self.kind)).await?;
                    self.send(Change::End(self.kind)).await?;
                    return Ok(Anew::Unknown);
                }
                Some(Err(error)) => {
                    self.failed(&error).await?;
                    if is_expired_at_start(&error) {
                        return Ok(Anew::Expired);
                    }
                }
                None => return Ok(Anew::Expired),
            }
        }
    }

    async fn pass<K: Watched>(&mut self, event: Event<DeserializeGuard<K>>) -> Result<(), Closed> {
        match event {
            // In pages, kube says so before it asks for the first one: it proves nothing.
            Event::Init => self.send(Change::Begin(self.kind)).await,
            Event::InitApply(object) => self.apply(object).await,
            Event::InitDone => {
                info!(kind = %self.kind, "list is complete");
                self.send(Change::Hears(self.kind, true)).await?;
                self.recovered().await?;
                self.send(Change::End(self.kind)).await
            }
            Event::Apply(object) => {
                self.recovered().await?;
                self.apply(object).await
            }
            Event::Delete(object) => {
                self.recovered().await?;
                self.send(Change::Deleted(parse::reference(self.kind, object.meta()))).await
            }
        }
    }

    async fn apply<K: Watched>(&self, object: DeserializeGuard<K>) -> Result<(), Closed> {
        self.send(change(object)).await
    }

    /// A server that is older than the kind answers 404; only of kinds that we can do without.
    fn is_unknown(&self, error: &watcher::Error) -> bool {
        let status = match error {
            watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
                is_status(error, 404)
            }
            watcher::Error::WatchError(_)
            | watcher::Error::WatchFailed(_)
            | watcher::Error::NoResourceVersion => false,
        };
        status && !Kind::NEEDED.contains(&self.kind)
    }

    /// Says so, and waits before the next try.
    async fn failed(&mut self, error: &watcher::Error) -> Result<(), Closed> {
        let expired = is_expired(error);
        if expired {
            warn!(kind = %self.kind, %error, "the API server has dropped our place in its history; listing again");
        } else if self.failing.is_none() {
            warn!(kind = %self.kind, %error, "watch failed; what is known stays in force, retrying");
        }
        self.send(Change::Hears(self.kind, false)).await?;
        let message = format!("{error}; what is known stays in force");
        self.report(vec![problem(self.kind, &message)]).await?;
        sleep(self.pauses.next().unwrap_or(LAST_PAUSE)).await;
        self.failing = Some(Instant::now() + QUIET);
        Ok(())
    }

    async fn recovered(&mut self) -> Result<(), Closed> {
        if self.failing.take().is_none() {
            return Ok(());
        }
        self.pauses = pauses();
        info!(kind = %self.kind, "watch works again");
        self.send(Change::Hears(self.kind, true)).await?;
        self.report(Vec::new()).await
    }

    async fn report(&self, all: Vec<Problem>) -> Result<(), Closed> {
        self.send(problems(self.kind, all)).await
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.changes.send(change).await.map_err(|_| Closed)
    }
}

fn problem(kind: Kind, message: &str) -> Problem {
    Problem::new("API server", format!("watch {kind}"), message)
}

fn problems(kind: Kind, problems: Vec<Problem>) -> Change {
    Change::Problems { object: format!("watch {kind}"), problems }
}

fn is_expired(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::WatchError(status) => status.code == 410,
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => is_status(error, 410),
        watcher::Error::NoResourceVersion => false,
    }
}

/// kube's watcher goes on from the same version when a watch is refused at its start, whatever the reason; with a
/// version that has expired it would do so for ever.
fn is_expired_at_start(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(error) if is_status(error, 410))
}

/// A server without streamed lists calls `sendInitialEvents` invalid (422), or bad (400).
fn refuses_streaming(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(error) if is_status(error, 422) || is_status(error, 400))
}

fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

#[cfg(test)]
mod tests {
    use futures::stream;
    use kube::core::Status;
    use tokio::sync::mpsc;

    use super::*;

    type Told = watcher::Result<Event<DeserializeGuard<Service>>>;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_complete_or_an_object_ends_the_problem() {
        let (well, deleted) = ("well", "Deleted");
        check([refused(503), Ok(Event::Init)], &["wrong", "Begin"]).await;
        check([refused(503), Ok(Event::Init), Ok(Event::InitDone)], &["wrong", "Begin", well, "End"]).await;
        check([refused(503), Ok(Event::Apply(web()))], &["wrong", well, "Service"]).await;
        check([refused(503), Ok(Event::Delete(web()))], &["wrong", well, deleted]).await;
        check([Ok(Event::Delete(web()))], &[deleted]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn whether_changes_are_heard_of_is_told_when_it_changes() {
        let (mut watch, mut received) = watch();
        let events = vec![
            Ok(Event::InitDone),
            refused(503),
            refused(503),
            Ok(Event::Apply(web())),
            Ok(Event::Apply(web())),
        ];
        run(&mut watch, events, false).await;
        let told: Vec<bool> = std::iter::from_fn(|| received.try_recv().ok())
            .filter_map(|change| if let Change::Hears(_, hears) = change { Some(hears) } else { None })
            .collect();
        assert_eq!(told, [true, false, false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_problem_is_carried_over_to_the_next_watch() {
        let (mut watch, mut received) = watch();
        assert!(matches!(run(&mut watch, vec![refused(410), refused(503)], false).await, Anew::Expired));
        run(&mut watch, vec![Ok(Event::Init)], false).await;
        assert_eq!(told(&mut received), ["wrong", "Begin"]);
        run(&mut watch, vec![Ok(Event::InitDone)], false).await;
        assert_eq!(told(&mut received), ["well", "End"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_has_not_failed_for_a_while_is_well() {
        let (mut watch, mut received) = watch();
        let events = stream::iter([refused(503)]).chain(stream::pending());
        let running = watch.run::<Service>(Box::pin(events), false);
        assert!(tokio::time::timeout(QUIET, running).await.is_err());
        assert_eq!(told(&mut received), ["wrong"]);
        let running = watch.run::<Service>(stream::pending(), false);
        assert!(tokio::time::timeout(QUIET, running).await.is_err());
        assert_eq!(told(&mut received), ["well"]);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_it_is_well_again_even_where_watches_begin_anew() {
        let (mut watch, mut received) = watch();
        for longest in [1, 2, 4, 8, 10, 10] {
            let begun = Instant::now();
            run(&mut watch, vec![refused(410)], false).await;
            let (longest, paused) = (Duration::from_secs(longest), begun.elapsed());
            assert!(longest / 2 <= paused && paused <= longest, "{paused:?} {longest:?}");
        }
        run(&mut watch, vec![Ok(Event::InitDone)], false).await;
        let begun = Instant::now();
        run(&mut watch, vec![refused(410)], false).await;
        assert!(begun.elapsed() <= 2 * FIRST_PAUSE);
        assert_eq!(told(&mut received).len(), 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_does_not_stream_lists_is_asked_for_pages_at_once() {
        let (mut watch, mut received) = watch();
        let begun = Instant::now();
        assert!(matches!(run(&mut watch, vec![refused(422)], true).await, Anew::NoStreaming));
        assert_eq!((begun.elapsed(), told(&mut received)), (Duration::ZERO, Vec::new()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_kind_that_the_server_does_not_know_is_listed_as_empty() {
        let (changes, mut received) = mpsc::channel(64);
        let mut watch = Watch::new(Kind::ServiceCidr, changes);
        assert!(matches!(run(&mut watch, vec![refused(404)], true).await, Anew::Unknown));
        assert_eq!(told(&mut received), ["Begin", "End"]);
        let (mut watch, mut received) = self::watch();
        run(&mut watch, vec![refused(404)], true).await;
        assert_eq!(told(&mut received), ["wrong"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_cannot_be_read_is_named_and_nothing_else_happens_to_it() {
        let bad = serde_json::json!({ "metadata": { "name": "web", "namespace": "shop" }, "spec": 1 });
        let (mut watch, mut received) = watch();
        run(&mut watch, vec![Ok(Event::Apply(serde_json::from_value(bad).unwrap()))], false).await;
        let Ok(Change::Unreadable { object, problems }) = received.try_recv() else {
            panic!("another change")
        };
        assert_eq!(object.to_string(), "Service shop/web");
        assert!(problems[0].message.starts_with("cannot be read"), "{problems:?}");
    }

    async fn check<const N: usize>(events: [Told; N], expected: &[&str]) {
        let (mut watch, mut received) = watch();
        run(&mut watch, events.into(), false).await;
        assert_eq!(told(&mut received), expected);
    }

    fn watch() -> (Watch, mpsc::Receiver<Change>) {
        let (changes, received) = mpsc::channel(64);
        (Watch::new(Kind::Service, changes), received)
    }

    async fn run(watch: &mut Watch, events: Vec<Told>, streaming: bool) -> Anew {
        let Ok(anew) = watch.run(stream::iter(events), streaming).await else { panic!("nobody listens") };
        anew
    }

    fn refused(code: u16) -> Told {
        let status = Status::failure("no", "Refused").with_code(code).boxed();
        Err(watcher::Error::WatchStartFailed(kube::Error::Api(status)))
    }

    fn web() -> DeserializeGuard<Service> {
        let web = serde_json::json!({ "metadata": { "name": "web" } });
        serde_json::from_value(web).unwrap()
    }

    fn told(received: &mut mpsc::Receiver<Change>) -> Vec<&'static str> {
        let all = std::iter::from_fn(|| received.try_recv().ok());
        all.map(|change| word(&change)).filter(|word| !["hears", "deaf"].contains(word)).collect()
    }

    fn word(change: &Change) -> &'static str {
        match change {
            Change::Service(_) => "Service",
            Change::Slice(_) => "Slice",
            Change::Node(_) => "Node",
            Change::ServiceCidr(_) => "ServiceCidr",
            Change::Unreadable { .. } => "Unreadable",
            Change::Deleted(_) => "Deleted",
            Change::Begin(_) => "Begin",
            Change::End(_) => "End",
            Change::Partial(_) => "Partial",
            Change::Hears(_, true) => "hears",
            Change::Hears(_, false) => "deaf",
            Change::Problems { object: _, problems } if problems.is_empty() => "well",
            Change::Problems { .. } => "wrong",
        }
    }
}
