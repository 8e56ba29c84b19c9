//! The stories told to the real kube-proxy: what the plan says of them is true of somebody else's dataplane, too.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lab::Lab;
use lab::control_plane::ControlPlane;
use lab::story::{Order, Scene, Story};
use serde_json::json;

use crate::dataplanes::Rival;
use crate::stage::own;

/// Stories that kube-proxy ends in another way, and why.
const OTHERWISE: [(&str, &str); 2] = [
    (
        "slices-change-hands",
        "it keeps the endpoints of a slice whose label comes to name another Service, for both",
    ),
    ("pods-by-node-range", "it does not begin before its Node has ranges of pods"),
];

/// The story as kube-proxy is told it: in the mode in which it refuses and drops what the plan says. `None` where it
/// would be another story.
fn for_nftables(story: &Story) -> Option<Story> {
    if OTHERWISE.iter().any(|(name, _)| *name == story.name) {
        return None;
    }
    let mut story = story.clone();
    story.orders.insert(0, Order::Config(json!({})));
    for order in &mut story.orders {
        match order {
            Order::Config(config) if config["mode"].as_str().is_none_or(|mode| mode == "nftables") => {
                config["mode"] = json!("nftables");
            }
            Order::Node(_, addresses) if !addresses.iter().any(IpAddr::is_loopback) => {}
            // They are the API server's own business.
            Order::Apply(objects) if !objects.iter().any(|object| object["kind"] == "ServiceCIDR") => {}
            Order::Delete(_) | Order::Expect => {}
            Order::Config(_) | Order::Node(_, _) | Order::Apply(_) => return None,
        }
    }
    Some(story)
}

/// What packets contradicted; an error if the story cannot be told.
fn tell(plane: &ControlPlane, story: &Story) -> Result<Vec<String>> {
    let story = &for_nftables(story).context("it is not for kube-proxy in this mode")?;
    let lab = Lab::on(plane.wire())?;
    let mut scene = Scene::new(&lab, Box::new(Rival::new(plane, &lab)?));
    let wrong = scene.tell(story);
    scene.clear()?;
    wrong
}

/// Those that are always told; others by hand, with `STORY` and a part of their names.
const USUAL: [&str; 7] = [
    "external-local",
    "internal-local-terminating",
    "masquerade",
    "node-within-pod-range",
    "pods-by-interface",
    "source-ranges-and-the-node",
    "topology-node-hints",
];

fn is_asked_for(story: &Story) -> bool {
    match std::env::var("STORY") {
        Ok(part) => story.name.contains(&part),
        Err(_) => USUAL.contains(&story.name.as_str()),
    }
}

#[test]
fn packets_find_with_kube_proxy_what_the_stories_tell() {
    let plane = own();
    let (mut report, mut untold) = (String::new(), Vec::new());
    for story in Story::all().unwrap().iter().filter(|story| is_asked_for(story)) {
        match tell(&plane, story) {
            Ok(wrong) if wrong.is_empty() => println!("{} is true", story.name),
            Ok(wrong) => report += &format!("{}:\n  {}\n", story.name, wrong.join("\n  ")),
            // Much of what a folder may hold an API server does not take.
            Err(error) => untold.push(format!("{} cannot be told: {error:#}\n", story.name)),
        }
    }
    println!("{}", untold.concat());
    assert!(report.is_empty(), "{report}");
    assert!(std::env::var_os("STORY").is_some() || untold.is_empty(), "{}", untold.concat());
}
