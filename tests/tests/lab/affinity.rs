//! `sessionAffinity: ClientIP`: a client comes back to its endpoint.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use lab::manifest::{Service, Slice, file};
use lab::{Pod, Protocol};

use crate::stage::{PORT, Stage, V4, V6, WEB4, WEB6, addresses, names, pods, web_as};

/// Ports of the Service `many`. Each is a draw of its own: that all of them come out the same twice by chance among four
/// endpoints happens once in sixteen million.
const DRAWS: u16 = 12;

/// What one pod got at each port of `many`.
type Draw = Vec<String>;

/// A Service of many ports, all of which lead to the same pods.
fn many(seconds: u32, pods: &[&Pod]) -> String {
    let name = |number: u16| format!("p{number}");
    let service = (0..DRAWS).fold(Service::new("many", &[V4, V6]).sticky(seconds), |service, number| {
        service.port(&name(number), "TCP", 80 + number)
    });
    let ports = |slice: Slice| (0..DRAWS).fold(slice, |slice, number| slice.port(&name(number), "TCP", PORT));
    let v4 = pods.iter().fold(ports(Slice::v4("many-4", "many")), |slice, pod| slice.ready(pod.v4()));
    let v6 = pods.iter().fold(ports(Slice::v6("many-6", "many")), |slice, pod| slice.ready(pod.v6()));
    file(&[service.object(), v4.object(), v6.object()])
}

fn draw(client: &Pod, ip: IpAddr) -> Draw {
    let one = |number| {
        let answer = client.call(Protocol::Tcp, SocketAddr::new(ip, 80 + number)).unwrap();
        assert!(answer.ok, "{answer:?}");
        answer.name
    };
    (0..DRAWS).map(one).collect()
}

impl Stage {
    /// Puts `many` there and waits until the kernel has it.
    fn many(&self, seconds: u32, pods: &[&Pod]) {
        self.manifests.put("many.yaml", many(seconds, pods)).unwrap();
        self.node.wait_active("default", "many", &addresses(pods)).unwrap();
        self.node.wait_affinity("default", "many", Some(seconds)).unwrap();
    }

    pub(crate) fn sticky_web(&self, seconds: Option<u32>, pods: &[&Pod]) {
        let text = web_as(
            |service| match seconds {
                Some(seconds) => service.sticky(seconds),
                None => service.set("sessionAffinity", "None"),
            },
            |slice, ip| pods.iter().fold(slice, |slice, pod| slice.ready(ip(pod))),
        );
        self.manifests.put("web.yaml", text).unwrap();
        self.node.wait_active("default", "web", &addresses(pods)).unwrap();
        self.node.wait_affinity("default", "web", seconds).unwrap();
    }
}

const FOUR: [&str; 4] = ["a", "b", "c", "d"];

#[test]
fn a_client_stays_with_its_endpoint_at_each_port_and_another_client_has_its_own() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let other = stage.node.pod("other").unwrap();
    let _daemon = stage.daemon();
    stage.many(60, &pods(&backends));
    let (mine, others) = (draw(&stage.client, V4), draw(&other, V4));
    let mine6 = draw(&stage.client, V6);
    assert_ne!(mine, others, "two clients are independent");
    assert_ne!(mine, mine6, "and so are two families");
    assert!(mine.iter().any(|name| *name != mine[0]), "and two ports of one Service: {mine:?}");
    for _ in 0..3 {
        assert_eq!((draw(&stage.client, V4), draw(&other, V4)), (mine.clone(), others.clone()));
    }
    assert_eq!(draw(&stage.client, V6), mine6);
}

#[test]
fn connections_and_datagrams_of_every_kind_stay() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let _daemon = stage.daemon();
    stage.sticky_web(Some(60), &pods(&backends));
    for to in [WEB4, WEB6] {
        for kinds in [[Protocol::Tcp, Protocol::Http], [Protocol::Udp, Protocol::UdpConnected]] {
            // Each call has a socket, and so a source port, of its own.
            let mut answers = kinds.map(|kind| stage.client.calls(kind, to, 20).unwrap()).concat();
            answers.extend(stage.client.talk(kinds[0], to, 5).unwrap());
            assert_eq!(names(&answers).len(), 1, "{kinds:?} {to}");
        }
    }
}

