//! The document keeps its contract: `docs/plan.schema.json` holds for every plan of every story, and one plan is kept
//! in full as `docs/plan.example.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value;

use super::document::Document;
use super::{Question, plan};
use crate::model::Origin;
use crate::settings;
use crate::source::folder;

const CONFIG: &str =
    "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclusterCIDR: 10.1.0.0/16\n";

static SCHEMA: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let text: Value = serde_json::from_str(&fs::read_to_string(docs("plan.schema.json")).unwrap()).unwrap();
    let mut text = text;
    close(&mut text);
    let mut compiler = Compiler::new();
    compiler.add_resource("plan.schema.json", text).unwrap();
    let mut schemas = Schemas::new();
    let index = compiler.compile("plan.schema.json", &mut schemas).unwrap();
    (schemas, index)
});

/// Whoever reads a plan must take fields that are new; whoever writes one has none that are not told of.
fn close(schema: &mut Value) {
    if let Some(object) = schema.as_object_mut() {
        if object.contains_key("properties") {
            object.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        object.values_mut().for_each(close);
    } else if let Some(list) = schema.as_array_mut() {
        list.iter_mut().for_each(close);
    }
}

fn docs(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name)
}

/// Panics if a plan does not keep the contract.
pub(super) fn check(document: &Document) {
    let value = serde_json::to_value(document).unwrap();
    let (schemas, index) = &*SCHEMA;
    if let Err(error) = schemas.validate(&value, *index) {
        panic!("{error}\n{value:#}");
    }
}

#[test]
fn a_document_that_breaks_the_contract_is_found() {
    let (schemas, index) = &*SCHEMA;
    let example: Value =
        serde_json::from_str(&fs::read_to_string(docs("plan.example.json")).unwrap()).unwrap();
    assert!(schemas.validate(&example, *index).is_ok());
    for (pointer, wrong) in [
        ("/services/0/addresses/0/from/pod/action", Value::from("pass it on")),
        ("/services/0/addresses/0/port", Value::from(70_000)),
        ("/services/0/family", Value::from("ipv4")),
        ("/healthChecks", Value::Null),
    ] {
        let mut broken = example.clone();
        *broken.pointer_mut(pointer).unwrap() = wrong;
        assert!(schemas.validate(&broken, *index).is_err(), "{pointer}");
    }
}

#[test]
fn the_example_of_the_documentation_is_what_comes_out() {
    let objects = fs::read_to_string(docs("plan.example.yaml")).unwrap();
    let question = Question {
        node: "n1".to_owned(),
        origin: Origin::Folder,
        addresses: Vec::new(),
        settings: settings::of_text(CONFIG).unwrap(),
        explain: true,
    };
    let document = plan(&question, folder::of_text("plan.example.yaml", &objects));
    check(&document);
    let happened = serde_json::to_string_pretty(&document).unwrap() + "\n";
    let told = docs("plan.example.json");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&told, &happened).unwrap();
    }
    assert_eq!(fs::read_to_string(told).unwrap(), happened, "UPDATE=1 writes it anew; it is a contract");
}
