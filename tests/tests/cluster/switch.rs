//! From kube-proxy to the daemon and back on a node at work: nobody loses a connection.

use std::net::SocketAddr;

use lab::client::{Load, Pace};
use lab::control_plane::part;
use lab::kube_proxy::KubeProxy;
use lab::{Pod, Protocol};
use serde_json::json;

use crate::stage::{Stage, shared};

const PORT: u16 = 8080;

/// A node that kube-proxy can work on, with two servers and a client.
struct Busy {
    stage: Stage,
    client: Pod,
    to: SocketAddr,
    _servers: [lab::Server; 2],
}

impl Busy {
    fn new(name: &str) -> Self {
        let stage = Stage::new(shared(), name);
        let (a, b) = (stage.node.pod("a").expect("a pod"), stage.node.pod("b").expect("a pod"));
        let servers = [a.serve(PORT).expect("a server"), b.serve(PORT).expect("a server")];
        let service = stage.bare_service("web");
        let addresses = [a.v4().to_string(), b.v4().to_string()];
        let slice = stage.slice("web", &addresses.each_ref().map(String::as_str));
        let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
            "status": { "addresses": [{ "type": "InternalIP", "address": stage.node.v4().to_string() }] } });
        stage.objects.apply_with_status(&[node, service.clone(), slice]).expect("the objects");
        let to = SocketAddr::new(stage.addresses(&service)[0], 80);
        Self { client: stage.node.pod("client").expect("a pod"), stage, to, _servers: servers }
    }

    fn kube_proxy(&self) -> KubeProxy {
        let kubeconfig = shared().admin_kubeconfig();
        let mut rival = KubeProxy::start(&self.stage.node, &kubeconfig, &json!({})).expect("kube-proxy");
        rival.settled().expect("a kube-proxy at rest");
        rival
    }

    /// Removes what kube-proxy left, as an operator does.
    fn clean_up_kube_proxy(&self) {
        let mut command = self.stage.node.place().command(part("kube-proxy").expect("kube-proxy"));
        let output = command.args(["--cleanup", "--proxy-mode=nftables"]).output().expect("kube-proxy");
        let tables = self.stage.node.place().command("nft").args(["list", "tables"]).output().expect("nft");
        let tables = String::from_utf8(tables.stdout).expect("a text");
        assert!(!tables.contains("kube-proxy"), "{tables}\n{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Connections that last, and new ones all the time.
    fn loads(&self) -> [Load; 3] {
        let lasting = Pace { keep: true, workers: 2, ..Pace::default() };
        let load = |protocol, pace| self.client.load(protocol, self.to, pace).expect("a load");
        [
            load(Protocol::Tcp, lasting),
            load(Protocol::Tcp, Pace::default()),
            load(Protocol::Http, Pace::default()),
        ]
    }
}

fn check(dataplane: &str, name: &str) {
    let busy = Busy::new(name);
    let node = &busy.stage.node;
    let rival = busy.kube_proxy();
    let loads = busy.loads();
    let go_on = || loads.iter().for_each(|load| drop(load.more(40).expect("the load to go on")));
    go_on();
    // The ports stay with kube-proxy, which is asked there.
    let arguments = [dataplane, "--healthz-port=0", "--metrics-port=0"];
    let settings = busy.stage.settings(shared(), "kube-system", "sluice").with(&arguments);
    let mut daemon = node.daemon(settings).expect("a synced daemon");
    go_on();
    drop(rival);
    busy.clean_up_kube_proxy();
    go_on();

    let rival = busy.kube_proxy();
    daemon.terminate().expect("its end");
    let output = node.sluice(&["cleanup"]).expect("sluice");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    go_on();
    drop(rival);
    for load in loads {
        let end = load.stop().expect("its end");
        assert_eq!(end.failed, 0, "{end:?}");
    }
}

#[test]
fn a_node_changes_from_kube_proxy_to_nftables_and_back_without_losing_a_connection() {
    check("--dataplane=nftables", "switch-nftables");
}

#[test]
fn a_node_changes_from_kube_proxy_to_ebpf_and_back_without_losing_a_connection() {
    check("--dataplane=ebpf", "switch-ebpf");
}
