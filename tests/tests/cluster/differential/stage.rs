//! What the comparison stands on: one API server with the scenario, and several nodes, each with a kube-proxy that is
//! configured in its own way.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use lab::Lab;
use lab::control_plane::ControlPlane;
use lab::kube_proxy::KubeProxy;
use lab::objects::{Objects, documents};
use lab::prober::{Crossroads, Layout, Pods};
use serde_json::{Value, json};

use super::compare::{Difference, differences, not_meant};
use super::plan::{Plan, document};
use super::table::Table;
use super::viewpoint::Viewpoint;
use super::{health, packets, rival};
use crate::stage::own;

/// Namespace of all objects of the scenario.
pub(super) const NAMESPACE: &str = "differential";
/// Files of the scenario, in the order in which they are applied.
const SCENARIO: [&str; 5] =
    ["nodes.yaml", "cluster.yaml", "endpoints.yaml", "topology.yaml", "external.yaml"];

/// How long a kube-proxy may take to hear of a change and to follow: it writes at most once a second.
const PATIENCE: Duration = Duration::from_secs(20);

/// One node of the scenario, as its kube-proxy is told to see it.
struct View {
    name: &'static str,
    /// Addresses of the node beside its first ones.
    further: &'static [&'static str],
    /// What its KubeProxyConfiguration says beyond the names of things.
    configuration: Value,
    /// What that means for packets: by which addresses pods are known, if by any.
    pods: &'static [&'static str],
}

/// The nodes of `nodes.yaml`, in the order in which they get their addresses.
fn views() -> [View; 6] {
    let both = json!({ "clusterCIDR": "10.1.0.0/16,fd00:1::/32" });
    let with = |piece: Value| {
        let (mut whole, piece) = (both.clone(), piece.as_object().cloned().unwrap_or_default());
        piece.into_iter().for_each(|(key, value)| whole[key] = value);
        whole
    };
    let view = |name, further, configuration, pods| View { name, further, configuration, pods };
    const PODS: &[&str] = &["10.1.0.0/16", "fd00:1::/32"];
    [
        view("n1", &[], both.clone(), PODS),
        view("n2", &[], json!({}), &[]),
        view("n3", &[], with(json!({ "nftables": { "masqueradeAll": true } })), PODS),
        view(
            "n4",
            &["10.0.1.4"],
            json!({
                "nodePortAddresses": ["10.0.1.0/24"],
                "detectLocalMode": "InterfaceNamePrefix",
                "detectLocal": { "interfaceNamePrefix": "p" },
            }),
            &[],
        ),
        view(
            "n5",
            &["10.0.1.5", "fd00::1:5"],
            with(json!({ "nodePortAddresses": ["0.0.0.0/0", "::/0"] })),
            PODS,
        ),
        view("n6", &[], json!({ "detectLocalMode": "NodeCIDR" }), &["10.1.6.0/24", "fd00:1:6::/64"]),
    ]
}

/// The scenario, and all who look at it.
pub(super) struct Stage {
    sides: Vec<Side>,
    objects: Objects,
    kubeconfig: PathBuf,
    lab: Lab,
    _plane: ControlPlane,
}

/// One node with its kube-proxy.
struct Side {
    rival: KubeProxy,
    view: Viewpoint,
    /// How it tells pods from others.
    pods: Pods,
    roads: Crossroads,
}

impl Stage {
    /// Everything is there, and every kube-proxy has finished once.
    pub(super) fn new() -> Result<Self> {
        let plane = own();
        let (lab, objects) = (Lab::on(plane.wire())?, plane.objects());
        objects.namespace(NAMESPACE)?;
        let kubeconfig = lab.folder().join("kubeconfig");
        std::fs::write(&kubeconfig, plane.admin_kubeconfig())?;
        let mut this = Self { sides: Vec::new(), objects, kubeconfig, lab, _plane: plane };
        SCENARIO.iter().try_for_each(|file| this.put(file))?;
        for view in views() {
            let side = this.side(&view).with_context(|| format!("on node {}", view.name))?;
            this.sides.push(side);
        }
        for side in &mut this.sides {
            side.rival.settled()?;
        }
        Ok(this)
    }

