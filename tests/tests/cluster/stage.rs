//! What every test of this ring stands on: a control plane, and a node with a daemon that is nobody special.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lab::control_plane::ControlPlane;
use lab::objects::{Objects, documents};
use lab::{Daemon, Lab, Node, Settings};
use serde_json::{Value, json};

/// One control plane for all tests that only add to it; those that take it apart make their own. It lives until the
/// process ends, and its parts end with the process.
pub(crate) fn shared() -> &'static ControlPlane {
    static PLANE: Mutex<Option<&'static ControlPlane>> = Mutex::new(None);
    let mut plane = PLANE.lock().unwrap_or_else(PoisonError::into_inner);
    plane.get_or_insert_with(|| Box::leak(Box::new(own())))
}

/// A control plane with the rules of `deploy/` applied.
pub(crate) fn own() -> ControlPlane {
    let plane = ControlPlane::start().expect("a control plane");
    plane.objects().apply_file(&rules()).expect("the rules of deploy/");
    plane
}

pub(crate) fn rules() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/rbac.yaml")
}

/// The rules as objects, without the subjects' account.
pub(crate) fn role() -> Value {
    let text = std::fs::read_to_string(rules()).expect("deploy/base/rbac.yaml");
    let objects = documents(&text).expect("valid YAML");
    objects.into_iter().find(|object| object["kind"] == "ClusterRole").expect("a ClusterRole")
}

/// A node on a control plane's wire.
pub(crate) struct Stage {
    pub(crate) objects: Objects,
    pub(crate) node: Node,
    pub(crate) lab: Lab,
}

impl Stage {
    /// A node, and a namespace of the API of the same name, so that tests do not meet.
    pub(crate) fn new(plane: &ControlPlane, name: &str) -> Self {
        let lab = Lab::on(plane.wire()).expect("a lab");
        let node = lab.node(name).expect("a node");
        let objects = plane.objects();
        objects.namespace(name).expect("a namespace");
        Self { objects, node, lab }
    }

    /// A daemon under the service account of `deploy/`, synced.
    pub(crate) fn daemon(&self, plane: &ControlPlane) -> Daemon {
        self.node.daemon(self.settings(plane, "kube-system", "sluice")).expect("a synced daemon")
    }

    /// How to start a daemon under a service account.
    pub(crate) fn settings(&self, plane: &ControlPlane, namespace: &str, account: &str) -> Settings {
        let token = self.objects.token(namespace, account).expect("a token");
        let file = self.node.folder().join("kubeconfig");
        std::fs::write(&file, plane.kubeconfig(&token)).expect("a kubeconfig");
        Settings::kubeconfig(&file)
    }

    /// Namespace of this test's objects.
    pub(crate) fn namespace(&self) -> &str {
        self.node.name()
    }

    /// A Service that selects the pods of an application, with a port 80 for TCP and UDP that leads to 8080.
    pub(crate) fn service(&self, name: &str) -> Value {
        let port = |name: &str, protocol: &str| json!({ "name": name, "protocol": protocol, "port": 80, "targetPort": 8080 });
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": self.namespace() },
            "spec": {
                "selector": { "app": name },
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [port("tcp", "TCP"), port("udp", "UDP")],
            },
        })
    }

    /// A slice written by hand, with one endpoint an address.
    pub(crate) fn slice(&self, service: &str, addresses: &[&str]) -> Value {
        let endpoints: Vec<_> = addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{service}-by-hand"),
                "namespace": self.namespace(),
                "labels": { "kubernetes.io/service-name": service },
            },
            "addressType": "IPv4",
            "ports": [{ "name": "tcp", "protocol": "TCP", "port": 8080 }],
            "endpoints": endpoints,
        })
    }

    /// A Service without selector: its slices are written by hand.
    pub(crate) fn bare_service(&self, name: &str) -> Value {
        let mut service = self.service(name);
        service["spec"] = json!({ "ports": [{ "name": "tcp", "protocol": "TCP", "port": 80 }] });
        service
    }

    /// A Deployment whose pods all run on this node.
    pub(crate) fn deployment(&self, name: &str, replicas: u32) -> Value {
        let ports = [json!({ "containerPort": 8080 }), json!({ "containerPort": 8080, "protocol": "UDP" })];
        let container = json!({ "name": "echo", "image": "none", "ports": ports });
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": { "name": name, "namespace": self.namespace() },
            "spec": {
                "replicas": replicas,
                "selector": { "matchLabels": { "app": name } },
                "template": {
                    "metadata": { "labels": { "app": name } },
                    "spec": {
                        "nodeName": self.node.name(),
                        "terminationGracePeriodSeconds": 1,
                        "containers": [container],
                    },
                },
            },
        })
    }

    /// The cluster addresses of a Service.
    pub(crate) fn addresses(&self, service: &Value) -> Vec<std::net::IpAddr> {
        let object = self.objects.get(service).expect("the Service");
        serde_json::from_value(object["spec"]["clusterIPs"].clone()).expect("addresses")
    }
}
