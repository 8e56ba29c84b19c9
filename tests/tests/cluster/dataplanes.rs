//! Those who may serve a node of a story: kube-proxy, or the daemon. Both read the same API server.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lab::control_plane::ControlPlane;
use lab::kube_proxy::KubeProxy;
use lab::objects::Objects;
use lab::prober::Plan;
use lab::story::Dataplane;
use lab::{Daemon, Lab, Node, Settings};
use serde_json::{Value, json};

/// How the daemon is told to serve packets.
const DATAPLANE: [&str; 1] = ["--dataplane=nftables"];
/// What the stories say, and what they must say to this API server: its range of IPv6 is another one, and one address is
/// its own.
const OTHERWISE: [(&str, &str); 2] = [("fd00:96::", "fd00:10:96::"), ("\"10.96.0.1\"", "\"10.96.200.1\"")];

/// What both have in common.
struct Api {
    objects: Objects,
    /// Of somebody who may do everything.
    kubeconfig: PathBuf,
}

/// kube-proxy.
pub(crate) struct Rival {
    api: Api,
    process: Option<KubeProxy>,
    /// On which node, with which configuration.
    started: Option<(Node, PathBuf)>,
}

/// The daemon.
pub(crate) struct Sluice {
    api: Api,
    daemon: Option<Daemon>,
}

impl Api {
    fn new(plane: &ControlPlane, lab: &Lab) -> Result<Self> {
        let kubeconfig = lab.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, plane.admin_kubeconfig())?;
        Ok(Self { objects: plane.objects(), kubeconfig })
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        for namespace in objects.iter().filter_map(|object| object["metadata"]["namespace"].as_str()) {
            if namespace != "default" {
                self.objects.namespace(namespace)?;
            }
        }
        self.objects.apply_with_status(&objects.iter().map(otherwise).collect::<Result<Vec<_>>>()?)
    }

    /// A story may delete what is not there.
    fn delete(&self, object: &Value) {
        let _ = self.objects.delete(object);
    }

    fn plan(&self, node: &Node, config: &Path) -> Result<Plan> {
        let (door, config) = (text(&self.kubeconfig)?, text(config)?);
        let document = node.plan_document(&["--kubeconfig", door, "--config", config])?;
        let mut plan: Plan = serde_json::from_value(document)?;
        // The API server's own endpoint is on the wire, where nobody looks.
        plan.services.retain(|port| port.name != "kubernetes");
        Ok(plan)
    }
}

impl Rival {
    pub(crate) fn new(plane: &ControlPlane, lab: &Lab) -> Result<Self> {
        Ok(Self { api: Api::new(plane, lab)?, process: None, started: None })
    }
}

impl Sluice {
    pub(crate) fn new(plane: &ControlPlane, lab: &Lab) -> Result<Self> {
        Ok(Self { api: Api::new(plane, lab)?, daemon: None })
    }
}

impl Rival {
    fn run(&mut self, node: &Node, config: &Path) -> Result<()> {
        let config: Value = serde_json::from_slice(&std::fs::read(config)?)?;
        let mut process = KubeProxy::start(node, &std::fs::read_to_string(&self.api.kubeconfig)?, &config)?;
        process.settled()?;
        self.process = Some(process);
        Ok(())
    }
}

impl Dataplane for Rival {
    fn start(&mut self, node: &Node, config: &Path) -> Result<()> {
        drop(self.process.take());
        self.started = Some((node.clone(), config.to_owned()));
        self.run(node, config)
    }

    /// It ends when its Node changes its addresses, or goes.
    fn keep(&mut self) -> Result<()> {
        let is_alive = self.process.as_mut().is_some_and(|process| process.alive().is_ok());
        match self.started.clone() {
            Some((node, config)) if !is_alive => self.run(&node, &config),
            Some(_) | None => Ok(()),
        }
    }

    fn apply(&mut self, objects: &[Value]) -> Result<()> {
        self.api.apply(objects)
    }

    fn delete(&mut self, object: &Value) -> Result<()> {
        self.api.delete(object);
        Ok(())
    }

    fn plan(&self, node: &Node, config: &Path) -> Result<Plan> {
        self.api.plan(node, config)
    }

    /// It does not begin before its Node has addresses.
    fn addresses(&self, node: &Node) -> Vec<IpAddr> {
        vec![node.v4().into(), node.v6().into()]
    }

    /// It takes note of them, and does it with its next full pass, an hour later.
    fn drops_unallocated(&self) -> bool {
        false
    }
}

impl Dataplane for Sluice {
    fn start(&mut self, node: &Node, config: &Path) -> Result<()> {
        // What the one before has installed stays, as at any restart.
        drop(self.daemon.take());
        // The file replaces the flag, so the file must say where the API server is.
        let mut whole: Value = serde_json::from_slice(&std::fs::read(config)?)?;
        whole["clientConnection"]["kubeconfig"] = text(&self.api.kubeconfig)?.into();
        let own = node.folder().join("sluice.json");
        std::fs::write(&own, whole.to_string())?;
        let settings = Settings::kubeconfig(&self.api.kubeconfig).with(&DATAPLANE);
        self.daemon = Some(node.daemon(settings.with(&["--config", text(&own)?]))?);
        Ok(())
    }

    fn apply(&mut self, objects: &[Value]) -> Result<()> {
        self.api.apply(objects)
    }

    fn delete(&mut self, object: &Value) -> Result<()> {
        self.api.delete(object);
        Ok(())
    }

    fn plan(&self, node: &Node, config: &Path) -> Result<Plan> {
        self.api.plan(node, config)
    }

    fn addresses(&self, _node: &Node) -> Vec<IpAddr> {
        Vec::new()
    }

    fn drops_unallocated(&self) -> bool {
        true
    }
}

/// As this API server takes it.
fn otherwise(object: &Value) -> Result<Value> {
    let text = OTHERWISE.iter().fold(object.to_string(), |text, (old, new)| text.replace(old, new));
    let mut object: Value = serde_json::from_str(&text)?;
    let families = object["spec"]["clusterIPs"].as_array().map_or(0, Vec::len);
    if object["kind"] == "Service" && families > 1 {
        object["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    }
    Ok(object)
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a file with an odd name")
}
