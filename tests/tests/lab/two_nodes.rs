//! Two nodes, each with its own daemon and its own control group.

use lab::Protocol;

use crate::stage::{PORT, Stage, WEB4, WEB6, web};

#[test]
fn two_daemons_on_two_nodes_serve_each_its_own_clients() {
    let stage = Stage::new();
    let far = stage.lab.node("n2").unwrap();
    let (near_pod, far_pod) = (stage.node.pod("near").unwrap(), far.pod("far").unwrap());
    let far_client = far.pod("far-client").unwrap();
    let _servers = [near_pod.serve(PORT).unwrap(), far_pod.serve(PORT).unwrap()];
    let daemon = stage.daemon();
    let mut far_daemon = far.daemon(stage.settings()).unwrap();
    stage.web(&[&near_pod, &far_pod]);
    far.wait_endpoints("default", "web", 8).unwrap();
    for (client, to) in
        [(&stage.client, WEB4), (&far_client, WEB4), (&stage.client, WEB6), (&far_client, WEB6)]
    {
        let answers = client.calls(Protocol::Tcp, to, 60).unwrap();
        let names: std::collections::BTreeSet<_> =
            answers.iter().map(|answer| answer.name.as_str()).collect();
        assert_eq!(names, ["far", "near"].into(), "from {} to {to}", client.name());
    }

    far_daemon.kill9().unwrap();
    stage.manifests.put("web.yaml", web(&[&near_pod], &[])).unwrap();
    stage.node.wait_endpoints("default", "web", 4).unwrap();
    let near = stage.client.calls(Protocol::Tcp, WEB4, 30).unwrap();
    assert!(near.iter().all(|answer| answer.name == "near"), "{near:?}");
    let far = far_client.calls(Protocol::Tcp, WEB4, 60).unwrap();
    assert!(far.iter().any(|answer| answer.name == "far"), "the other node has not heard of it: {far:?}");
    daemon.no_errors().unwrap();
}

#[test]
fn a_node_without_a_daemon_is_not_served() {
    let stage = Stage::new();
    let far = stage.lab.node("n2").unwrap();
    let stranger = far.pod("stranger").unwrap();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    assert!(!stranger.call(Protocol::Tcp, WEB4).unwrap().ok);
}
