//! Every story, told to the daemon on a node, and held against what packets find there.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use lab::prober::Plan;
use lab::story::{Dataplane, Scene, Story};
use lab::{Daemon, Lab, Manifests, Node, Settings};
use serde_json::Value;

use crate::calls;

/// The daemon, with a folder of manifests.
struct Sluice {
    manifests: Manifests,
    daemon: Option<Daemon>,
    /// The flag that asks for the edge layer.
    edge: Option<&'static str>,
    /// How often sockets have called.
    calls: usize,
}

/// What goes with it: the node's devices at the crossroads, but for the one to its pods.
const EDGE: [&str; 3] = ["--dataplane=auto", "--forwarding=redirect", "--devices=outside,beyond"];
/// Ways to hang programs on these.
const TCX: Option<&str> = Some("--edge=tcx");
const TC: Option<&str> = Some("--edge=tc");

/// Stories that cannot be held against a plan that is made anew at each look, and why.
const OTHERWISE: [(&str, &str); 1] =
    [("node-unknown-or-gone", "the daemon remembers the Node that is gone, and a plan never knew it")];

impl Sluice {
    fn new(lab: &Lab, edge: Option<&'static str>) -> Result<Self> {
        Ok(Self { manifests: Manifests::at(lab.folder().join("manifests"))?, daemon: None, edge, calls: 0 })
    }

    fn folder(&self) -> Result<&str> {
        self.manifests.folder().to_str().context("a folder with an odd name")
    }
}

impl Dataplane for Sluice {
    fn start(&mut self, node: &Node, config: &Path) -> Result<()> {
        // What the one before has installed stays, as at any restart.
        drop(self.daemon.take());
        let config = config.to_str().context("a file with an odd name")?;
        let plain = Settings::folder(self.manifests.folder()).with(&["--config", config]);
        let settings = self.edge.map_or(plain.clone(), |edge| plain.with(&EDGE).with(&[edge]));
        self.daemon = Some(node.daemon(settings)?);
        Ok(())
    }

    fn apply(&mut self, objects: &[Value]) -> Result<()> {
        objects.iter().try_for_each(|object| self.manifests.put(&file(object), object))
    }

    fn delete(&mut self, object: &Value) -> Result<()> {
        // A story may delete what is not there.
        if self.manifests.folder().join(file(object)).exists() {
            self.manifests.remove(&file(object))?;
        }
        Ok(())
    }

    fn plan(&self, node: &Node, config: &Path) -> Result<Plan> {
        let config = config.to_str().context("a file with an odd name")?;
        let document = node.plan_document(&["--source", self.folder()?, "--config", config])?;
        Ok(serde_json::from_value(document)?)
    }

    fn addresses(&self, _node: &Node) -> Vec<IpAddr> {
        Vec::new()
    }

    fn drops_unallocated(&self) -> bool {
        true
    }

    fn calls(&mut self, node: &Node, plan: &Plan) -> Result<Vec<String>> {
        let is_asleep = std::env::var("SLUICE_DATAPLANE").is_ok_and(|choice| choice == "nftables");
        if is_asleep && self.edge.is_none() {
            return Ok(Vec::new());
        }
        self.calls += 1;
        let pod = node.pod(&format!("caller-{}", self.calls))?;
        let of_node = calls::contradictions(&node.place(), plan, |from| &from.node)?;
        let of_pod = calls::contradictions(&pod.place(), plan, |from| &from.pod)?;
        let say = |who: &str, wrong: Vec<String>| {
            wrong.into_iter().map(move |one| format!("{who}: {one}")).collect()
        };
        let both: [Vec<String>; 2] = [say("a socket of the node", of_node), say("a socket of a pod", of_pod)];
        Ok(both.concat())
    }

    fn shows_clients(&self) -> bool {
        self.edge.is_some()
    }
}

/// A file for each object; JSON is YAML, too.
fn file(object: &Value) -> String {
    let metadata = &object["metadata"];
    let words = [&object["kind"], &metadata["namespace"], &metadata["name"]];
    let words: Vec<&str> = words.into_iter().filter_map(Value::as_str).collect();
    format!("{}.yaml", words.join("-"))
}

/// Tells every story whose place in the list is this one, of so many places.
fn tell(place: usize, places: usize, edge: Option<&'static str>) {
    let mut report = String::new();
    let all = Story::all().unwrap();
    let told = all.iter().filter(|story| OTHERWISE.iter().all(|(name, _)| *name != story.name));
    for story in told.skip(place).step_by(places) {
        let lab = Lab::new().unwrap();
        let sluice = Sluice::new(&lab, edge).unwrap();
        let mut scene = Scene::new(&lab, Box::new(sluice));
        match scene.tell(story) {
            Ok(wrong) if wrong.is_empty() => {}
            Ok(wrong) => report += &format!("{}:\n  {}\n", story.name, wrong.join("\n  ")),
            Err(error) => report += &format!("{}: {error:#}\n", story.name),
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn packets_find_what_every_story_tells_first_part() {
    tell(0, 4, None);
}

#[test]
fn packets_find_what_every_story_tells_second_part() {
    tell(1, 4, None);
}

#[test]
fn packets_find_what_every_story_tells_third_part() {
    tell(2, 4, None);
}

#[test]
fn packets_find_what_every_story_tells_fourth_part() {
    tell(3, 4, None);
}

#[test]
fn packets_find_what_every_story_tells_where_the_edge_serves_first_part() {
    tell(0, 2, TCX);
}

#[test]
fn packets_find_what_every_story_tells_where_the_edge_serves_second_part() {
    tell(1, 2, TCX);
}

#[test]
fn packets_find_what_every_third_story_tells_where_the_edge_serves_by_filters() {
    tell(1, 3, TC);
}
