//! Manifests: text in, objects and complaints out. Pure.

#![forbid(unsafe_code)]

use std::fmt::Display;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

/// One object of a file.
#[derive(Debug)]
pub enum Object {
    /// A Service.
    Service(Box<Service>),
    /// An EndpointSlice.
    Slice(Box<EndpointSlice>),
    /// A Node.
    Node(Box<Node>),
    /// A ServiceCIDR.
    ServiceCidr(Box<ServiceCIDR>),
}

/// Why a document gave no object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complaint {
    /// Kind and name of the object if they could be read, else the file.
    pub object: String,
    /// Path of the field, or empty.
    pub field: String,
    /// What is wrong, with the value, and where in the file if that is not clear.
    pub message: String,
}

/// Reads the text of a file: one JSON document, or any number of YAML documents; each an object or a list of objects.
/// Objects of other kinds are passed over.
pub fn parse(file: &str, text: &str) -> (Vec<Object>, Vec<Complaint>) {
    let mut found = Found { file, objects: Vec::new(), complaints: Vec::new() };
    if text.trim_start().starts_with('{') {
        found.json(text, &Place::default(), Type::default());
        if found.complaints.is_empty() || !is_yaml_only(text) {
            return (found.objects, found.complaints);
        }
        found = Found { file, objects: Vec::new(), complaints: Vec::new() };
    }
    let documents = split(text);
    let several = documents.len() > 1;
    for (number, (line, document)) in (1..).zip(documents) {
        let within = if several { format!("document {number}") } else { String::new() };
        found.yaml(document, &Place { line, within, depth: 0 });
    }
    (found.objects, found.complaints)
}

/// YAML in flow style begins like JSON. What is neither is told of as JSON, and so is what nests deeper than any object
/// does: a reader of YAML takes very long for that.
fn is_yaml_only(text: &str) -> bool {
    if opened(text) > DEEPEST_FLOW {
        return false;
    }
    let first = split(text).first().map(|(_, document)| *document).unwrap_or_default();
    serde_json::from_str::<IgnoredAny>(text).is_err()
        && serde_norway::from_str::<serde_json::Value>(first).is_ok()
}

/// Cuts YAML at its document markers; with each document the number of lines before it. A line `---` or `...` is always
/// a marker: block scalars are indented.
fn split(text: &str) -> Vec<(usize, &str)> {
    let mut documents = Vec::new();
    let (mut start, mut first, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let marker = line.trim_end();
        let same_line = line.starts_with("--- ");
        if same_line || marker == "---" || marker == "..." || line.starts_with("... ") {
            documents.push((first, &text[start..at]));
            (start, first) = if same_line { (at + 4, number) } else { (at + line.len(), number + 1) };
        }
        at += line.len();
    }
    documents.push((first, &text[start..]));
    documents.retain(|(_, document)| !document.lines().all(says_nothing));
    documents
}

/// An empty line, a comment, or a directive such as `%YAML 1.2`.
fn says_nothing(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#') || line.starts_with('%')
}

/// Levels of brackets that an object in flow style may have.
const DEEPEST_FLOW: usize = 64;

