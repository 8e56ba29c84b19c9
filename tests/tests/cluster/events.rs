//! Events: what an operator must know is told in the API, once.

use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::events::v1::Event;
use kube::Api;
use kube::api::ListParams;
use lab::objects::Objects;
use lab::{http, wait};
use serde_json::json;

use crate::stage::{Stage, shared};

/// Longer than nodes wait for each other.
const PATIENCE: Duration = Duration::from_secs(30);

/// Events of ours in a namespace with this reason, about what has this name.
fn events(objects: &Objects, namespace: &str, reason: &str, about: &str) -> Result<Vec<Event>> {
    let all = objects.run(async |client| {
        let api: Api<Event> = Api::namespaced(client, namespace);
        Ok(api.list(&ListParams::default()).await?.items)
    })?;
    let is_meant = |event: &Event| {
        event.reporting_controller.as_deref() == Some("sluice")
            && event.reason.as_deref() == Some(reason)
            && event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(about)
    };
    Ok(all.into_iter().filter(is_meant).collect())
}

fn wait_event(objects: &Objects, namespace: &str, reason: &str, about: &str) -> Event {
    wait::until(&format!("{reason} about {about}"), PATIENCE, || {
        events(objects, namespace, reason, about)?.pop().context("no such event")
    })
    .expect("an event")
}

#[test]
fn a_node_is_told_to_have_begun_and_to_have_been_put_right() {
    let stage = Stage::new(shared(), "events-node");
    let daemon = stage.daemon(shared());
    let event = wait_event(&stage.objects, "default", "Starting", stage.node.name());
    assert_eq!(event.type_.as_deref(), Some("Normal"));
    assert_eq!(event.regarding.unwrap().kind.as_deref(), Some("Node"));
    assert!(event.note.unwrap().contains("Services are served"));
    let changed = wait_event(&stage.objects, "default", "DataplaneChanged", stage.node.name());
    assert_eq!(changed.type_.as_deref(), Some("Normal"), "{changed:?}");
    stage.node.netns().run(flush).unwrap();
    let event = wait_event(&stage.objects, "default", "Repaired", stage.node.name());
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    daemon.no_errors().unwrap();
}

#[test]
fn a_port_for_health_that_somebody_else_has_is_told_of() {
    let stage = Stage::new(shared(), "events-port");
    let holder = stage.node.netns().run(|| Ok(TcpListener::bind("0.0.0.0:10256")?)).unwrap();
    let daemon = stage.daemon(shared());
    let event = wait_event(&stage.objects, "default", "Configuration", stage.node.name());
    let note = event.note.unwrap();
    assert!(note.contains("healthzBindAddress") && note.contains("10256"), "{note}");
    assert_eq!(
        (event.type_.as_deref(), event.regarding.unwrap().kind.as_deref()),
        (Some("Warning"), Some("Node"))
    );
    drop(holder);
    let at = SocketAddr::new(stage.node.v4().into(), 10256);
    wait::until("an answer from the daemon", PATIENCE, || {
        ensure!(http::get(stage.node.netns(), at, "/livez")?.status == 200, "not well");
        Ok(())
    })
    .unwrap();
    daemon.no_errors().unwrap();
}

fn flush() -> Result<()> {
    let status = Command::new("nft").args(["flush", "ruleset"]).status()?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

/// However many nodes find the same, the API holds it once.
#[test]
fn a_service_whose_address_another_one_has_is_told_of_once_by_all_nodes() {
    let stage = Stage::new(shared(), "events-conflict");
    let second = stage.lab.node("events-second").unwrap();
    let daemons =
        [stage.daemon(shared()), second.daemon(stage.settings(shared(), "kube-system", "sluice")).unwrap()];
    for name in ["first", "later"] {
        let mut service = stage.service(name);
        service["spec"]["externalIPs"] = json!(["198.51.100.77"]);
        stage.objects.apply(&[service]).unwrap();
        // The older of two Services keeps the address; ages are told in seconds.
        std::thread::sleep(Duration::from_millis(1100));
    }
    let event = wait_event(&stage.objects, stage.namespace(), "AddressConflict", "later");
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    let note = event.note.unwrap();
    assert!(note.contains("198.51.100.77") && note.contains("first"), "{note}");
    std::thread::sleep(Duration::from_secs(6));
    let all = events(&stage.objects, stage.namespace(), "AddressConflict", "later").unwrap();
    let mut notes: Vec<_> = all.into_iter().filter_map(|event| event.note).collect();
    notes.sort();
    let expected = ["TCP", "UDP"].map(|protocol| {
        let first = format!("Service {}/first", stage.namespace());
        format!("spec.externalIPs: 198.51.100.77:80/{protocol} is taken by {first}, which goes first")
    });
    assert_eq!(notes, expected);
    assert!(events(&stage.objects, stage.namespace(), "AddressConflict", "first").unwrap().is_empty());
    daemons.iter().for_each(|daemon| daemon.no_errors().unwrap());
}
