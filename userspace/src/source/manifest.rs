//! Manifests: text in, objects and complaints out. Pure.

#![forbid(unsafe_code)]

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// One object of a file.
#[derive(Debug)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    Slice(Box<EndpointSlice>),
}

/// Why a document gave no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Kind and name of the object if they could be read, else the place in the file.
    pub object: String,
    /// Path of the field, or empty.
    pub field: String,
    /// What is wrong, with the value.
    pub message: String,
}

/// Reads a file: one JSON document, or any number of YAML documents; each an object or a list of objects. Objects of
/// other kinds are passed over.
pub fn parse(text: &str) -> (Vec<Object>, Vec<Complaint>) {
    let mut found = Found::default();
    if text.trim_start().starts_with('{') {
        found.json(text, "document 1", None);
    } else {
        for (number, document) in (1..).zip(split(text)) {
            found.yaml(document, &format!("document {number}"));
        }
    }
    (found.objects, found.complaints)
}

/// Cuts YAML at its document markers. A line `---` is always one: block scalars are indented.
fn split(text: &str) -> Vec<&str> {
    let mut documents = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in text.split_inclusive('\n') {
        if line.trim_end() == "---" || line.starts_with("--- ") {
            documents.push(&text[start..at]);
            start = at + if line.starts_with("--- ") { 4 } else { line.len() };
        }
        at += line.len();
    }
    documents.push(&text[start..]);
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    documents.retain(|document| !document.lines().all(blank));
    documents
}

#[derive(Default)]
struct Found {
    objects: Vec<Object>,
    complaints: Vec<Complaint>,
}

/// What is needed to know what a document is.
#[derive(Default, Deserialize)]
struct Head<'a> {
    kind: Option<String>,
    #[serde(default)]
    metadata: HeadMeta,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
}

impl Found {
    fn json(&mut self, text: &str, place: &str, default_kind: Option<&str>) {
        let head: Head<'_> = match serde_json::from_str(text) {
            Ok(head) => head,
            Err(error) => return self.complain(place, "", &error),
        };
        let kind = head.kind.as_deref().or(default_kind);
        match kind {
            Some("Service") => self.take(serde_json::from_str(text), Object::Service, text, place),
            Some("EndpointSlice") => self.take(serde_json::from_str(text), Object::Slice, text, place),
            Some(list) if list.ends_with("List") => {
                let kind = Some(list.trim_end_matches("List")).filter(|kind| !kind.is_empty());
                for (number, item) in (0..).zip(head.items.unwrap_or_default()) {
                    self.json(item.get(), &format!("{place} items[{number}]"), kind);
                }
            }
            Some(_) => {}
            None => self.complain(place, "kind", &"is missing"),
        }
    }

    fn yaml(&mut self, text: &str, place: &str) {
        match top_level_kind(text) {
            Some("Service") => self.take_yaml(text, Object::Service, place),
            Some("EndpointSlice") => self.take_yaml(text, Object::Slice, place),
            // Lists, flow style, and whatever is written unusually: by way of JSON.
            _ => match serde_norway::from_str::<serde_json::Value>(text) {
                Ok(value) => self.json(&value.to_string(), place, None),
                Err(error) => self.complain(place, "", &error),
            },
        }
    }

    fn take<T: DeserializeOwned>(
        &mut self,
        parsed: serde_json::Result<T>,
        object: fn(Box<T>) -> Object,
        text: &str,
        place: &str,
    ) {
        match parsed {
            Ok(value) => self.objects.push(object(Box::new(value))),
            Err(_) => self.explain::<T>(text, place),
        }
    }

    fn take_yaml<T: DeserializeOwned>(&mut self, text: &str, object: fn(Box<T>) -> Object, place: &str) {
        match serde_norway::from_str(text) {
            Ok(value) => self.objects.push(object(Box::new(value))),
            Err(plain) => match serde_norway::from_str::<serde_json::Value>(text) {
                Ok(value) => self.explain::<T>(&value.to_string(), place),
                Err(_) => self.complain(place, "", &plain),
            },
        }
    }

    /// Reads once more, slowly, to learn which field is at fault.
    fn explain<T: DeserializeOwned>(&mut self, json: &str, place: &str) {
        let head: Head<'_> = serde_json::from_str(json).unwrap_or_default();
        let HeadMeta { name, namespace } = head.metadata;
        let object = match (head.kind, name) {
            (Some(kind), Some(name)) => {
                format!("{kind} {}/{name}", namespace.as_deref().unwrap_or("default"))
            }
            (_, _) => place.to_owned(),
        };
        let mut reader = serde_json::Deserializer::from_str(json);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Ok(_) => self.complain(&object, "", &"does not parse"),
            Err(error) => {
                let field = error.path().to_string();
                let inner = error.into_inner().to_string();
                // The position is one in a rewritten text and would mislead.
                let message = inner.split(" at line ").next().unwrap_or(&inner).to_owned();
                self.complaints.push(Complaint { object, field, message });
            }
        }
    }

    fn complain(&mut self, object: &str, field: &str, message: &dyn std::fmt::Display) {
        let (object, field) = (object.to_owned(), field.to_owned());
        self.complaints.push(Complaint { object, field, message: message.to_string() });
    }
}