/// How many brackets are open at once, at most; those in strings too.
fn opened(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut deepest = 0;
    for byte in text.bytes() {
        match byte {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

struct Found<'a> {
    file: &'a str,
    objects: Vec<Object>,
    complaints: Vec<Complaint>,
}

/// Where in a file.
#[derive(Default)]
struct Place {
    /// Lines before the document.
    line: usize,
    /// Empty if the file is one object.
    within: String,
    /// How many lists it is in.
    depth: u8,
}

/// Lists within lists are opened so far down; to go as deep as a text does would end in a stack overflow.
const DEEPEST: u8 = 16;

/// What is needed to know what a document is.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head<'a> {
    api_version: Option<String>,
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

/// Version and kind.
#[derive(Clone, Copy, Default)]
struct Type<'a> {
    version: Option<&'a str>,
    kind: Option<&'a str>,
}

/// A type of object that we read.
trait Known: DeserializeOwned {
    const VERSION: &'static str;
    const KIND: &'static str;
    /// Whether its objects are in namespaces.
    const NAMESPACED: bool;
    fn object(self) -> Object;
}

/// Says of a type of the API what it is called, and which object it becomes.
macro_rules! known {
    ($type:ident, $version:literal, $kind:literal, $namespaced:literal, $object:ident) => {
        impl Known for $type {
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const NAMESPACED: bool = $namespaced;

            fn object(self) -> Object {
                Object::$object(Box::new(self))
            }
        }
    };
}

known!(Service, "v1", "Service", true, Service);
known!(EndpointSlice, "discovery.k8s.io/v1", "EndpointSlice", true, Slice);
known!(Node, "v1", "Node", false, Node);
known!(ServiceCIDR, "networking.k8s.io/v1", "ServiceCIDR", false, ServiceCidr);

impl Found<'_> {
    /// Reads one object or list. In a typed list the objects need not say what they are.
    fn json(&mut self, text: &str, place: &Place, default: Type<'_>) {
        let head: Head<'_> = match serde_json::from_str(text) {
            Ok(head) => head,
            Err(error) => return self.complain(place, "", &error),
        };
        let version = head.api_version.as_deref().or(default.version);
        match head.kind.as_deref().or(default.kind) {
            Some(Service::KIND) => self.json_of::<Service>(text, place, version),
            Some(EndpointSlice::KIND) => self.json_of::<EndpointSlice>(text, place, version),
            Some(Node::KIND) => self.json_of::<Node>(text, place, version),
            Some(ServiceCIDR::KIND) => self.json_of::<ServiceCIDR>(text, place, version),
            Some(list) if list.ends_with("List") && place.depth == DEEPEST => {
                self.complain(place, "items", &"a list within too many lists");
            }
            Some(list) if list.ends_with("List") => {
                let kind = list.strip_suffix("List").filter(|kind| !kind.is_empty());
                let default = kind.map_or_else(Type::default, |_| Type { version, kind });
                for (number, item) in (0..).zip(head.items.unwrap_or_default()) {
                    let within = format!("{} items[{number}]", place.within).trim_start().to_owned();
                    self.json(
                        item.get(),
                        &Place { line: place.line, within, depth: place.depth + 1 },
                        default,
                    );
                }
            }
            Some(_) => {}
            None => self.complain(place, "kind", &"is missing"),
        }
    }

    fn json_of<K: Known>(&mut self, text: &str, place: &Place, version: Option<&str>) {
        match version {
            Some(version) if version == K::VERSION => match serde_json::from_str::<K>(text) {
                Ok(value) => self.objects.push(value.object()),
                Err(_) => self.explain::<K>(text, place),
            },
            // Another kind of the same name, such as a Service of Knative.
            Some(_) => {}
            None => {
                let object = self.name_of::<K>(text);
                self.complain_of(object, place, "apiVersion", &"is missing");
            }
        }
    }

    fn yaml(&mut self, text: &str, place: &Place) {
        match (top_level(text, "apiVersion:"), top_level(text, "kind:")) {
            (Some(Service::VERSION), Some(Service::KIND)) => self.yaml_of::<Service>(text, place),
            (Some(EndpointSlice::VERSION), Some(EndpointSlice::KIND)) => {
                self.yaml_of::<EndpointSlice>(text, place);
            }
            (Some(Node::VERSION), Some(Node::KIND)) => self.yaml_of::<Node>(text, place),
            (Some(ServiceCIDR::VERSION), Some(ServiceCIDR::KIND)) => {
                self.yaml_of::<ServiceCIDR>(text, place);
            }
            // Lists, flow style, and whatever is written unusually: by way of JSON.
            _ => match serde_norway::from_str::<serde_json::Value>(text) {
                Ok(value) => self.json(&value.to_string(), place, Type::default()),
                Err(error) => self.unparsable(text, place, &error),
            },
        }
    }

    fn yaml_of<K: Known>(&mut self, text: &str, place: &Place) {
        match serde_norway::from_str::<K>(text) {
            Ok(value) => self.objects.push(value.object()),
            Err(plain) => match serde_norway::from_str::<serde_json::Value>(text) {
                Ok(value) => self.explain::<K>(&value.to_string(), place),
                Err(_) => self.unparsable(text, place, &plain),
            },
        }
    }

    /// Reads once more, as many lines further down as it stands in the file, so that the line named is the file's.
    fn unparsable(&mut self, text: &str, place: &Place, error: &serde_norway::Error) {
        let moved = format!("{}{text}", "\n".repeat(place.line));
        match serde_norway::from_str::<serde_json::Value>(&moved) {
            Ok(_) => self.complain(place, "", error),
            Err(error) => self.complain(place, "", &error),
        }
    }

    /// Reads once more, slowly, to learn which field is at fault.
    fn explain<K: Known>(&mut self, json: &str, place: &Place) {
        let object = self.name_of::<K>(json);
        let mut reader = serde_json::Deserializer::from_str(json);
        match serde_path_to_error::deserialize::<_, K>(&mut reader) {
            Ok(_) => self.complain_of(object, place, "", &"does not parse"),
            Err(error) => {
                let field = error.path().to_string();
                let inner = error.into_inner().to_string();
                // The position is one in a rewritten text and would mislead.
                let message = inner.split(" at line ").next().unwrap_or(&inner);
                self.complain_of(object, place, &field, &message);
            }
        }
    }

    /// Kind and name of an object, if it has a name.
    fn name_of<K: Known>(&self, json: &str) -> Option<String> {
        let HeadMeta { name, namespace } =
            serde_json::from_str::<Head<'_>>(json).unwrap_or_default().metadata;
        let name = name?;
        Some(match K::NAMESPACED {
            true => format!("{} {}/{name}", K::KIND, namespace.as_deref().unwrap_or("default")),
            false => format!("{} {name}", K::KIND),
        })
    }

    fn complain(&mut self, place: &Place, field: &str, message: &dyn Display) {
        self.complain_of(None, place, field, message);
    }

    /// Where it is in the file is said if the object is not known by name.
    fn complain_of(&mut self, object: Option<String>, place: &Place, field: &str, message: &dyn Display) {
        let message = match (&object, place.within.as_str()) {
            (Some(_), _) | (None, "") => message.to_string(),
            (None, within) => format!("{within}: {message}"),
        };
        let object = object.unwrap_or_else(|| format!("file {}", self.file));
        self.complaints.push(Complaint { object, field: field.to_owned(), message });
    }
}

