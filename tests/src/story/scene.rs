//! Where a story is told: a node at the crossroads, a dataplane, and all objects there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Dataplane, Order, Story};
use crate::prober::{
    Answer, Class, Crossroads, Layout, Outlook, Pods, Protocol, Question, ask, claims, contradictions,
};
use crate::topology::Lab;
use crate::wait;

/// A story that is being told.
pub struct Scene<'a> {
    lab: &'a Lab,
    dataplane: Box<dyn Dataplane + 'a>,
    roads: Option<Crossroads>,
    /// How the link to the pods is called.
    pod_link: String,
    name: String,
    /// What the story says of the node's addresses.
    addresses: Option<Vec<IpAddr>>,
    config: Value,
    /// The configuration that is in force.
    started: Option<(Value, PathBuf)>,
    objects: BTreeMap<Name, Value>,
    /// What differs from what the dataplane was told.
    changed: Vec<Name>,
    /// How often the story has looked.
    looks: u16,
}

/// One family of the Service that comes last.
struct Signal {
    family: &'static str,
    ip: &'static str,
    endpoint: &'static str,
    /// Who asks.
    source: IpAddr,
}

/// Kind, namespace and name.
type Name = [String; 3];

/// How long a dataplane may take to do what it was told.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much later it may have done all of it.
const SETTLED: Duration = Duration::from_secs(3);
/// How often it is looked at least: on a busy machine one look may take as long.
const LOOKS: u32 = 3;
/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// Where a Service tells that everything before it is in force: it changes its port each time, and comes last. Families
/// may be written one after the other.
const SIGNALS: [Signal; 2] = [
    Signal {
        family: "IPv4",
        ip: "10.96.255.250",
        endpoint: "198.18.7.7",
        source: IpAddr::V4(Ipv4Addr::new(100, 65, 0, 1)),
    },
    Signal {
        family: "IPv6",
        ip: "fd00:10:96::fffa",
        endpoint: "2001:2::7",
        source: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x65, 0, 0, 0, 0, 1)),
    },
];
const SIGNAL: &str = "zz-signal";
const FIRST_SIGNAL: u16 = 20_000;
/// How the link to the pods is called where nobody minds.
const POD_LINK: &str = "p9";

impl<'a> Scene<'a> {
    /// Nothing has happened yet.
    pub fn new(lab: &'a Lab, dataplane: Box<dyn Dataplane + 'a>) -> Self {
        Self {
            lab,
            dataplane,
            roads: None,
            pod_link: POD_LINK.to_owned(),
            name: "n1".to_owned(),
            addresses: None,
            config: json!({}),
            started: None,
            objects: BTreeMap::new(),
            changed: Vec::new(),
            looks: 0,
        }
    }

