//! Conditions that nobody wishes for: tables that are full, and neighbours that interfere with ours. What is not
//! concerned goes on, and what is comes right in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use lab::{Pod, Protocol, wait};

use crate::nftables::nft;
use crate::stage::{Stage, WEB4, addresses, names, pods, web_as};

const PATIENCE: Duration = Duration::from_secs(20);
const FOUR: [&str; 4] = ["a", "b", "c", "d"];

impl Stage {
    /// `web` with affinity and these endpoints.
    fn affine_web(&self, pods: &[&Pod]) {
        let text = web_as(
            |service| service.sticky(60),
            |slice, ip| pods.iter().fold(slice, |slice, pod| slice.ready(ip(pod))),
        );
        self.manifests.put("web.yaml", text).unwrap();
        self.node.wait_active("default", "web", &addresses(pods)).unwrap();
        self.node.wait_affinity("default", "web", Some(60)).unwrap();
    }

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
    stage.affine_web(&pods(&backends));

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
        anyhow::ensure!(tables.contains("size 1048576") && !tables.contains("affinity clients"), "{tables}");
        Ok(())
    })
    .unwrap();
    let all: Vec<_> = clients.iter().map(answering).collect();
    assert!(all.iter().all(|names| names.len() == 1), "{all:?}");
}