/// The value of a plain `kind:` line at the left margin.
fn top_level_kind(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("kind:"))?;
    let value = line.split(" #").next().unwrap_or(line).trim();
    Some(value.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::{Object, parse};

    fn check(text: &str, objects: &[&str], complaints: &[(&str, &str, &str)]) {
        let (found, wrong) = parse(text);
        let name = |object: &Object| match object {
            Object::Service(service) => {
                format!("Service {}", service.metadata.name.clone().unwrap_or_default())
            }
            Object::Slice(slice) => {
                format!("EndpointSlice {}", slice.metadata.name.clone().unwrap_or_default())
            }
        };
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), objects, "{wrong:?}");
        assert_eq!(wrong.len(), complaints.len(), "{wrong:?}");
        for (got, (object, field, words)) in wrong.iter().zip(complaints) {
            assert_eq!((got.object.as_str(), got.field.as_str()), (*object, *field), "{got:?}");
            assert!(got.message.contains(words), "{got:?}");
        }
    }

    const WEB: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.96.0.1}\n";

    #[test]
    fn a_file_may_hold_several_documents() {
        let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nendpoints: []\nmetadata:\n  name: web-1\n";
        check(
            &format!("# comment\n---\n{WEB}---\n{slice}---\n"),
            &["Service web", "EndpointSlice web-1"],
            &[],
        );
    }

    #[test]
    fn json_and_yaml_lists_are_opened() {
        let service = r#"{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"}}"#;
        check(&format!(r#"{{"kind":"List","items":[{service}]}}"#), &["Service a"], &[]);
        let bare = r#"{"apiVersion":"v1","metadata":{"name":"b"}}"#;
        check(&format!(r#"{{"kind":"ServiceList","items":[{bare}]}}"#), &["Service b"], &[]);
        check(
            "kind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: c}\n",
            &["Service c"],
            &[],
        );
    }

    #[test]
    fn other_kinds_are_passed_over() {
        check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", &[], &[]);
    }

    #[test]
    fn one_bad_document_does_not_lose_the_others() {
        let bad = "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: shop}\nspec:\n  ports:\n  - port: many\n";
        let complaint = ("Service shop/bad", "spec.ports[0].port", "many");
        check(&format!("{bad}---\n{WEB}"), &["Service web"], &[complaint]);
    }

    #[test]
    fn broken_syntax_names_the_document() {
        check(
            &format!("{WEB}---\nkind: Service\nspec: [\n"),
            &["Service web"],
            &[("document 2", "", "line")],
        );
        check("{\"kind\": ", &[], &[("document 1", "", "EOF")]);
    }

    #[test]
    fn a_document_without_a_kind_is_named() {
        check("metadata: {name: x}\n", &[], &[("document 1", "kind", "missing")]);
    }
}
