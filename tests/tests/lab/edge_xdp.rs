//! Frames of known flows are sent on before the stack has seen them (XDP).
//!
//! Virtual cables stand in for network cards. On these a frame is lost unless the other end takes it, and a checksum may be only
//! begun: both are switched here, and what becomes of flows without is looked at, too.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use lab::client::{Load, Pace};
use lab::link::{Foreign, Offload, batch, offload};
use lab::netns::Netns;
use lab::{Daemon, Protocol, wait};
use serde_json::Value;

use crate::edge_devices::Gate;

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(10);
const NATIVE: [&str; 3] = ["--edge=tcx", "--forwarding=redirect", "--xdp=native"];

impl Gate {
    /// The cables do what network cards do: they take frames, and whoever sends adds checksums up.
    fn like_cards() -> Self {
        let gate = Self::new();
        gate.take_frames();
        gate.add_up(true);
        gate
    }

    /// The far end of the node's cable takes frames.
    fn take_frames(&self) {
        offload(self.stage.lab.wire().netns(), "n1", Offload::Bundles, true).unwrap();
    }

    fn add_up(&self, whole: bool) {
        for (netns, device) in
            [(self.asker.netns(), "wire"), (self.there.netns(), "eth0"), (self.here.netns(), "eth0")]
        {
            offload(netns, device, Offload::Checksums, !whole).unwrap();
        }
    }

    fn count_of(&self, counter: &str) -> u64 {
        let edge = self.stage.node.status().unwrap()["kernel"]["edge"].clone();
        edge["counters"][counter].as_u64().unwrap_or_else(|| panic!("no {counter} in {edge:#}"))
    }

    /// How the devices stand to frames.
    fn standings(&self) -> Vec<(String, String)> {
        let edge = self.stage.node.status().unwrap()["kernel"]["edge"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let devices = edge["devices"].as_array().cloned().unwrap_or_default();
        devices.iter().map(|device| (text(&device["device"]), text(&device["xdp"]))).collect()
    }

    #[track_caller]
    fn check_standings(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(device, state)| ((*device).to_owned(), (*state).to_owned())).collect();
        assert_eq!(self.standings(), expected);
    }

    /// Speaks over one socket for each family and both protocols, and returns how many frames never were packets.
    fn speak(&self) -> u64 {
        let before = self.count_of("xdp");
        self.run(self.frame_loads(), 40);
        self.count_of("xdp") - before
    }

    /// One socket for each.
    fn frame_loads(&self) -> Vec<Load> {
        let kept = Pace { keep: true, workers: 1, rate: 100.0, ..Pace::default() };
        let both = [Protocol::Tcp, Protocol::Udp];
        let start = |to: SocketAddr| {
            both.map(|protocol| Load::start(&self.asker.place(), protocol, to, kept).unwrap())
        };
        self.node_ports().into_iter().flat_map(start).collect()
    }

    /// So many exchanges over each, and none fails.
    fn run(&self, loads: Vec<Load>, exchanges: u64) {
        loads.iter().for_each(|load| drop(load.more(exchanges).unwrap()));
        for load in loads {
            let end = load.stop().unwrap();
            assert_eq!(end.failed, 0, "{end:?}");
        }
    }
}

