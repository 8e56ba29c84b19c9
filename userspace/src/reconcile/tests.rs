//! The loop's promises, on a paused clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::outlet::{self, Inlet};
use super::{Ask, HOUSEKEEPING, Inputs, NODE_PATIENCE, Outputs, Reconciler};
use crate::backend::difference::Difference;
use crate::backend::findings::Audited;
use crate::backend::memory::Memory;
use crate::desired::{Context, List, Settings, of_service};
use crate::inspect::status::Status;
use crate::metrics::Metrics;
use crate::model::sample::{apply_service, apply_slice, delete, name, service, slice};
use crate::model::{
    Applied, Change, Cluster, External, Family, Kind, Node, ObjectRef, Origin, Parsed, Problem, Service,
    Slice, Trigger,
};
use crate::notify::{Notice, Notices, Reason};

/// A loop at work.
struct Rig {
    backend: Memory,
    changes: mpsc::Sender<Change>,
    asks: mpsc::Sender<Ask>,
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
    told: Inlet,
    metrics: Arc<Metrics>,
    noticed: mpsc::Receiver<Notice>,
}

impl Rig {
    fn start() -> Self {
        Self::auditing(None)
    }

    fn auditing(every: Option<Duration>) -> Self {
        let backend = Memory::default();
        let (changes, received) = mpsc::channel(64);
        let (ask, asks) = mpsc::channel(1);
        let (end, shutdown) = oneshot::channel();
        let (outlet, told) = outlet::pair();
        let metrics = Arc::new(Metrics::new().unwrap());
        let (notices, noticed) = Notices::kept();
        let reconciler = Reconciler::new(
            backend.clone(),
            "test".to_owned(),
            Settings::default(),
            Cluster::of_node("n1", Origin::Folder),
            Outputs { metrics: Arc::clone(&metrics), notices },
        );
        let reconciler = reconciler.auditing(every).telling(outlet);
        let task = tokio::spawn(reconciler.run(Inputs { changes: received, asks, shutdown }));
        Self { backend, changes, asks: ask, end, task, told, metrics, noticed }
    }

    async fn send(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.changes.send(change).await.unwrap();
        }
        // On a paused clock a sleep ends when everybody else waits.
        sleep(Duration::from_millis(1)).await;
    }

    async fn list(&self, objects: impl IntoIterator<Item = Change>) {
        self.send(Kind::ALL.map(Change::Begin)).await;
        self.send(objects).await;
        self.send(Kind::ALL.map(Change::End)).await;
    }

    async fn status(&self) -> Status {
        let (ask, answer) = oneshot::channel();
        self.asks.send(Ask::Status(ask)).await.unwrap();
        answer.await.unwrap()
    }

    async fn audit(&self, heal: bool) -> Audited {
        let (ask, answer) = oneshot::channel();
        self.asks.send(Ask::Audit(heal, ask)).await.unwrap();
        answer.await.unwrap()
    }

    /// Somebody deletes something.
    fn harm(&self) {
        let gone = Difference {
            dataplane: "ebpf".into(),
            service: "default/web".to_owned(),
            what: "an entry".to_owned(),
            plan: Some("there".to_owned()),
            kernel: None,
        };
        self.backend.with(|state| state.drift = vec![gone]);
    }

    fn drift(&self) -> [f64; 2] {
        ["found", "healed"].map(|what| {
            self.metric(&format!("sluice_drift_{what}_total{{dataplane=\"ebpf\",kind=\"missing\"}}"))
        })
    }

    fn endpoints(&self, of: &str) -> Option<Vec<SocketAddr>> {
        self.backend.with(|state| {
            let mut ports = state.ports.iter().filter(|(name, _)| &*name.service.name == of);
            ports.next().map(|(_, port)| port.list(List::Cluster).collect())
        })
    }

    /// How long something has waited, if anything does.
    fn waits(&self) -> Option<Duration> {
        let since = self.told.pulse.borrow().waiting_since?;
        Some(self.told.clock.now().run - since.run)
    }

    fn blockers(&self) -> Vec<String> {
        self.told.pulse.borrow().blockers.clone()
    }

    /// What load balancers are told of `web`, at which port.
    fn check(&self) -> Option<(u16, usize)> {
        let checks = self.told.checks.borrow();
        checks.services.get(&name("web")).map(|of| (of[0].port.get(), of[0].local_endpoints))
    }

    /// The value of a metric, if it has one.
    fn text_of(&self, sample: &str) -> Option<f64> {
        let text = self.metrics.text().unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '))?;
        Some(line.parse().unwrap())
    }

    #[track_caller]
    fn metric(&self, sample: &str) -> f64 {
        self.text_of(sample).unwrap_or_else(|| panic!("no {sample}"))
    }

    fn counts(&self) -> (usize, usize) {
        self.backend.with(|state| (state.applies, state.enables))
    }
}

