//! Who serves a flow and why, whom the endpoint sees, and where the kernel is not as computed. Pure.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Found, Has, Kernel, Layer};
use crate::dry_run::document::{Kind, Masquerade, Word};
use crate::explain::{Answering, Caller};
use crate::model::Protocol;

/// What is known of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case<'a> {
    pub(super) caller: Caller,
    pub(super) is_here: Option<bool>,
    pub(super) protocol: Protocol,
    pub(super) address: SocketAddr,
    /// Whether node ports answer at the address.
    pub(super) is_own: bool,
    pub(super) has_daemon: bool,
    /// What the daemon computes.
    pub(super) computed: Option<&'a Answering>,
    pub(super) kernel: &'a Kernel,
}

impl Case<'_> {
    fn runs(&self, name: &str) -> bool {
        self.kernel.running.as_ref().is_some_and(|running| running.dataplane.contains(name))
    }

    fn has_sources(&self) -> bool {
        self.computed.is_some_and(|one| !one.source_ranges.is_empty())
    }

    /// Whether callers on this node should be served at the socket. Addresses that mean something on one cable only are not.
    fn belongs_at_socket(&self) -> bool {
        let is_local = match self.address {
            SocketAddr::V4(v4) => v4.ip().is_link_local(),
            SocketAddr::V6(v6) => v6.ip().is_unicast_link_local(),
        };
        let is_known = self
            .computed
            .is_some_and(|one| one.action != Word::Pass && (one.kind != Kind::NodePort || self.is_own));
        is_known && !is_local && !self.has_sources() && self.protocol != Protocol::Sctp
    }
}

/// Who serves it, and why.
pub(super) fn served_by(case: &Case<'_>) -> (Layer, String) {
    let (layer, why) = if case.computed.is_some_and(|one| one.action == Word::Pass) {
        (Layer::Nobody, "the address is the load balancer's own (ipMode: Proxy)")
    } else if case.kernel.socket.has.is_none()
        && case.kernel.nftables.has.is_none()
        && case.computed.is_none()
    {
        (Layer::Nobody, "the kernel has no service at this address")
    } else if case.is_here == Some(false) {
        from_elsewhere(case)
    } else {
        from_here(case)
    };
    (layer, why.to_owned())
}

fn from_here(case: &Case<'_>) -> (Layer, &'static str) {
    let unsure = case.is_here.is_none();
    match case.kernel.socket.has.as_ref().map(|has| has.verdict) {
        Some("drop") => {
            (Layer::Nftables, "the socket layer leaves the call as it came, for nftables to drop it")
        }
        Some(_) if unsure => (
            Layer::Socket,
            "pods of this node are translated at connect(); a pod of another node is translated there",
        ),
        Some(_) => (Layer::Socket, "callers on this node are translated at connect()"),
        None if case.protocol == Protocol::Sctp => (Layer::Nftables, "SCTP is left to nftables"),
        None if case.has_sources() => {
            (Layer::Nftables, "there are source ranges, and a socket that connects has no source address yet")
        }
        None => (Layer::Nftables, "the socket layer does not have this address"),
    }
}

fn from_elsewhere(case: &Case<'_>) -> (Layer, &'static str) {
    let tried = |verdict: &str| case.kernel.edge.outcomes.iter().any(|one| one.verdict == verdict);
    match case.computed {
        Some(Answering { kind: Kind::ClusterIP, .. }) => {
            (Layer::Nftables, "ClusterIPs are for callers on nodes: the edge layer leaves them to nftables")
        }
        Some(Answering { action: Word::Reject, .. }) => {
            (Layer::Nftables, "nobody serves, and only nftables can answer that")
        }
        Some(_) | None if case.protocol == Protocol::Sctp => (Layer::Nftables, "SCTP is left to nftables"),
        Some(_) | None if tried("forward") => {
            (Layer::Edge, "the program on the device takes the packet before the host's stack")
        }
        Some(_) | None if tried("drop") => (Layer::Edge, "the program on the device drops the packet"),
        Some(_) | None if tried("left") => {
            (Layer::Nftables, "the program on the device leaves the packet alone")
        }
        Some(_) | None if case.kernel.edge.untried.as_deref() == Some("there is no edge layer") => {
            (Layer::Nftables, "there is no edge layer")
        }
        Some(_) | None => (
            Layer::Nftables,
            "nftables, or the edge layer where it has this address: its program was not tried",
        ),
    }
}

