//! Writes the effective configuration: as a table or data with the origin of each value, and as kube-proxy's file.

use serde::Serialize;
use serde_json::{Map, Value as Json, json};

use super::Effective;
use super::fields::{FIELDS, Field};
use super::file::{API_VERSION, KIND};
use super::merge::{Entry, Fields, Origin, default};
use super::value::Value;

/// A flag of Sluice's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Own {
    /// Its name, with dashes.
    pub flag: String,
    /// Its value; empty if there is none.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
}

/// Field, value and origin, a line each; then warnings and notes.
pub fn table(effective: &Effective, own: &[Own]) -> String {
    let mut rows = vec![["FIELD", "VALUE", "ORIGIN"].map(str::to_owned)];
    rows.push(["node".to_owned(), effective.node.clone(), node_origin(effective)]);
    rows.extend(fields(effective).map(|(path, value, origin)| [path.to_owned(), shown(value), origin]));
    rows.extend(own.iter().map(|Own { flag, value, origin }| [flag.clone(), quoted(value), origin.clone()]));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1));
    let mut text = String::new();
    for [field, value, origin] in &rows {
        text += &format!("{field:first$}  {value:second$}  {origin}\n");
    }
    for (word, lines) in [("warning", &effective.warnings), ("note", &effective.notes)] {
        text.extend(lines.iter().map(|line| format!("{word}: {line}\n")));
    }
    text
}

/// The same for programs.
pub fn json(effective: &Effective, own: &[Own]) -> Json {
    let entry = |(path, value, origin): (&str, &Value, String)| json!({ "field": path, "value": value.json(), "origin": origin });
    json!({
        "node": effective.node,
        "fields": fields(effective).map(entry).collect::<Vec<_>>(),
        "flags": own,
        "warnings": effective.warnings,
        "notes": effective.notes,
    })
}

/// The fields as a file for `--config`. What only this host's environment says stays out: the file may be for many.
pub fn file(fields: &Fields) -> Json {
    let mut root = Map::new();
    root.insert("apiVersion".to_owned(), json!(API_VERSION));
    root.insert("kind".to_owned(), json!(KIND));
    for field in FIELDS {
        if let Some(entry) = fields.entries.get(field.path) {
            insert(&mut root, field.path, written(field, entry));
        }
    }
    Json::Object(root)
}

fn written(field: &Field, entry: &Entry) -> Json {
    match entry.origin {
        Origin::Environment(_) => default(field).value.json(),
        Origin::Default | Origin::Mode(_) | Origin::File | Origin::Flag(_) => entry.value.json(),
    }
}

fn insert(into: &mut Map<String, Json>, path: &str, value: Json) {
    let Some((section, below)) = path.split_once('.') else {
        into.insert(path.to_owned(), value);
        return;
    };
    let section = into.entry(section).or_insert_with(|| Json::Object(Map::new()));
    if let Some(section) = section.as_object_mut() {
        insert(section, below, value);
    }
}

fn fields(effective: &Effective) -> impl Iterator<Item = (&'static str, &Value, String)> {
    FIELDS.iter().filter_map(|field| {
        let entry = effective.fields.entries.get(field.path)?;
        Some((field.path, &entry.value, entry.origin.to_string()))
    })
}

/// The Node's name is the host's unless hostnameOverride says otherwise.
fn node_origin(effective: &Effective) -> String {
    let entry = effective.fields.entries.get("hostnameOverride");
    let given = entry.filter(|entry| !entry.value.is_zero());
    given.map_or_else(|| "host name".to_owned(), |entry| entry.origin.to_string())
}

fn shown(value: &Value) -> String {
    if let Value::Text(text) = value { quoted(text) } else { value.to_string() }
}

/// An empty cell would look like a mistake.
fn quoted(text: &str) -> String {
    if text.is_empty() { "\"\"".to_owned() } else { text.to_owned() }
}
