//! `internalTrafficPolicy: Local`: clients reach endpoints of their own node, or none.

use std::time::Duration;

use lab::manifest::{Service, Slice, State};
use lab::{Daemon, Node, Pod, Protocol};

use crate::stage::{Backend, PORT, Stage, WEB4, WEB6, addresses, names, web_as};

/// Two nodes, each with a daemon, a client, and a pod that may be an endpoint of `web`.
struct Two {
    stage: Stage,
    near: Backend,
    distant: Node,
    distant_client: Pod,
    far: Backend,
    _daemons: [Daemon; 2],
}

/// What a client experiences.
#[derive(Clone, Copy)]
enum Fate {
    /// This one answers, and nobody else.
    Only(&'static str),
    /// At once, nobody serves.
    Refused,
    /// Nobody serves here: no answer, which is not the same as a refusal.
    Nothing,
}

/// Every family and every way to ask.
const WAYS: [(Protocol, std::net::SocketAddr); 4] =
    [(Protocol::Tcp, WEB4), (Protocol::UdpConnected, WEB4), (Protocol::Http, WEB6), (Protocol::Udp, WEB6)];

impl Two {
    fn new() -> Self {
        let stage = Stage::of_ebpf();
        let distant = stage.lab.node("n2").unwrap();
        let distant_client = distant.pod("distant-client").unwrap();
        let pod = distant.pod("far").unwrap();
        let far = Backend { _server: pod.serve(PORT).unwrap(), pod };
        let near = stage.backend("near");
        let daemons = [stage.daemon(), distant.daemon(stage.settings()).unwrap()];
        Self { stage, near, distant, distant_client, far, _daemons: daemons }
    }

    /// Names the two pods as endpoints, or not, and expects something for clients of both nodes.
    fn check(&self, near: Option<State>, far: Option<State>, here: Fate, there: Fate) {
        let add = |slice: Slice, address, state: Option<State>, node| match state {
            Some(state) => slice.endpoint(address, state).on(node),
            None => slice,
        };
        let text = web_as(Service::local, |slice, ip| {
            let slice = add(slice, ip(&self.near.pod), near, "n1");
            add(slice, ip(&self.far.pod), far, "n2")
        });
        self.stage.manifests.put("web.yaml", text).unwrap();
        self.expect(&self.stage.node, &self.stage.client, here);
        self.expect(&self.distant, &self.distant_client, there);
    }

    fn expect(&self, node: &Node, client: &Pod, fate: Fate) {
        match fate {
            Fate::Only(name) => {
                let pod = [&self.near.pod, &self.far.pod].into_iter().find(|pod| pod.name() == name).unwrap();
                node.wait_active("default", "web", &addresses(&[pod])).unwrap();
                for (protocol, to) in WAYS {
                    let answers = client.calls(protocol, to, 12).unwrap();
                    assert_eq!(names(&answers), [name].into(), "{protocol:?} {to} from {}", client.name());
                }
            }
            Fate::Refused => {
                node.wait_verdict("default", "web", "reject").unwrap();
                for (protocol, to) in WAYS {
                    assert_eq!(client.call(protocol, to).unwrap().error, "ECONNREFUSED", "{protocol:?} {to}");
                }
            }
            Fate::Nothing => nothing(node, client),
        }
    }
}

fn nothing(node: &Node, client: &Pod) {
    node.wait_verdict("default", "web", "drop").unwrap();
    let before = node.counter("noLocalEndpoint").unwrap();
    for (protocol, to) in WAYS {
        let answer = client.call_within(protocol, to, Duration::from_millis(300)).unwrap();
        assert!(!answer.ok && answer.error != "ECONNREFUSED", "{protocol:?} {to}: {answer:?}");
    }
    let counted = node.counter("noLocalEndpoint").unwrap() - before;
    assert_eq!(counted, WAYS.len() as u64, "each call is counted once");
}

const READY: Option<State> = Some(State::Ready);
const DRAINING: Option<State> = Some(State::Draining);

#[test]
fn clients_reach_only_the_endpoints_of_their_own_node() {
    Two::new().check(READY, READY, Fate::Only("near"), Fate::Only("far"));
}

#[test]
fn where_only_other_nodes_serve_there_is_no_answer_and_where_nobody_serves_a_refusal() {
    let two = Two::new();
    two.check(None, READY, Fate::Nothing, Fate::Only("far"));
    two.check(READY, None, Fate::Only("near"), Fate::Nothing);
    two.check(Some(State::NotReady), READY, Fate::Nothing, Fate::Only("far"));
    two.check(None, None, Fate::Refused, Fate::Refused);
    two.check(READY, READY, Fate::Only("near"), Fate::Only("far"));
}

#[test]
fn a_node_falls_back_to_its_own_endpoints_that_end_but_serve_whatever_others_have() {
    let two = Two::new();
    two.check(DRAINING, READY, Fate::Only("near"), Fate::Only("far"));
    two.check(DRAINING, None, Fate::Only("near"), Fate::Nothing);
}
