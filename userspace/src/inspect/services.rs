//! `sluice services` and `sluice backends`: what is programmed, read from the kernel itself.

use std::num::NonZeroU32;
use std::path::Path;

use serde::Serialize;

use super::table::table;
use super::{Output, print, print_json, print_yaml};
use crate::backend::ebpf::{Entries, Installed, Pins, Summary, describe, read_pinned};
use crate::model::ServicePortName;

/// One service port, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceRow {
    #[serde(flatten)]
    port: PortRow,
    addresses: Vec<String>,
    verdict: &'static str,
    endpoints: usize,
    affinity_seconds: Option<NonZeroU32>,
    generation: u32,
    id: u32,
}

/// What names a service port.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct PortRow {
    namespace: String,
    name: String,
    port_name: String,
    protocol: &'static str,
    family: &'static str,
}

/// One endpoint, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct BackendRow {
    #[serde(flatten)]
    port: PortRow,
    endpoint: String,
    state: &'static str,
    id: u32,
}

/// Prints the services.
pub fn services(pin_dir: &Path, output: Output) -> anyhow::Result<()> {
    let Installed { ports, strays: _ } = read_pinned(&Pins::new(pin_dir))?;
    let rows: Vec<ServiceRow> = ports.iter().map(|(name, entries)| service_row(name, entries)).collect();
    match output {
        Output::Json => return print_json(&rows),
        Output::Yaml => return print_yaml(&rows),
        Output::Table => {}
    }
    let cells = |row: &ServiceRow| {
        let ServiceRow { port, addresses, verdict, endpoints, affinity_seconds, generation: _, id: _ } = row;
        let affinity = affinity_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s"));
        let mut cells = port_cells(port);
        cells.extend([addresses.join(","), (*verdict).to_owned(), endpoints.to_string(), affinity]);
        cells
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    let head = ["NAMESPACE", "SERVICE", "PORT", "PROTOCOL", "ADDRESS", "VERDICT", "ENDPOINTS", "AFFINITY"];
    print(&table(&head, &rows))
}

/// Prints the endpoints.
pub fn backends(pin_dir: &Path, output: Output) -> anyhow::Result<()> {
    let Installed { ports, strays: _ } = read_pinned(&Pins::new(pin_dir))?;
    let rows: Vec<BackendRow> =
        ports.iter().flat_map(|(name, entries)| backend_rows(name, entries)).collect();
    match output {
        Output::Json => return print_json(&rows),
        Output::Yaml => return print_yaml(&rows),
        Output::Table => {}
    }
    let cells = |row: &BackendRow| {
        let BackendRow { port, endpoint, state, id: _ } = row;
        let mut cells = port_cells(port);
        cells.extend([endpoint.clone(), (*state).to_owned()]);
        cells
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    print(&table(&["NAMESPACE", "SERVICE", "PORT", "PROTOCOL", "ENDPOINT", "STATE"], &rows))
}

fn port_row(name: &ServicePortName) -> PortRow {
    PortRow {
        namespace: name.service.namespace.to_string(),
        name: name.service.name.to_string(),
        port_name: name.port.to_string(),
        protocol: name.protocol.as_str(),
        family: name.family.as_str(),
    }
}

fn port_cells(port: &PortRow) -> Vec<String> {
    vec![port.namespace.clone(), port.name.clone(), port.port_name.clone(), port.protocol.to_owned()]
}

fn service_row(name: &ServicePortName, entries: &Entries) -> ServiceRow {
    let Summary { addresses, verdict, active, kept: _, affinity } = describe(entries);
    ServiceRow {
        port: port_row(name),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        verdict: verdict.as_str(),
        endpoints: active.len(),
        affinity_seconds: affinity,
        generation: entries.state.generation,
        id: entries.id,
    }
}

fn backend_rows(name: &ServicePortName, entries: &Entries) -> Vec<BackendRow> {
    let active = describe(entries).active;
    let row = |(id, backend): &(u32, dataplane_ebpf::abi::Backend)| {
        let address = backend.endpoint.into();
        let state = if active.contains(&address) { "active" } else { "kept" };
        BackendRow { port: port_row(name), endpoint: address.to_string(), state, id: *id }
    };
    let mut rows: Vec<BackendRow> = entries.backends.iter().map(row).collect();
    rows.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    rows
}
