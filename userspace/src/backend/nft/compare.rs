//! What the tables' elements are beside what they should be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::chains::{By, endpoints_of};
use super::describe::endpoint;
use super::image::{Image, Slot, Value};
use super::sets::{Field, Set, numbered, read_address};
use super::wire::Data;
use crate::backend::difference::Difference;
use crate::desired::{List, ServicePort};
use crate::model::{Family, ServicePortName};

/// Everything in which they differ.
pub(super) fn differences(
    kernel: &BTreeMap<Slot, Value>,
    want: &[(ServicePortName, ServicePort)],
) -> Vec<Difference> {
    let mut image = Image::default();
    want.iter().for_each(|(name, port)| image.add(name, port));
    let shared = image.shared.into_keys().map(|slot| (slot, Value::nothing()));
    let plan: BTreeMap<Slot, Value> = image.own.into_iter().chain(shared).collect();
    let owners = owners(&plan, kernel);
    let slots: BTreeSet<&Slot> = plan.keys().chain(kernel.keys()).collect();
    let different = slots.into_iter().filter(|slot| plan.get(*slot) != kernel.get(*slot));
    let row = |slot: &Slot| {
        let (family, set, key) = slot;
        let owner = owners.get(&(*family, head(*set, key))).cloned().unwrap_or_default();
        of_element(slot, owner, plan.get(slot), kernel.get(slot))
    };
    different.map(row).collect()
}

/// What does not hold together, whatever is wanted: addresses whose chain spreads over more endpoints than there are.
pub(super) fn torn(kernel: &BTreeMap<Slot, Value>) -> Vec<Difference> {
    let row = |(slot, value): (&Slot, &Value)| {
        let (family, set, key) = slot;
        let Data::Goto(chain) = &value.data else { return None };
        let (list, count) = spreads(chain)?;
        let is_there = |number: &u32| kernel.contains_key(&(*family, list, numbered(key, *number)));
        let found = (0..count).filter(is_there).count();
        (found != count as usize).then(|| Difference {
            dataplane: "nftables".into(),
            service: value.comment.as_deref().unwrap_or_default().to_owned(),
            what: format!("{} {}", set.name(), key_text(*family, *set, key)),
            plan: Some(format!("{count} endpoints")),
            kernel: Some(format!("{found} endpoints")),
        })
    };
    kernel.iter().filter_map(row).collect()
}

/// Over which map a chain spreads flows, and over how many, by its name.
fn spreads(chain: &str) -> Option<(Set, u32)> {
    let (by, rest) = match chain.strip_prefix("node-port-") {
        Some(rest) => (By::NodePort, rest),
        None => (By::Address, chain),
    };
    let list = |word, list| rest.strip_prefix(word).map(|rest| (list, rest));
    let (list, rest) = list("cluster-", List::Cluster).or_else(|| list("local-", List::Local))?;
    let digits = rest.split('-').next()?;
    Some((endpoints_of(list, by), digits.parse().ok()?))
}

/// One element, as it should be and as it is.
pub(super) fn of_element(
    (family, set, key): &Slot,
    service: String,
    plan: Option<&Value>,
    kernel: Option<&Value>,
) -> Difference {
    let side = |value: Option<&Value>| value.map(|value| value_text(*family, value));
    Difference {
        dataplane: "nftables".into(),
        service,
        what: format!("{} {}", set.name(), key_text(*family, *set, key)),
        plan: side(plan),
        kernel: side(kernel),
    }
}

/// A chain whose rules are not as they should be.
pub(super) fn of_chain(family: Family, chain: &str) -> Difference {
    Difference {
        dataplane: "nftables".into(),
        service: String::new(),
        what: format!("chain {chain} of {family}"),
        plan: Some("its rules".to_owned()),
        kernel: Some("other rules, or none".to_owned()),
    }
}

