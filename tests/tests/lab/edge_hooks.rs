//! The edge layer's programs among those of others on a device, and what becomes of them when somebody interferes.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::ensure;
use lab::client::{Load, Pace};
use lab::link::batch;
use lab::{Daemon, Protocol, wait};
use serde_json::Value;

use crate::edge_devices::Gate;
use crate::nftables::{PATIENCE, PODS};
use crate::spy::{EGRESS, INGRESS, Spy, detach, detach_link, pin_program};

/// The node's device to the outside.
const WIRE: &str = "wire";
/// Kinds of hooks, as flag and as `status` has them.
const KINDS: [(&str, &str); 2] = [("--edge=tcx", "tcx"), ("--edge=tc", "tc")];

impl Gate {
    fn serving(&self, flags: &[&str]) -> Daemon {
        let daemon = self.daemon(flags);
        self.web(&[&self.here, &self.there]);
        self.wait_served();
        daemon
    }

    /// Waits until the layer opens a flow: the packet filter would serve, too.
    fn wait_served(&self) {
        let [to, _] = self.node_ports();
        wait::until("the edge layer to serve", PATIENCE, || {
            let before = self.opened();
            let answer = self.asker.call(Protocol::Tcp, to)?;
            ensure!(answer.ok && self.opened() > before, "{answer:?} {:#}", self.edge());
            Ok(())
        })
        .unwrap();
    }

    fn opened(&self) -> u64 {
        self.edge()["counters"]["opened"].as_u64().unwrap_or_default()
    }

    fn repaired(&self) -> u64 {
        self.edge()["repaired"].as_u64().unwrap()
    }

    /// A device of the layer, as `status` has it.
    fn state(&self, name: &str) -> Value {
        let edge = self.edge();
        let devices = edge["devices"].as_array().into_iter().flatten();
        devices.into_iter().find(|device| device["device"] == name).cloned().unwrap_or_default()
    }

    /// What stands on one side of the wire: kind of hook, name, and whether it is ours.
    fn order(&self, side: &str) -> Vec<String> {
        let state = self.state(WIRE);
        let all = state[side].as_array().cloned().unwrap_or_default();
        let word = |hung: &Value| {
            let ours = if hung["ours"] == true { "*" } else { "" };
            format!("{} {}{ours}", hung["hook"].as_str().unwrap(), hung["name"].as_str().unwrap())
        };
        all.iter().map(word).collect()
    }

    fn wait_order(&self, side: &str, expected: &[&str]) {
        wait::until(&format!("{expected:?} on the wire"), PATIENCE, || {
            let order = self.order(side);
            ensure!(order == expected, "{order:?}");
            Ok(())
        })
        .unwrap();
    }

    fn wait_repaired(&self, expected: u64) {
        wait::until(&format!("{expected} repairs"), PATIENCE, || {
            let edge = self.edge();
            ensure!(edge["repaired"] == expected, "{edge:#}");
            Ok(())
        })
        .unwrap();
    }

