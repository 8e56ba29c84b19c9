//! The Services that frames are sent to.

use std::net::{Ipv4Addr, SocketAddrV4};

use serde_json::{Value, json};

use super::{pair, road};

/// Port of the Services for frames, and for connections.
const PORT: u16 = 53;
const CONNECTED: u16 = 8000;
/// Port of the endpoints that frames are sent to.
const ENDPOINT_PORT: u16 = 5353;
/// How many these are: one address of the node has 29,000 ports to masquerade with towards each, and most of them are free even in
/// the widest case.
const ENDPOINTS: u8 = 100;

/// `externalTrafficPolicy` of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    /// All endpoints, and the client's address is hidden behind the node's.
    Cluster,
    /// The node's own endpoints, and the client's address is kept.
    Local,
}

impl Policy {
    pub(super) const ALL: [Self; 2] = [Self::Cluster, Self::Local];

    /// Its name in rows.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Cluster => "Cluster",
            Self::Local => "Local",
        }
    }
}

/// Two Services, one for each policy. Subjects that share an API server differ in their number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target(pub(super) u8);

impl Target {
    /// Where a Service takes frames from outside.
    pub(super) fn address(self, policy: Policy) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, self.place(policy)), PORT)
    }

    /// Where it takes connections.
    pub(super) fn connected(self, policy: Policy) -> SocketAddrV4 {
        SocketAddrV4::new(*self.address(policy).ip(), CONNECTED)
    }

    /// Both Services and their slices. Endpoints of the one that keeps the client's address are on the node, the others are not:
    /// then nobody has a choice about masquerading.
    pub(super) fn objects(self, node: &str) -> Vec<Value> {
        let objects = |policy| {
            let frames = json!({ "name": "frames", "protocol": "UDP", "port": ENDPOINT_PORT });
            let all = (0..ENDPOINTS).map(road::endpoint).collect();
            let connections =
                json!({ "name": "connections", "protocol": "TCP", "port": pair::SERVER.port() });
            let slices = [(frames, all), (connections, vec![*pair::SERVER.ip()])];
            let slices = slices.map(|(port, addresses)| self.slice(policy, node, &port, &addresses));
            [self.service(policy)].into_iter().chain(slices)
        };
        Policy::ALL.into_iter().flat_map(objects).collect()
    }

    fn place(self, policy: Policy) -> u8 {
        match policy {
            Policy::Cluster => 2 * self.0,
            Policy::Local => 2 * self.0 + 1,
        }
    }

    fn name(self, policy: Policy) -> String {
        format!("packets-{}-{}", self.0, policy.word())
    }

    fn service(self, policy: Policy) -> Value {
        let ip = Ipv4Addr::new(10, 96, 1, self.place(policy));
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": self.name(policy), "namespace": "default" },
            "spec": {
                "type": "LoadBalancer",
                "allocateLoadBalancerNodePorts": false,
                "clusterIP": ip,
                "clusterIPs": [ip],
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "externalIPs": [self.address(policy).ip()],
                "externalTrafficPolicy": policy.name(),
                "ports": [
                    { "name": "frames", "protocol": "UDP", "port": PORT, "targetPort": ENDPOINT_PORT },
                    { "name": "connections", "protocol": "TCP", "port": CONNECTED, "targetPort": pair::SERVER.port() },
                ],
            },
        })
    }

    /// Each port has endpoints of its own.
    fn slice(self, policy: Policy, node: &str, port: &Value, addresses: &[Ipv4Addr]) -> Value {
        let node = match policy {
            Policy::Cluster => "elsewhere",
            Policy::Local => node,
        };
        let endpoint = |address| {
            let conditions = json!({ "ready": true, "serving": true, "terminating": false });
            json!({ "addresses": [address], "nodeName": node, "conditions": conditions })
        };
        let name = self.name(policy);
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{}", port["name"].as_str().unwrap_or_default()),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4",
            "ports": [port],
            "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
        })
    }
}

/// An endpoint, for who is sent there directly.
pub(super) fn endpoint() -> SocketAddrV4 {
    SocketAddrV4::new(road::endpoint(0), ENDPOINT_PORT)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_services_share_an_address() {
        let all = (1..5).flat_map(|number| Policy::ALL.map(|policy| Target(number).address(policy)));
        assert_eq!(all.collect::<BTreeSet<_>>().len(), 8);
    }
}
