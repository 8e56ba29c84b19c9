//! What a connection through a service address costs, beside one to the endpoint itself.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lab::cgroup::Cgroup;
use lab::process::Process;
use lab::{Daemon, Lab, Node, Pod, Settings};
use serde_json::{Value, json};

use super::{Bench, lab, retire};
use crate::cluster::Cluster;
use crate::report::{Better, Report, Row, Title};
use crate::rival::{self, Rival};
use crate::shapes::{self, Format};
use crate::traffic::{self, Client, Deed, NOBODY, SERVER_CORE, SHORT, STREAM};

const SUITE: &str = "connect";
/// The service that is connected to.
const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// How much is measured.
struct Amount {
    /// Other services beside the one that is used.
    services: u32,
    rounds: u32,
    /// Of one turn. Many short turns: what else the machine does then hits all lanes alike.
    time: Duration,
    /// Of `connect()` in one turn.
    calls: u32,
}

/// Who connects, and whereto.
struct Stage {
    clients: Vec<Client>,
    /// A control group without programs.
    bare: Arc<Cgroup>,
    node: Node,
    server: SocketAddr,
    rival: Option<(Node, SocketAddr)>,
}

/// A way to the server. One client takes both of a node: it changes its control group between turns, because two processes
/// are never equally fast.
struct Lane {
    client: usize,
    group: PathBuf,
    to: SocketAddr,
}

/// The client on the daemon's node.
const OURS: usize = 0;
/// The client on the rival's.
const THEIRS: usize = 1;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let cluster = cluster.get()?.map(|cluster| &*cluster);
    let (services, rounds) = if *quick { (1_000, 20) } else { (10_000, 60) };
    let amount = Amount { services, rounds, time: Duration::from_millis(150), calls: 100_000 };
    let lab = lab(cluster)?;
    let node = lab.node("sluice")?;
    let (client, server) = (node.pod("client")?, node.pod("server")?);
    let _server = traffic::serve(&server.place(), SERVER_CORE)?;
    let daemon = start_daemon(&node, &server, amount.services)?;
    let (clients, bare) = (vec![Client::start(&client.place())?], Arc::new(Cgroup::new()?));
    let mut stage = Stage { clients, bare, node, server: server.at(SHORT), rival: None };
    let _rival = cluster.map(|cluster| start_rival(&lab, cluster, &mut stage)).transpose()?;
    eprintln!("measuring connections: {} rounds", amount.rounds);
    rates(&mut stage, &amount, report)?;
    bulks(&mut stage, &amount, report)?;
    datagrams(&mut stage, &amount, report)?;
    retire(daemon)
}

fn start_daemon(node: &Node, server: &Pod, services: u32) -> Result<Daemon> {
    let folder = node.folder().join("manifests");
    shapes::fill(&folder, services, Format::Json)?;
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": target(server) });
    std::fs::write(folder.join("target.json"), list.to_string())?;
    node.daemon(Settings::folder(&folder))
}

/// What must stay alive while the rival is measured.
struct RivalSide {
    _rival: Rival,
    _server: Process,
}

fn start_rival(lab: &Lab, cluster: &Cluster, stage: &mut Stage) -> Result<RivalSide> {
    let node = lab.node("rival")?;
    let (client, server) = (node.pod("client")?, node.pod("server")?);
    let process = traffic::serve(&server.place(), SERVER_CORE)?;
    cluster.apply(&target(&server))?;
    let mut rival = Rival::start(node.clone(), cluster)?;
    rival.synced(1)?;
    stage.clients.push(Client::start(&client.place())?);
    stage.rival = Some((node, server.at(SHORT)));
    Ok(RivalSide { _rival: rival, _server: process })
}

/// The service, and its one endpoint.
fn target(server: &Pod) -> [Value; 2] {
    let ports = [("short", "TCP", 80, SHORT), ("stream", "TCP", 81, STREAM), ("datagram", "UDP", 80, NOBODY)];
    let service = ports.map(|(name, protocol, port, target)| {
        json!({ "name": name, "protocol": protocol, "port": port, "targetPort": target })
    });
    let slice =
        ports.map(|(name, protocol, _, port)| json!({ "name": name, "protocol": protocol, "port": port }));
    [
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": "target", "namespace": "default" },
            "spec": { "clusterIP": SERVICE, "clusterIPs": [SERVICE], "ports": service },
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "target-1",
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": "target" },
            },
            "addressType": "IPv4",
            "ports": slice,
            "endpoints": [{ "addresses": [server.v4()], "conditions": { "ready": true } }],
        }),
    ]
}

fn at(address: impl Into<std::net::IpAddr>, port: u16) -> SocketAddr {
    SocketAddr::new(address.into(), port)
}

