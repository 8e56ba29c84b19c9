//! A stand-in for the kubelet. It is not one: it runs no containers and knows nothing of images, volumes or probes.
//!
//! It registers its node, watches the Pods that are bound to it, runs each as one echo server in a place of its own,
//! and posts status and readiness. When a Pod is deleted the server gets SIGTERM and the Pod's grace; when the server
//! has ended, the Pod is removed. Everything else about a Pod in these tests is the work of the real controllers.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt as _;
use k8s_openapi::api::core::v1 as core;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::objects::client;
use crate::server::{Ports, Server};
use crate::topology::{Node, Pod};

/// A running stand-in. Its Pods' processes end with it.
#[derive(Debug)]
pub struct Kubelet {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Kubelet {
    /// Starts one for a node of the lab, and returns when the node is registered.
    pub fn start(node: &Node, kubeconfig: String) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let node = node.clone();
        let thread = std::thread::spawn(move || {
            let outcome = node.netns().enter().and_then(|()| live(&node, &kubeconfig, ready, stopped));
            if let Err(error) = outcome {
                eprintln!("the kubelet's stand-in on {} ended: {error:#}", node.name());
            }
        });
        let this = Self { stop: Some(stop), thread: Some(thread) };
        is_ready.recv().map_err(|_| anyhow!("the kubelet's stand-in did not start"))?;
        Ok(this)
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic there has been printed there.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn live(
    node: &Node,
    kubeconfig: &str,
    ready: std::sync::mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async {
        let client = client(kubeconfig).await?;
        register(node, &client).await?;
        // Whoever waits for it has gone if this fails, and we end with them.
        let _ = ready.send(());
        tokio::select! {
            outcome = follow(node, &client) => outcome,
            _ = stopped => Ok(()),
        }
    })
}

async fn register(node: &Node, client: &Client) -> Result<()> {
    let nodes: Api<core::Node> = Api::all(client.clone());
    let object = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": node.name() } });
    let params = PatchParams::apply("kubelet-stand-in").force();
    nodes
        .patch(node.name(), &params, &Patch::Apply(object))
        .await
        .context("could not register the node")
        .map(drop)
}

/// Starts a task for each Pod that appears; the task sees the Pod through to its end.
async fn follow(node: &Node, client: &Client) -> Result<()> {
    let pods: Api<core::Pod> = Api::all(client.clone());
    let ours = watcher::Config::default().fields(&format!("spec.nodeName={}", node.name()));
    let known = Rc::new(RefCell::new(BTreeSet::new()));
    let mut events = std::pin::pin!(watcher(pods, ours));
    loop {
        let event = match events.try_next().await {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(()),
            // The watcher begins anew by itself.
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        match event {
            Event::Apply(pod) | Event::InitApply(pod) => {
                if known.borrow_mut().insert(pod.uid().unwrap_or_default()) {
                    tokio::task::spawn_local(see_through(node.clone(), client.clone(), pod));
                }
            }
            Event::Delete(_) | Event::Init | Event::InitDone => {}
        }
    }
}

async fn see_through(node: Node, client: Client, pod: core::Pod) {
    let name = pod.name_any();
    if let Err(error) = run(&node, &client, &pod).await {
        eprintln!("pod {name}: {error:#}");
    }
}

async fn run(node: &Node, client: &Client, object: &core::Pod) -> Result<()> {
    let name = object.name_any();
    let pods: Api<core::Pod> = Api::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let pod = node.pod(&name)?;
    let mut server = pod.serve_on(&ports(object))?;
    let status = Patch::Merge(status(node, &pod));
    pods.patch_status(&name, &PatchParams::default(), &status).await.context("could not post status")?;
    until_deleted(&pods, &name).await;
    finish(&mut server).await?;
    let preconditions = Preconditions { uid: object.uid(), resource_version: None };
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(preconditions),
        ..DeleteParams::default()
    };
    pods.delete(&name, &params).await.context("could not remove it").map(drop)
}

/// Asks now and then: a watch for each Pod would load the server more.
async fn until_deleted(pods: &Api<core::Pod>, name: &str) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        match pods.get_opt(name).await {
            Ok(Some(pod)) if pod.metadata.deletion_timestamp.is_none() => {}
            Ok(_) => return,
            // The server may be away for a while.
            Err(_) => {}
        }
    }
}

async fn finish(server: &mut Server) -> Result<()> {
    server.terminate()?;
    while server.is_running() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn ports(object: &core::Pod) -> Ports {
    let spec = object.spec.as_ref();
    let seconds = spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    let mut ports = Ports { grace: Duration::from_secs(seconds.unsigned_abs()), ..Ports::default() };
    for port in
        spec.iter().flat_map(|spec| &spec.containers).flat_map(|container| container.ports.iter().flatten())
    {
        let Ok(number) = u16::try_from(port.container_port) else { continue };
        match port.protocol.as_deref() {
            Some("UDP") => ports.udp.push(number),
            Some(_) | None => ports.tcp.push(number),
        }
    }
    ports
}

fn status(node: &Node, pod: &Pod) -> Value {
    let condition = |kind: &str| json!({ "type": kind, "status": "True" });
    let kinds = ["PodScheduled", "Initialized", "ContainersReady", "Ready"];
    json!({ "status": {
        "phase": "Running",
        "hostIP": node.v4(),
        "hostIPs": [{ "ip": node.v4() }],
        "podIP": pod.v4(),
        "podIPs": [{ "ip": pod.v4() }, { "ip": pod.v6() }],
        "conditions": kinds.map(condition),
    }})
}