/// Ranges of the node.
pub(super) fn of_ranges(family: Family, set: Set) -> Difference {
    let what = format!("{} of {family}", set.name());
    let (plan, kernel) = (Some("the node's ranges".to_owned()), Some("other ranges".to_owned()));
    Difference { dataplane: "nftables".into(), service: String::new(), what, plan, kernel }
}

/// A chain that should hang on a hook.
pub(super) fn unhooked(family: Family, chain: &str) -> Difference {
    let what = format!("chain {chain} of {family}");
    let plan = Some("on its hook".to_owned());
    Difference { dataplane: "nftables".into(), service: String::new(), what, plan, kernel: None }
}

/// Whose addresses and node ports these are, by what keys begin with.
pub(super) fn owners(
    plan: &BTreeMap<Slot, Value>,
    kernel: &BTreeMap<Slot, Value>,
) -> BTreeMap<(Family, Vec<u8>), String> {
    let all = kernel.iter().chain(plan);
    let named = all.filter_map(|((family, set, key), value)| {
        Some(((*family, head(*set, key)), value.comment.as_deref()?.to_owned()))
    });
    named.collect()
}

/// A key as far as the port.
pub(super) fn head(set: Set, key: &[u8]) -> Vec<u8> {
    let behind = match set.fields() {
        [.., Field::Port, Field::Number] => 4,
        [.., Field::Port, Field::From] => key.len().saturating_sub(8) / 2,
        _ => 0,
    };
    key.get(..key.len().saturating_sub(behind)).unwrap_or_default().to_vec()
}

