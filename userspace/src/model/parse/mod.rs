//! The API's objects become facts. The only room that knows the API's types.
//!
//! Nothing here fails. What is wrong becomes a [`Problem`], what is right is kept, and an object that is none
//! of our business is skipped without a word. Absent values mean what the API server would have filled in;
//! for a source that no API server has gone over, [`default_service`] and [`default_slice`] fill them in.

mod defaults;
mod external;
mod findings;
mod node;
mod port;
mod service;
mod slice;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::problem::{Kind, ObjectRef, Problem};

pub use defaults::{default_service, default_slice};
pub use node::{node, service_cidr};
pub use service::service;
pub use slice::slice;

/// Services with this label belong to another proxy; no matter what it says.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Slices with this label belong to a headless Service; no matter what it says.
pub const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// The label of a slice that names its Service.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What an object means to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// This.
    Keep(T),
    /// Nothing: it is headless, another proxy's, or cannot be served.
    Skip,
}

impl<T> Parsed<T> {
    /// The value, if it is kept.
    pub fn kept(self) -> Option<T> {
        match self {
            Self::Keep(value) => Some(value),
            Self::Skip => None,
        }
    }
}

/// The object that this metadata belongs to.
pub fn reference(kind: Kind, meta: &ObjectMeta) -> ObjectRef {
    let stated = meta.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    let namespace = if kind.is_namespaced() { stated.unwrap_or("default") } else { "" };
    ObjectRef::new(kind, namespace, meta.name.as_deref().unwrap_or_default())
}

fn has_label(meta: &ObjectMeta, label: &str) -> bool {
    label_value(meta, label).is_some()
}

