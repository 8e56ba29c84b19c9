//! Clusters from a seed, told as stories: whatever serves the node does with packets what the plan says.

mod objects;

use fastrand::Rng;
use lab::Lab;
use lab::story::{Order, Scene, Story};
use serde_json::{Value, json};

use crate::dataplanes::{Rival, Sluice};
use crate::stage::own;

/// How many Services a cluster has.
const SERVICES: std::ops::RangeInclusive<usize> = 10..=20;
/// The clusters that are always asked about; more by hand, with `SEEDS=FIRST..LAST`.
const SEEDS: std::ops::Range<u64> = 0..3;

/// A cluster, and what becomes of it.
fn story(seed: u64) -> Story {
    let mut rng = Rng::with_seed(seed);
    let count = rng.usize(SERVICES);
    let mut orders = vec![
        Order::Node(
            "n1".to_owned(),
            vec![[192, 0, 2, 11].into(), "2001:db8::11".parse().expect("an address")],
        ),
        Order::Config(config(&mut rng)),
        Order::Apply([objects::node(&mut rng)].into_iter().chain(services(&mut rng, 0..count)).collect()),
        Order::Expect,
    ];
    for _ in 0..2 {
        orders.extend(change(&mut rng, count));
        orders.push(Order::Expect);
    }
    Story { name: format!("seed {seed}"), orders }
}

fn services(rng: &mut Rng, numbers: impl IntoIterator<Item = usize>) -> Vec<Value> {
    numbers.into_iter().flat_map(|number| objects::service(rng, number)).collect()
}

/// Some Services and their slices are others, and the slices of one have gone; perhaps the node has moved.
fn change(rng: &mut Rng, count: usize) -> Vec<Order> {
    let numbers: Vec<usize> = (0..count).filter(|_| rng.u32(..3) == 0).collect();
    let mut all = services(rng, numbers);
    // The type and the families of a Service do not change here: an API server holds on to addresses and ports.
    all.retain(|object| object["kind"] == "EndpointSlice");
    all.push(objects::node(rng));
    let gone = objects::name(rng.usize(..count));
    let reference = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": gone, "namespace": "default" },
    });
    vec![Order::Apply(all), Order::Delete(reference)]
}

/// How the node is configured: how it tells pods, whom it masquerades, where it serves node ports.
fn config(rng: &mut Rng) -> Value {
    let mut config = match rng.u32(..5) {
        0 => json!({}),
        1 => json!({ "detectLocalMode": "NodeCIDR" }),
        2 => {
            json!({ "detectLocalMode": "InterfaceNamePrefix", "detectLocal": { "interfaceNamePrefix": "p" } })
        }
        _ => json!({ "clusterCIDR": "10.1.0.0/16,fd00:1::/32" }),
    };
    config["mode"] = json!("nftables");
    if rng.u32(..4) == 0 {
        config["nftables"] = json!({ "masqueradeAll": true });
    }
    config
}

fn seeds() -> Vec<u64> {
    let Ok(text) = std::env::var("SEEDS") else { return SEEDS.collect() };
    let (first, last) = text.split_once("..").expect("SEEDS=FIRST..LAST");
    (first.parse().expect("a number")..last.parse().expect("a number")).collect()
}

/// Tells all clusters to a dataplane, one after the other.
fn tell(dataplane: impl Fn(&lab::control_plane::ControlPlane, &Lab) -> Box<dyn lab::story::Dataplane>) {
    let plane = own();
    let mut report = String::new();
    for seed in seeds() {
        let lab = Lab::on(plane.wire()).expect("a lab");
        let mut scene = Scene::new(&lab, dataplane(&plane, &lab));
        let wrong = scene.tell(&story(seed)).unwrap_or_else(|error| vec![format!("{error:#}")]);
        scene.clear().expect("no objects");
        if !wrong.is_empty() {
            report += &format!("seed {seed}:\n  {}\n", wrong.join("\n  "));
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn packets_find_with_kube_proxy_what_the_plan_says_of_generated_clusters() {
    tell(|plane, lab| Box::new(Rival::new(plane, lab).expect("kube-proxy")));
}

#[test]
fn packets_find_with_the_daemon_what_the_plan_says_of_generated_clusters() {
    tell(|plane, lab| Box::new(Sluice::new(plane, lab).expect("the daemon")));
}
