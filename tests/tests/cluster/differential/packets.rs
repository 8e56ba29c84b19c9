//! The plan beside what packets find on a node that kube-proxy serves.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use lab::prober::{Action, Crossroads, Outlook, Plan, Pods, claims, contradictions};

use super::stage::NAMESPACE;
use super::table::Table;
use super::viewpoint::Viewpoint;

/// What is not as it is planned.
pub(super) fn surprises(
    roads: &mut Crossroads,
    plan: &Plan,
    view: &Viewpoint,
    pods: &Pods,
    table: &Table,
) -> Result<Vec<String>> {
    let mut plan = plan.clone();
    // The API server's own endpoint is on the wire, where nobody looks.
    plan.services.retain(|port| port.namespace == NAMESPACE);
    let own: Vec<IpAddr> = view.own.iter().copied().collect();
    let here = endpoints(&plan).into_iter().filter(|ip| view.is_here(*ip)).collect();
    let mut outlook = Outlook::new(pods.clone(), &own, here);
    // kube-proxy may have written its rules before it knew of any range.
    outlook.drops_unallocated = !table.unallocated.pieces().is_empty();
    contradictions(roads, &claims(&plan, &mut outlook)?)
}

fn endpoints(plan: &Plan) -> BTreeSet<IpAddr> {
    let addresses = plan.services.iter().flat_map(|port| &port.addresses);
    let actions =
        addresses.flat_map(|address| [&address.from.pod, &address.from.node, &address.from.outside]);
    actions.flat_map(targets).map(|endpoint| endpoint.ip()).collect()
}

fn targets(action: &Action) -> &[SocketAddr] {
    match action {
        Action::Forward { endpoints, masquerade: _ } => endpoints,
        Action::Reject | Action::Drop | Action::Pass => &[],
    }
}
