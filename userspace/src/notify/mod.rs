//! Events in the API, for what an operator must know: about Services, and about this node.
//!
//! Nobody waits for them: where the API server is away or forbids them, they are lost, and the log has the same.

mod notice;

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use self::notice::Throttle;
pub use self::notice::{Notice, Reason};

/// Who tells, as other programs of the cluster call us.
const CONTROLLER: &str = "sluice";
/// What was done when it happened; the API wants a word for it.
const ACTION: &str = "ProgramServices";
/// Notices that wait. The rest is lost.
const BACKLOG: usize = 64;
/// So many are told at once, and then one each period.
const AT_ONCE: u32 = 25;
const PERIOD: Duration = Duration::from_secs(30);
/// All nodes find the same wrong with a Service at the same moment, and tell it within this time, by chance.
const SPREAD: Duration = Duration::from_secs(5);
/// How long the API server may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where notices are given.
#[derive(Clone, Debug, Default)]
pub struct Notices(Option<mpsc::Sender<Notice>>);

impl Notices {
    /// Has them told in the API, as this node.
    pub fn publish(client: Client, node: String) -> Self {
        let (sender, received) = mpsc::channel(BACKLOG);
        tokio::spawn(tell_all(client, node, received));
        Self(Some(sender))
    }

    /// Has them come out at the other end.
    #[cfg(test)]
    pub(crate) fn kept() -> (Self, mpsc::Receiver<Notice>) {
        let (sender, received) = mpsc::channel(BACKLOG);
        (Self(Some(sender)), received)
    }

    /// Gives one, and waits for nobody.
    pub fn give(&self, notice: Notice) {
        if let Some(Err(error)) = self.0.as_ref().map(|sender| sender.try_send(notice)) {
            debug!(%error, "an event is not told: too many wait");
        }
    }
}

async fn tell_all(client: Client, node: String, mut received: mpsc::Receiver<Notice>) {
    let mut throttle = Throttle::new(AT_ONCE, PERIOD, Instant::now());
    let mut failed = false;
    while let Some(notice) = received.recv().await {
        if !throttle.admits(Instant::now()) {
            debug!(note = notice.note, "an event is not told: there are too many");
            continue;
        }
        if notice.service.is_some() {
            sleep(SPREAD.mul_f64(fastrand::f64())).await;
        }
        let outcome = timeout(PATIENCE, tell(&client, &node, &notice)).await;
        let error = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("the API server does not answer".to_owned()),
        };
        // Once is enough, until it works again.
        if let Some(error) = error.as_ref().filter(|_| !failed) {
            warn!(error, "could not tell an event in the API");
        }
        failed = error.is_some();
    }
}

async fn tell(client: &Client, node: &str, notice: &Notice) -> Result<(), kube::Error> {
    let event = event(node, notice);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match api.create(&PostParams::default(), &event).await {
        // Another node has told it.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        outcome => outcome.map(drop),
    }
}

fn event(node: &str, notice: &Notice) -> Event {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let regarding = regarding(node, notice);
    // Events about what is in no namespace are kept in this one.
    let namespace = regarding.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Event {
        metadata: ObjectMeta {
            name: Some(notice.name(node, now)),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(format!("{CONTROLLER}-{node}")),
        action: Some(ACTION.to_owned()),
        reason: Some(notice.reason.as_str().to_owned()),
        note: Some(notice.note.clone()),
        regarding: Some(regarding),
        type_: Some(if notice.is_warning { "Warning" } else { "Normal" }.to_owned()),
        ..Event::default()
    }
}

/// As kube-proxy has it, without a uid: a Node is found by its name.
fn regarding(node: &str, notice: &Notice) -> ObjectReference {
    let (kind, namespace, name) = match &notice.service {
        Some(service) => ("Service", Some(service.namespace.to_string()), service.name.to_string()),
        None => ("Node", None, node.to_owned()),
    };
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        namespace,
        name: Some(name),
        ..ObjectReference::default()
    }
}