fn rates(stage: &mut Stage, amount: &Amount, report: &mut Report) -> Result<()> {
    let figures = through(stage, Deed::Rate(amount.time), amount.rounds, SHORT, 80)?;
    compare("rate", "/s", &figures).into_iter().for_each(|row| report.add(row));
    Ok(())
}

fn bulks(stage: &mut Stage, amount: &Amount, report: &mut Report) -> Result<()> {
    let figures = through(stage, Deed::Bulk(amount.time), amount.rounds / 2, STREAM, 81)?;
    compare("bulk", "Gbit/s", &figures).into_iter().for_each(|row| report.add(row));
    Ok(())
}

/// Directly and through the service, with the daemon and with the rival, in turns.
fn through(stage: &mut Stage, deed: Deed, rounds: u32, port: u16, service: u16) -> Result<Vec<Vec<f64>>> {
    let (direct, vip) = (at(stage.server.ip(), port), at(SERVICE, service));
    let mut lanes = vec![stage.bare_lane(direct), stage.served_lane(vip), stage.served_lane(direct)];
    if let Some((node, server)) = &stage.rival {
        let lane = |to| Lane { client: THEIRS, group: node.cgroup().path().to_owned(), to };
        lanes.extend([lane(at(server.ip(), port)), lane(vip)]);
    }
    in_turns(&mut stage.clients, &lanes, deed, rounds)
}

impl Stage {
    /// From where no program sees it.
    fn bare_lane(&self, to: SocketAddr) -> Lane {
        Lane { client: OURS, group: self.bare.path().to_owned(), to }
    }

    /// From where the daemon's programs see it.
    fn served_lane(&self, to: SocketAddr) -> Lane {
        Lane { client: OURS, group: self.node.cgroup().path().to_owned(), to }
    }
}

/// One figure a lane and round. Every other round goes backwards, so that no lane is always the warm one.
fn in_turns(clients: &mut [Client], lanes: &[Lane], deed: Deed, rounds: u32) -> Result<Vec<Vec<f64>>> {
    let mut figures = vec![Vec::new(); lanes.len()];
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..lanes.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for lane in order {
            let Lane { client, group, to } = &lanes[lane];
            clients[*client].enter(group)?;
            figures[lane].push(clients[*client].measure(deed, *to)?);
        }
    }
    Ok(figures)
}

fn title(case: &str, subject: &'static str, unit: &'static str) -> Title {
    Title { suite: SUITE, case: case.to_owned(), subject, unit }
}

/// Rows for what [`through`] measured.
fn compare(case: &str, unit: &'static str, figures: &[Vec<f64>]) -> Vec<Row> {
    let better = Better::Higher;
    let [direct, socket, passed, rest @ ..] = figures else { return Vec::new() };
    let mut rows = vec![
        title(case, "direct", unit).alone(direct),
        title(case, "socket", unit).against("direct", better, socket, direct),
        title(case, "socket-not-ours", unit).against("direct", better, passed, direct),
    ];
    if let [direct, rival] = rest {
        rows.push(title(case, rival::NAME, unit).against("direct", better, rival, direct));
        rows.push(title(case, "socket", unit).against(rival::NAME, better, socket, rival));
    }
    rows
}

/// What the hooks add to a `connect()` whose address is no service's, to one whose address is, and to the whole life of
/// a socket that needs a memory of the service it asked for.
fn datagrams(stage: &mut Stage, amount: &Amount, report: &mut Report) -> Result<()> {
    let (nobody, service) = (at(stage.server.ip(), NOBODY), at(SERVICE, 80));
    let calls = Deed::Datagram(amount.calls);
    added(stage, ["miss", "miss-added"], calls, [nobody, nobody], amount.rounds, report)?;
    added(stage, ["hit", "hit-added"], calls, [nobody, service], amount.rounds, report)?;
    let sockets = Deed::Fresh(amount.calls / 4);
    added(stage, ["fresh", "fresh-added"], sockets, [nobody, service], amount.rounds, report)
}

fn added(
    stage: &mut Stage,
    [case, difference]: [&str; 2],
    deed: Deed,
    [bare, hooked]: [SocketAddr; 2],
    rounds: u32,
    report: &mut Report,
) -> Result<()> {
    let lanes = [stage.bare_lane(bare), stage.served_lane(hooked)];
    let figures = in_turns(&mut stage.clients, &lanes, deed, rounds)?;
    let [without, with] = &figures[..] else { return Ok(()) };
    let more: Vec<f64> = with.iter().zip(without).map(|(with, without)| with - without).collect();
    report.add(title(case, "direct", "ns").alone(without));
    report.add(title(case, "socket", "ns").against("direct", Better::Lower, with, without));
    report.add(title(difference, "socket", "ns").alone(&more));
    Ok(())
}
