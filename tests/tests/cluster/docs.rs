//! The commands of the pages, as an operator types them, where they speak of an API server.

use lab::control_plane::ControlPlane;
use lab::docs::{Ground, Home, to_tell};

use crate::stage::rules;

/// A plane of its own: the pages take away the account that other tests need. Its DaemonSets get their pods, though no
/// kubelet starts them.
#[test]
fn the_commands_of_pages_about_a_cluster_do_what_the_pages_say() {
    let plane = ControlPlane::start_with_daemon_sets().expect("a control plane");
    let mut wrong = Vec::new();
    for page in to_tell(Home::Cluster).expect("pages") {
        plane.objects().apply_file(&rules()).expect("the rules of deploy/");
        let mut ground = Ground::of_a_cluster(&plane).expect("a stage");
        wrong.extend(ground.tell(&page.to_run().expect("commands")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
