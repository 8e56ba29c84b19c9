//! Under which addresses a service port answers, and to whom.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::port::Frontend;
use crate::model::{External, Family, Service, ServicePort};

/// The addresses of a service port in the family of its ClusterIP, sorted. An address that is asked for twice counts
/// as the ClusterIP, else as the load balancer's, so that source ranges hold.
pub(super) fn frontends(
    service: &Service,
    port: &ServicePort,
    cluster_ip: IpAddr,
    external_ips: bool,
) -> Box<[Frontend]> {
    let family = Family::of(cluster_ip);
    let at = |address: IpAddr| SocketAddr::new(address, port.port.get());
    let mut found = vec![Frontend::ClusterIp(at(cluster_ip))];
    found.extend(port.node_port.map(Frontend::NodePort));
    if let Some(external) = &service.external {
        let External { external_ips: ips, load_balancer, proxied: _, source_ranges: _, health_check_port: _ } =
            &**external;
        let ingress = of(load_balancer, family).filter(|address| *address != cluster_ip);
        found.extend(ingress.map(|address| Frontend::LoadBalancer(at(address))));
        let ips = of(ips, family).filter(|_| external_ips);
        let ips = ips.filter(|address| *address != cluster_ip && !load_balancer.contains(address));
        found.extend(ips.map(|address| Frontend::ExternalIp(at(address))));
    }
    found.sort_unstable();
    found.into()
}

/// Whether there is an address of this family for outside, besides a node port.
pub(super) fn has_external_address(service: &Service, family: Family) -> bool {
    service.external.as_ref().is_some_and(|external| {
        of(&external.external_ips, family).next().is_some()
            || of(&external.load_balancer, family).next().is_some()
    })
}

/// The filter on sources at the load balancer's addresses; `None`: everybody may come.
///
/// Ranges of the other family do not count, so a list that names only that family lets everybody in; so does a range
/// of length zero. If a range holds the node, the load balancer's addresses may come too: where they are configured on
/// the node, its own packets bear them.
pub(super) fn sources(service: &Service, family: Family, node: Option<IpAddr>) -> Option<Box<[IpNet]>> {
    let external = service.external.as_ref()?;
    let ranges = external.source_ranges.iter().filter(|range| Family::of(range.addr()) == family);
    let mut ranges: Vec<IpNet> = ranges.copied().collect();
    let open = ranges.is_empty() || ranges.iter().any(|range| range.prefix_len() == 0);
    if open || of(&external.load_balancer, family).next().is_none() {
        return None;
    }
    if node.is_some_and(|node| ranges.iter().any(|range| range.contains(&node))) {
        ranges.extend(of(&external.load_balancer, family).map(IpNet::from));
        ranges.sort_unstable();
        ranges.dedup();
    }
    Some(ranges.into())
}

fn of(addresses: &[IpAddr], family: Family) -> impl Iterator<Item = IpAddr> {
    addresses.iter().copied().filter(move |address| Family::of(*address) == family)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::sample;

    #[test]
    fn only_addresses_of_the_family_count() {
        let external = External {
            external_ips: addresses("192.0.2.1 fd00:2::1"),
            load_balancer: addresses("203.0.113.1 fd00:3::1"),
            ..External::default()
        };
        check(
            &external,
            true,
            "ClusterIp(10.96.0.10:80) ExternalIp(192.0.2.1:80) LoadBalancer(203.0.113.1:80)",
        );
    }

    #[test]
    fn external_ips_can_be_switched_off() {
        let external = External { external_ips: addresses("192.0.2.1"), ..External::default() };
        check(&external, false, "ClusterIp(10.96.0.10:80)");
    }

    #[test]
    fn an_address_that_is_asked_for_twice_counts_once() {
        let external = External {
            external_ips: addresses("10.96.0.10 203.0.113.1"),
            load_balancer: addresses("203.0.113.1"),
            ..External::default()
        };
        check(&external, true, "ClusterIp(10.96.0.10:80) LoadBalancer(203.0.113.1:80)");
    }

    #[test]
    fn without_ranges_of_the_family_there_is_no_filter() {
        check_sources("", "10.0.0.1", None);
        check_sources("fd00::/16", "10.0.0.1", None);
        check_sources("fd00::/16 192.0.2.0/24", "10.0.0.1", Some("192.0.2.0/24"));
    }

    #[test]
    fn a_range_of_length_zero_switches_the_filter_off() {
        check_sources("192.0.2.0/24 0.0.0.0/0", "10.0.0.1", None);
        check_sources("192.0.2.0/24 ::/0", "10.0.0.1", Some("192.0.2.0/24"));
    }

    #[test]
    fn the_load_balancers_address_may_come_where_the_node_may() {
        check_sources("10.0.0.0/8", "10.0.0.1", Some("10.0.0.0/8 203.0.113.1/32"));
        check_sources("10.0.0.0/8", "", Some("10.0.0.0/8"));
    }

    fn addresses(list: &str) -> Box<[IpAddr]> {
        list.split_whitespace().map(|address| address.parse().unwrap()).collect()
    }

    fn with(external: &External) -> Service {
        let external = Some(Box::new(external.clone()));
        Service { external, ..sample::service("web", "10.96.0.10", ":80") }
    }

    fn check(external: &External, external_ips: bool, found: &str) {
        let service = with(external);
        let all = frontends(&service, &service.ports[0], service.addresses[0], external_ips);
        let words = all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(" ");
        assert_eq!(words, found);
    }

    fn check_sources(ranges: &str, node: &str, found: Option<&str>) {
        let external = External {
            load_balancer: addresses("203.0.113.1"),
            source_ranges: ranges.split_whitespace().map(|range| range.parse().unwrap()).collect(),
            ..External::default()
        };
        let filter = sources(&with(&external), Family::V4, node.parse().ok());
        let words = filter.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
        assert_eq!(words.as_deref(), found, "{ranges}");
    }
}
