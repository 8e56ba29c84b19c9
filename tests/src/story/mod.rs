//! Stories of `userspace/tests/stories`, told by packets: each expectation is the plan of that moment, held against what
//! a node does. Which dataplane serves the node is the caller's choice.

mod scene;
mod told;

pub use scene::Scene;
pub use told::{Order, Story};

use std::path::Path;

use anyhow::Result;
use serde_json::Value;

use crate::prober::Plan;
use crate::topology::Node;

/// What serves a node, and where its objects are.
pub trait Dataplane {
    /// Begins to serve a node with the configuration of this file, or goes on with another one. The node object, if there is
    /// one, is there.
    fn start(&mut self, node: &Node, config: &Path) -> Result<()>;

    /// Asked again and again while it is waited for: one that has ended by itself is started again, as its keeper would.
    fn keep(&mut self) -> Result<()> {
        Ok(())
    }

    /// Puts objects there, or brings those that are there to what is written.
    fn apply(&mut self, objects: &[Value]) -> Result<()>;

    /// Takes an object away; it need not be there.
    fn delete(&mut self, object: &Value) -> Result<()>;

    /// What `sluice plan` says of these objects, for a node with the configuration of this file.
    fn plan(&self, node: &Node, config: &Path) -> Result<Plan>;

    /// The addresses of a node that no story speaks of.
    fn addresses(&self, node: &Node) -> Vec<std::net::IpAddr>;

    /// Whether flows to ClusterIPs that nobody has vanish as soon as a range is known.
    fn drops_unallocated(&self) -> bool;

    /// Calls by sockets of the node and of a pod there, held against a plan: what is not as it says. A dataplane without
    /// anything at sockets has nothing to tell.
    fn calls(&mut self, _node: &Node, _plan: &Plan) -> Result<Vec<String>> {
        Ok(Vec::new())
    }

    /// Whether endpoints on the node see who comes from outside, also where a plan lets a dataplane hide that.
    fn shows_clients(&self) -> bool {
        false
    }
}