fn label_value<'a>(meta: &'a ObjectMeta, label: &str) -> Option<&'a str> {
    meta.labels.as_ref()?.get(label).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Family;

    proptest! {
        #[test]
        fn no_service_is_too_strange(mut object in some_service()) {
            check_service(&object);
            default_service(&mut object);
            check_service(&object);
        }

        #[test]
        fn no_slice_is_too_strange(mut object in some_slice()) {
            check_slice(&object);
            default_slice(&mut object);
            check_slice(&object);
        }
    }

    fn check_service(object: &Service) {
        let (parsed, problems) = service(object);
        assert_eq!((parsed.clone(), problems.clone()), service(object));
        check_problems(Kind::Service, &object.metadata, &problems);
        let Parsed::Keep(kept) = parsed else { return };
        let families: BTreeSet<Family> = kept.addresses.iter().copied().map(Family::of).collect();
        assert!(!families.is_empty() && families.len() == kept.addresses.len(), "{kept:?}");
        let names: BTreeSet<_> = kept.ports.iter().map(|port| (&port.name, port.protocol)).collect();
        let numbers: BTreeSet<_> = kept.ports.iter().map(|port| (port.port, port.protocol)).collect();
        assert_eq!((names.len(), numbers.len()), (kept.ports.len(), kept.ports.len()), "{kept:?}");
        let stated = object.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).count();
        assert!(kept.ports.len() == stated || !problems.is_empty(), "{kept:?}");
    }

    fn check_slice(object: &EndpointSlice) {
        let (parsed, problems) = slice(object);
        check_problems(Kind::EndpointSlice, &object.metadata, &problems);
        let Parsed::Keep(kept) = parsed else { return };
        let families: BTreeSet<&str> =
            kept.endpoints.iter().map(|endpoint| Family::of(endpoint.address).as_str()).collect();
        assert!(families.iter().all(|family| *family == object.address_type), "{kept:?}");
        let names: BTreeSet<_> = kept.ports.iter().map(|port| (&port.name, port.protocol)).collect();
        assert_eq!(names.len(), kept.ports.len(), "{kept:?}");
        let lost = object.endpoints.iter().flatten().count() - kept.endpoints.len()
            + (object.ports.iter().flatten().count() - kept.ports.len());
        assert!(lost <= problems.len(), "{kept:?} {problems:?}");
    }

    fn check_problems(kind: Kind, meta: &ObjectMeta, problems: &[Problem]) {
        let object = reference(kind, meta).to_string();
        assert!(
            problems.iter().all(|problem| problem.object == object && !problem.field.is_empty()),
            "{problems:?}"
        );
    }

    fn some_service() -> impl Strategy<Value = Service> {
        let port = (maybe(word()), number(), maybe(word()))
            .prop_map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}));
        let lists = (maybe(list(word())), maybe(list(word())), maybe(list(word())), maybe(list(port)));
        let words = (maybe(word()), maybe(word()), maybe(word()), maybe(word()));
        (meta(), lists, words, any::<bool>()).prop_map(|(metadata, lists, words, has_spec)| {
            let (cluster_ips, families, external, ports) = lists;
            let (cluster_ip, kind, affinity, internal) = words;
            let spec = json!({"clusterIP": cluster_ip, "clusterIPs": cluster_ips, "ipFamilies": families,
                "externalIPs": external, "ports": ports, "type": kind, "sessionAffinity": affinity,
                "internalTrafficPolicy": internal});
            let spec = if has_spec { spec } else { Value::Null };
            serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
        })
    }

    fn some_slice() -> impl Strategy<Value = EndpointSlice> {
        let port = (maybe(word()), maybe(number()), maybe(word()))
            .prop_map(|(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}));
        let conditions = any::<[Option<bool>; 3]>()
            .prop_map(|[r, s, t]| json!({"ready": r, "serving": s, "terminating": t}));
        let endpoint = (list(word()), maybe(conditions), maybe(word())).prop_map(
            |(all, conditions, node)| json!({"addresses": all, "conditions": conditions, "nodeName": node}),
        );
        (meta(), word(), maybe(list(port)), list(endpoint)).prop_map(|(metadata, kind, ports, endpoints)| {
            let object =
                json!({"metadata": metadata, "addressType": kind, "ports": ports, "endpoints": endpoints});
            serde_json::from_value(object).unwrap()
        })
    }

    fn meta() -> impl Strategy<Value = Value> {
        let label = prop::sample::select(vec![
            PROXY_NAME_LABEL,
            HEADLESS_LABEL,
            SERVICE_NAME_LABEL,
            SERVICE_NAME_LABEL,
            "x",
        ]);
        let labels = prop::collection::btree_map(label, word(), 0..3);
        (maybe(word()), maybe(word()), labels).prop_map(
            |(namespace, name, labels)| json!({"namespace": namespace, "name": name, "labels": labels}),
        )
    }

    /// What a field might hold, in the right place or in a wrong one.
    fn word() -> impl Strategy<Value = String> {
        let known = [
            "",
            " ",
            "web",
            "web",
            "default",
            "a",
            "http",
            "None",
            "10.96.0.10",
            "010.96.0.10",
            "10.96.0.11",
            "fd00::10",
            "::ffff:10.96.0.10",
            "0.0.0.0",
            "10.96.0.300",
            "IPv4",
            "IPv4",
            "IPv6",
            "FQDN",
            "TCP",
            "UDP",
            "SCTP",
            "ClusterIP",
            "NodePort",
            "ExternalName",
            "ClientIP",
            "Local",
            "Cluster",
        ];
        prop_oneof![6 => prop::sample::select(known.map(str::to_owned).to_vec()), 1 => ".{0,80}"]
    }

    fn number() -> impl Strategy<Value = i32> {
        prop_oneof![3 => prop::sample::select(vec![0, 1, 80, 80, 443, 65535, 65536, -1]), 1 => any::<i32>()]
    }

    fn maybe<T: Strategy>(some: T) -> impl Strategy<Value = Option<T::Value>> {
        prop::option::weighted(0.8, some)
    }

    fn list<T: Strategy>(some: T) -> impl Strategy<Value = Vec<T::Value>> {
        prop::collection::vec(some, 0..4)
    }
}