    /// Tells a story to its end, and returns all that packets contradicted.
    pub fn tell(&mut self, story: &Story) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for order in &story.orders {
            match order {
                Order::Node(name, addresses) => {
                    // Another node is another place, with another daemon.
                    if *name != self.name {
                        (self.roads, self.started) = (None, None);
                    }
                    self.name.clone_from(name);
                    self.addresses = (!addresses.is_empty()).then(|| addresses.clone());
                }
                Order::Config(config) => self.config = config.clone(),
                Order::Apply(objects) => objects.iter().for_each(|object| self.put(object)),
                Order::Delete(object) => self.take(object)?,
                Order::Expect => {
                    let found = self.look().with_context(|| format!("at look {}", self.looks))?;
                    wrong.extend(found.into_iter().map(|one| format!("look {}: {one}", self.looks)));
                }
            }
        }
        Ok(wrong)
    }

    /// Takes away every object.
    pub fn clear(&mut self) -> Result<()> {
        self.objects.values().try_for_each(|object| self.dataplane.delete(object))
    }

    fn put(&mut self, object: &Value) {
        let name = name(object);
        self.objects.insert(name.clone(), object.clone());
        self.changed.push(name);
    }

    fn take(&mut self, object: &Value) -> Result<()> {
        self.tell_changes()?;
        self.objects.remove(&name(object));
        self.dataplane.delete(object)
    }

    fn look(&mut self) -> Result<Vec<String>> {
        self.looks += 1;
        self.lay_out()?;
        self.signal();
        self.tell_changes()?;
        let file = match &self.started {
            Some((config, file)) if *config == self.config => file.clone(),
            _ => self.start()?,
        };
        self.wait_signal()?;
        self.compare(&file)
    }

    /// Starts the dataplane with the configuration, which is returned as a file.
    fn start(&mut self) -> Result<PathBuf> {
        let (node, file) = (self.roads()?.node().clone(), self.write_config()?);
        self.dataplane.start(&node, &file)?;
        self.started = Some((self.config.clone(), file.clone()));
        Ok(file)
    }

    /// The node with its addresses and links.
    fn lay_out(&mut self) -> Result<()> {
        if self.roads.is_none() {
            let node = self.lab.node(&self.name)?;
            self.pod_link = POD_LINK.to_owned();
            self.roads = Some(Crossroads::around(&node, &Layout { addresses: &[], pod_link: POD_LINK })?);
        }
        self.give_addresses()?;
        let own = self.own();
        let roads = self.roads.as_mut().context("no node")?;
        own.into_iter().try_for_each(|ip| roads.add_address(ip))?;
        let link = pod_link(&self.config);
        if link != self.pod_link {
            roads.rename_pod_link(&self.pod_link, &link)?;
            self.pod_link = link;
        }
        Ok(())
    }

    /// Addresses that the story gives to its node belong into its Node object.
    fn give_addresses(&mut self) -> Result<()> {
        let named: Name = ["Node".to_owned(), String::new(), self.name.clone()];
        let addresses = match &self.addresses {
            Some(addresses) => addresses.clone(),
            None => self.dataplane.addresses(self.roads()?.node()),
        };
        let is_told =
            self.addresses.is_some() || self.objects.get(&named).is_none_or(|node| node["status"].is_null());
        if addresses.is_empty() || !is_told {
            return Ok(());
        }
        let bare = || json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": self.name } });
        let mut node = self.objects.get(&named).cloned().unwrap_or_else(bare);
        let all: Vec<Value> =
            addresses.iter().map(|ip| json!({ "type": "InternalIP", "address": ip })).collect();
        node["status"]["addresses"] = json!(all);
        if self.objects.get(&named) != Some(&node) {
            self.put(&node);
        }
        Ok(())
    }

    /// Changes a Service that comes after everything else.
    fn signal(&mut self) {
        let port = json!({ "name": "", "port": FIRST_SIGNAL + self.looks, "protocol": "TCP" });
        for Signal { family, ip: _, endpoint, source: _ } in SIGNALS {
            let labels = json!({ "kubernetes.io/service-name": SIGNAL });
            let name = format!("{SIGNAL}-{}", family.to_lowercase());
            self.put(&json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
                "metadata": { "name": name, "namespace": "default", "labels": labels },
                "ports": [port], "endpoints": [{ "addresses": [endpoint] }],
            }));
        }
        let ips = SIGNALS.map(|signal| signal.ip);
        self.put(&json!({
            "apiVersion": "v1", "kind": "Service", "metadata": { "name": SIGNAL, "namespace": "default" },
            "spec": {
                "clusterIP": ips[0], "clusterIPs": ips, "ipFamilies": SIGNALS.map(|signal| signal.family),
                "ipFamilyPolicy": "RequireDualStack",
                "ports": [{ "port": FIRST_SIGNAL + self.looks, "protocol": "TCP" }],
            },
        }));
    }

    fn tell_changes(&mut self) -> Result<()> {
        let mut told = BTreeSet::new();
        let mut last: Vec<Name> = std::mem::take(&mut self.changed);
        // Only the last of several versions, where that one came.
        last.reverse();
        last.retain(|name| told.insert(name.clone()));
        last.reverse();
        let objects: Vec<Value> = last.iter().filter_map(|name| self.objects.get(name).cloned()).collect();
        self.dataplane.apply(&objects)
    }

    fn wait_signal(&mut self) -> Result<()> {
        let port = FIRST_SIGNAL + self.looks;
        let at = |ip: &str| -> Result<_> { Ok(SocketAddr::new(ip.parse()?, port)) };
        let (mut questions, mut endpoints) = (Vec::new(), Vec::new());
        for Signal { family: _, ip, endpoint, source } in SIGNALS {
            let (from, protocol, to) = (Class::Outside, Protocol::Tcp, at(ip)?);
            questions.push(Question { from, protocol, to, sources: vec![source], endpoints: 1 });
            endpoints.push(BTreeSet::from([at(endpoint)?]));
        }
        let roads = self.roads.as_mut().context("no node")?;
        wait::until("the dataplane to follow", PATIENCE, || {
            self.dataplane.keep()?;
            let answers = ask(roads, &questions)?;
            let seen = answers.iter().map(Answer::endpoints);
            ensure!(seen.eq(endpoints.iter().map(Some)), "{questions:?} was answered with {answers:?}");
            Ok(())
        })
    }

    fn compare(&mut self, file: &Path) -> Result<Vec<String>> {
        let mut plan = self.dataplane.plan(self.roads()?.node(), file)?;
        // Nobody from another place can be asked to call a host's loopback.
        plan.services.iter_mut().for_each(|port| port.addresses.retain(|address| !address.ip.is_loopback()));
        let mut outlook = Outlook::new(self.pods(), &self.sources()?, self.here());
        outlook.drops_unallocated = self.dataplane.drops_unallocated();
        outlook.shows_clients = self.dataplane.shows_clients();
        let claims = claims(&plan, &mut outlook)?;
        let roads = self.roads.as_mut().context("no node")?;
        let mut wrong = settled(|| contradictions(roads, &claims))?;
        let node = self.roads()?.node().clone();
        wrong.extend(settled(|| self.dataplane.calls(&node, &plan))?);
        Ok(wrong)
    }

    /// A file of its own for each: who runs still watches the one before.
    fn write_config(&self) -> Result<PathBuf> {
        let file = self.roads()?.node().folder().join(format!("config-{}.json", self.looks));
        let mut config = self.config.clone();
        config["apiVersion"] = json!("kubeproxy.config.k8s.io/v1alpha1");
        config["kind"] = json!("KubeProxyConfiguration");
        std::fs::write(&file, config.to_string())?;
        Ok(file)
    }

    fn roads(&self) -> Result<&Crossroads> {
        self.roads.as_ref().context("no node")
    }

    fn node_object(&self) -> Option<&Value> {
        self.objects.get(&["Node".to_owned(), String::new(), self.name.clone()])
    }

    /// Addresses that the Node object names, loopback left out.
    fn own(&self) -> Vec<IpAddr> {
        let listed = self.node_object().and_then(|node| node["status"]["addresses"].as_array());
        let texts = listed.into_iter().flatten().filter_map(|one| one["address"].as_str());
        texts.filter_map(|text| text.parse().ok()).filter(|ip: &IpAddr| !ip.is_loopback()).collect()
    }

    /// Where the node's own flows come from: of each family, what the Node object names, else what the lab gave.
    fn sources(&self) -> Result<Vec<IpAddr>> {
        let node = self.roads()?.node();
        let mut all = self.own();
        let lab: [IpAddr; 2] = [node.v4().into(), node.v6().into()];
        let missing = lab.into_iter().filter(|ip| !all.iter().any(|own| own.is_ipv4() == ip.is_ipv4()));
        all.extend(missing.collect::<Vec<_>>());
        Ok(all)
    }

    fn pods(&self) -> Pods {
        let texts: Vec<String> = match self.config["detectLocalMode"].as_str() {
            Some("NodeCIDR") => {
                let ranges = self.node_object().and_then(|node| node["spec"]["podCIDRs"].as_array());
                ranges.into_iter().flatten().filter_map(|range| range.as_str()).map(str::to_owned).collect()
            }
            Some("BridgeInterface" | "InterfaceNamePrefix") => Vec::new(),
            Some(_) | None => {
                let text = self.config["clusterCIDR"].as_str().unwrap_or_default();
                text.split(',').map(|range| range.trim().to_owned()).collect()
            }
        };
        let ranges: Vec<_> = texts.iter().filter_map(|text| text.parse().ok()).collect();
        if ranges.is_empty() { Pods::Anywhere } else { Pods::In(ranges) }
    }

    /// Endpoints that are on this node, and only here.
    fn here(&self) -> BTreeSet<IpAddr> {
        let slices = self.objects.values().filter(|object| object["kind"] == "EndpointSlice");
        let endpoints = slices.filter_map(|slice| slice["endpoints"].as_array()).flatten();
        let placed = endpoints.filter_map(|one| {
            let ip: IpAddr = one["addresses"][0].as_str()?.parse().ok()?;
            Some((ip, one["nodeName"].as_str() == Some(&self.name)))
        });
        let (here, elsewhere): (BTreeSet<_>, BTreeSet<_>) = placed.partition(|(_, is_here)| *is_here);
        let elsewhere: BTreeSet<IpAddr> = elsewhere.into_iter().map(|(ip, _)| ip).collect();
        here.into_iter().map(|(ip, _)| ip).filter(|ip| !elsewhere.contains(ip)).collect()
    }
}

/// What is wrong when it has had its time: the signal does not tell whether the Node has been heard of, and that a file has
/// gone is believed only after a moment.
fn settled(mut look: impl FnMut() -> Result<Vec<String>>) -> Result<Vec<String>> {
    let end = Instant::now() + SETTLED;
    let mut looks = 0;
    loop {
        let wrong = look()?;
        looks += 1;
        if wrong.is_empty() || (looks >= LOOKS && Instant::now() >= end) {
            return Ok(wrong);
        }
        std::thread::sleep(PAUSE);
    }
}

fn name(object: &Value) -> Name {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    [text(&object["kind"]), text(&metadata["namespace"]), text(&metadata["name"])]
}

/// What the link to the pods must be called.
fn pod_link(config: &Value) -> String {
    let detect = &config["detectLocal"];
    match config["detectLocalMode"].as_str() {
        Some("BridgeInterface") => detect["bridgeInterface"].as_str().unwrap_or(POD_LINK).to_owned(),
        Some("InterfaceNamePrefix") => {
            detect["interfaceNamePrefix"].as_str().map_or(POD_LINK.to_owned(), |prefix| format!("{prefix}9"))
        }
        Some(_) | None => POD_LINK.to_owned(),
    }
}