fn key_text(family: Family, set: Set, key: &[u8]) -> String {
    let mut rest = key;
    let mut words = Vec::new();
    for field in set.fields() {
        let length = field.length(family).next_multiple_of(4) as usize;
        let (part, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        rest = behind;
        words.extend(word(*field, family, part));
    }
    words.join(" . ")
}

fn word(field: Field, family: Family, part: &[u8]) -> Option<String> {
    match field {
        Field::To | Field::From => Some(read_address(part, family)?.to_string()),
        Field::Protocol => Some(match *part.first()? {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        }),
        Field::Port => Some(u16::from_be_bytes(*part.first_chunk()?).to_string()),
        Field::Number => Some(u32::from_ne_bytes(*part.first_chunk()?).to_string()),
    }
}

fn value_text(family: Family, value: &Value) -> String {
    let says = match &value.data {
        Data::None => "present".to_owned(),
        Data::Drop => "drop".to_owned(),
        Data::Goto(chain) => format!("goto {chain}"),
        Data::Bytes(bytes) => endpoint(family, bytes).map_or_else(|| "?".to_owned(), |at| at.to_string()),
    };
    match value
        .end
        .as_deref()
        .and_then(|end| end.get(end.len().checked_sub(Field::To.length(family) as usize)?..))
    {
        Some(end) => format!(
            "{says} up to {}",
            read_address(end, family).map_or_else(|| "?".to_owned(), |ip| ip.to_string())
        ),
        None => says,
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU16;

    use super::*;
    use crate::desired::{Action, Endpoint, Frontend, Masquerade, Routes, Uses};
    use crate::model::{Protocol, ServiceName};

    /// A service port with the ClusterIP 10.96.0.1 or fd00::1, node port 30080, and so many endpoints.
    fn port(family: Family, endpoints: u8) -> (ServicePortName, ServicePort) {
        let name = ServicePortName {
            service: ServiceName::new("default", "web"),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family,
        };
        let forward = Action::Forward(List::Cluster, Masquerade::Hairpin);
        let same = Routes { pod: forward, node: forward, outside: forward };
        let at =
            |v4: &str, v6: &str| if family == Family::V4 { v4.parse().unwrap() } else { v6.parse().unwrap() };
        let uses = Uses { cluster: true, local: false, here: false };
        let endpoint =
            |last| Endpoint::new(at(&format!("10.1.0.{last}:80"), &format!("[fd00:1::{last}]:80")), uses);
        let port = ServicePort {
            frontends: Box::new([
                Frontend::ClusterIp(at("10.96.0.1:80", "[fd00::1]:80")),
                Frontend::NodePort(NonZeroU16::new(30_080).unwrap()),
                Frontend::LoadBalancer(at("192.0.2.1:80", "[2001:db8::1]:80")),
            ]),
            internal: same,
            external: same,
            sources: Some(Box::new([if family == Family::V4 { "10.0.0.0/8" } else { "fd00::/8" }
                .parse()
                .unwrap()])),
            affinity: None,
            endpoints: (1..=endpoints).map(endpoint).collect(),
        };
        (name, port)
    }

    fn kernel(ports: &[(ServicePortName, ServicePort)]) -> BTreeMap<Slot, Value> {
        let mut image = Image::default();
        ports.iter().for_each(|(name, port)| image.add(name, port));
        let shared = image.shared.into_keys().map(|slot| (slot, Value::nothing()));
        image.own.into_iter().chain(shared).collect()
    }

    fn said(found: &[Difference]) -> Vec<String> {
        let text = |one: &Difference| {
            let [plan, kernel] =
                [&one.plan, &one.kernel].map(|side| side.clone().unwrap_or_else(|| "-".to_owned()));
            format!("{}: {} < {plan} > {kernel}", one.service, one.what)
        };
        found.iter().map(text).collect()
    }

    #[test]
    fn what_is_as_it_should_be_is_no_difference() {
        let ports = [port(Family::V4, 2), port(Family::V6, 2)];
        assert_eq!(differences(&kernel(&ports), &ports), []);
    }

    #[test]
    fn one_endpoint_too_few_is_named_at_each_address() {
        let expected = [
            "default/web:http: services-filtered 192.0.2.1 . tcp . 80 < goto cluster-2 > goto cluster-1",
            "default/web:http: endpoints 10.96.0.1 . tcp . 80 . 1 < 10.1.0.2:80 > -",
            "default/web:http: endpoints 192.0.2.1 . tcp . 80 . 1 < 10.1.0.2:80 > -",
            "default/web:http: node-port-endpoints tcp . 30080 . 1 < 10.1.0.2:80 > -",
        ];
        let found = said(&differences(&kernel(&[port(Family::V4, 1)]), &[port(Family::V4, 2)]));
        for line in expected {
            assert!(found.iter().any(|one| one == line), "{line} is not in {found:#?}");
        }
        assert_eq!(found.len(), 6, "the chains of ClusterIP and node port, too: {found:#?}");
    }

    #[test]
    fn an_address_with_fewer_endpoints_than_its_chain_spreads_over_does_not_hold_together() {
        for family in Family::ALL {
            let mut kernel = kernel(&[port(family, 2)]);
            assert_eq!(torn(&kernel), []);
            kernel.retain(|(_, set, key), _| {
                *set != Set::NodePortEndpoints || !key.ends_with(&1_u32.to_ne_bytes())
            });
            let found = said(&torn(&kernel));
            assert_eq!(found, ["default/web:http: node-ports tcp . 30080 < 2 endpoints > 1 endpoints"]);
        }
    }

    #[test]
    fn what_nobody_asks_for_is_named_in_either_family() {
        let (v4, v6) = (port(Family::V4, 0), port(Family::V6, 0));
        let found = said(&differences(&kernel(&[v4, v6]), &[]));
        for line in [
            "default/web:http: node-ports tcp . 30080 < - > goto node-port-cluster-0",
            "default/web:http: sources 192.0.2.1 . tcp . 80 . 10.0.0.0 < - > present up to 10.255.255.255",
            "default/web:http: services fd00::1 . tcp . 80 < - > goto cluster-0",
            ": cluster-ips fd00::1 < - > present",
        ] {
            assert!(found.iter().any(|one| one == line), "{line} is not in {found:#?}");
        }
    }
}