/// Whether a program for frames is on a device, as `ip` tells it.
fn has_program(netns: &Netns, device: &str) -> bool {
    let output =
        lab::process::Place::new(netns).command("ip").args(["link", "show", device]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("xdp")
}

fn wait_program(netns: &Netns, device: &str, there: bool) {
    wait::until("the program for frames", PATIENCE, || {
        ensure!(has_program(netns, device) == there, "{device}: {}", !there);
        Ok(())
    })
    .unwrap();
}

fn end(daemon: &mut Daemon) {
    daemon.no_errors().unwrap();
    daemon.terminate().unwrap();
}

#[test]
fn known_flows_to_another_node_leave_before_the_stack_in_both_directions() {
    let gate = Gate::like_cards();
    let daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    gate.check_standings(&[("wire", "native")]);
    let frames = gate.speak();
    // Of four sockets with forty questions and answers each.
    assert!(frames > 4 * 40 * 2 - 40, "{frames}");
    let sources = [gate.stage.node.v4().to_string(), gate.stage.node.v6().to_string()];
    for (to, source) in gate.node_ports().into_iter().zip(sources) {
        let answer = gate.asker.call(Protocol::Tcp, to).unwrap();
        assert!(answer.ok && answer.source.contains(&source), "{answer:?}");
    }
    daemon.no_errors().unwrap();
}

#[test]
fn known_flows_to_an_endpoint_here_leave_by_another_device_before_the_stack() {
    let gate = Gate::like_cards();
    let device = format!("p{}", gate.here.v4().octets()[3]);
    offload(gate.here.netns(), "eth0", Offload::Bundles, true).unwrap();
    let devices = format!("--devices=wire,{device}");
    let daemon = gate.daemon(&[&NATIVE[..], &[&devices]].concat());
    gate.web(&[&gate.here]);
    gate.check_standings(&[("wire", "native"), (&device, "native")]);
    let frames = gate.speak();
    assert!(frames > 4 * 40 * 2 - 40, "{frames}");
    daemon.no_errors().unwrap();
}

#[test]
fn checksums_that_are_only_begun_are_left_to_the_longer_way() {
    let gate = Gate::like_cards();
    gate.add_up(false);
    let daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    gate.check_standings(&[("wire", "native")]);
    let before = gate.count_of("redirected");
    assert_eq!(gate.speak(), 0);
    assert!(gate.count_of("redirected") - before > 4 * 40 * 2);
    daemon.no_errors().unwrap();
}

#[test]
fn no_frame_is_sent_where_nobody_takes_it() {
    let gate = Gate::new();
    gate.add_up(true);
    let mut daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    gate.check_standings(&[("wire", "receives only")]);
    assert_eq!(gate.speak(), 0);
    // It is asked again at every start.
    gate.take_frames();
    end(&mut daemon);
    daemon.restart().unwrap();
    gate.check_standings(&[("wire", "native")]);
    assert!(gate.speak() > 4 * 40);
    daemon.no_errors().unwrap();
}

#[test]
fn a_virtual_cable_gets_no_program_unasked_and_none_where_the_stack_forwards() {
    let gate = Gate::like_cards();
    for more in [&["--forwarding=redirect"][..], &["--forwarding=stack", "--xdp=native"]] {
        let mut daemon = gate.daemon(&[&["--edge=tcx"], more].concat());
        gate.check_standings(&[("wire", "off")]);
        assert!(!has_program(gate.stage.node.netns(), "wire"));
        end(&mut daemon);
    }
}

#[test]
fn nothing_is_lost_while_the_next_hop_changes() {
    let gate = Gate::like_cards();
    let (wire, node) = (gate.stage.lab.wire().netns(), gate.stage.node.netns());
    let daemon = gate.daemon(&[&NATIVE[..], &["--devices=wire,other"]].concat());
    gate.web(&[&gate.there]);
    let line = format!("link add other type veth peer name o1 netns {}\nlink set other up\n", wire.path());
    batch(node, &line).unwrap();
    batch(wire, "link set o1 up\naddr add fe80::1/64 dev o1 nodad\n").unwrap();
    let (v4, v6) = (gate.there.v4(), gate.there.v6());
    let lead = |device: &str| {
        let gate4 = lab::topology::Wire::V4;
        let lines = format!(
            "route replace {gate4} dev {device}\nroute replace {v4} via {gate4} dev {device}\n\
             route replace {v6} via fe80::1 dev {device}\n"
        );
        batch(node, &lines).unwrap();
    };
    let loads = gate.frame_loads();
    loads.iter().for_each(|load| drop(load.more(20).unwrap()));
    let before = gate.count_of("xdp");
    // The other cable's far end takes no frames at first.
    for (round, device) in ["other", "wire", "other", "wire"].into_iter().enumerate() {
        if round == 2 {
            offload(wire, "o1", Offload::Bundles, true).unwrap();
        }
        lead(device);
        loads.iter().for_each(|load| drop(load.more(30).unwrap()));
    }
    assert!(gate.count_of("xdp") - before > 4 * 30 * 2, "{:?}", gate.standings());
    gate.run(loads, 10);
    daemon.no_errors().unwrap();
}

#[test]
fn it_goes_on_without_a_daemon_and_changes_over_to_the_next_one() {
    let gate = Gate::like_cards();
    let node = gate.stage.node.netns();
    let mut daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    let loads = gate.frame_loads();
    loads.iter().for_each(|load| drop(load.more(20).unwrap()));
    for _ in 0..2 {
        let before = gate.count_of("xdp");
        daemon.kill9().unwrap();
        assert!(has_program(node, "wire"));
        loads.iter().for_each(|load| drop(load.more(40).unwrap()));
        daemon.restart().unwrap();
        gate.check_standings(&[("wire", "native")]);
        assert!(gate.count_of("xdp") - before > 4 * 40 * 2 - 40);
        let before = gate.count_of("xdp");
        loads.iter().for_each(|load| drop(load.more(40).unwrap()));
        assert!(gate.count_of("xdp") - before > 4 * 40);
    }
    gate.run(loads, 10);
    daemon.no_errors().unwrap();
}

#[test]
fn off_takes_the_program_away_and_so_does_cleanup() {
    let gate = Gate::like_cards();
    let node = gate.stage.node.netns();
    let mut daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    let loads = gate.frame_loads();
    loads.iter().for_each(|load| drop(load.more(20).unwrap()));
    daemon.kill9().unwrap();
    let mut off = gate.daemon(&["--edge=tcx", "--forwarding=redirect", "--xdp=off"]);
    wait_program(node, "wire", false);
    gate.check_standings(&[("wire", "off")]);
    let before = gate.count_of("xdp");
    gate.run(loads, 40);
    assert_eq!(gate.count_of("xdp"), before);
    end(&mut off);

    daemon.restart().unwrap();
    gate.check_standings(&[("wire", "native")]);
    assert!(has_program(node, "wire"));
    end(&mut daemon);
    let output = gate.stage.node.sluice(&["cleanup"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    wait_program(node, "wire", false);
}

#[test]
fn a_device_that_is_no_longer_ours_loses_the_program() {
    let gate = Gate::like_cards();
    let node = gate.stage.node.netns();
    let mut daemon = gate.daemon(&NATIVE);
    wait_program(node, "wire", true);
    end(&mut daemon);
    let daemon = gate.daemon(&[&NATIVE[..], &["--devices=nowhere"]].concat());
    wait_program(node, "wire", false);
    daemon.no_errors().unwrap();
}

#[test]
fn somebody_elses_program_stays_and_flows_take_the_longer_way() {
    let gate = Gate::like_cards();
    let node = gate.stage.node.netns();
    let foreign = Foreign::on(node, "wire").unwrap();
    let mut daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    daemon.wait_log(&["another XDP program is on the device", "wire"]).unwrap();
    gate.check_standings(&[("wire", "another program")]);
    assert_eq!(gate.speak(), 0);
    let told = daemon.log().iter().filter(|line| line.contains("another XDP program")).count();
    assert_eq!(told, 1);
    end(&mut daemon);
    assert!(gate.stage.node.sluice(&["cleanup"]).unwrap().status.success());
    assert!(has_program(node, "wire"));
    drop(foreign);
    daemon.restart().unwrap();
    gate.check_standings(&[("wire", "native")]);
    daemon.no_errors().unwrap();
}

/// Nobody listens to the kernel meanwhile, and the next daemon must not take for true what flows remember.
#[test]
fn a_next_hop_that_changed_while_there_was_no_daemon_is_looked_up_anew() {
    let gate = Gate::like_cards();
    let (wire, node) = (gate.stage.lab.wire().netns(), gate.stage.node.netns());
    let lead_to = |address: &str| {
        let gate4 = lab::topology::Wire::V4;
        batch(wire, &format!("link set n1 address {address}\n")).unwrap();
        batch(node, &format!("neigh replace {gate4} lladdr {address} dev wire nud permanent\n")).unwrap();
    };
    lead_to("02:00:00:00:00:71");
    let mut daemon = gate.daemon(&NATIVE);
    gate.web(&[&gate.there]);
    let [to, _] = gate.node_ports();
    let socket = gate.asker.netns().run(|| Ok(std::net::UdpSocket::bind("0.0.0.0:0")?)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let ask = || {
        wait::until("an answer", PATIENCE, || {
            socket.send(b"hello\n")?;
            Ok(socket.recv(&mut [0; 2048])?)
        })
        .unwrap();
    };
    (0..4).for_each(|_| ask());
    daemon.kill9().unwrap();
    lead_to("02:00:00:00:00:72");
    daemon.restart().unwrap();
    ask();
    daemon.no_errors().unwrap();
}