/// The value of a plain line `key: value` at the left margin.
fn top_level<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    let value = line.split(" #").next().unwrap_or(line).trim();
    Some(value.trim_matches(['"', '\'']))
}

#[cfg(test)]
mod tests {
    use super::{Object, parse};

    fn check(text: &str, objects: &[&str], complaints: &[(&str, &str, &str)]) {
        let (found, wrong) = parse("a.yaml", text);
        let name = |object: &Object| match object {
            Object::Service(service) => {
                format!("Service {}", service.metadata.name.clone().unwrap_or_default())
            }
            Object::Slice(slice) => {
                format!("EndpointSlice {}", slice.metadata.name.clone().unwrap_or_default())
            }
            Object::Node(node) => format!("Node {}", node.metadata.name.clone().unwrap_or_default()),
            Object::ServiceCidr(cidr) => {
                format!("ServiceCIDR {}", cidr.metadata.name.clone().unwrap_or_default())
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
        let bare = r#"{"metadata":{"name":"b"}}"#;
        check(
            &format!(r#"{{"kind":"ServiceList","apiVersion":"v1","items":[{bare}]}}"#),
            &["Service b"],
            &[],
        );
        check(
            "kind: List\nitems:\n- apiVersion: v1\n  kind: Service\n  metadata: {name: c}\n",
            &["Service c"],
            &[],
        );
    }

    #[test]
    fn yaml_in_flow_style_is_not_taken_for_json() {
        let flow = "{apiVersion: v1, kind: Service, metadata: {name: a}}\n";
        check(flow, &["Service a"], &[]);
        check(&format!("{flow}---\n{WEB}"), &["Service a", "Service web"], &[]);
    }

    #[test]
    fn other_kinds_are_passed_over() {
        check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n", &[], &[]);
    }

    #[test]
    fn nodes_and_service_cidrs_are_read_and_named_without_a_namespace() {
        let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
        let cidr = "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/12]}\n";
        check(&format!("{node}---\n{cidr}"), &["Node n1", "ServiceCIDR kubernetes"], &[]);
        let list = r#"{"kind":"NodeList","apiVersion":"v1","items":[{"metadata":{"name":"n2"}}]}"#;
        check(list, &["Node n2"], &[]);
        check(&format!("{node}spec: 1\n"), &[], &[("Node n1", "spec", "invalid type")]);
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
            &[("file a.yaml", "", "document 2: ")],
        );
        check("{\"kind\": ", &[], &[("file a.yaml", "", "EOF")]);
    }

    #[test]
    fn a_document_without_a_kind_is_named() {
        check("metadata: {name: x}\n", &[], &[("file a.yaml", "kind", "is missing")]);
        let list = "kind: List\nitems:\n- metadata: {name: x}\n";
        check(list, &[], &[("file a.yaml", "kind", "items[0]: is missing")]);
        check(
            &format!("{WEB}---\n{list}"),
            &["Service web"],
            &[("file a.yaml", "kind", "document 2 items[0]: is")],
        );
    }

    #[test]
    fn the_line_of_broken_syntax_is_the_one_in_the_file() {
        for (text, line) in [("a: [\n", "line 2"), ("# 1\n---\n# 3\n---\na: 1\nb: }\n", "line 6")] {
            check(text, &[], &[("file a.yaml", "", line)]);
        }
    }

    #[test]
    fn kinds_of_the_same_name_in_other_groups_are_passed_over() {
        for version in ["serving.knative.dev/v1", "discovery.k8s.io/v1", "v2"] {
            check(
                &format!("apiVersion: {version}\nkind: Service\nmetadata: {{name: x}}\nspec: 1\n"),
                &[],
                &[],
            );
        }
        check("apiVersion: discovery.k8s.io/v1beta1\nkind: EndpointSlice\nmetadata: {name: x}\n", &[], &[]);
        let bare =
            r#"{"kind":"ServiceList","apiVersion":"serving.knative.dev/v1","items":[{"metadata":{}}]}"#;
        check(bare, &[], &[]);
    }

    #[test]
    fn an_object_without_a_version_is_named() {
        let complaint = ("Service default/x", "apiVersion", "is missing");
        check("kind: Service\nmetadata: {name: x}\n", &[], &[complaint]);
        check("kind: Service\nmetadata: {}\n", &[], &[("file a.yaml", "apiVersion", "is missing")]);
    }

    #[test]
    fn directives_and_end_markers_are_no_documents() {
        check(&format!("%YAML 1.2\n---\n{WEB}...\n"), &["Service web"], &[]);
        check(&format!("{WEB}...\n%YAML 1.2\n---\n{WEB}... # end\n"), &["Service web", "Service web"], &[]);
        check(&format!("--- # first\n{WEB}"), &["Service web"], &[]);
    }
}
