//! The API server goes away and comes back.

use nix::sys::signal::Signal;

use crate::stage::{Stage, own};

#[test]
fn while_the_server_is_away_the_kernel_keeps_its_state_and_afterwards_it_catches_up() {
    let plane = own();
    let stage = Stage::new(&plane, "outage");
    let daemon = stage.daemon(&plane);
    let (kept, gone) = (stage.bare_service("kept"), stage.bare_service("gone"));
    let slices = [stage.slice("kept", &["10.1.0.1", "10.1.0.2"]), stage.slice("gone", &["10.1.0.3"])];
    stage.objects.apply(&[kept, gone.clone()]).unwrap();
    stage.objects.apply(&slices).unwrap();
    stage.node.wait_endpoints("outage", "kept", 2).unwrap();
    stage.node.wait_endpoints("outage", "gone", 1).unwrap();
    let before = (stage.node.services().unwrap(), stage.node.backends().unwrap());

    plane.stop_server().unwrap();
    daemon.wait_log(&["WARN"]).unwrap();
    assert_eq!((stage.node.services().unwrap(), stage.node.backends().unwrap()), before);

    plane.start_server().unwrap();
    stage.objects.delete(&gone).unwrap();
    stage.objects.apply(&[stage.slice("kept", &["10.1.0.1", "10.1.0.2", "10.1.0.4"])]).unwrap();
    stage.node.wait_gone("outage", "gone").unwrap();
    stage.node.wait_endpoints("outage", "kept", 3).unwrap();
}

/// The daemon is stopped as a process and its connection is cut before anything changes, so that it learns nothing; etcd
/// then forgets the changes, and a server that starts afterwards cannot tell them.
#[test]
fn changes_that_the_server_can_no_longer_tell_are_found_by_a_new_list() {
    let plane = own();
    let stage = Stage::new(&plane, "gone");
    let mut daemon = stage.daemon(&plane);
    let (kept, gone) = (stage.bare_service("kept"), stage.bare_service("gone"));
    stage.objects.apply(&[kept, gone.clone(), stage.slice("kept", &["10.1.0.1"])]).unwrap();
    stage.node.wait_endpoints("gone", "kept", 1).unwrap();
    stage.node.wait_endpoints("gone", "gone", 0).unwrap();

    daemon.process().signal(Signal::SIGSTOP).unwrap();
    plane.stop_server().unwrap();
    plane.start_server().unwrap();
    stage.objects.delete(&gone).unwrap();
    stage.objects.apply(&[stage.slice("kept", &["10.1.0.1", "10.1.0.2"])]).unwrap();
    plane.stop_server().unwrap();
    plane.forget_the_past().unwrap();
    plane.start_server().unwrap();
    let before = stage.node.services().unwrap();
    assert!(before.iter().any(|row| row.name == "gone"), "it has not heard of the changes: {before:?}");

    daemon.process().signal(Signal::SIGCONT).unwrap();
    daemon.wait_log(&["too old resource version"]).unwrap();
    stage.node.wait_gone("gone", "gone").unwrap();
    stage.node.wait_endpoints("gone", "kept", 2).unwrap();
    daemon.wait_synced().unwrap();
}
