//! Side by side with kube-proxy in the same situation: what both answer to probes and to load balancers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::ensure;
use lab::http::{Reply, ask, get};
use lab::kube_proxy::KubeProxy;
use lab::netns::Netns;
use lab::{Daemon, Lab, Node, wait};
use serde_json::{Value, json};

use crate::stage::{Stage, shared};

const PATIENCE: Duration = Duration::from_secs(30);
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
const CHECK: u16 = 32_150;

/// Requests whose answers are compared.
const PROBES: [(SocketAddr, &str); 10] = [
    (HEALTH, "GET /healthz HTTP/1.0\r\n\r\n"),
    (HEALTH, "GET /livez HTTP/1.0\r\n\r\n"),
    (HEALTH, "HEAD /healthz HTTP/1.0\r\n\r\n"),
    (HEALTH, "POST /livez HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi"),
    (HEALTH, "GET /livez/ HTTP/1.0\r\n\r\n"),
    (HEALTH, "GET / HTTP/1.0\r\n\r\n"),
    (METRICS, "GET /healthz HTTP/1.0\r\n\r\n"),
    (METRICS, "GET /proxyMode HTTP/1.0\r\n\r\n"),
    (METRICS, "GET /livez HTTP/1.0\r\n\r\n"),
    (METRICS, "GET / HTTP/1.0\r\n\r\n"),
];

/// Two nodes, one with each.
struct Pair {
    stage: Stage,
    other: Node,
    rival: KubeProxy,
    _daemon: Daemon,
    _lab: Lab,
}

impl Pair {
    fn new() -> Self {
        let stage = Stage::new(shared(), "health");
        let lab = Lab::on(shared().wire()).unwrap();
        let other = lab.node("health-rival").unwrap();
        let nodes = [&stage.node, &other].map(|node| {
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() },
                "status": { "addresses": [{ "type": "InternalIP", "address": node.v4() },
                    { "type": "InternalIP", "address": node.v6() }] } })
        });
        stage.objects.apply_with_status(&nodes).unwrap();
        let configuration = json!({ "healthzBindAddress": "0.0.0.0:10256" });
        let rival = KubeProxy::start(&other, &shared().admin_kubeconfig(), &configuration).unwrap();
        let settings = stage.settings(shared(), "kube-system", "sluice").with(&["--proxy-mode=nftables"]);
        let daemon = stage.node.daemon(settings).unwrap();
        Self { stage, other, rival, _daemon: daemon, _lab: lab }
    }

    /// Marks both Nodes, or takes the mark away.
    fn taints(&self, taints: &Value) {
        for node in [&self.stage.node, &self.other] {
            let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() } });
            self.stage.objects.merge(&object, &json!({ "spec": { "taints": taints } })).unwrap();
        }
    }

    /// Waits until both answer this status at `/healthz`, then compares everything.
    fn agree(&self, status: u16) {
        for node in [&self.stage.node, &self.other] {
            wait::until("the status of /healthz", PATIENCE, || {
                let reply = get(node.netns(), HEALTH, "/healthz")?;
                ensure!(reply.status == status, "{reply:?}");
                Ok(())
            })
            .unwrap();
        }
        for (at, request) in PROBES {
            let of = |netns: &Netns| masked(ask(netns, at, request).unwrap());
            assert_eq!(of(self.stage.node.netns()), of(self.other.netns()), "{request:?} at {at}");
        }
    }

    /// Waits until both say the same to a load balancer, with so many endpoints.
    fn agree_at_the_port(&self, count: u64) {
        let said = |node: &Node, address: IpAddr| {
            wait::until("a load balancer's answer", PATIENCE, || {
                let request = "GET /any?thing HTTP/1.0\r\n\r\n";
                let reply = ask(node.netns(), SocketAddr::new(address, CHECK), request)?;
                ensure!(reply.json()?["localEndpoints"] == count, "{reply:?}");
                Ok(masked(reply))
            })
            .unwrap()
        };
        let (ours, theirs) = (&self.stage.node, &self.other);
        assert_eq!(said(ours, ours.v4().into()), said(theirs, theirs.v4().into()));
    }

    /// A load balancer's Service with endpoints on both nodes.
    fn balanced(&self, counts: [u8; 2]) {
        let namespace = self.stage.namespace();
        let service = json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "web", "namespace": namespace },
            "spec": { "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": CHECK,
                "ports": [{ "name": "tcp", "protocol": "TCP", "port": 80 }] } });
        let mut slice = self.stage.slice("web", &[]);
        let names = [self.stage.node.name(), self.other.name()];
        let endpoints = names.iter().zip(counts).zip(1_u8..).flat_map(|((name, count), third)| {
            let one = move |last| json!({ "addresses": [Ipv4Addr::new(10, 1, 100 + third, last)], "nodeName": *name });
            (1..=count).map(one)
        });
        slice["endpoints"] = endpoints.collect();
        self.stage.objects.apply(&[service, slice]).unwrap();
    }
}

/// Without what differs between any two moments. The length stays where it does not depend on a time.
fn masked(reply: Reply) -> (u16, BTreeMap<String, String>, String) {
    let Reply { status, mut headers, body } = reply;
    if headers.remove("Date").is_none() {
        headers.insert("Date".to_owned(), "is missing".to_owned());
    }
    let is_timed = body.contains("lastUpdated") || body.is_empty();
    if let Some(length) = headers.get_mut("Content-Length").filter(|_| is_timed) {
        // Times have up to nine digits behind the point.
        *length = format!("about {}", length.parse::<usize>().unwrap() / 100);
    }
    (status, headers, times(&body))
}

/// Every time in RFC 3339 becomes a word; its form is checked.
fn times(body: &str) -> String {
    let pieces = body.split('"').map(|piece| {
        let is_time = piece.starts_with("20") && piece.contains('T') && piece.ends_with('Z');
        if is_time { "TIME" } else { piece }
    });
    pieces.collect::<Vec<_>>().join("\"")
}

#[test]
fn probes_and_load_balancers_are_answered_as_kube_proxy_answers_them() {
    let mut pair = Pair::new();
    pair.rival.settled().unwrap();
    pair.agree(200);
    let key = "ToBeDeletedByClusterAutoscaler";
    pair.taints(&json!([{ "key": key, "effect": "NoSchedule" }]));
    pair.agree(503);
    pair.balanced([0, 0]);
    pair.agree_at_the_port(0);
    pair.balanced([2, 2]);
    pair.agree_at_the_port(2);
    pair.taints(&json!([{ "key": "other", "effect": "NoSchedule" }]));
    pair.agree(200);
    pair.agree_at_the_port(2);
}
