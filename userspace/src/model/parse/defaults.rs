//! What the API server fills in before anybody sees an object, for sources that do without one. Only what is
//! read here is filled in; addresses cannot be, and stay missing.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Fills in what a manifest of a Service left out.
pub fn default_service(Service { metadata, spec, status: _ }: &mut Service) {
    default_namespace(metadata);
    let Some(spec) = spec else { return };
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(tcp);
    }
    let primary = spec.cluster_ip.clone().filter(|address| !address.is_empty());
    if let Some(primary) = primary
        && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)
    {
        spec.cluster_ips = Some(vec![primary]);
    }
}

/// Fills in what a manifest of an EndpointSlice left out.
pub fn default_slice(EndpointSlice { metadata, ports, address_type: _, endpoints: _ }: &mut EndpointSlice) {
    default_namespace(metadata);
    for port in ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(tcp);
    }
}

fn default_namespace(meta: &mut ObjectMeta) {
    let namespace = meta.namespace.get_or_insert_default();
    if namespace.is_empty() {
        "default".clone_into(namespace);
    }
}

fn tcp() -> String {
    "TCP".to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_manifest_without_namespace_is_in_the_default_one() {
        let mut service: Service = serde_json::from_value(json!({"metadata": {"name": "web"}})).unwrap();
        default_service(&mut service);
        assert_eq!(service.metadata.namespace.as_deref(), Some("default"));
    }

    #[test]
    fn a_port_of_a_slice_without_name_gets_the_empty_one() {
        let object = json!({"addressType": "IPv4", "endpoints": [], "metadata": {"namespace": "prod"},
            "ports": [{"port": 80}]});
        let mut slice: EndpointSlice = serde_json::from_value(object).unwrap();
        default_slice(&mut slice);
        let port = &slice.ports.unwrap()[0];
        assert_eq!((port.name.as_deref(), port.protocol.as_deref()), (Some(""), Some("TCP")));
        assert_eq!(slice.metadata.namespace.as_deref(), Some("prod"));
    }

    #[test]
    fn one_cluster_ip_makes_the_list_of_them() {
        let object = json!({"spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80}]}});
        let mut service: Service = serde_json::from_value(object).unwrap();
        default_service(&mut service);
        let spec = service.spec.unwrap();
        assert_eq!(spec.cluster_ips, Some(vec!["10.96.0.10".to_owned()]));
        assert_eq!(spec.ports.unwrap()[0].protocol.as_deref(), Some("TCP"));
    }
}