/// Seconds for the test of time.
const SHORT: u32 = 2;

#[test]
fn the_time_counts_from_the_last_flow_and_then_the_client_is_free() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let _daemon = stage.daemon();
    stage.many(SHORT, &pods(&backends));
    // A busy machine may be late; then nothing was shown, and it begins again.
    let slid = (0..5).find_map(|_| slides(&stage)).expect("a machine that is in time, once in five times");
    sleep(Duration::from_secs(SHORT.into()) + Duration::from_millis(200));
    assert_ne!(draw(&stage.client, V4), slid, "after the time each port is drawn anew");
}

/// Calls for longer than the time, without a pause that is as long. `None` if there was one.
fn slides(stage: &Stage) -> Option<Draw> {
    let limit = Duration::from_secs(SHORT.into());
    let began = Instant::now();
    let (mut from, first) = (began, draw(&stage.client, V4));
    while began.elapsed() < limit + Duration::from_millis(500) {
        sleep(Duration::from_millis(600));
        let start = Instant::now();
        let again = draw(&stage.client, V4);
        // From the beginning of one round to the end of the next.
        if from.elapsed() >= limit {
            return None;
        }
        assert_eq!(again, first, "after {:?}", began.elapsed());
        from = start;
    }
    Some(first)
}

#[test]
fn a_client_whose_endpoint_goes_gets_another_one_and_stays_with_that() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let _daemon = stage.daemon();
    stage.many(60, &pods(&backends));
    let before = draw(&stage.client, V4);
    let (gone, left): (Vec<_>, Vec<_>) = pods(&backends).into_iter().partition(|pod| pod.name() == before[0]);
    stage.many(60, &left);
    let after = draw(&stage.client, V4);
    assert!(after.iter().all(|name| name != gone[0].name()), "{after:?}");
    let kept = |(before, after): (&String, &String)| before == after || before == gone[0].name();
    assert!(before.iter().zip(&after).all(kept), "who was not affected stays: {before:?} {after:?}");
    assert_eq!(draw(&stage.client, V4), after, "the new one is kept");
    stage.many(60, &pods(&backends));
    assert_eq!(draw(&stage.client, V4), after, "also when the first one comes back");
}

#[test]
fn affinity_is_switched_on_and_off() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let _daemon = stage.daemon();
    let reached = |client: &Pod, protocol, to| {
        let answers = client.calls(protocol, to, 40).unwrap();
        names(&answers).len()
    };
    for (at, (seconds, count)) in [(None, 2), (Some(60), 1), (None, 2)].into_iter().enumerate() {
        stage.sticky_web(seconds, &pods(&backends));
        // Of 40 and 40 datagrams two may be from the same port, and that is one flow: it keeps what it has.
        let client = stage.node.pod(&format!("client-{at}")).unwrap();
        assert_eq!(
            (reached(&client, Protocol::Tcp, WEB4), reached(&client, Protocol::Udp, WEB6)),
            (count, count),
            "{seconds:?}"
        );
    }
}

#[test]
fn a_client_stays_while_the_daemon_ends_by_whatever_way_and_starts_again() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let mut daemon = stage.daemon();
    stage.many(60, &pods(&backends));
    let before = draw(&stage.client, V4);
    daemon.kill9().unwrap();
    assert_eq!(draw(&stage.client, V4), before, "without a daemon");
    daemon.restart().unwrap();
    assert_eq!(draw(&stage.client, V4), before, "with the next one");
    assert!(daemon.terminate().unwrap().success());
    daemon.restart().unwrap();
    assert_eq!(draw(&stage.client, V4), before, "after an orderly end");
}
