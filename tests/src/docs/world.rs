//! What the pages speak of: Services `default/web`, `default/dns`, `default/reports` and `shop/web`, nodes `n1` and `n2`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::page::root;
use crate::objects::documents;
use crate::topology::Node;

/// Files of `examples/demo`, whose addresses are those of the first node of a lab.
const EXAMPLES: [&str; 4] = ["web-service.yaml", "web-endpoints.yaml", "dns.yaml", "reports.yaml"];

/// A configuration file as kubeadm writes it.
const KUBEADM: &str = "userspace/src/settings/kubeadm.yaml";

/// One with nothing in it that is not the default.
const PLAIN: &str = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

/// kube-proxy, as far as the API server must know it.
const KUBE_PROXY: &str = r#"
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-proxy, namespace: kube-system, labels: {k8s-app: kube-proxy}}
spec:
  selector: {matchLabels: {k8s-app: kube-proxy}}
  template:
    metadata: {labels: {k8s-app: kube-proxy}}
    spec:
      hostNetwork: true
      nodeSelector: {kubernetes.io/os: linux}
      tolerations: [{operator: Exists}]
      containers: [{name: kube-proxy, image: "registry.example/kube-proxy:v1.37.1"}]
"#;

/// Everything, for a node that is called `n1`.
pub fn objects(node: &Node) -> Result<Vec<Value>> {
    let mut all = vec![node_object("n1", Some(node)), node_object("n2", None)];
    for name in EXAMPLES {
        let path = root().join("examples/demo").join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        all.extend(documents(&moved(&text, node))?);
    }
    all.extend(documents(&moved(SHOP, node))?);
    Ok(all)
}

/// What only an API server is told.
pub fn more_of_a_cluster() -> Result<Vec<Value>> {
    let mut all = vec![json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } })];
    all.extend(documents(KUBE_PROXY)?);
    Ok(all)
}

/// Folders and files by the names that the pages give them, below `work`: `DIR`, `changed`, `config.conf`, `deploy`.
pub fn lay_out(work: &Path, objects: &[Value]) -> Result<()> {
    put(&work.join("DIR"), objects)?;
    let is_web = |object: &&Value| object["metadata"]["name"] != "web-v4";
    put(&work.join("changed"), &objects.iter().filter(is_web).cloned().collect::<Vec<_>>())?;
    fs::copy(root().join(KUBEADM), work.join("config.conf"))?;
    let copied = std::process::Command::new("cp").arg("-r").arg(root().join("deploy")).arg(work).status()?;
    anyhow::ensure!(copied.success(), "could not copy deploy/");
    Ok(())
}

/// kube-proxy's file as a node has it.
pub fn node_files(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder.join("kube-proxy"))?;
    Ok(fs::write(folder.join("kube-proxy/config.conf"), PLAIN)?)
}

fn put(folder: &Path, objects: &[Value]) -> Result<()> {
    fs::create_dir_all(folder)?;
    let texts: Vec<String> = objects.iter().map(Value::to_string).collect();
    Ok(fs::write(folder.join("all.yaml"), texts.join("\n---\n"))?)
}

/// The same for the pods of another node.
fn moved(text: &str, node: &Node) -> String {
    let [_, _, _, number] = node.v4().octets();
    text.replace("10.1.1.", &format!("10.1.{number}.")).replace("fd00:1:1::", &format!("fd00:1:{number:x}::"))
}

fn node_object(name: &str, node: Option<&Node>) -> Value {
    let mut object = json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { "kubernetes.io/os": "linux" } },
        "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "110" } } });
    if let Some(node) = node {
        let [_, _, _, number] = node.v4().octets();
        let ranges = [format!("10.1.{number}.0/24"), format!("fd00:1:{number:x}::/64")];
        object["spec"] = json!({ "podCIDR": ranges[0], "podCIDRs": ranges });
        let address = |address: String| json!({ "type": "InternalIP", "address": address });
        let addresses = [address(node.v4().to_string()), address(node.v6().to_string())];
        object["status"]["addresses"] = json!(addresses);
    }
    object
}

/// A Service with an address for outside, and a port for health checks.
const SHOP: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: LoadBalancer
  externalTrafficPolicy: Local
  healthCheckNodePort: 32100
  clusterIP: 10.96.0.80
  clusterIPs: [10.96.0.80]
  ipFamilies: [IPv4]
  ipFamilyPolicy: SingleStack
  ports:
  - {name: https, protocol: TCP, port: 443, targetPort: 8080, nodePort: 30443}
status:
  loadBalancer: {ingress: [{ip: 192.0.2.1}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-v4
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports:
- {name: https, protocol: TCP, port: 8080}
endpoints:
- {addresses: [10.1.1.3], nodeName: n1, conditions: {ready: true}}
- {addresses: [10.1.1.4], nodeName: n1, conditions: {ready: true}}
"#;
