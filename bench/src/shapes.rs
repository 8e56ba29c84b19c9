//! Clusters of any size, as objects and as folders.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Endpoints of every service.
pub(crate) const ENDPOINTS: u32 = 10;
/// Port of every service.
const PORT: u16 = 80;
/// Port of every endpoint.
const TARGET: u16 = 8080;

/// How a file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    Json,
    Yaml,
}

/// Where a service answers.
pub(crate) fn address(number: u32) -> SocketAddr {
    let first = Ipv4Addr::new(10, 97, 0, 1);
    SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() + number)), PORT)
}

/// What a service is called.
pub(crate) fn name(number: u32) -> String {
    format!("service-{number:05}")
}

/// What its slice is called.
pub(crate) fn slice_name(number: u32) -> String {
    format!("{}-a1b2c", name(number))
}

/// A Service.
pub(crate) fn service(number: u32) -> Value {
    let name = name(number);
    let ip = address(number).ip();
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": name } },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": ["IPv4"],
            "ipFamilyPolicy": "SingleStack",
            "ports": [{ "name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET }],
        },
    })
}

/// Its slice, with so many endpoints.
pub(crate) fn slice(number: u32, endpoints: u32) -> Value {
    let name = name(number);
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": slice_name(number),
            "namespace": "default",
            "labels": {
                "app": name,
                "endpointslice.kubernetes.io/managed-by": "bench",
                "kubernetes.io/service-name": name,
            },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "http", "protocol": "TCP", "port": TARGET }],
        "endpoints": self::endpoints(number, endpoints),
    })
}

/// The endpoints in it, as full as a controller writes them.
pub(crate) fn endpoints(number: u32, count: u32) -> Value {
    let first = Ipv4Addr::new(10, 200, 0, 1).to_bits() + number * ENDPOINTS;
    let endpoint = |place: u32| {
        json!({
            "addresses": [Ipv4Addr::from_bits(first + place)],
            "conditions": { "ready": true, "serving": true, "terminating": false },
            "nodeName": format!("node-{place:03}"),
            "targetRef": { "kind": "Pod", "namespace": "default", "name": format!("{}-{place}", name(number)) },
        })
    };
    (0..count).map(endpoint).collect()
}

/// The file of one service.
pub(crate) fn file(number: u32, endpoints: u32, format: Format) -> Result<String> {
    let list = json!({
        "apiVersion": "v1",
        "kind": "List",
        "items": [service(number), slice(number, endpoints)],
    });
    Ok(match format {
        Format::Json => list.to_string(),
        Format::Yaml => serde_norway::to_string(&list)?,
    })
}

/// What the file of a service is called.
pub(crate) fn file_name(number: u32, format: Format) -> String {
    let ending = match format {
        Format::Json => "json",
        Format::Yaml => "yaml",
    };
    format!("{}.{ending}", name(number))
}

/// Fills a folder with so many services, one file each.
pub(crate) fn fill(folder: &Path, services: u32, format: Format) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
    for number in 0..services {
        let path = folder.join(file_name(number, format));
        std::fs::write(&path, file(number, ENDPOINTS, format)?)
            .with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_services_and_endpoints_are_all_different() {
        let services: std::collections::BTreeSet<_> = (0..10_000).map(address).collect();
        assert_eq!(services.len(), 10_000);
        assert_eq!(address(9_999).to_string(), "10.97.39.16:80");
        assert_ne!(endpoints(0, 10)[9]["addresses"], endpoints(1, 1)[0]["addresses"]);
    }
}
