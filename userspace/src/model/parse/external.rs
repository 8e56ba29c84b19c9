//! Addresses of a Service besides its ClusterIP.

use std::net::IpAddr;
use std::num::NonZeroU16;

use ipnet::IpNet;
use k8s_openapi::api::core::v1;

use super::super::{External, Family, Policy, address};
use super::findings::Findings;
use super::service;

/// How far a Service is meant to be reached, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// From inside the cluster.
    Cluster,
    /// From outside, through nodes.
    Nodes,
    /// From outside, through a load balancer.
    LoadBalancer,
}

pub(super) fn reach(spec: &v1::ServiceSpec, findings: &mut Findings) -> Reach {
    match spec.type_.as_deref() {
        None | Some("ClusterIP" | "") => Reach::Cluster,
        Some("NodePort") => Reach::Nodes,
        Some("LoadBalancer") => Reach::LoadBalancer,
        Some(other) => {
            let message = format_args!("{other:?} is not a type of Service; it counts as ClusterIP");
            findings.note("spec.type", message);
            Reach::Cluster
        }
    }
}

/// A port has a number at the nodes if one is given, whatever the type says; a load balancer can do without.
pub(super) fn node_port(
    field: &str,
    stated: Option<i32>,
    reach: Reach,
    findings: &mut Findings,
) -> Option<NonZeroU16> {
    let stated = stated.unwrap_or(0);
    let port = u16::try_from(stated).ok().and_then(NonZeroU16::new);
    if stated != 0 && port.is_none() {
        findings.note(format_args!("{field}.nodePort"), format_args!("{stated} is not a port (1-65535)"));
    }
    if stated == 0 && reach == Reach::Nodes {
        let message = "is missing; a folder of manifests cannot allocate one";
        findings.note(format_args!("{field}.nodePort"), message);
    }
    port
}

/// Everything about the other addresses; `None` if there are none and nothing is said about any.
pub(super) fn external(
    spec: &v1::ServiceSpec,
    status: Option<&v1::ServiceStatus>,
    reach: Reach,
    findings: &mut Findings,
) -> Option<Box<External>> {
    let (mut load_balancer, proxied) = ingress(status, findings);
    let (source_ranges, closed) = source_ranges(spec, findings);
    for family in closed {
        close(family, &mut load_balancer, findings);
    }
    let external = External {
        external_ips: external_ips(spec, findings),
        load_balancer,
        proxied,
        source_ranges,
        health_check_port: health_check_port(spec, reach, findings),
    };
    (external != External::default()).then(|| Box::new(external))
}

/// The external policy. `Local` counts only for a Service that somebody outside can reach by its type, or by an
/// external IP.
pub(super) fn policy(
    spec: &v1::ServiceSpec,
    reach: Reach,
    external: &Option<Box<External>>,
    findings: &mut Findings,
) -> Policy {
    let stated = service::policy("spec.externalTrafficPolicy", &spec.external_traffic_policy, findings);
    let has_external_ip = external.as_ref().is_some_and(|external| !external.external_ips.is_empty());
    match reach {
        Reach::Nodes | Reach::LoadBalancer => stated,
        Reach::Cluster if has_external_ip => stated,
        Reach::Cluster => Policy::Cluster,
    }
}

fn external_ips(spec: &v1::ServiceSpec, findings: &mut Findings) -> Box<[IpAddr]> {
    let stated = spec.external_ips.as_deref().unwrap_or_default();
    let mut found = Vec::new();
    for (index, text) in stated.iter().enumerate() {
        found.extend(read_address(&format!("spec.externalIPs[{index}]"), text, findings));
    }
    sorted(found)
}

/// What the node serves itself, and what it leaves to the load balancer. Host names are nobody's business here.
fn ingress(status: Option<&v1::ServiceStatus>, findings: &mut Findings) -> (Box<[IpAddr]>, Box<[IpAddr]>) {
    let status = status.and_then(|status| status.load_balancer.as_ref());
    let stated = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
    let (mut own, mut proxied) = (Vec::new(), Vec::new());
    for (index, one) in stated.iter().enumerate() {
        let field = format!("status.loadBalancer.ingress[{index}].ip");
        let Some(address) = read_address(&field, one.ip.as_deref().unwrap_or_default(), findings) else {
            continue;
        };
        match one.ip_mode.as_deref() {
            None | Some("VIP") => own.push(address),
            Some(_) => proxied.push(address),
        }
    }
    proxied.retain(|address| !own.contains(address));
    (sorted(own), sorted(proxied))
}

/// Blank entries are passed over in silence.
fn read_address(field: &str, text: &str, findings: &mut Findings) -> Option<IpAddr> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    let found = address::parse(text);
    if found.is_none() {
        findings.note(field, format_args!("{text:?} is not an address"));
    }
    let reachable = found.filter(|address| address::can_be_reached(*address));
    if found.is_some() && reachable.is_none() {
        findings.note(field, format_args!("{text} is not an address that connections can go to"));
    }
    reachable
}

/// The ranges, and the families whose addresses must stay closed: somebody wanted a filter there, and none of it can be
/// read.
fn source_ranges(spec: &v1::ServiceSpec, findings: &mut Findings) -> (Box<[IpNet]>, Vec<Family>) {
    let stated = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let (mut found, mut closed): (Vec<IpNet>, Vec<Family>) = (Vec::new(), Vec::new());
    for (index, text) in stated.iter().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
        match address::parse_range(text.trim()) {
            Some(range) => found.push(range),
            None => {
                closed.extend(meant(text));
                let field = format!("spec.loadBalancerSourceRanges[{index}]");
                findings.note(field, format_args!("{text:?} is not a range such as 192.0.2.0/24"));
            }
        }
    }
    closed.retain(|family| !found.iter().any(|range| Family::of(range.addr()) == *family));
    closed.sort_unstable();
    closed.dedup();
    (sorted(found), closed)
}

/// Nobody is let in at the addresses of a family.
fn close(family: Family, load_balancer: &mut Box<[IpAddr]>, findings: &mut Findings) {
    if load_balancer.iter().any(|ip| Family::of(*ip) == family) {
        let message = format_args!(
            "no {family} range can be read; the load balancer's {family} addresses are not served"
        );
        findings.note("spec.loadBalancerSourceRanges", message);
        *load_balancer = load_balancer.iter().copied().filter(|ip| Family::of(*ip) != family).collect();
    }
}

/// The families that a text which is no range may have been meant for.
fn meant(text: &str) -> Vec<Family> {
    match (text.contains(':'), text.contains('.')) {
        (true, _) => vec![Family::V6],
        (false, true) => vec![Family::V4],
        (false, false) => vec![Family::V4, Family::V6],
    }
}

/// Only a load balancer that must find the nodes with endpoints asks.
fn health_check_port(spec: &v1::ServiceSpec, reach: Reach, findings: &mut Findings) -> Option<NonZeroU16> {
    if reach != Reach::LoadBalancer || spec.external_traffic_policy.as_deref() != Some("Local") {
        return None;
    }
    let stated = spec.health_check_node_port.unwrap_or(0);
    let port = u16::try_from(stated).ok().and_then(NonZeroU16::new);
    if port.is_none() {
        let message =
            format_args!("{stated} is not a port (1-65535); the load balancer cannot ask for endpoints");
        findings.note("spec.healthCheckNodePort", message);
    }
    port
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Box<[T]> {
    list.sort_unstable();
    list.dedup();
    list.into()
}
