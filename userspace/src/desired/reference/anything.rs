//! Values that no parser would let through: none of them may bring the daemon down.

use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::generate::some_context;
use crate::desired::Desired;
use crate::model::sample::{apply_service, apply_slice};
use crate::model::{
    Cluster, Conditions, Endpoint, External, Hints, Origin, Place, Policy, Protocol, Service, ServiceName,
    ServicePort, Slice, SlicePort,
};

proptest! {
    #[test]
    fn no_facts_are_too_strange(
        services in vec(some_service(), 0..4), slices in vec(some_slice(), 0..4), context in some_context(),
        other in some_context(),
    ) {
        let mut cluster = Cluster::of_node(context.node.clone(), Origin::Folder);
        let mut desired = Desired::new(context);
        services.into_iter().for_each(|service| cluster.take(apply_service(service)));
        slices.into_iter().for_each(|slice| cluster.take(apply_slice(slice)));
        let dirty = cluster.dirty();
        desired.update(&cluster, dirty);
        desired.set_context(other, &cluster);
        let again = desired.update(&cluster, cluster.names().cloned().collect());
        prop_assert!(again.is_empty(), "{again:?} changed although nothing did");
        desired.problems();
    }
}

fn some_service() -> impl Strategy<Value = Service> {
    let identity = (some_name(), any::<Option<i64>>(), boxed(some_ip(), 4), boxed(some_port(), 4));
    let rest = (any::<[bool; 2]>(), any::<u32>(), proptest::option::of(some_external()));
    (identity, rest).prop_map(|((name, created, addresses, ports), (local, affinity, external))| {
        let policy = |local| if local { Policy::Local } else { Policy::Cluster };
        Service {
            name: ServiceName::new("", name),
            created,
            addresses,
            ports,
            internal_policy: policy(local[0]),
            external_policy: policy(local[1]),
            affinity: NonZeroU32::new(affinity),
            external: external.map(Box::new),
        }
    })
}

fn some_port() -> impl Strategy<Value = ServicePort> {
    (some_name(), some_protocol(), some_number(), proptest::option::of(some_number()))
        .prop_map(|(name, protocol, port, node_port)| ServicePort { name, protocol, port, node_port })
}

fn some_external() -> impl Strategy<Value = External> {
    let ranges = (some_ip(), any::<u8>())
        .prop_map(|(address, bits)| IpNet::new(address, bits).unwrap_or_else(|_| IpNet::from(address)));
    let addresses = (boxed(some_ip(), 4), boxed(some_ip(), 4), boxed(some_ip(), 4));
    (addresses, boxed(ranges, 4), any::<u16>()).prop_map(
        |((external_ips, load_balancer, proxied), source_ranges, health)| External {
            external_ips,
            load_balancer,
            proxied,
            source_ranges,
            health_check_port: NonZeroU16::new(health),
        },
    )
}

fn some_slice() -> impl Strategy<Value = Slice> {
    let port = (some_name(), some_protocol(), some_number());
    let ports = boxed(port.prop_map(|(name, protocol, port)| SlicePort { name, protocol, port }), 4);
    (some_name(), some_name(), ports, boxed(some_endpoint(), 5)).prop_map(
        |(name, service, ports, endpoints)| Slice {
            name,
            service: ServiceName::new("", service),
            ports: ports.into(),
            endpoints,
            triggered: None,
        },
    )
}

fn some_endpoint() -> impl Strategy<Value = Endpoint> {
    let hints = (boxed(some_name(), 3), boxed(some_name(), 3));
    let hints = proptest::option::of(hints.prop_map(|(zones, nodes)| Hints { zones, nodes }));
    (some_ip(), any::<[bool; 3]>(), proptest::option::of(some_name()), hints).prop_map(
        |(address, [ready, serving, terminating], node, hints)| {
            Endpoint::new(address, Conditions::new(ready, serving, terminating), Place { node, hints })
        },
    )
}

fn some_name() -> impl Strategy<Value = Arc<str>> {
    select(&["", "a", "n1", "http", "\0", "ü/:"][..]).prop_map(Arc::from)
}

fn some_protocol() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp][..])
}

fn some_number() -> impl Strategy<Value = NonZeroU16> {
    select(&[1_u16, 80, u16::MAX][..]).prop_map(|port| NonZeroU16::new(port).unwrap())
}

fn some_ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        select(
            &["0.0.0.0", "10.0.0.1", "255.255.255.255", "::", "::1", "::ffff:10.0.0.1", "fe80::1", "ff02::1"]
                [..]
        )
        .prop_map(|address| address.parse().unwrap()),
        any::<IpAddr>(),
    ]
}

fn boxed<S: Strategy>(one: S, end: usize) -> impl Strategy<Value = Box<[S::Value]>> {
    vec(one, 0..end).prop_map(Into::into)
}
