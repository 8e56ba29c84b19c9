//! Manifests as nobody would write them: nothing brings the daemon down, each complaint says whose it is, and what
//! stands beside a broken document is read.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use crate::source::manifest::{Complaint, Object, parse};

const FIRST: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: first}\n";
const LAST: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: last}\n";

proptest! {
    #[test]
    fn no_bytes_are_too_strange(bytes in vec(any::<u8>(), 0..200)) {
        check_complaints(&parse("a.yaml", &String::from_utf8_lossy(&bytes)).1)?;
    }

    #[test]
    fn no_text_is_too_strange(text in "[-{}\\[\\]:,#&*!|>'\"%@ \t\r\na-c0-9.~]{0,80}") {
        check_complaints(&parse("a.yaml", &text).1)?;
    }

    #[test]
    fn no_damage_to_a_manifest_is_too_great(text in some_text(), damage in vec(some_damage(), 1..6)) {
        check_complaints(&parse("a.yaml", &damaged(&text, &damage)).1)?;
    }

    #[test]
    fn a_damaged_document_does_not_harm_those_beside_it(text in some_text(), damage in vec(some_damage(), 1..6)) {
        let text = damaged(&text, &damage);
        let (objects, complaints) = parse("a.yaml", &format!("{FIRST}---\n{text}\n---\n{LAST}"));
        check_complaints(&complaints)?;
        let names = names(&objects);
        prop_assert_eq!(names.first().map(String::as_str), Some("Service first"), "{:?}", complaints);
        prop_assert_eq!(names.last().map(String::as_str), Some("Service last"), "{:?}", complaints);
    }

    #[test]
    fn a_strange_item_does_not_harm_those_beside_it(item in some_value(), yaml in any::<bool>()) {
        let sibling = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}});
        let list = json!({"apiVersion": "v1", "kind": "List", "items": [sibling("first"), item, sibling("last")]});
        let (objects, complaints) = parse("a.yaml", &written(&list, yaml));
        check_complaints(&complaints)?;
        let names = names(&objects);
        prop_assert_eq!(names.first().map(String::as_str), Some("Service first"), "{:?}", complaints);
        prop_assert_eq!(names.last().map(String::as_str), Some("Service last"), "{:?}", complaints);
    }

    #[test]
    fn broken_syntax_is_never_passed_over_in_silence(manifest in some_manifest()) {
        let (objects, complaints) = parse("a.yaml", &format!("{}}}\n", written(&manifest, true)));
        prop_assert_eq!((objects.len(), complaints.len()), (0, 1), "{:?}", complaints);
    }

    #[test]
    fn a_field_of_another_type_loses_its_object_by_name_or_nothing(
        (plain, place, value) in (some_manifest(), any::<Index>(), some_scrap()), yaml in any::<bool>(),
    ) {
        let mut manifest = plain.clone();
        for part in ["spec", "status", "endpoints", "ports"] {
            if let Some(part) = manifest.get_mut(part) {
                replace(part, place, &value);
            }
        }
        let (objects, complaints) = parse("a.yaml", &written(&manifest, yaml));
        prop_assert_eq!(objects.len() + complaints.len(), 1, "{:?}", complaints);
        let named = names(&parse("a.yaml", &written(&plain, yaml)).0);
        let kept = names(&objects);
        prop_assert!(kept == named || complaints[0].object == in_full(&plain), "{complaints:?}");
    }
}

#[test]
fn depth_without_end_is_refused() {
    for open in ["[", "{a: ", "- ", "? ", "{\"a\":", "{\"items\":["] {
        check_one_complaint(&open.repeat(2_000));
    }
}

#[test]
fn lists_within_lists_without_end_are_refused() {
    let open = r#"{"kind":"List","items":["#;
    check_one_complaint(&[open.repeat(20_000), "]}".repeat(20_000)].concat());
}

#[test]
fn aliases_that_multiply_are_refused() {
    let level = |at: u32| format!("a{}: &a{} [{}]\n", at + 1, at + 1, vec![format!("*a{at}"); 9].join(","));
    let bomb: String = (0..12).map(level).collect();
    check_one_complaint(&format!("kind: List\na0: &a0 x\n{bomb}"));
}

fn check_one_complaint(text: &str) {
    let (objects, complaints) = parse("a.yaml", text);
    assert_eq!((objects.len(), complaints.len()), (0, 1), "{complaints:?}");
}

fn check_complaints(complaints: &[Complaint]) -> Result<(), TestCaseError> {
    for Complaint { object, field: _, message } in complaints {
        let kinds = ["Service ", "EndpointSlice ", "Node ", "ServiceCIDR "];
        prop_assert!(
            object == "file a.yaml" || kinds.iter().any(|kind| object.starts_with(kind)),
            "{}",
            object
        );
        prop_assert!(!message.is_empty());
    }
    Ok(())
}

fn names(objects: &[Object]) -> Vec<String> {
    let name = |object: &Object| {
        let (kind, metadata) = match object {
            Object::Service(one) => ("Service", &one.metadata),
            Object::Slice(one) => ("EndpointSlice", &one.metadata),
            Object::Node(one) => ("Node", &one.metadata),
            Object::ServiceCidr(one) => ("ServiceCIDR", &one.metadata),
        };
        format!("{kind} {}", metadata.name.as_deref().unwrap_or_default())
    };
    objects.iter().map(name).collect()
}