    /// What every kube-proxy does.
    pub(super) fn tables(&self) -> Result<Vec<Table>> {
        self.sides.iter().map(|side| rival::table(&side.rival, &side.view)).collect()
    }

    /// Waits until every node agrees with its plan, and fails with all differences if they do not.
    pub(super) fn agree(&mut self, when: &str) {
        let mut report = String::new();
        for side in &mut self.sides {
            // Each has its own time: one that is slow takes none from those behind it.
            let end = Instant::now() + PATIENCE;
            let left = until_empty(end, || side.differences(&self.kubeconfig)).expect("both sides");
            let lines: String = left.iter().map(|one| format!("  {one}\n")).collect();
            if !lines.is_empty() {
                report += &format!("node {}, {} differences:\n{lines}", side.rival.node().name(), left.len());
            }
        }
        assert!(report.is_empty(), "{when}:\n{report}");
    }

    /// Probes every node with packets, and fails with all that its plan does not say.
    pub(super) fn probe(&mut self, when: &str) {
        let mut report = String::new();
        for side in &mut self.sides {
            let name = side.rival.node().name().to_owned();
            let surprises = side.surprises(&self.kubeconfig).expect("packets");
            let lines: String = surprises.iter().map(|one| format!("  {one}\n")).collect();
            if !lines.is_empty() {
                report += &format!("node {name}, {} surprises:\n{lines}", surprises.len());
            }
        }
        assert!(report.is_empty(), "{when}:\n{report}");
    }

    /// Applies one file of this folder, with the status that its objects are written with.
    pub(super) fn put(&self, file: &str) -> Result<()> {
        let objects = documents(&text(file)?).with_context(|| format!("{file} is not YAML"))?;
        self.objects.apply_with_status(&objects)
    }

    fn side(&self, view: &View) -> Result<Side> {
        let node = self.lab.node(view.name)?;
        let further: Vec<IpAddr> = view.further.iter().map(|ip| ip.parse()).collect::<Result<_, _>>()?;
        let roads = Crossroads::around(&node, &Layout { addresses: &further, pod_link: "p9" })?;
        let kubeconfig = std::fs::read_to_string(&self.kubeconfig)?;
        let rival = KubeProxy::start(&node, &kubeconfig, &view.configuration)?;
        let ranges = view.pods.iter().map(|range| range.parse()).collect::<Result<Vec<_>, _>>()?;
        let pods = if ranges.is_empty() { Pods::Anywhere } else { Pods::In(ranges) };
        Ok(Side { rival, view: Viewpoint::of(&node, &further), pods, roads })
    }
}

impl Side {
    fn differences(&mut self, kubeconfig: &Path) -> Result<Vec<Difference>> {
        self.rival.settled()?;
        let plan = Plan::read(&self.document(kubeconfig)?)?;
        let mut all = differences(&rival::table(&self.rival, &self.view)?, &plan.table(&self.view)?);
        all.extend(health::differences(&self.rival, &self.view, &plan)?);
        Ok(not_meant(all))
    }

    /// What packets find that the plan does not say.
    fn surprises(&mut self, kubeconfig: &Path) -> Result<Vec<String>> {
        let plan = serde_json::from_slice(&self.document(kubeconfig)?)?;
        let table = rival::table(&self.rival, &self.view)?;
        packets::surprises(&mut self.roads, &plan, &self.view, &self.pods, &table)
    }

    fn document(&self, kubeconfig: &Path) -> Result<Vec<u8>> {
        document(self.rival.node(), kubeconfig, self.rival.config())
    }
}

/// The text of a file of this folder.
fn text(file: &str) -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/differential").join(file);
    std::fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))
}

/// Asks until the answer is empty or the time is up, but at least once, and returns the last answer.
fn until_empty<T>(end: Instant, mut ask: impl FnMut() -> Result<Vec<T>>) -> Result<Vec<T>> {
    loop {
        let answer = ask()?;
        if answer.is_empty() || Instant::now() >= end {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
