//! The bill of materials: every package in the daemon, in CycloneDX 1.5, from what cargo says. No time and no chance in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What the image is made for.
const ROOT: &str = "sluice";

/// The document, from `cargo metadata`, Cargo.lock and the version of the C library.
pub(crate) fn text(metadata: &Value, lock: &str, libc: &str) -> Result<String> {
    let packages: BTreeMap<&str, &Value> =
        list(&metadata["packages"]).map(|package| (word(&package["id"]), package)).collect();
    let needs = needs(metadata);
    let root = packages.iter().find(|(_, package)| package["name"] == ROOT);
    let (root, own) = root.context("cargo metadata knows no package sluice")?;
    let sums = checksums(lock);
    let inside = reached(root, &needs);
    let mut components: Vec<Value> =
        inside.iter().filter(|id| *id != root).map(|id| component(packages[id], &sums)).collect();
    components.push(c_library(libc));
    components.sort_by_key(|component| component["bom-ref"].to_string());
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": component(own, &sums) },
        "components": components,
        "dependencies": inside.iter().map(|id| dependencies(id, &needs, &packages)).collect::<Vec<_>>(),
    });
    Ok(format!("{document:#}\n"))
}

/// Which packages each package is built with. What only tests and build scripts use is not in the program.
fn needs(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let is_inside = |dependency: &Value| list(&dependency["dep_kinds"]).any(|kind| kind["kind"].is_null());
    list(&metadata["resolve"]["nodes"])
        .map(|node| {
            let deps = list(&node["deps"]).filter(|dependency| is_inside(dependency));
            (word(&node["id"]), deps.map(|dependency| word(&dependency["pkg"])).collect())
        })
        .collect()
}

/// A package and everything behind it.
fn reached<'a>(root: &'a str, needs: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> BTreeSet<&'a str> {
    let (mut found, mut next) = (BTreeSet::new(), vec![root]);
    while let Some(id) = next.pop() {
        if found.insert(id) {
            next.extend(needs.get(id).into_iter().flatten());
        }
    }
    found
}

fn component(package: &Value, sums: &BTreeMap<(String, String), String>) -> Value {
    let (name, version) = (word(&package["name"]), word(&package["version"]));
    let mut component = json!({
        "type": if name == ROOT { "application" } else { "library" },
        "bom-ref": reference(package),
        "name": name,
        "version": version,
        "purl": reference(package),
    });
    if let Some(licence) = package["license"].as_str() {
        // An older way to write OR, which SPDX does not have.
        component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
    }
    if let Some(sum) = sums.get(&(name.to_owned(), version.to_owned())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

/// Linked in, and not cargo's to tell.
fn c_library(version: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": format!("pkg:generic/glibc@{version}"),
        "name": "glibc",
        "version": version,
        "purl": format!("pkg:generic/glibc@{version}"),
        "licenses": [{ "expression": "LGPL-2.1-or-later" }],
    })
}

fn dependencies(
    id: &str,
    needs: &BTreeMap<&str, BTreeSet<&str>>,
    packages: &BTreeMap<&str, &Value>,
) -> Value {
    let on = needs.get(id).into_iter().flatten().map(|id| reference(packages[id]));
    json!({ "ref": reference(packages[id]), "dependsOn": on.collect::<BTreeSet<_>>() })
}

fn reference(package: &Value) -> String {
    format!("pkg:cargo/{}@{}", word(&package["name"]), word(&package["version"]))
}

/// Name and version, and the checksum of the registry's archive.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let field = |part: &str, name: &str| {
        let prefix = format!("{name} = \"");
        let line = part.lines().find_map(|line| line.strip_prefix(&prefix))?;
        Some(line.trim_end_matches('"').to_owned())
    };
    let parts = lock.split("[[package]]");
    parts
        .filter_map(|part| Some(((field(part, "name")?, field(part, "version")?), field(part, "checksum")?)))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::text;

    fn bill() -> Value {
        let package = |name: &str, licence: &str| json!({ "id": name, "name": name, "version": "1.0.0", "license": licence });
        let dep = |name: &str, kind: Value| json!({ "pkg": name, "dep_kinds": [{ "kind": kind }] });
        let metadata = json!({
            "packages": [
                package("sluice", "MIT"), package("inside", "MIT/Apache-2.0"), package("deeper", "MIT"),
                package("tested-with", "MIT"), package("built-with", "MIT"),
            ],
            "resolve": { "nodes": [
                { "id": "sluice", "deps": [
                    dep("inside", Value::Null), dep("tested-with", json!("dev")), dep("built-with", json!("build")),
                ] },
                { "id": "inside", "deps": [dep("deeper", Value::Null)] },
            ] },
        });
        let lock =
            "version = 4\n\n[[package]]\nname = \"deeper\"\nversion = \"1.0.0\"\nchecksum = \"ab12\"\n";
        serde_json::from_str(&text(&metadata, lock, "2.36").unwrap()).unwrap()
    }

    #[test]
    fn what_is_in_the_program_is_on_the_bill_and_nothing_else() {
        let bill = bill();
        let names: Vec<&Value> =
            bill["components"].as_array().unwrap().iter().map(|part| &part["name"]).collect();
        assert_eq!(names, ["deeper", "inside", "glibc"]);
        assert_eq!(bill["metadata"]["component"]["name"], "sluice");
    }

    #[test]
    fn a_component_has_its_licence_and_its_checksum() {
        let bill = bill();
        assert_eq!(bill["components"][1]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(bill["components"][0]["hashes"][0]["content"], "ab12");
        assert_eq!(bill["components"][0]["purl"], "pkg:cargo/deeper@1.0.0");
    }
}
