//! What becomes of a new flow, row by row.

use std::net::SocketAddr;

use super::addresses::Kind;
use super::endpoints::{Asked, cluster_list, is_anybody_usable, local_list};
use crate::desired::{Masquerade, Pods};
use crate::model::Policy;

/// Where a flow comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    Pod,
    Node,
    Outside,
}

impl Source {
    pub(super) const ALL: [Self; 3] = [Self::Pod, Self::Node, Self::Outside];
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Forward(Vec<SocketAddr>, Masquerade),
    Reject,
    Drop,
}

/// The answer.
pub(super) fn verdict(asked: Asked<'_>, kind: Kind, source: Source) -> Verdict {
    let source = as_recognised(asked, source);
    let endpoints = list(asked, kind, source);
    if !endpoints.is_empty() {
        Verdict::Forward(endpoints, masquerade(asked, kind, source))
    } else if is_anybody_usable(asked) {
        Verdict::Drop
    } else {
        Verdict::Reject
    }
}

/// Without a detector there are no pods; who is in their range is one.
fn as_recognised(asked: Asked<'_>, source: Source) -> Source {
    match source {
        Source::Pod if !has_detector(asked) => Source::Outside,
        Source::Node if is_node_within_pods(asked) => Source::Pod,
        Source::Pod | Source::Node | Source::Outside => source,
    }
}

fn is_node_within_pods(asked: Asked<'_>) -> bool {
    let family = asked.context.family(asked.family);
    match (&family.pods, family.primary) {
        (Some(Pods::Within(range)), Some(own)) => range.contains(&own),
        (Some(_) | None, _) => false,
    }
}

fn has_detector(asked: Asked<'_>) -> bool {
    asked.context.family(asked.family).pods.is_some()
}

/// The table of lists.
fn list(asked: Asked<'_>, kind: Kind, source: Source) -> Vec<SocketAddr> {
    match (kind, asked.service.internal_policy, asked.service.external_policy, source) {
        (Kind::ClusterIp, Policy::Cluster, _, _) => cluster_list(asked),
        (Kind::ClusterIp, Policy::Local, _, _) => local_list(asked),
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, _, Policy::Cluster, _) => {
            cluster_list(asked)
        }
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, _, Policy::Local, Source::Pod) => {
            cluster_list(asked)
        }
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, _, Policy::Local, Source::Node) => {
            cluster_list(asked)
        }
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, _, Policy::Local, Source::Outside) => {
            local_list(asked)
        }
    }
}

/// The table of masquerading.
fn masquerade(asked: Asked<'_>, kind: Kind, source: Source) -> Masquerade {
    match (kind, asked.service.external_policy, source) {
        (Kind::ClusterIp, _, _) if asked.context.masquerade_all => Masquerade::Always,
        (Kind::ClusterIp, _, Source::Node | Source::Outside) if has_detector(asked) => Masquerade::Always,
        (Kind::ClusterIp, _, _) => Masquerade::Hairpin,
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, Policy::Cluster, _) => Masquerade::Always,
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, Policy::Local, Source::Pod) => {
            Masquerade::Hairpin
        }
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, Policy::Local, Source::Node) => {
            Masquerade::Always
        }
        (Kind::NodePort | Kind::ExternalIp | Kind::LoadBalancer, Policy::Local, Source::Outside) => {
            Masquerade::Hairpin
        }
    }
}
