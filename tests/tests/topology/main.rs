//! The laboratory itself: what the other tests stand on.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails: a panic has a stack")]

mod prober;

use std::io::BufRead as _;
use std::path::Path;
use std::time::Duration;

use lab::agent::Answer;
use lab::{Lab, Pace, Pod, Ports, Protocol, wait};

struct Pair {
    _lab: Lab,
    client: Pod,
    server: Pod,
}

fn pair(nodes: [&str; 2]) -> Pair {
    let lab = Lab::new().unwrap();
    let left = lab.node(nodes[0]).unwrap();
    let right = if nodes[0] == nodes[1] { left.clone() } else { lab.node(nodes[1]).unwrap() };
    Pair { client: left.pod("client").unwrap(), server: right.pod("server").unwrap(), _lab: lab }
}

fn check_answers(pair: &Pair) {
    let _server = pair.server.serve(8080).unwrap();
    for to in pair.server.both(8080) {
        for protocol in Protocol::ALL {
            let answer = pair.client.call(protocol, to).unwrap();
            let Answer { ok, name, source, peer, error, micros: _ } = &answer;
            assert!(ok, "{protocol:?} {to}: {error}");
            assert_eq!((name.as_str(), peer), ("server", &to.to_string()));
            let client = if to.is_ipv4() { pair.client.at(0) } else { pair.client.at6(0) };
            assert!(source.starts_with(client.to_string().trim_end_matches('0')), "{source} is not {client}");
        }
    }
}

#[test]
fn pods_of_one_node_reach_each_other_by_all_protocols() {
    check_answers(&pair(["n1", "n1"]));
}

#[test]
fn pods_of_two_nodes_reach_each_other_by_all_protocols() {
    check_answers(&pair(["n1", "n2"]));
}

#[test]
fn a_node_reaches_its_pods() {
    let Pair { _lab, client, server } = pair(["n1", "n1"]);
    let _server = server.serve(8080).unwrap();
    assert!(client.node().call(Protocol::Tcp, server.at(8080)).unwrap().ok);
}

#[test]
fn a_mapped_address_is_reached_over_ipv4() {
    let Pair { _lab, client, server } = pair(["n1", "n1"]);
    let _server = server.serve(8080).unwrap();
    let mapped = (server.v4().to_ipv6_mapped(), 8080).into();
    assert!(client.call(Protocol::Tcp, mapped).unwrap().ok);
    assert!(client.call(Protocol::Udp, mapped).unwrap().ok);
}

#[test]
fn a_closed_port_refuses_and_nothing_leads_out() {
    let Pair { _lab, client, server } = pair(["n1", "n1"]);
    assert_eq!(client.call(Protocol::Tcp, server.at(81)).unwrap().error, "ECONNREFUSED");
    assert_ne!(client.call(Protocol::Tcp, "192.0.2.1:80".parse().unwrap()).unwrap().error, "ECONNREFUSED");
}

#[test]
fn a_draining_server_refuses_newcomers_and_serves_its_guests() {
    let Pair { _lab, client, server } = pair(["n1", "n1"]);
    let ports = Ports { tcp: vec![8080], udp: vec![], grace: Duration::from_secs(20) };
    let mut serving = server.serve_on(&ports).unwrap();
    let pace = Pace { keep: true, workers: 1, ..Pace::default() };
    let guest = client.load(Protocol::Tcp, server.at(8080), pace).unwrap();
    guest.more(20).unwrap();
    serving.terminate().unwrap();
    guest.more(50).unwrap();
    assert_eq!(client.call(Protocol::Tcp, server.at(8080)).unwrap().error, "ECONNREFUSED");
    assert_eq!(guest.stop().unwrap().failed, 0);
    serving.ended(Duration::from_secs(5)).unwrap();
}

#[test]
fn a_load_counts_answers_and_failures() {
    let Pair { _lab, client, server } = pair(["n1", "n1"]);
    let serving = server.serve(8080).unwrap();
    let load = client.load(Protocol::Http, server.at(8080), Pace::default()).unwrap();
    assert_eq!(load.more(50).unwrap().failed, 0);
    drop(serving);
    load.more(50).unwrap();
    let end = load.stop().unwrap();
    assert!(end.spread["server"] >= 50, "{end:?}");
    assert!(end.failures["ECONNREFUSED"] >= 10, "{end:?}");
}

/// Not a test by itself: the next one runs it as a process that it kills.
#[test]
#[ignore = "a part of the next test"]
fn a_lab_that_waits_for_its_end() {
    let pair = pair(["n1", "n1"]);
    let _server = pair.server.serve(8080).unwrap();
    println!("group {}", pair.client.node().cgroup().path().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_lab_whose_process_is_killed_leaves_no_process_behind() {
    let own = std::env::current_exe().unwrap();
    let mut command = std::process::Command::new(own);
    command.args(["--exact", "--ignored", "--nocapture", "a_lab_that_waits_for_its_end"]);
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let group =
        lines.map_while(Result::ok).find_map(|line| Some(line.split_once("group ")?.1.to_owned())).unwrap();
    assert_ne!(std::fs::read_to_string(format!("{group}/cgroup.procs")).unwrap(), "");
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("the end of its servers", Duration::from_secs(5), || {
        let left = std::fs::read_to_string(format!("{group}/cgroup.procs"))?;
        anyhow::ensure!(left.is_empty(), "processes {left}");
        Ok(std::fs::remove_dir(&group)?)
    })
    .unwrap();
}

#[test]
fn control_groups_are_removed_with_the_lab() {
    let pair = pair(["n1", "n1"]);
    let path = pair.client.node().cgroup().path().to_owned();
    let _server = pair.server.serve(8080).unwrap();
    assert!(path.exists());
    drop((pair, _server));
    assert!(!Path::new(&path).exists());
}