fn web() -> [Change; 2] {
    [
        apply_service(service("web", "10.96.0.10", "http:80")),
        apply_slice(slice("web-1", "web", "http:8080", "10.1.0.5")),
    ]
}

fn at(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 1, 0, last], 8080))
}

#[tokio::test(start_paused = true)]
async fn nothing_is_written_before_services_and_slices_are_known() {
    let rig = Rig::start();
    rig.send([Change::End(Kind::Node)]).await;
    rig.send([Change::Begin(Kind::Service), Change::Begin(Kind::EndpointSlice)]).await;
    rig.send(web()).await;
    rig.send([Change::End(Kind::Service)]).await;
    assert_eq!(rig.counts(), (0, 0));
    rig.send([Change::End(Kind::EndpointSlice)]).await;
    assert_eq!(rig.counts(), (1, 1));
    assert_eq!(rig.endpoints("web"), Some(vec![at(5)]));
}

#[tokio::test(start_paused = true)]
async fn the_first_write_waits_for_the_node_but_not_for_ever() {
    let rig = Rig::start();
    rig.send(Kind::NEEDED.map(Change::Begin)).await;
    rig.send(web()).await;
    rig.send(Kind::NEEDED.map(Change::End)).await;
    sleep(NODE_PATIENCE - Duration::from_secs(1)).await;
    assert_eq!(rig.counts(), (0, 0));
    sleep(HOUSEKEEPING + Duration::from_secs(1)).await;
    assert_eq!(rig.endpoints("web"), Some(vec![at(5)]));
}