/// As a complaint names it.
fn in_full(manifest: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, metadata) = (text(&manifest["kind"]), &manifest["metadata"]);
    match metadata.get("namespace") {
        Some(namespace) => format!("{kind} {}/{}", text(namespace), text(&metadata["name"])),
        None => format!("{kind} {}", text(&metadata["name"])),
    }
}

/// One or two manifests, or a list of some, in JSON or in YAML.
fn some_text() -> impl Strategy<Value = String> {
    (vec(some_value(), 1..3), 0_u8..4).prop_map(|(values, form)| match form {
        0 => written(&values[0], false),
        1 => written(&json!({"apiVersion": "v1", "kind": "List", "items": values}), false),
        2 => written(&json!({"apiVersion": "v1", "kind": "List", "items": values}), true),
        _ => values.iter().map(|value| written(value, true)).collect::<Vec<_>>().join("---\n"),
    })
}

fn written(value: &Value, yaml: bool) -> String {
    if yaml { serde_norway::to_string(value).unwrap() } else { value.to_string() }
}

/// A manifest, in some places with something else than belongs there.
fn some_value() -> impl Strategy<Value = Value> {
    (some_manifest(), vec((any::<Index>(), some_scrap()), 0..3)).prop_map(|(mut manifest, scraps)| {
        scraps.iter().for_each(|(place, scrap)| replace(&mut manifest, *place, scrap));
        manifest
    })
}

fn some_manifest() -> impl Strategy<Value = Value> {
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "labels": {"app": "web"},
            "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"type": "LoadBalancer", "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"], "ports": [{"name": "http", "port": 80, "targetPort": "web",
                "nodePort": 30080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP", "targetPort": 53}],
            "externalIPs": ["192.0.2.1"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10}},
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
            "loadBalancerSourceRanges": ["192.0.2.0/24"]},
        "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}, {"hostname": "lb"}]}}});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": ["10.1.0.5"], "nodeName": "n1", "zone": "a",
            "conditions": {"ready": true, "serving": null, "terminating": false},
            "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]}}]});
    let node = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}},
        "spec": {"podCIDRs": ["10.1.0.0/24"], "taints": [{"key": "a", "effect": "NoSchedule"}]},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
    let cidr = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/12"]}});
    select(vec![service, slice, node, cidr])
}

/// What may stand where something else belongs.
fn some_scrap() -> impl Strategy<Value = Value> {
    let numbers =
        select(vec![json!(-1), json!(0), json!(65_536), json!(1_u64 << 63), json!(1.5), json!(1e300)]);
    let words = select(&["", "Local", "10.0.0.1", "0x10", "yes", "~", "a: b", "\u{0}", "---", "é\n- x"][..]);
    prop_oneof![
        select(vec![Value::Null, json!(true), json!([]), json!({}), json!([null]), json!({"": []})]),
        numbers,
        words.prop_map(Value::from),
    ]
}

/// Puts a value in one place of a tree.
fn replace(tree: &mut Value, place: Index, value: &Value) {
    let places = count(tree);
    if let Some(found) = nth(tree, &mut place.index(places)) {
        *found = value.clone();
    }
}

fn count(tree: &Value) -> usize {
    let below: usize = match tree {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    1 + below
}

fn nth<'a>(tree: &'a mut Value, left: &mut usize) -> Option<&'a mut Value> {
    if *left == 0 {
        return Some(tree);
    }
    *left -= 1;
    match tree {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, left)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, left)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

/// What can happen to a text.
#[derive(Clone, Debug)]
enum Damage {
    Delete(Index, usize),
    Replace(Index, u8),
    Insert(Index, &'static str),
    Repeat(Index, usize),
}

fn some_damage() -> impl Strategy<Value = Damage> {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ": ",
        "- ",
        "\n",
        "\t",
        "\"",
        "'",
        "|\n",
        ">",
        "&a ",
        "*a",
        "!!int ",
        "<<: ",
        "\n---\n",
        "...\n",
        "%YAML 9\n",
        "#",
        "\u{feff}",
        "\u{0}",
        "\r",
        "0",
        "é",
    ];
    prop_oneof![
        (any::<Index>(), 1_usize..30).prop_map(|(place, length)| Damage::Delete(place, length)),
        (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Damage::Replace(place, byte)),
        (any::<Index>(), select(pieces.to_vec())).prop_map(|(place, piece)| Damage::Insert(place, piece)),
        (any::<Index>(), 1_usize..60).prop_map(|(place, length)| Damage::Repeat(place, length)),
    ]
}

fn damaged(text: &str, damage: &[Damage]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    damage.iter().for_each(|one| harm(&mut bytes, one));
    String::from_utf8_lossy(&bytes).into_owned()
}

fn harm(bytes: &mut Vec<u8>, damage: &Damage) {
    let within = |place: &Index, bytes: &[u8]| place.index(bytes.len() + 1);
    match damage {
        Damage::Delete(place, length) => {
            let start = within(place, bytes);
            bytes.drain(start..(start + length).min(bytes.len()));
        }
        Damage::Replace(place, byte) => {
            let at = within(place, bytes);
            bytes.splice(at..(at + 1).min(bytes.len()), [*byte]);
        }
        Damage::Insert(place, piece) => {
            let at = within(place, bytes);
            bytes.splice(at..at, piece.bytes());
        }
        Damage::Repeat(place, length) => {
            let start = within(place, bytes);
            let piece = bytes[start..(start + length).min(bytes.len())].to_vec();
            bytes.splice(start..start, piece);
        }
    }
}
