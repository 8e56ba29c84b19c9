//! What the daemon answers over HTTP: probes, load balancers' questions, and its own configuration.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lab::http::{Reply, ask, get};
use lab::manifest::{State, node};
use lab::netns::Netns;
use lab::{Daemon, Node, wait};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::nftables::nft;
use crate::stage::{Stage, web_as};

const PATIENCE: Duration = Duration::from_secs(30);
const HEALTH: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10256);
const HEALTH6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 10256);
const METRICS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 10249);
/// Where load balancers ask for `web`.
const CHECK: u16 = 32_100;

fn status(node: &Node, path: &str) -> u16 {
    get(node.netns(), HEALTH, path).unwrap().status
}

/// `/healthz`, `/livez` and `/readyz`.
fn probes(node: &Node) -> [u16; 3] {
    ["/healthz", "/livez", "/readyz"].map(|path| status(node, path))
}

fn wait_probes(node: &Node, expected: [u16; 3]) {
    wait::until("the probes", PATIENCE, || {
        let found = probes(node);
        ensure!(found == expected, "{found:?}, not {expected:?}");
        Ok(())
    })
    .unwrap();
}

fn refuses(node: &Node, at: SocketAddr) -> bool {
    node.netns().run(|| Ok(TcpStream::connect(at).is_err())).unwrap()
}

impl Stage {
    /// `web` is a load balancer's, local, and has these endpoints here.
    fn balanced(&self, port: u16, policy: &str, states: &[State]) {
        let text = web_as(
            |service| {
                let service = service.set("type", "LoadBalancer").set("externalTrafficPolicy", policy);
                if policy == "Local" { service.set("healthCheckNodePort", port) } else { service }
            },
            |slice, _| {
                let endpoint = |slice: lab::manifest::Slice, (number, state): (u8, &State)| {
                    slice.endpoint(IpAddr::from([10, 1, 1, 100 + number]), *state).on(self.node.name())
                };
                let far = slice.ready(Ipv4Addr::new(10, 1, 2, 2)).on("n2");
                (0..).zip(states).fold(far, endpoint)
            },
        );
        // The slice of the other family has addresses that are none, and is named as a problem.
        let v4_only = text.split("---\n").take(2).collect::<Vec<_>>().join("---\n");
        self.manifests.put("web.yaml", v4_only).unwrap();
    }

    fn probed(&self, arguments: &[&str]) -> Daemon {
        self.node.daemon(self.settings().with(arguments)).unwrap()
    }

    /// Waits until a load balancer is answered so at this address of the node.
    fn wait_check(&self, address: IpAddr, count: u64, status: u16) -> Reply {
        wait::until("a load balancer's answer", PATIENCE, || {
            let reply = get(self.node.netns(), SocketAddr::new(address, CHECK), "/any/path?at=all")?;
            let found = (reply.json()?["localEndpoints"].as_u64(), reply.status);
            ensure!(found == (Some(count), status), "{reply:?}");
            Ok(reply)
        })
        .unwrap()
    }

    fn wait_refused(&self, at: SocketAddr) {
        wait::until("a port to be closed", PATIENCE, || {
            ensure!(refuses(&self.node, at), "{at} still answers");
            Ok(())
        })
        .unwrap();
    }
}