/// Whom the endpoint sees, and why.
pub(super) fn masquerade(case: &Case<'_>, layer: Layer) -> String {
    let why = || {
        case.computed
            .and_then(|one| one.why_masquerade.clone())
            .unwrap_or_else(|| "unknown without the daemon".to_owned())
    };
    let when = case.computed.and_then(|one| one.masquerade);
    let seen = case.kernel.edge.outcomes.iter().find_map(|one| one.source);
    match (layer, when, seen) {
        (Layer::Nobody, _, _) => "no".to_owned(),
        (Layer::Socket, _, _) => "no: at connect() the caller keeps its own address".to_owned(),
        (Layer::Edge, _, Some(source)) => format!("yes, as {source}: {}", why()),
        (Layer::Edge, _, None) => "no: the endpoint's answers come back by this node".to_owned(),
        (Layer::Nftables, Some(Masquerade::Always), _) => format!("yes: {}", why()),
        (Layer::Nftables, Some(Masquerade::Hairpin), _) => format!("no, {}", why()),
        (Layer::Nftables, None, _) if case.computed.is_some() => "no: it is not forwarded".to_owned(),
        (Layer::Nftables, None, _) => {
            match case.kernel.nftables.has.as_ref().and_then(|has| has.masquerade) {
                Some(word) => format!("by the chain: {word}"),
                None => why(),
            }
        }
    }
}

/// Where the kernel is not as computed. Without the daemon nobody knows.
pub(super) fn alarms(case: &Case<'_>) -> Vec<String> {
    if !case.has_daemon {
        return Vec::new();
    }
    let mut alarms = Vec::new();
    if case.runs("nftables") {
        alarms.extend(differs("nftables", case, &case.kernel.nftables));
    }
    let should = case.belongs_at_socket() || case.computed.is_none();
    if case.runs("ebpf") && should && case.caller != Caller::Outside {
        alarms.extend(differs("the socket layer", case, &case.kernel.socket));
    }
    alarms.extend(tried(case));
    alarms
}

fn differs(name: &str, case: &Case<'_>, found: &Found) -> Option<String> {
    if let Some(why) = &found.unread {
        return Some(format!("{name} could not be read: {why}"));
    }
    let (should, has) = (case.computed.filter(|one| one.action != Word::Pass), &found.has);
    let (should, has) = match (should, has) {
        (None, None) => return None,
        (None, Some(has)) => {
            return Some(format!(
                "{name} has {} at this address, and no Service should be there",
                has.service
            ));
        }
        (Some(_), None) => return Some(format!("{name} has nothing at this address")),
        (Some(should), Some(has)) => (should, has),
    };
    let word = verdict(should.action);
    if has.verdict != word {
        return Some(format!("{name} says {}, computed is {word}", has.verdict));
    }
    let (want, have) = (should.endpoints().collect(), has.endpoints.iter().copied().collect());
    (should.action == Word::Forward).then(|| lists(name, &want, &have))?
}

fn lists(name: &str, want: &BTreeSet<SocketAddr>, have: &BTreeSet<SocketAddr>) -> Option<String> {
    let all = |set: Vec<&SocketAddr>| set.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let missing: Vec<_> = want.difference(have).collect();
    let surplus: Vec<_> = have.difference(want).collect();
    let parts = [("lacks", missing), ("has too many:", surplus)];
    let parts = parts.into_iter().filter(|(_, set)| !set.is_empty());
    let said: Vec<String> = parts.map(|(word, set)| format!("{word} {}", all(set))).collect();
    (!said.is_empty()).then(|| format!("{name} {}", said.join("; ")))
}

const fn verdict(action: Word) -> &'static str {
    match action {
        Word::Forward => "forward",
        Word::Reject => "reject",
        Word::Drop => "drop",
        Word::Pass => "pass",
    }
}

/// What the edge's program did that it should not. Leaving a packet to nftables is always right.
fn tried(case: &Case<'_>) -> Vec<String> {
    let Some(computed) = case.computed else {
        let is_ours = case.kernel.edge.outcomes.iter().any(|one| one.verdict != "left");
        return if is_ours {
            vec!["the edge's program serves an address that no Service should have".to_owned()]
        } else {
            Vec::new()
        };
    };
    let should = if computed.admitted == Some(false) { Word::Drop } else { computed.action };
    let endpoints: BTreeSet<SocketAddr> = computed.endpoints().collect();
    let wrong = case.kernel.edge.outcomes.iter().filter_map(|one| match (one.verdict, one.endpoint) {
        ("forward", Some(endpoint)) if should == Word::Forward && !endpoints.contains(&endpoint) => {
            Some(format!("the edge's program chose {endpoint}, which is not in the list"))
        }
        (word @ ("forward" | "drop"), _) if word != verdict(should) => {
            Some(format!("the edge's program says {word}, computed is {}", verdict(should)))
        }
        _ => None,
    });
    wrong.collect()
}

/// For people: what a dataplane has.
pub(super) fn has_text(has: &Has) -> String {
    let endpoints: Vec<String> = has.endpoints.iter().map(ToString::to_string).collect();
    let to = if endpoints.is_empty() { String::new() } else { format!(" to {}", endpoints.join(", ")) };
    let affinity = has.affinity_seconds.map(|seconds| format!(", affinity {seconds}s")).unwrap_or_default();
    format!("{}{to}{affinity} ({})", has.verdict, has.service)
}

#[cfg(test)]
mod tests;
