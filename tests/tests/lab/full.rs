//! The kernel's tables are full: what is there goes on, and when there is room again everything is as it should be.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::ensure;
use lab::client::Pace;
use lab::crowd::{Crowd, fill, flood};
use lab::{Load, Node, Pod, Protocol, wait};

use crate::nftables::nft;
use crate::stage::{Stage, WEB4, names, pods};

const PATIENCE: Duration = Duration::from_secs(20);
const FOUR: [&str; 4] = ["a", "b", "c", "d"];

impl Stage {
    /// A counter of the packet filter.
    fn counted(&self, name: &str) -> u64 {
        let status = self.node.status().unwrap();
        status["kernel"]["nftables"]["counters"][name].as_u64().unwrap_or_else(|| panic!("{status:#}"))
    }
}

/// Who answers this client, asked so often that among four endpoints it is not the same one by chance.
fn answering(client: &Pod) -> BTreeSet<String> {
    let answers = client.calls(Protocol::Tcp, WEB4, 24).unwrap();
    names(&answers).into_iter().map(str::to_owned).collect()
}

#[test]
fn when_nobody_more_can_be_remembered_new_clients_are_spread_and_the_others_stay() {
    let stage = Stage::new();
    let backends = stage.backends(&FOUR);
    let clients = ["one", "two", "three", "four"].map(|name| stage.node.pod(name).unwrap());
    let (known, late) = clients.split_at(2);
    let settings = || stage.settings().with(&["--dataplane=nftables"]);
    let mut daemon = stage.node.daemon(settings().with(&["--affinity-clients=2"])).unwrap();
    stage.sticky_web(Some(60), &pods(&backends));

    let before: Vec<_> = known.iter().map(answering).collect();
    assert!(before.iter().all(|names| names.len() == 1), "{before:?}");
    assert_eq!(stage.counted("not-remembered"), 0);
    for client in late {
        assert!(answering(client).len() > 1, "served and spread");
    }
    assert_eq!(stage.counted("not-remembered"), 48, "each of their flows is counted");
    assert_eq!(known.iter().map(answering).collect::<Vec<_>>(), before, "who is known stays");

    nft(&stage.node, &["flush", "set", "ip", "sluice", "affinity"]);
    for client in late {
        assert_eq!(answering(client).len(), 1, "there is room again");
    }

    // A table of another size is another table.
    daemon.terminate().unwrap();
    let _daemon = stage.node.daemon(settings()).unwrap();
    wait::until("a table of the usual size", PATIENCE, || {
        let tables = nft(&stage.node, &["list", "ruleset"]);
        ensure!(tables.contains("size 1048576") && !tables.contains("affinity clients"), "{tables}");
        Ok(())
    })
    .unwrap();
    let all: Vec<_> = clients.iter().map(answering).collect();
    assert!(all.iter().all(|names| names.len() == 1), "{all:?}");
}

/// Tables that take more than this take too long to fill.
const MOST: u64 = 600_000;
/// So many more than fit.
const TOO_MANY: u32 = 1000;

/// How many flows are too many for a node's connection tracking; `None` if it takes too long to make so many.
fn too_many(node: &Node) -> Option<u32> {
    let (_, max) = fill(node).unwrap();
    if max == 0 || max > MOST {
        eprintln!("skipped: connection tracking takes {max} flows here, and this test makes 1 to {MOST}");
        return None;
    }
    Some(u32::try_from(max).unwrap() + TOO_MANY)
}

impl Stage {
    /// A load over connections that stay.
    fn kept(&self) -> Load {
        let load = self.client.load(Protocol::Tcp, WEB4, Pace { keep: true, ..Pace::default() }).unwrap();
        load.more(20).unwrap();
        load
    }

    /// Asserts that status says that the table is full, for programs and for people.
    fn is_said_to_be_full(&self) {
        let message = self.node.wait_problem("kernel", "nf_conntrack_max").unwrap();
        assert!(message.contains("new flows are dropped"), "{message}");
        let usage = &self.node.status().unwrap()["kernel"]["conntrack"];
        let (entries, max) = (usage["entries"].as_u64().unwrap(), usage["max"].as_u64().unwrap());
        assert!(entries * 100 > max * 95, "{usage:#}");
        let text = String::from_utf8(self.node.sluice(&["status"]).unwrap().stdout).unwrap();
        assert!(text.contains(&format!(" of {max} flows (")), "{text}");
    }
}

#[test]
fn a_flood_of_datagrams_that_nobody_answers_fills_connection_tracking_and_harms_nobody() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let flooder = stage.node.pod("flooder").unwrap();
    let daemon = stage.node.daemon(stage.settings().with(&["--dataplane=nftables"])).unwrap();
    stage.web(&[&backends[0].pod]);
    let Some(flows) = too_many(&stage.node) else { return };
    let load = stage.kept();

    flood(&flooder, flows).unwrap();
    stage.is_said_to_be_full();
    // The kernel gives up flows without an answer for new ones.
    stage.web(&[&backends[1].pod]);
    let answers = stage.client.calls(Protocol::Tcp, WEB4, 20).unwrap();
    assert_eq!(names(&answers), ["b"].into());

    load.more(20).unwrap();
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    daemon.no_errors().unwrap();
}

#[test]
fn while_connection_tracking_is_full_of_answered_flows_what_is_there_goes_on_and_changes_are_written() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let daemon = stage.node.daemon(stage.settings().with(&["--dataplane=nftables"])).unwrap();
    let pid = daemon.pid();
    stage.web(&[&backends[0].pod]);
    let Some(flows) = too_many(&stage.node) else { return };
    let load = stage.kept();

    let crowd = Crowd::at(&stage.node, flows).unwrap();
    stage.is_said_to_be_full();
    daemon.wait_log(&["connection tracking has"]).unwrap();
    let answer = stage.client.call_within(Protocol::Tcp, WEB4, Duration::from_millis(300)).unwrap();
    assert!(!answer.ok, "there is no room for it: {answer:?}");
    stage.web(&[&backends[1].pod]);
    load.more(20).unwrap();

    crowd.leave().unwrap();
    let answers = stage.client.calls(Protocol::Tcp, WEB4, 20).unwrap();
    assert_eq!(names(&answers), ["b"].into(), "what was written meanwhile");
    assert_eq!(stage.node.status().unwrap()["problems"].as_array().map(Vec::len), Some(0));
    load.more(20).unwrap();
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    assert!(end.spread.keys().eq(["a"]), "{end:?}");
    assert_eq!(stage.node.status().unwrap()["daemon"]["pid"], pid, "it has not been restarted");
    daemon.no_errors().unwrap();
}