#[test]
fn probes_follow_the_node_and_the_configuration_can_be_read() {
    let stage = Stage::new();
    stage.manifests.put("node.yaml", node("n1", "a").to_string()).unwrap();
    let _daemon = stage.probed(&["--cluster-cidr=10.1.0.0/16"]);
    wait_probes(&stage.node, [200, 200, 200]);
    assert_eq!(status(&stage.node, "/"), 404);
    assert_eq!(
        get(stage.node.netns(), HEALTH6, "/healthz").unwrap().status,
        200,
        "both families, as kube-proxy"
    );
    let outside = SocketAddr::new(stage.node.v4().into(), HEALTH.port());
    assert_eq!(get(stage.client.netns(), outside, "/healthz").unwrap().status, 200, "for load balancers");

    let mut leaving = node("n1", "a");
    leaving["spec"] =
        json!({ "taints": [{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }] });
    stage.manifests.put("node.yaml", leaving.to_string()).unwrap();
    wait_probes(&stage.node, [503, 200, 200]);
    let body = get(stage.node.netns(), HEALTH, "/healthz").unwrap().json().unwrap();
    assert_eq!((&body["nodeEligible"], &body["healthy"]), (&json!(false), &json!(true)), "{body:#}");
    stage.manifests.put("node.yaml", node("n1", "a").to_string()).unwrap();
    wait_probes(&stage.node, [200, 200, 200]);

    let of = |path| get(stage.node.netns(), METRICS, path).unwrap();
    assert_eq!((of("/healthz").body.as_str(), of("/proxyMode").body.as_str()), ("ok", "iptables"));
    let config = of("/configz").json().unwrap()["kubeproxy.config.k8s.io"].take();
    assert_eq!(config["kind"], "KubeProxyConfiguration", "{config:#}");
    assert_eq!(config["clusterCIDR"], "10.1.0.0/16", "{config:#}");
    let metrics = of("/metrics").body;
    for line in [
        "kubeproxy_proxy_healthz_total{code=\"503\"} ",
        "kubeproxy_proxy_livez_total{code=\"200\"} ",
        "sluice_synced 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    assert!(refuses(&stage.node, SocketAddr::new(stage.node.v4().into(), METRICS.port())), "loopback only");
}

#[test]
fn while_the_kernel_refuses_a_change_probes_fail_after_twice_the_period_and_not_before() {
    let stage = Stage::new();
    let mut daemon = stage.probed(&["--dataplane=nftables", "--iptables-sync-period=2s"]);
    wait_probes(&stage.node, [200, 200, 200]);
    // Somebody else's tables under all names that ours could have.
    let names = ["sluice", "sluice-2"];
    let foreign = |verb: &str| {
        let lines = names.map(|name| format!("{verb} table ip {name}; ")).concat();
        nft(&stage.node, &[&lines]);
    };
    nft(&stage.node, &["delete table ip sluice; add table ip sluice; add table ip sluice-2"]);
    let begun = Instant::now();
    wait_probes(&stage.node, [200, 200, 503]);
    wait_probes(&stage.node, [503, 503, 503]);
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    let ready = get(stage.node.netns(), HEALTH, "/readyz").unwrap().json().unwrap();
    let blockers = ready["blockers"].as_array().unwrap();
    assert!(blockers.iter().any(|one| one.to_string().contains("the kernel refuses")), "{ready:#}");
    foreign("delete");
    wait_probes(&stage.node, [200, 200, 200]);
    assert!(daemon.errors().iter().all(|line| line.contains("could not program the kernel")));
}

/// Stops all threads of a process but those of this name, by tracing them: a signal would stop all.
fn stop_but(pid: i32, name: &str) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let others = tasks.filter(|task| std::fs::read_to_string(task.join("comm")).unwrap().trim() != name);
    let others: Vec<Pid> = others
        .map(|task| Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap()))
        .collect();
    for thread in &others {
        ptrace::seize(*thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(*thread).unwrap();
        waitpid(*thread, Some(WaitPidFlag::__WALL)).unwrap();
    }
    others
}

#[test]
fn while_the_loop_hangs_the_servers_say_so_by_themselves() {
    let stage = Stage::new();
    stage.balanced(CHECK, "Local", &[State::Ready]);
    let daemon = stage.probed(&["--iptables-sync-period=2s"]);
    let own = stage.node.v4().into();
    stage.wait_check(own, 1, 200);
    let stopped = stop_but(daemon.pid(), "http");
    assert!(stopped.len() >= 3, "the loop's runtime is stopped: {stopped:?}");
    assert_eq!(probes(&stage.node), [200, 200, 200], "it may be at work");
    wait_probes(&stage.node, [503, 503, 503]);
    let ready = get(stage.node.netns(), HEALTH, "/readyz").unwrap().body;
    assert!(ready.contains("the loop hangs"), "{ready}");
    stage.wait_check(own, 1, 503);
    stopped.iter().for_each(|thread| ptrace::detach(*thread, None).unwrap());
    wait_probes(&stage.node, [200, 200, 200]);
    stage.wait_check(own, 1, 200);
}

#[test]
fn load_balancers_are_told_of_ready_endpoints_here_and_of_nobody_else() {
    use State::{Draining, NotReady, Ready};
    let stage = Stage::new();
    let own = stage.node.v4().into();
    stage.balanced(CHECK, "Local", &[]);
    let _daemon = stage.probed(&[]);
    stage.wait_check(own, 0, 503);
    stage.balanced(CHECK, "Local", &[Ready, Ready, NotReady]);
    let reply = stage.wait_check(own, 2, 200);
    assert_eq!(reply.headers["X-Load-Balancing-Endpoint-Weight"], "2", "{reply:?}");
    assert_eq!(reply.json().unwrap()["serviceProxyHealthy"], true, "{reply:?}");
    let at6 = SocketAddr::new(stage.node.v6().into(), CHECK);
    let v6 = ask(stage.node.netns(), at6, "POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi").unwrap();
    assert_eq!((v6.status, &v6.json().unwrap()["localEndpoints"]), (503, &json!(0)), "a family has its own");
    stage.balanced(CHECK, "Local", &[Draining]);
    stage.wait_check(own, 0, 503);
    stage.balanced(CHECK, "Local", &[Ready]);
    stage.wait_check(own, 1, 200);
    stage.balanced(CHECK + 1, "Local", &[Ready]);
    stage.wait_refused(SocketAddr::new(own, CHECK));
    assert!(!refuses(&stage.node, SocketAddr::new(own, CHECK + 1)));
    stage.balanced(CHECK, "Cluster", &[Ready]);
    stage.wait_refused(SocketAddr::new(own, CHECK + 1));
    stage.balanced(CHECK, "Local", &[Ready]);
    stage.wait_check(own, 1, 200);
}

