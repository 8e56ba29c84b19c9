//! A policy, or a kernel that has run out of something, refuses `bpf(2)` to a daemon that has been working.

use std::time::{Duration, Instant};

use anyhow::ensure;
use lab::mandate::Calls;
use lab::{Daemon, Load, Mandate, Pace, Protocol, Settings, wait};

use crate::nftables::PATIENCE;
use crate::stage::{Stage, WEB4, web};

/// A daemon that asks us before it does anything with `bpf(2)`.
fn bound(stage: &Stage, arguments: &[&str]) -> (Daemon, Mandate) {
    let mandate = Mandate::default();
    let settings = Settings { mandate: Some(mandate.clone()), ..stage.settings().with(arguments) };
    (stage.node.daemon(settings).unwrap(), mandate)
}

fn wait_running(stage: &Stage, dataplane: &str) {
    wait::until(dataplane, PATIENCE, || {
        let running = stage.node.status()?["kernel"]["dataplane"].clone();
        ensure!(running == dataplane, "{running}");
        Ok(())
    })
    .unwrap();
}

fn load(stage: &Stage, protocol: Protocol) -> Load {
    stage.client.load(protocol, WEB4, Pace::default()).unwrap()
}

#[test]
fn nftables_takes_the_traffic_from_a_dataplane_that_a_policy_forbids_and_gives_it_back_without_a_loss() {
    let stage = Stage::of_ebpf();
    let [a, b] = ["a", "b"].map(|name| stage.backend(name));
    let (mut daemon, mandate) = bound(&stage, &[]);
    stage.web(&[&a.pod, &b.pod]);
    let loads = [Protocol::Tcp, Protocol::UdpConnected].map(|protocol| load(&stage, protocol));
    loads.iter().for_each(|load| drop(load.more(50).unwrap()));

    mandate.refuse(Calls::All, libc::EPERM);
    stage.manifests.put("web.yaml", web(&[&b.pod], &[&a.pod])).unwrap();
    daemon.wait_log(&["eBPF cannot be used; nftables has the traffic"]).unwrap();
    mandate.relent();
    // Whoever asks the kernel by itself must not be taken for the daemon: the status is the daemon's word.
    wait::until("the change", PATIENCE, || {
        let answer = stage.client.call(Protocol::Tcp, WEB4)?;
        ensure!(answer.ok && answer.name == "b", "{answer:?}");
        Ok(())
    })
    .unwrap();
    assert!(mandate.refused() > 0);
    wait_running(&stage, "ebpf+nftables");
    loads.iter().for_each(|load| drop(load.more(50).unwrap()));
    for load in loads {
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{end:?}");
    }
    let errors = daemon.errors();
    assert!(errors.iter().all(|line| line.contains("could not program the kernel")), "{errors:#?}");
}

/// What is in force stays so: calls go to endpoints that were there, until the change is taken.
#[test]
fn a_kernel_that_takes_no_more_entries_is_named_and_costs_nobody_who_is_served() {
    for (error, name) in [
        (libc::ENOSPC, "No space left"),
        (libc::E2BIG, "too long"),
        (libc::ENOMEM, "memory"),
        (libc::EPERM, "not permitted"),
    ] {
        let stage = Stage::of_ebpf();
        let [a, b] = ["a", "b"].map(|name| stage.backend(name));
        let (mut daemon, mandate) = bound(&stage, &["--dataplane=ebpf"]);
        stage.web(&[&a.pod]);
        let load = load(&stage, Protocol::Tcp);
        load.more(20).unwrap();
        mandate.refuse(Calls::Writes, error);
        stage.manifests.put("web.yaml", web(&[&b.pod], &[&a.pod])).unwrap();
        let message = stage.node.wait_problem("kernel", "").unwrap();
        assert!(message.to_lowercase().contains(&name.to_lowercase()), "{message}");
        load.more(20).unwrap();
        let ready =
            lab::http::get(stage.node.netns(), "127.0.0.1:10256".parse().unwrap(), "/readyz").unwrap();
        assert_eq!(ready.status, 503, "{ready:?}");
        mandate.relent();
        wait::until("the change", PATIENCE, || {
            let answer = stage.client.call(Protocol::Tcp, WEB4)?;
            ensure!(answer.ok && answer.name == "b", "{answer:?}");
            Ok(())
        })
        .unwrap();
        let end = load.stop().unwrap();
        assert_eq!(end.failed, 0, "{error}: {end:?}");
        assert!(daemon.errors().iter().all(|line| line.contains("could not program the kernel")));
    }
}

/// A kubelet kills after thirty seconds, and people after five. Here the kernel is so slow that the first load would take an hour.
#[test]
fn a_daemon_that_is_asked_to_end_does_so_at_once_even_in_the_middle_of_its_first_load() {
    let stage = Stage::of_ebpf();
    let backend = stage.backend("a");
    stage.manifests.put("web.yaml", web(&[&backend.pod], &[])).unwrap();
    stage.manifests.put("many.yaml", crate::storm::services(2000)).unwrap();
    let mandate = Mandate::default();
    mandate.delay(Duration::from_millis(2500));
    let settings = Settings { mandate: Some(mandate.clone()), ..stage.settings() };
    let mut daemon = stage.node.daemon_unsynced(settings).unwrap();
    daemon.wait_log(&["\"started\""]).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    let begun = Instant::now();
    let status = daemon.terminate().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(status.success(), "{status}: {:#?}", daemon.log());
    assert!(daemon.log().iter().any(|line| line.contains("the loop is busy")), "{:#?}", daemon.log());
    mandate.delay(Duration::ZERO);
    daemon.restart().unwrap();
    stage.node.wait_endpoints("default", "web", 4).unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
}
