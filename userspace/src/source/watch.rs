//! The API server as a source: one watch for each kind, recovered whenever it breaks.

use std::fmt;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{DeserializeGuard, Resource};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde::de::DeserializeOwned;
use tracing::{info, warn};

use super::Changes;
use crate::model::{Applied, Change, Kind, Parsed, Problem, parse};

/// Services of other proxies, by label, and headless ones are never sent to us.
const SERVICE_LABELS: &str = "!service.kubernetes.io/service-proxy-name";
const SERVICE_FIELDS: &str = "spec.clusterIP!=None";
/// Nor are the slices of headless Services.
const SLICE_LABELS: &str = "!service.kubernetes.io/headless";

/// A kind of object that is watched.
trait Watched: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + 'static {
    const KIND: Kind;
    fn config() -> watcher::Config;
    fn change(&self) -> Change;
    /// The change for an object that cannot be read.
    fn unreadable(meta: &ObjectMeta, error: &str) -> Change;
}

impl Watched for Service {
    const KIND: Kind = Kind::Service;

    fn config() -> watcher::Config {
        watcher::Config::default().labels(SERVICE_LABELS).fields(SERVICE_FIELDS)
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::service(self);
        Change::Service(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }

    fn unreadable(meta: &ObjectMeta, error: &str) -> Change {
        let object = parse::reference(Self::KIND, meta);
        let problems = vec![Problem::new(&object, "", error)];
        Change::Service(Applied { object, value: Parsed::Skip, problems })
    }
}

impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;

    fn config() -> watcher::Config {
        watcher::Config::default().labels(SLICE_LABELS)
    }

    fn change(&self) -> Change {
        let (value, problems) = parse::slice(self);
        Change::Slice(Applied { object: parse::reference(Self::KIND, &self.metadata), value, problems })
    }

    fn unreadable(meta: &ObjectMeta, error: &str) -> Change {
        let object = parse::reference(Self::KIND, meta);
        let problems = vec![Problem::new(&object, "", error)];
        Change::Slice(Applied { object, value: Parsed::Skip, problems })
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
}

/// Sends what the API server says until nobody listens.
pub async fn follow(client: Client, changes: Changes) {
    tokio::join!(
        follow_kind::<Service>(client.clone(), changes.clone()),
        follow_kind::<EndpointSlice>(client, changes)
    );
}

async fn follow_kind<K: Watched>(client: Client, changes: Changes) {
    // A streamed list costs the server far less memory than pages do (KEP-3157); older servers refuse it.
    let mut streaming = true;
    loop {
        let api: Api<DeserializeGuard<K>> = Api::all(client.clone());
        let config = if streaming { K::config().streaming_lists() } else { K::config() };
        let events = watcher::watcher(api, config).default_backoff();
        let watch = Watch { kind: K::KIND, changes: changes.clone(), failing: false, begun: false };
        match watch.run(Box::pin(events), streaming).await {
            Err(Closed) => return,
            Ok(Anew::Expired) => {}
            Ok(Anew::NoStreaming) => streaming = false,
        }
    }
}

struct Watch {
    kind: Kind,
    changes: Changes,
    failing: bool,
    /// Whether anything was received at all.
    begun: bool,
}

impl Watch {
    async fn run<K: Watched>(
        mut self,
        mut events: impl Stream<Item = watcher::Result<Event<DeserializeGuard<K>>>> + Unpin,
        streaming: bool,
    ) -> Result<Anew, Closed> {
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    self.recovered().await?;
                    self.pass(event).await?;
                }
                Err(error) => {
                    if streaming && !self.begun && refuses_streaming(&error) {
                        info!(kind = %self.kind, "the API server does not stream lists; listing in pages");
                        return Ok(Anew::NoStreaming);
                    }
                    self.failed(&error).await?;
                    if is_expired_at_start(&error) {
                        return Ok(Anew::Expired);
                    }
                }
            }
        }
        Ok(Anew::Expired)
    }

    async fn pass<K: Watched>(&mut self, event: Event<DeserializeGuard<K>>) -> Result<(), Closed> {
        match event {
            Event::Init => self.send(Change::Begin(self.kind)).await,
            Event::InitDone => {
                info!(kind = %self.kind, "list is complete");
                self.send(Change::End(self.kind)).await
            }
            Event::InitApply(object) | Event::Apply(object) => {
                self.begun = true;
                self.send(match object.0 {
                    Ok(object) => object.change(),
                    Err(invalid) => K::unreadable(&invalid.metadata, &invalid.error),
                })
                .await
            }
            Event::Delete(object) => {
                self.send(Change::Deleted(parse::reference(self.kind, object.meta()))).await
            }
        }
    }

    async fn failed(&mut self, error: &watcher::Error) -> Result<(), Closed> {
        let expired = is_expired(error);
        if expired {
            warn!(kind = %self.kind, %error, "the API server has dropped our place in its history; listing again");
        } else if !self.failing {
            warn!(kind = %self.kind, %error, "watch failed; what is known stays in force, retrying");
        }
        self.failing = true;
        let message = format!("{error}; what is known stays in force");
        self.report(vec![Problem::new("API server", format!("watch {}", self.kind), message)]).await
    }

    async fn recovered(&mut self) -> Result<(), Closed> {
        if !std::mem::take(&mut self.failing) {
            return Ok(());
        }
        info!(kind = %self.kind, "watch works again");
        self.report(Vec::new()).await
    }

    async fn report(&self, problems: Vec<Problem>) -> Result<(), Closed> {
        self.send(Change::Problems { object: format!("watch {}", self.kind), problems }).await
    }

    async fn send(&self, change: Change) -> Result<(), Closed> {
        self.changes.send(change).await.map_err(|_| Closed)
    }
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