#[test]
fn load_balancers_ask_at_the_addresses_of_node_ports() {
    let stage = Stage::new();
    let range = format!("--nodeport-addresses={}/32", stage.node.v4());
    stage.balanced(CHECK, "Local", &[State::Ready]);
    let _daemon = stage.probed(&[&range]);
    stage.wait_check(stage.node.v4().into(), 1, 200);
    assert!(refuses(&stage.node, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), CHECK)));
}

fn taken(netns: &Netns, at: SocketAddr) -> TcpListener {
    netns.run(|| Ok(TcpListener::bind(at)?)).unwrap()
}

#[test]
fn a_taken_port_is_named_costs_nobody_else_anything_and_is_had_when_it_is_free() {
    let stage = Stage::new();
    let (own, any) = (stage.node.v4().into(), IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let [holder, other] = [SocketAddr::new(any, CHECK), HEALTH].map(|at| taken(stage.node.netns(), at));
    stage.balanced(CHECK, "Local", &[State::Ready]);
    let daemon = stage.probed(&[]);
    daemon.wait_log(&["could not listen"]).unwrap();
    let message = stage.node.wait_problem("Service default/web", "spec.healthCheckNodePort").unwrap();
    assert!(message.contains("0.0.0.0:32100") && message.contains("in use"), "{message}");
    // The other family of the same Service has what it needs.
    let at6 = SocketAddr::new(stage.node.v6().into(), CHECK);
    assert_eq!(get(stage.node.netns(), at6, "/").unwrap().status, 503);
    assert_eq!(get(stage.node.netns(), METRICS, "/healthz").unwrap().body, "ok");
    drop((holder, other));
    stage.wait_check(own, 1, 200);
    wait::until("the probes' port", PATIENCE, || get(stage.node.netns(), HEALTH, "/livez")).unwrap();
    wait::until("no problem", PATIENCE, || no_problem(&stage.node, "spec.healthCheckNodePort")).unwrap();
}

fn no_problem(node: &Node, field: &str) -> Result<()> {
    let status = node.status()?;
    let problems = status["problems"].as_array().into_iter().flatten();
    ensure!(problems.map(|one: &Value| &one["field"]).all(|found| found != field), "{status:#}");
    Ok(())
}

#[test]
fn a_taken_address_ends_the_daemon_where_that_is_asked_for_and_no_address_is_no_server() {
    let stage = Stage::new();
    let holder = taken(stage.node.netns(), METRICS);
    let settings = stage.settings().with(&["--bind-address-hard-fail"]);
    let mut daemon = stage.node.daemon_unsynced(settings).unwrap();
    let (code, log) = daemon.gives_up().unwrap();
    assert_eq!(code, Some(1), "{log}");
    for part in ["127.0.0.1:10249", "--metrics-bind-address", "metricsBindAddress", "in use"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    drop(holder);
    let _daemon =
        stage.probed(&["--healthz-port=0", "--metrics-bind-address=10.0.0.1", "--bind-address-hard-fail"]);
    assert!(refuses(&stage.node, HEALTH) && refuses(&stage.node, METRICS));
    let at = SocketAddr::new(stage.node.v4().into(), METRICS.port());
    assert_eq!(get(stage.node.netns(), at, "/healthz").unwrap().body, "ok");
}

/// Many more than are served at a time.
const CROWD: usize = 800;

/// The daemon's memory, in kilobytes.
fn memory(daemon: &Daemon) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn open_files(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

#[test]
fn clients_that_never_end_hold_up_nobody() {
    let stage = Stage::new();
    let mut daemon = stage.probed(&[]);
    wait_probes(&stage.node, [200, 200, 200]);
    let (before, files) = (memory(&daemon), open_files(&daemon));
    let at = [HEALTH, METRICS];
    let crowd: Vec<TcpStream> = stage
        .node
        .netns()
        .run(|| {
            let one = |number: usize| {
                let mut stream = TcpStream::connect(at[number % 2])?;
                // Half of a request, a long head, or nothing.
                let begun: &[u8] =
                    if number.is_multiple_of(3) { b"GET /healthz HTTP/1.1\r\nA: " } else { b"" };
                stream.write_all(begun)?;
                if number % 3 == 1 {
                    // The server may hang up in the middle of it.
                    let _ = stream.write_all(&[b'a'; 7000]);
                }
                Ok(stream)
            };
            (0..CROWD).map(one).collect()
        })
        .unwrap();
    for _ in 0..20 {
        let asked = Instant::now();
        assert_eq!(probes(&stage.node), [200, 200, 200]);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    }
    let held = open_files(&daemon) - files;
    assert!(held <= 2 * 128 + 8, "{held} connections are held");
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} kB more");
    let long = format!("GET /healthz HTTP/1.1\r\nA: {}\r\n\r\n", "a".repeat(10_000));
    let reply = ask(stage.node.netns(), HEALTH, &long).map(|reply| reply.status).unwrap_or(431);
    assert_eq!(reply, 431, "too long a head");
    let asked = Instant::now();
    assert!(daemon.terminate().unwrap().success());
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(crowd);
}