#[tokio::test(start_paused = true)]
async fn another_zone_of_the_node_changes_the_endpoints_in_force() {
    let node = |zone: &str| {
        let value = Node { name: "n1".into(), zone: Some(zone.into()), ..Node::default() };
        let object = ObjectRef::new(Kind::Node, "", "n1");
        Change::Node(Applied { object, value: Parsed::Keep(value), problems: Vec::new() })
    };
    let rig = Rig::start();
    let hinted = apply_slice(slice("web-1", "web", "http:8080", "10.1.0.5^a 10.1.0.6^b"));
    let [service, _] = web();
    rig.list([node("a"), service, hinted]).await;
    assert_eq!(rig.endpoints("web"), Some(vec![at(5)]));
    rig.send([node("b")]).await;
    assert_eq!(rig.endpoints("web"), Some(vec![at(6)]));
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_daemon_left_is_pruned_only_by_the_first_complete_pass() {
    let rig = Rig::start();
    rig.backend.with(|state| {
        let mut cluster = Cluster::default();
        cluster.take(apply_service(service("old", "10.96.0.99", "http:80")));
        let old = name("old");
        let outcome = of_service(&cluster, &Context::default(), &old);
        state.ports = outcome.ports.into_iter().map(|(id, port)| (id.of(&old), port)).collect();
    });
    rig.send([Change::Begin(Kind::Service)]).await;
    assert!(rig.endpoints("old").is_some());
    rig.list(web()).await;
    assert!(rig.endpoints("old").is_none() && rig.endpoints("web").is_some());
}

#[tokio::test(start_paused = true)]
async fn changes_that_wait_are_taken_together() {
    let rig = Rig::start();
    rig.list(web()).await;
    let before = rig.counts().0;
    for last in 6..16_u8 {
        let endpoints = format!("10.1.0.{last}");
        let change = apply_slice(slice("web-1", "web", "http:8080", &endpoints));
        // Without a pause in between, the loop is not awake.
        rig.changes.try_send(change).unwrap();
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.counts().0, before + 1);
    assert_eq!(rig.endpoints("web"), Some(vec![at(15)]));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_changes_nothing_writes_nothing() {
    let rig = Rig::start();
    rig.list(web()).await;
    let before = rig.counts();
    rig.send(web()).await;
    assert_eq!(rig.counts(), before);
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_tried_again_and_told_until_it_works() {
    let rig = Rig::start();
    rig.list(web()).await;
    rig.backend.with(|state| state.failures = 3);
    rig.send([apply_slice(slice("web-1", "web", "http:8080", "10.1.0.7"))]).await;
    let status = rig.status().await;
    assert!(status.problems.iter().any(|problem| problem.object == "kernel"), "{:?}", status.problems);
    assert!(!status.daemon.unwrap().synced);
    sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.endpoints("web"), Some(vec![at(7)]));
    assert!(rig.status().await.daemon.unwrap().synced);
}

#[tokio::test(start_paused = true)]
async fn a_relist_removes_what_was_not_seen_again() {
    let rig = Rig::start();
    let [service_web, slice_web] = web();
    let other = apply_service(service("other", "10.96.0.11", "http:80"));
    rig.list([service_web, slice_web, other]).await;
    assert!(rig.endpoints("other").is_some());
    rig.list(web()).await;
    assert!(rig.endpoints("other").is_none() && rig.endpoints("web").is_some());
}

#[tokio::test(start_paused = true)]
async fn the_loser_of_a_contested_address_gets_it_when_the_winner_goes() {
    let rig = Rig::start();
    let contender = |name| apply_service(service(name, "10.96.0.10", "http:80"));
    rig.list([contender("a"), contender("b")]).await;
    let holder = |rig: &Rig| {
        rig.backend.with(|state| {
            let holders = state.ports.iter().filter(|(_, port)| !port.frontends.is_empty());
            holders.map(|(name, _)| name.service.name.to_string()).collect::<Vec<_>>()
        })
    };
    assert_eq!(holder(&rig), ["a"]);
    assert!(rig.status().await.problems.iter().any(|problem| problem.object.contains("default/b")));
    rig.send([delete(Kind::Service, "a")]).await;
    assert_eq!(holder(&rig), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn contenders_are_not_forgotten_when_the_write_fails() {
    let rig = Rig::start();
    let contender = |name| apply_service(service(name, "10.96.0.10", "http:80"));
    rig.list([contender("a"), contender("b")]).await;
    rig.backend.with(|state| state.failures = 2);
    rig.send([delete(Kind::Service, "a")]).await;
    sleep(Duration::from_secs(2)).await;
    let b = rig.backend.with(|state| {
        let mut ports = state.ports.iter().filter(|(name, _)| &*name.service.name == "b");
        ports.any(|(_, port)| !port.frontends.is_empty())
    });
    assert!(b, "b has the address that a gave up");
}

#[tokio::test(start_paused = true)]
async fn hooks_that_cannot_be_put_right_at_once_are_tried_again() {
    let rig = Rig::start();
    rig.list(web()).await;
    rig.backend.with(|state| (state.detached, state.enable_failures) = (true, 2));
    sleep(Duration::from_secs(30)).await;
    let (detached, enables) = rig.backend.with(|state| (state.detached, state.enables));
    assert!(!detached, "the hooks were put right");
    assert!(enables < 20, "without a busy loop: {enables}");
    assert!(rig.status().await.daemon.unwrap().synced);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_pruned_while_some_objects_cannot_be_read() {
    let rig = Rig::start();
    rig.backend.with(|state| {
        let mut cluster = Cluster::default();
        cluster.take(apply_service(service("old", "10.96.0.99", "http:80")));
        let old = name("old");
        let outcome = of_service(&cluster, &Context::default(), &old);
        state.ports = outcome.ports.into_iter().map(|(id, port)| (id.of(&old), port)).collect();
    });
    rig.send([Change::Partial(true)]).await;
    rig.list(web()).await;
    assert!(rig.endpoints("old").is_some() && rig.endpoints("web").is_some());
    rig.send([Change::Partial(false)]).await;
    assert!(rig.endpoints("old").is_none());
}

#[tokio::test(start_paused = true)]
async fn it_ends_when_told_to_and_leaves_everything_in_force() {
    let rig = Rig::start();
    rig.list(web()).await;
    rig.end.send(()).unwrap();
    rig.task.await.unwrap();
    assert!(rig.backend.with(|state| !state.ports.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_way_is_told_until_everything_is_in_force() {
    let rig = Rig::start();
    rig.send(Kind::NEEDED.map(Change::Begin)).await;
    assert_eq!(rig.blockers(), Kind::NEEDED.map(|kind| format!("{kind} objects are not listed yet")));
    rig.send(Kind::NEEDED.map(Change::End)).await;
    assert_eq!(rig.blockers(), ["Node n1 is not known yet"]);
    assert_eq!(rig.waits(), None, "what is not known yet is nothing that waits for the kernel");
    rig.send([Change::Begin(Kind::Node), Change::End(Kind::Node)]).await;
    assert!(rig.blockers().is_empty() && rig.waits().is_none(), "{:?}", rig.blockers());
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_refuses_waits_since_it_came_and_no_longer_than_until_it_is_taken() {
    let rig = Rig::start();
    rig.list(web()).await;
    assert_eq!((rig.waits(), rig.told.pulse.borrow().updated.run.is_zero()), (None, false));
    rig.backend.with(|state| state.failures = usize::MAX);
    rig.send([apply_slice(slice("web-1", "web", "http:8080", "10.1.0.7"))]).await;
    sleep(Duration::from_secs(1)).await;
    rig.send([apply_slice(slice("web-1", "web", "http:8080", "10.1.0.8"))]).await;
    sleep(Duration::from_secs(1)).await;
    let waited = rig.waits().unwrap();
    assert!(waited >= Duration::from_secs(2) && waited < Duration::from_millis(2100), "{waited:?}");
    assert!(rig.blockers()[0].starts_with("the kernel refuses: "), "{:?}", rig.blockers());
    rig.backend.with(|state| state.failures = 0);
    sleep(Duration::from_secs(5)).await;
    assert!(rig.blockers().is_empty() && rig.waits().is_none(), "{:?}", rig.blockers());
    assert!(rig.told.pulse.borrow().updated.run >= Duration::from_secs(2));
}

/// On real clocks: whoever hangs does not let a paused one go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_loop_hangs_its_change_waits() {
    let rig = Rig::start();
    rig.list(web()).await;
    let held = rig.backend.with(|state| {
        let (release, held) = std::sync::mpsc::channel();
        state.hang = Some(std::sync::Arc::new(std::sync::Mutex::new(held)));
        release
    });
    rig.changes.send(apply_slice(slice("web-1", "web", "http:8080", "10.1.0.7"))).await.unwrap();
    let until = |wanted: bool| {
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while rig.waits().is_some_and(|waited| waited > Duration::from_millis(300)) != wanted {
            assert!(std::time::Instant::now() < deadline, "waits: {:?}", rig.waits());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    until(true);
    held.send(()).unwrap();
    until(false);
}

#[tokio::test(start_paused = true)]
async fn load_balancers_are_told_what_is_in_force() {
    let external = |port| {
        let health_check_port = std::num::NonZeroU16::new(port);
        Some(Box::new(External { health_check_port, ..External::default() }))
    };
    let lb =
        |port| apply_service(Service { external: external(port), ..service("web", "10.96.0.10", "http:80") });
    let [_, here] = web();
    let here_too = apply_slice(slice("web-1", "web", "http:8080", "10.1.0.5@n1 10.1.0.6@n1 10.1.0.7@n2"));
    let rig = Rig::start();
    rig.list([lb(32_000), here]).await;
    assert_eq!(rig.check(), Some((32_000, 0)));
    rig.backend.with(|state| state.failures = 3);
    rig.send([here_too]).await;
    assert_eq!(rig.check(), Some((32_000, 0)), "not before the kernel has it");
    sleep(Duration::from_secs(2)).await;
    assert_eq!(rig.check(), Some((32_000, 2)));
    rig.send([lb(32_001)]).await;
    assert_eq!(rig.check(), Some((32_001, 2)));
    rig.send([apply_service(service("web", "10.96.0.10", "http:80"))]).await;
    assert_eq!(rig.check(), None);
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_answering_is_told_with_the_rest() {
    let rig = Rig::start();
    rig.told.problems.send_replace(vec![Problem::new(
        "Service default/web",
        "spec.healthCheckNodePort",
        "taken",
    )]);
    assert!(rig.status().await.problems.iter().any(|problem| problem.message == "taken"));
}

#[tokio::test(start_paused = true)]
async fn what_has_come_waits_in_the_metrics_until_it_is_in_force() {
    const PENDING: &str = "kubeproxy_sync_proxy_rules_endpoint_changes_pending";
    const PROGRAMMED: &str = "kubeproxy_network_programming_duration_seconds_count{ip_family=\"IPv4\"}";
    const FULL: &str = "kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    const PARTIAL: &str = "kubeproxy_sync_partial_proxy_rules_duration_seconds_count{ip_family=\"IPv4\"}";
    let rig = Rig::start();
    rig.list(web()).await;
    assert_eq!((rig.metric(PENDING), rig.metric(FULL), rig.metric("sluice_synced")), (0.0, 1.0, 1.0));
    let at = super::now();
    let caused = |endpoints: &str| {
        let slice = slice("web-1", "web", "http:8080", endpoints);
        apply_slice(Slice { triggered: Some(Trigger { family: Family::V4, at }), ..slice })
    };
    rig.backend.with(|state| state.failures = 1);
    rig.send([caused("10.1.0.6")]).await;
    assert_eq!((rig.metric(PENDING), rig.metric("sluice_synced")), (1.0, 0.0));
    sleep(Duration::from_secs(10)).await;
    assert_eq!((rig.metric(PENDING), rig.metric("sluice_synced")), (0.0, 1.0));
    // A pass that failed has lost what caused it, and the next one looks at everything.
    let programmed = rig.text_of(PROGRAMMED);
    assert_eq!((programmed, rig.metric(FULL)), (None, 2.0));
    rig.send([caused("10.1.0.7")]).await;
    assert_eq!((rig.metric(PROGRAMMED), rig.metric(PARTIAL)), (1.0, 1.0));
    // What makes no difference waits for nothing.
    rig.send([caused("10.1.0.7")]).await;
    assert_eq!((rig.metric(PENDING), rig.metric(PARTIAL)), (0.0, 1.0));
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_must_know_is_told_once() {
    let mut rig = Rig::start();
    let [service, endpoints] = web();
    let broken = Problem::new("Service default/web", "spec.ports[1].port", "70000 is not a port");
    let Change::Service(applied) = service else { panic!("a Service") };
    let service = Change::Service(Applied { problems: vec![broken], ..applied });
    rig.list([service.clone(), endpoints]).await;
    rig.send([service]).await;
    rig.backend.with(|state| state.failures = 8);
    rig.send([apply_slice(slice("web-1", "web", "http:8080", "10.1.0.6"))]).await;
    sleep(Duration::from_secs(20)).await;
    let mut told = Vec::new();
    while let Ok(Notice { service, is_warning, reason, note: _ }) = rig.noticed.try_recv() {
        told.push((service.map(|service| service.name.to_string()), is_warning, reason));
    }
    assert_eq!(
        told,
        [
            (Some("web".to_owned()), true, Reason::InvalidObject),
            (None, false, Reason::Starting),
            (None, true, Reason::ProgrammingFailed),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn what_somebody_deletes_is_put_right_in_the_next_round_counted_and_told() {
    let mut rig = Rig::auditing(Some(Duration::from_secs(60)));
    rig.list(web()).await;
    rig.harm();
    sleep(Duration::from_secs(50)).await;
    assert_eq!(rig.drift(), [0.0, 0.0], "not before its time");
    sleep(Duration::from_secs(20)).await;
    assert_eq!(rig.drift(), [1.0, 1.0]);
    let told: Vec<Notice> = std::iter::from_fn(|| rig.noticed.try_recv().ok()).collect();
    assert!(told.iter().any(|notice| notice.reason == Reason::Repaired && notice.note.contains("an entry")));
    sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.drift(), [1.0, 1.0]);
    assert_eq!(rig.metric("sluice_audit_rounds_total"), 11.0);
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_told_at_once_and_only_who_asks_for_it_has_it_put_right() {
    let rig = Rig::start();
    rig.list(web()).await;
    rig.harm();
    for _ in 0..2 {
        let Audited { found, healed, .. } = rig.audit(false).await;
        assert_eq!((found, healed, rig.drift()), (1, 0, [0.0, 0.0]));
    }
    let Audited { found, healed, differences, .. } = rig.audit(true).await;
    assert_eq!((found, healed, &*differences[0].what, rig.drift()), (1, 1, "an entry", [1.0, 1.0]));
    assert_eq!(rig.audit(false).await.found, 0);
    sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.backend.with(|state| state.audits), 4, "nobody else asks");
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_told_of_hooks_and_may_have_them_put_back() {
    let rig = Rig::start();
    rig.list(web()).await;
    rig.backend.with(|state| state.detached = true);
    let Audited { found, healed, differences, .. } = rig.audit(true).await;
    assert_eq!((found, healed, &*differences[0].what), (1, 1, "hook connect4"));
    assert!(!rig.backend.with(|state| state.detached));
}

#[tokio::test(start_paused = true)]
async fn where_it_cannot_be_put_right_everything_is_written_anew() {
    let rig = Rig::auditing(Some(Duration::from_secs(60)));
    rig.list(web()).await;
    let (applies, _) = rig.counts();
    rig.harm();
    rig.backend.with(|state| (state.audit_failures, state.ports) = (1, Default::default()));
    sleep(Duration::from_secs(61)).await;
    assert_eq!(rig.drift(), [1.0, 1.0]);
    assert_eq!(rig.counts().0, applies + 1);
    assert_eq!(rig.endpoints("web"), Some(vec![at(5)]));
}

#[tokio::test(start_paused = true)]
async fn as_long_as_the_kernel_refuses_nobody_looks_and_who_asks_is_told_why() {
    let rig = Rig::auditing(Some(Duration::from_secs(1)));
    rig.list([]).await;
    rig.backend.with(|state| (state.failures, state.audits) = (1_000, 0));
    rig.send(web()).await;
    let notes = rig.audit(true).await.notes;
    assert!(notes.iter().any(|note| note.contains("the kernel refuses")), "{notes:?}");
    assert_eq!(rig.backend.with(|state| state.audits), 0);
}

#[tokio::test(start_paused = true)]
async fn who_is_told_why_nobody_looks_leaves_no_round_behind() {
    let rig = Rig::start();
    rig.list([]).await;
    rig.backend.with(|state| state.failures = 10);
    rig.send(web()).await;
    assert_eq!(rig.audit(true).await.found, 0);
    sleep(Duration::from_secs(600)).await;
    assert_eq!((rig.endpoints("web"), rig.backend.with(|state| state.audits)), (Some(vec![at(5)]), 0));
}