    /// Runs `tc` on the node.
    fn tc(&self, words: &str) -> String {
        let output = self.stage.node.place().command("tc").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A place for a program that `tc` is to find.
    fn place(&self, name: &str) -> PathBuf {
        let pins = self.stage.node.pin_dir();
        let lab = pins.file_name().unwrap().to_str().unwrap();
        pins.with_file_name(format!("{lab}-{name}"))
    }

    /// Hangs a pinned program on the wire as a filter.
    fn filter(&self, side: &str, priority: u16, pin: &std::path::Path) {
        self.tc(&format!(
            "filter add dev {WIRE} {side} prio {priority} bpf da object-pinned {}",
            pin.display()
        ));
    }

    /// Connections and datagrams that go on, and connections that are made, to both node ports.
    fn loads(&self) -> Vec<Load> {
        self.loads_of(&[Protocol::Tcp, Protocol::Udp])
    }

    fn loads_of(&self, kept: &[Protocol]) -> Vec<Load> {
        let start = |protocol, to, pace| Load::start(&self.asker.place(), protocol, to, pace).unwrap();
        let keeping = Pace { keep: true, workers: 6, rate: 200.0, ..Pace::default() };
        let fresh = Pace { rate: 100.0, ..Pace::default() };
        let mut all = Vec::new();
        for to in self.node_ports() {
            all.extend(kept.iter().map(|protocol| start(*protocol, to, keeping)));
            all.push(start(Protocol::Tcp, to, fresh));
        }
        more(&all, 30);
        all
    }
}

fn more(loads: &[Load], requests: u64) {
    loads.iter().for_each(|load| drop(load.more(requests).unwrap()));
}

/// Ends loads, of which nothing may have been lost. Returns how many requests there were.
fn unharmed(loads: Vec<Load>) -> u64 {
    let ends = loads.into_iter().map(|load| {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
        end.requests
    });
    ends.sum()
}

#[test]
fn somebody_elses_links_keep_working_behind_ours() {
    let gate = Gate::new();
    let spies = [Spy::new(), Spy::new()];
    let _links =
        [(0, INGRESS), (1, EGRESS)].map(|(which, hook)| spies[which].hang(&gate.stage.node, WIRE, hook));
    let daemon = gate.serving(&["--edge=auto", "--forwarding=redirect"]);
    assert_eq!(gate.order("ingress"), ["tcx edge_in*", "tcx spy"]);
    assert_eq!(gate.order("egress"), ["tcx edge_out*", "tcx spy"]);
    let state = gate.state(WIRE);
    assert_eq!((&state["hook"], &state["first"]), (&"tcx".into(), &true.into()), "{state:#}");
    watched(&gate, &spies);
    assert_eq!(gate.repaired(), 0);
    daemon.no_errors().unwrap();
}

/// The one sees what the layer leaves alone, and nothing of what that sends on at once; the other sees what leaves.
fn watched(gate: &Gate, [comes, leaves]: &[Spy; 2]) {
    let seen = || (comes.seen(), leaves.seen());
    let before = seen();
    let nobody = SocketAddr::from((gate.stage.node.v4(), 9));
    assert_eq!(gate.asker.call(Protocol::Tcp, nobody).unwrap().error, "ECONNREFUSED");
    assert!(
        comes.seen() > before.0 && leaves.seen() > before.1,
        "a question, and an answer: {before:?} {:?}",
        seen()
    );
    // Answers of the endpoint on the other node come in by the same device.
    gate.web(&[&gate.there]);
    gate.wait_served();
    let before = seen();
    let [to, _] = gate.node_ports();
    for _ in 0..20 {
        assert!(gate.asker.call(Protocol::Tcp, to).unwrap().ok);
    }
    let after = seen();
    assert!(after.0 - before.0 < 20, "only what is nobody's: {before:?} {after:?}");
    assert!(after.1 - before.1 >= 160, "eight packets of each call: {before:?} {after:?}");
}

#[test]
fn somebody_elses_filters_keep_working_behind_ours_and_stay_after_cleanup() {
    let gate = Gate::new();
    let spies = [Spy::new(), Spy::new()];
    gate.tc(&format!("qdisc add dev {WIRE} clsact"));
    for (spy, side) in spies.iter().zip(["ingress", "egress"]) {
        let pin = gate.place(&format!("spy-{side}"));
        spy.pin(&pin);
        gate.filter(side, 1, &pin);
    }
    let mut daemon = gate.serving(&["--edge=tc", "--forwarding=redirect"]);
    assert_eq!(gate.order("ingress"), ["tc edge_in*", "tc spy"]);
    assert_eq!(gate.order("egress"), ["tc edge_out*", "tc spy"]);
    watched(&gate, &spies);
    assert_eq!(gate.repaired(), 0);

    daemon.terminate().unwrap();
    assert_eq!(gate.order("ingress"), ["tc edge_in*", "tc spy"], "also without a daemon");
    gate.wait_served();
    assert!(gate.stage.node.sluice(&["cleanup"]).unwrap().status.success());
    for side in ["ingress", "egress"] {
        let text = gate.tc(&format!("filter show dev {WIRE} {side}"));
        assert!(text.contains("spy") && !text.contains("sluice"), "{text}");
    }
    daemon.no_errors().unwrap();
}

#[test]
fn the_qdisc_goes_with_cleanup_if_it_was_made_by_the_layer_and_nobody_else_uses_it() {
    let gate = Gate::new();
    let mut daemon = gate.serving(&["--edge=tc"]);
    let shown = || gate.tc(&format!("qdisc show dev {WIRE}"));
    assert!(shown().contains("clsact"), "{}", shown());
    daemon.terminate().unwrap();
    assert!(gate.stage.node.sluice(&["cleanup"]).unwrap().status.success());
    assert!(!shown().contains("clsact"), "{}", shown());

    let (spy, pin) = (Spy::new(), gate.place("spy"));
    spy.pin(&pin);
    daemon.restart().unwrap();
    gate.wait_served();
    gate.filter("egress", 7, &pin);
    daemon.kill9().unwrap();
    let second = gate.daemon(&[]);
    assert!(shown().contains("clsact"), "somebody else uses it: {}", shown());
    let text = gate.tc(&format!("filter show dev {WIRE} ingress"));
    assert!(!text.contains("sluice"), "a daemon without the layer has removed its filters: {text}");
    second.no_errors().unwrap();
}

#[test]
fn where_no_place_in_front_is_left_the_next_one_is_taken_and_that_is_said() {
    let gate = Gate::new();
    gate.tc(&format!("qdisc add dev {WIRE} clsact"));
    gate.tc(&format!(
        "filter add dev {WIRE} ingress prio 1 protocol ip u32 match u8 0xff 0xff at 0 classid 1:1"
    ));
    let (spy, pin) = (Spy::new(), gate.place("spy"));
    spy.pin(&pin);
    gate.filter("ingress", 2, &pin);
    let daemon = gate.serving(&["--edge=tc"]);
    let said = gate.stage.node.wait_problem("edge layer", WIRE).unwrap();
    assert!(said.contains("before it where they come in: u32"), "{said}");
    assert_eq!(gate.order("ingress"), ["tc u32", "tc edge_in*", "tc spy"]);
    assert_eq!(gate.order("egress"), ["tc edge_out*"]);
    assert_eq!(gate.state(WIRE)["first"], false);
    daemon.no_errors().unwrap();
}

#[test]
fn programs_that_somebody_takes_off_are_put_back_and_counted() {
    let gate = Gate::new();
    let daemon = gate.serving(&["--edge=tcx"]);
    let index = gate.stage.node.netns().run(|| Ok(nix::net::if_::if_nametoindex(WIRE)?)).unwrap();
    for (repaired, side) in [(1, "in"), (2, "out")] {
        // The folder of pins has the layout's version in its name.
        let homes = std::fs::read_dir(gate.stage.node.pin_dir()).unwrap().flatten();
        let mut links = homes.map(|home| home.path().join(format!("links/{index}-{side}")));
        detach(&links.find(|link| link.exists()).unwrap());
        gate.wait_repaired(repaired);
        gate.wait_served();
    }
    daemon.wait_log(&["somebody took our program off a device"]).unwrap();
    assert_eq!(gate.state(WIRE)["first"], true);
    let text = gate.stage.node.sluice(&["status"]).unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    for words in ["wire (tcx)", "2 hooks put right", "wire in: edge_in (tcx, ours)"] {
        assert!(text.contains(words), "{words} is not in:\n{text}");
    }
    daemon.no_errors().unwrap();
}

#[test]
fn filters_that_somebody_deletes_are_put_back_and_counted() {
    let gate = Gate::new();
    let daemon = gate.serving(&["--edge=tc"]);
    gate.tc(&format!("filter del dev {WIRE} ingress"));
    gate.wait_repaired(1);
    gate.wait_served();
    gate.tc(&format!("qdisc del dev {WIRE} clsact"));
    gate.wait_repaired(3);
    gate.wait_served();
    assert_eq!(gate.order("egress"), ["tc edge_out*"]);
    assert!(
        daemon.log().iter().all(|line| !line.contains("tables or chains")),
        "nftables has nothing to do with it"
    );
    daemon.no_errors().unwrap();
}

/// Whoever is first decides what others see. Taking the first place costs no packet, and is not done for ever.
#[test]
fn the_first_place_is_taken_back_under_load_but_not_for_ever() {
    for (flag, kind) in KINDS {
        let gate = Gate::new();
        let (spy, pin) = (Spy::new(), gate.place("spy"));
        spy.pin(&pin);
        let daemon = gate.serving(&[flag, "--forwarding=redirect"]);
        let loads = gate.loads();
        let mut links = Vec::new();
        for round in 1..=4 {
            let before = spy.seen();
            if kind == "tcx" {
                // The kernel takes each program once, also the one of the round before.
                links.drain(..).for_each(detach_link);
                links.push(spy.hang(&gate.stage.node, WIRE, INGRESS));
            } else {
                gate.filter("ingress", 1, &pin);
            }
            if round <= 3 {
                gate.wait_repaired(round);
            }
            more(&loads, 30);
            // How many packets it saw in the rounds before is chance: it may have lost its place before the next one came.
            assert!(round <= 3 || spy.seen() > before, "it has stayed there");
        }
        let said = gate.stage.node.wait_problem("edge layer", WIRE).unwrap();
        assert!(said.contains("before it where they come in: spy"), "{said}");
        let (ours, others) = (format!("{kind} edge_in*"), format!("{kind} spy"));
        let order = gate.order("ingress");
        assert_eq!(order[..2], [others, ours], "{order:?}");
        assert_eq!(gate.repaired(), 3);
        more(&loads, 60);
        assert!(unharmed(loads) > 500);
        daemon.no_errors().unwrap();
    }
}

/// As it is for a moment whenever one takes the place of the other: what the first has dealt with is nobody's to the second.
#[test]
fn two_of_the_programs_in_a_row_do_nothing_twice() {
    for flags in [
        ["--edge=tcx", "--forwarding=redirect"],
        ["--edge=tcx", "--forwarding=stack"],
        ["--edge=tc", "--forwarding=stack"],
    ] {
        let gate = Gate::new();
        let daemon = gate.serving(&flags);
        gate.web(&[&gate.here]);
        for side in ["ingress", "egress"] {
            let id = gate.state(WIRE)[side][0]["program"].as_u64().unwrap();
            let pin = gate.place(side);
            pin_program(u32::try_from(id).unwrap(), &pin);
            if flags[0] == "--edge=tcx" {
                let _ = gate
                    .stage
                    .node
                    .place()
                    .command("tc")
                    .args(["qdisc", "add", "dev", WIRE, "clsact"])
                    .output();
            }
            gate.filter(side, 7, &pin);
            assert_eq!(gate.order(side).len(), 2, "{:?}", gate.order(side));
        }
        let (before, loads) = (gate.edge()["counters"].clone(), gate.loads());
        more(&loads, 100);
        unharmed(loads);
        let after = gate.edge()["counters"].clone();
        let count = |name: &str| after[name].as_u64().unwrap() - before[name].as_u64().unwrap();
        assert!(count("opened") > 200, "{flags:?} {after:#}");
        for name in ["noLocalEndpoint", "sourceRefused", "tableFull", "noPort", "left", "moved", "errors"] {
            assert_eq!(count(name), 0, "{flags:?}: {name} in {after:#}");
        }
        if flags[1] == "--forwarding=stack" {
            assert_eq!(count("redirected"), 0, "{flags:?} {after:#}");
        }
        daemon.no_errors().unwrap();
    }
}

/// The kernel stops a device for some milliseconds when it gets its clsact qdisc: a datagram may be lost then, and only then.
#[test]
fn a_daemon_with_hooks_of_the_other_kind_takes_over_without_a_gap() {
    const REDIRECT: &str = "--forwarding=redirect";
    let gate = Gate::new();
    let mut first = gate.serving(&["--edge=tcx", REDIRECT]);
    let connections = gate.loads_of(&[Protocol::Tcp]);
    first.kill9().unwrap();
    let mut second = gate.daemon(&["--edge=tc", REDIRECT]);
    gate.wait_order("ingress", &["tc edge_in*"]);
    gate.wait_order("egress", &["tc edge_out*"]);
    more(&connections, 60);

    let datagrams = gate.loads_of(&[Protocol::Udp]);
    let all = || [&connections, &datagrams].into_iter().for_each(|loads| more(loads, 60));
    second.terminate().unwrap();
    let mut third = gate.daemon(&["--edge=tc", REDIRECT]);
    assert_eq!(gate.order("ingress"), ["tc edge_in*"], "in the place of the one before");
    all();
    third.kill9().unwrap();
    let mut fourth = gate.daemon(&["--edge=tcx", REDIRECT]);
    gate.wait_order("ingress", &["tcx edge_in*"]);
    gate.wait_order("egress", &["tcx edge_out*"]);
    all();
    fourth.kill9().unwrap();
    let fifth = gate.daemon(&["--edge=tc", REDIRECT]);
    gate.wait_order("ingress", &["tc edge_in*"]);
    all();
    unharmed(connections);
    unharmed(datagrams);
    assert_eq!(gate.repaired(), 0);
    [&second, &third, &fourth, &fifth].iter().for_each(|daemon| daemon.no_errors().unwrap());
}

/// Other devices are no reason to touch the one that connections go through.
#[test]
fn devices_that_flap_are_renamed_and_made_again_harm_no_connection_through_others() {
    for (flag, kind) in KINDS {
        let gate = Gate::new();
        let daemon = gate.serving(&[flag, "--devices=wire,late*", "--forwarding=redirect"]);
        let netns = gate.stage.node.netns();
        let loads = gate.loads();
        let attached = |name: &str| {
            wait::until(&format!("programs on {name}"), PATIENCE, || {
                let state = gate.state(name);
                let stands = state["attached"] == true && state["first"] == true && state["hook"] == kind;
                ensure!(stands, "{:#}", gate.edge());
                Ok(state["ingress"][0]["program"].as_u64())
            })
            .unwrap()
        };
        batch(netns, "link add late0 type veth peer name early0\nlink set late0 up\nlink set early0 up\n")
            .unwrap();
        let program = attached("late0");
        for _ in 0..3 {
            batch(netns, "link set late0 down\nlink set late0 up\n").unwrap();
        }
        assert_eq!(attached("late0"), program, "a link that goes down keeps its programs");
        batch(netns, "link set late0 down\nlink set late0 name late1\nlink set late1 up\n").unwrap();
        assert_eq!(attached("late1"), program);
        batch(netns, "link set late1 down\nlink set late1 name late0\nlink set late0 up\n").unwrap();
        attached("late0");
        for _ in 0..3 {
            batch(netns, "link del late0\nlink add late0 type veth peer name early0\nlink set late0 up\n")
                .unwrap();
            attached("late0");
        }
        batch(netns, "link set late0 down\nlink set late0 name other\nlink set other up\n").unwrap();
        wait::until("programs to leave a device of another name", PATIENCE, || {
            ensure!(gate.state("other").is_null() && gate.state("late0").is_null(), "{:#}", gate.edge());
            Ok(())
        })
        .unwrap();
        let filters = gate.tc("filter show dev other ingress");
        assert!(!filters.contains("sluice"), "{filters}");
        more(&loads, 60);
        unharmed(loads);
        assert_eq!(gate.repaired(), 0, "none of that is anybody's interference");
        daemon.no_errors().unwrap();
    }
}

/// Asks over a connection some more times.
fn go_on(connection: &mut BufReader<TcpStream>) {
    for _ in 0..10 {
        connection.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        connection.get_mut().write_all(b"still\n").unwrap();
        let mut line = String::new();
        connection.read_line(&mut line).unwrap();
        assert!(line.contains("still"), "{line:?}");
    }
}

/// The device that all comes by. Nobody has named it, and its routes go with each flap.
#[test]
fn connections_outlive_a_flap_of_their_device() {
    for (flag, _) in KINDS {
        let gate = Gate::new();
        // Without a Node, whose address the device would keep.
        let settings = gate.stage.settings().with(&[PODS, flag, "--forwarding=redirect"]);
        let daemon = gate.stage.node.daemon(settings).unwrap();
        gate.web(&[&gate.here, &gate.there]);
        gate.wait_served();
        let [to, _] = gate.node_ports();
        // Patient ones: the device is down for as long as the daemon takes to hear of it.
        let mut all: Vec<BufReader<TcpStream>> = gate
            .asker
            .netns()
            .run(|| (0..6).map(|_| Ok(BufReader::new(TcpStream::connect(to)?))).collect())
            .unwrap();
        all.iter_mut().for_each(go_on);
        let (netns, v4) = (gate.stage.node.netns(), gate.stage.node.v4());
        for _ in 0..3 {
            batch(netns, "link set wire down\n").unwrap();
            // Long enough for the daemon to hear of it.
            let since = std::time::Instant::now();
            wait::until("the device to be left alone", PATIENCE, || {
                assert_eq!(gate.state(WIRE)["attached"], true, "{:#}", gate.edge());
                ensure!(since.elapsed().as_millis() > 300, "not yet");
                Ok(())
            })
            .unwrap();
            batch(netns, "link set wire up\n").unwrap();
            let routes = format!(
                "route replace 10.0.0.254 dev wire src {v4}\nroute replace default via 10.0.0.254 src {v4}\n"
            );
            batch(netns, &routes).unwrap();
            all.iter_mut().for_each(go_on);
        }
        assert_eq!(gate.repaired(), 0);
        daemon.no_errors().unwrap();
    }
}

#[test]
fn status_without_a_daemon_shows_what_hangs_where() {
    let gate = Gate::new();
    for (flag, kind) in KINDS {
        let mut daemon = gate.serving(&[flag]);
        daemon.terminate().unwrap();
        let state = gate.state(WIRE);
        assert_eq!(state["ingress"][0]["name"], "edge_in", "{state:#}");
        assert_eq!((&state["hook"], &state["attached"]), (&kind.into(), &true.into()), "{state:#}");
        assert!(gate.opened() > 0, "counts are there, too: {:#}", gate.edge());
    }
}

#[test]
fn answers_of_endpoints_here_are_taken_by_filters_too() {
    let gate = Gate::new();
    let [.., number] = gate.here.v4().octets();
    let shown = |what: &str| {
        gate.tc(&format!("{what} show dev p{number}{}", if what == "filter" { " ingress" } else { "" }))
    };
    let mut first = gate.serving(&["--edge=tc", "--forwarding=redirect"]);
    assert!(shown("filter").contains("sluice-back"), "{}", shown("filter"));
    let loads = gate.loads();
    first.kill9().unwrap();
    let second = gate.daemon(&["--edge=tc", "--forwarding=redirect"]);
    more(&loads, 60);
    gate.web(&[&gate.there]);
    wait::until("the filter to go with the endpoint", PATIENCE, || {
        ensure!(!shown("filter").contains("sluice"), "{}", shown("filter"));
        Ok(())
    })
    .unwrap();
    gate.web(&[&gate.here]);
    assert!(shown("filter").contains("sluice-back"), "{}", shown("filter"));
    second.no_errors().unwrap();
    drop(second);
    let mut third = gate.daemon(&["--edge=tcx", "--forwarding=redirect"]);
    assert!(!shown("filter").contains("sluice"), "{}", shown("filter"));
    assert_eq!(gate.edge()["endpointDevices"][0], format!("p{number}"), "{:#}", gate.edge());
    more(&loads, 60);
    unharmed(loads);
    third.terminate().unwrap();
    assert!(gate.stage.node.sluice(&["cleanup"]).unwrap().status.success());
    assert!(!shown("qdisc").contains("clsact"), "{}", shown("qdisc"));
    third.no_errors().unwrap();
}

/// A card may stop for a moment whenever its program for frames is put on it.
#[test]
fn filters_leave_the_program_for_frames_where_it_is() {
    let gate = Gate::new();
    let daemon = gate.serving(&["--edge=tc", "--forwarding=redirect", "--xdp=native"]);
    let index = gate.stage.node.netns().run(|| Ok(nix::net::if_::if_nametoindex(WIRE)?)).unwrap();
    let link = || {
        let homes = std::fs::read_dir(gate.stage.node.pin_dir()).unwrap().flatten();
        let pins = homes.map(|home| home.path().join(format!("links/{index}-xdp")));
        let found = pins.filter_map(|pin| std::fs::metadata(pin).ok()).next();
        found.map(|pin| std::os::unix::fs::MetadataExt::ino(&pin))
    };
    let before = link();
    assert!(before.is_some(), "{:#}", gate.edge());
    // Everything is put once more when the network has changed.
    for address in ["10.77.0.1/24", "10.77.0.2/24"] {
        batch(gate.stage.node.netns(), &format!("addr add {address} dev lo\n")).unwrap();
        let since = std::time::Instant::now();
        wait::until("the daemon to hear of it", PATIENCE, || {
            ensure!(since.elapsed().as_millis() > 500, "not yet");
            Ok(())
        })
        .unwrap();
    }
    assert_eq!(link(), before, "{:#}", gate.edge());
    daemon.no_errors().unwrap();
}
