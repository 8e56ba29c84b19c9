//! The real API server, filled with services.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use lab::control_plane::ControlPlane;
use lab::topology::Wire;
use serde_json::{Value, json};

use crate::shapes::{self, ENDPOINTS};

/// Where the programs are that the API server and the rival are made of.
const PARTS: &str = "SLUICE_PARTS";
/// The programs.
const NEEDED: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy"];
/// Connections that fill the server.
const CONNECTIONS: u32 = 4;
/// Requests in flight on each.
const IN_FLIGHT: usize = 8;

/// A control plane, and how many services it has.
pub(crate) struct Cluster {
    plane: ControlPlane,
    services: u32,
}

impl Cluster {
    /// Starts one; `None` if its parts are not there.
    pub(crate) fn start() -> Result<Option<Self>> {
        let Some(folder) = std::env::var_os(PARTS) else {
            eprintln!(
                "baseline kube-proxy-nftables is missing: {PARTS} is not set (`cargo xtask bench` sets it)"
            );
            return Ok(None);
        };
        if let Some(missing) = NEEDED.iter().find(|name| !Path::new(&folder).join(name).is_file()) {
            eprintln!("baseline kube-proxy-nftables is missing: no {missing} where {PARTS} points");
            return Ok(None);
        }
        eprintln!("starting an API server");
        Ok(Some(Self { plane: ControlPlane::start()?, services: 0 }))
    }

    /// How many services of the usual shape it has.
    pub(crate) fn services(&self) -> u32 {
        self.services
    }

    /// What connects it with nodes.
    pub(crate) fn wire(&self) -> &Wire {
        self.plane.wire()
    }

    /// A kubeconfig for somebody who may do everything.
    pub(crate) fn kubeconfig(&self) -> String {
        self.plane.admin_kubeconfig()
    }

    /// Adds services of the usual shape until there are so many.
    pub(crate) fn fill(&mut self, services: u32) -> Result<()> {
        let begin = Instant::now();
        let first = self.services;
        if services <= first {
            return Ok(());
        }
        eprintln!("writing {} services and their slices to the API server", services - first);
        let kubeconfig = self.kubeconfig();
        self.plane.objects().run(async |_| {
            let lanes = (0..CONNECTIONS).map(|lane| create_share(&kubeconfig, first + lane, services));
            futures::future::try_join_all(lanes).await.map(drop)
        })?;
        self.services = services;
        eprintln!("written in {:.0} s", begin.elapsed().as_secs_f64());
        Ok(())
    }

    /// Writes objects that are not of the usual shape.
    pub(crate) fn apply(&self, objects: &[Value]) -> Result<()> {
        self.plane.objects().apply(objects)
    }

    /// Gives one service another number of endpoints, and says when the server has answered.
    pub(crate) fn set_endpoints(&self, number: u32, count: u32) -> Result<Instant> {
        self.plane.objects().run(async |client| {
            let api: Api<EndpointSlice> = Api::namespaced(client, "default");
            let (name, params) = (shapes::slice_name(number), PatchParams::default());
            let piece = Patch::Merge(json!({ "endpoints": shapes::endpoints(number, count) }));
            api.patch(&name, &params, &piece).await.context("could not change a slice")?;
            Ok(Instant::now())
        })
    }

    /// Tells the server of a node, which kube-proxy wants to know before it begins.
    pub(crate) fn announce(&self, node: &lab::Node) -> Result<()> {
        let object: Node = serde_json::from_value(json!({
            "metadata": { "name": node.name() },
            "status": { "addresses": [
                { "type": "InternalIP", "address": node.v4() },
                { "type": "InternalIP", "address": node.v6() },
            ] },
        }))?;
        self.plane.objects().run(async |client| {
            let api: Api<Node> = Api::all(client);
            api.create(&PostParams::default(), &object).await.context("could not make a Node")?;
            let status = Patch::Merge(json!({ "status": object.status }));
            let done = api.patch_status(node.name(), &PatchParams::default(), &status).await;
            done.context("could not give a Node its addresses").map(drop)
        })
    }
}

/// Every so many-th service from `first`, over a connection of its own.
async fn create_share(kubeconfig: &str, first: u32, end: u32) -> Result<()> {
    let client = lab::objects::client(kubeconfig).await?;
    let numbers = (first..end).step_by(CONNECTIONS as usize);
    let all = stream::iter(numbers).map(|number| create(&client, number));
    all.buffer_unordered(IN_FLIGHT).try_collect::<()>().await
}

async fn create(client: &Client, number: u32) -> Result<()> {
    let params = PostParams::default();
    let services: Api<Service> = Api::namespaced(client.clone(), "default");
    let service: Service = serde_json::from_value(shapes::service(number))?;
    services.create(&params, &service).await.with_context(|| format!("could not create service {number}"))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), "default");
    let slice: EndpointSlice = serde_json::from_value(shapes::slice(number, ENDPOINTS))?;
    slices.create(&params, &slice).await.with_context(|| format!("could not create slice {number}"))?;
    Ok(())
}
