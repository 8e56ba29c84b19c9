//! `sluice services` and `sluice backends`: what is programmed, read from the kernel itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::table::table;
use super::{Answer, Show, advice, present};
use crate::backend::counts::{self, EndpointUse, Flows, Tally, Usage};
use crate::backend::ebpf::{Entries, Pins, Summary, describe, read_pinned};
use crate::backend::nft::{self, Described};
use crate::backend::survey::List;
use crate::drain::Asked;
use crate::model::{Family, Protocol, ServiceName, ServicePortName};

/// One service port, as printed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServiceRow {
    #[serde(flatten)]
    port: PortRow,
    addresses: Vec<String>,
    /// Those at which eBPF answers callers on this node, at the socket.
    at_socket: Vec<String>,
    verdict: &'static str,
    endpoints: usize,
    affinity_seconds: Option<NonZeroU32>,
    generation: u32,
    id: u32,
    dataplanes: Vec<&'static str>,
    /// Where a layer counts.
    #[serde(flatten)]
    counts: Option<Tally>,
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
    /// Where a layer counts.
    opened: Option<u64>,
    /// Where their end is seen.
    open: Option<u64>,
}

/// A list, and what to say where nothing is installed at all.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Rows<T> {
    rows: Vec<T>,
    #[serde(skip)]
    nothing: Option<String>,
}

impl<T> Rows<T> {
    fn of(pin_dir: &Path, rows: Vec<T>) -> Self {
        let is_there = !rows.is_empty() || pin_dir.try_exists().unwrap_or(true);
        Self { rows, nothing: (!is_there).then(|| advice::nothing(pin_dir)) }
    }

    fn table(&self, head: &[&str], cells: impl Fn(&T) -> Vec<String>) -> String {
        let rows: Vec<Vec<String>> = self.rows.iter().map(cells).collect();
        self.nothing.clone().unwrap_or_else(|| table(head, &rows))
    }
}

/// Prints the services.
pub fn services(pin_dir: &Path, show: &Show) -> anyhow::Result<()> {
    let rows = || {
        let installed = installed(pin_dir)?;
        let usage = usage(pin_dir);
        let row = |(name, both): (&ServicePortName, &Both)| service_row(name, both, usage.as_ref());
        Ok(Rows::of(pin_dir, installed.iter().map(row).collect()))
    };
    present(show, rows).map(drop)
}

/// Prints the endpoints.
pub fn backends(pin_dir: &Path, show: &Show) -> anyhow::Result<()> {
    let rows = || {
        let installed = installed(pin_dir)?;
        let usage = usage(pin_dir);
        let rows = |(name, both): (&ServicePortName, &Both)| backend_rows(name, both, usage.as_ref());
        Ok(Rows::of(pin_dir, installed.iter().flat_map(rows).collect()))
    };
    present(show, rows).map(drop)
}

const SERVICES: [&str; 9] =
    ["NAMESPACE", "SERVICE", "PORT", "PROTOCOL", "ADDRESS", "VERDICT", "ENDPOINTS", "AFFINITY", "DATAPLANE"];

const SERVICES_MORE: [&str; 8] =
    ["FAMILY", "SOCKET", "GENERATION", "ID", "CONNECTIONS", "REFUSED", "DROPPED", "OPEN"];

impl Answer for Rows<ServiceRow> {
    fn text(&self, wide: bool) -> String {
        let cells = |row: &ServiceRow| {
            let ServiceRow {
                port,
                addresses,
                at_socket,
                verdict,
                endpoints,
                affinity_seconds,
                generation,
                id,
                dataplanes,
                counts,
            } = row;
            let affinity = affinity_seconds.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds}s"));
            let mut cells = port_cells(port);
            cells.extend([addresses.join(","), (*verdict).to_owned(), endpoints.to_string(), affinity]);
            cells.push(dataplanes.join("+"));
            let at_socket = if at_socket.is_empty() { "-".to_owned() } else { at_socket.join(",") };
            let more = [port.family.to_owned(), at_socket, generation.to_string(), id.to_string()];
            cells.extend(more.into_iter().chain(count_cells(*counts)).filter(|_| wide));
            cells
        };
        let more: &[&str] = if wide { &SERVICES_MORE } else { &[] };
        self.table(&[&SERVICES, more].concat(), cells)
    }
}

impl Answer for Rows<BackendRow> {
    fn text(&self, wide: bool) -> String {
        let cells = |row: &BackendRow| {
            let BackendRow { port, endpoint, state, id, opened, open } = row;
            let mut cells = port_cells(port);
            cells.extend([endpoint.clone(), (*state).to_owned()]);
            let more = [port.family.to_owned(), id.to_string(), known(*opened), known(*open)];
            cells.extend(more.into_iter().filter(|_| wide));
            cells
        };
        let more: &[&str] = if wide { &["FAMILY", "ID", "OPENED", "OPEN"] } else { &[] };
        self.table(
            &[&["NAMESPACE", "SERVICE", "PORT", "PROTOCOL", "ENDPOINT", "STATE"], more].concat(),
            cells,
        )
    }
}

fn count_cells(counts: Option<Tally>) -> [String; 4] {
    let Some(Tally { connections, refused, dropped, open }) = counts else { return [None; 4].map(known) };
    [Some(connections), Some(refused), Some(dropped), open].map(known)
}

/// A number, where somebody knows it.
fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

/// Who may not read the counts sees the rest.
fn usage(pin_dir: &Path) -> Option<Usage> {
    counts::read(pin_dir, Flows::Counted).unwrap_or_default()
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

/// What the two dataplanes have for a service port; at least one has something.
#[derive(Default)]
struct Both {
    ebpf: Option<Entries>,
    nft: Option<Described>,
}

/// Names of the service ports that are programmed.
pub(super) fn names(pin_dir: &Path) -> anyhow::Result<Vec<ServicePortName>> {
    Ok(installed(pin_dir)?.into_keys().collect())
}

/// Addresses of a port of a Service, by its name or number, with the node's own for node ports.
pub(super) fn addresses_of(
    pin_dir: &Path,
    service: &ServiceName,
    port: &str,
    protocol: Protocol,
    own: &BTreeSet<IpAddr>,
) -> anyhow::Result<Vec<SocketAddr>> {
    let mut found = BTreeSet::new();
    for (name, both) in installed(pin_dir)? {
        let all = service_row(&name, &both, None).addresses;
        let has_number = || all.iter().any(|address| address.rsplit(':').next() == Some(port));
        if name.service != *service || name.protocol != protocol || !(*name.port == *port || has_number()) {
            continue;
        }
        for address in &all {
            match address.strip_prefix("*:").map(str::parse) {
                Some(Ok(number)) => {
                    let ours = own.iter().filter(|ip| Family::of(**ip) == name.family);
                    found.extend(ours.map(|ip| SocketAddr::new(*ip, number)));
                }
                Some(Err(_)) => {}
                None => found.extend(address.parse::<SocketAddr>().ok()),
            }
        }
    }
    Ok(found.into_iter().collect())
}

/// Who gets new flows of each service port, and who only keeps what it has, as far as the kernel tells.
pub(super) fn lists(pin_dir: &Path) -> anyhow::Result<BTreeMap<ServicePortName, (List, Vec<SocketAddr>)>> {
    let list = |(name, both): (ServicePortName, Both)| {
        let summary = both.ebpf.as_ref().map(describe);
        let mut used: BTreeSet<SocketAddr> = both.nft.iter().flat_map(|nft| nft.endpoints.clone()).collect();
        used.extend(summary.iter().flat_map(|summary| &summary.active));
        let kept = summary.map(|summary| summary.kept).unwrap_or_default();
        let kept = kept.into_iter().filter(|endpoint| !used.contains(endpoint)).collect();
        let asked = Arc::new(asked(&service_row(&name, &both, None).addresses));
        (name, (List { used, asked }, kept))
    };
    Ok(installed(pin_dir)?.into_iter().map(list).collect())
}

/// From addresses as they are printed.
fn asked(all: &[String]) -> Asked {
    let node_port = |text: &String| text.strip_prefix("*:")?.parse().ok();
    Asked {
        addresses: all.iter().filter_map(|text| text.parse().ok()).collect(),
        node_port: all.iter().find_map(node_port),
    }
}

/// Whoever may not read the packet filter sees what eBPF has, and the other way round.
fn installed(pin_dir: &Path) -> anyhow::Result<BTreeMap<ServicePortName, Both>> {
    let mut all: BTreeMap<ServicePortName, Both> = BTreeMap::new();
    let (pinned, found) = (read_pinned(&Pins::new(pin_dir)), nft::read_found());
    let mut unread = None;
    match pinned {
        Ok(installed) => {
            for (name, entries) in installed.ports {
                all.entry(name).or_default().ebpf = Some(entries);
            }
        }
        Err(error) => unread = Some(error),
    }
    match found {
        Ok(described) => {
            for (name, described) in described {
                all.entry(name).or_default().nft = Some(described);
            }
        }
        Err(error) => unread = Some(error),
    }
    // An empty list would say that there is nothing.
    match unread {
        Some(error) if all.is_empty() => Err(error.into()),
        Some(_) | None => Ok(all),
    }
}

/// eBPF has the clients that connect here, so it is asked first; addresses are those of both.
fn service_row(name: &ServicePortName, both: &Both, usage: Option<&Usage>) -> ServiceRow {
    let Both { ebpf, nft } = both;
    let summary = ebpf.as_ref().map(describe);
    let mut addresses: BTreeSet<String> = nft.iter().flat_map(|nft| nft.addresses.clone()).collect();
    addresses.extend(summary.iter().flat_map(|summary| summary.addresses.clone()));
    let (verdict, endpoints, affinity) = match (&summary, nft) {
        (Some(Summary { verdict, active, affinity, .. }), _) => (verdict.as_str(), active.len(), *affinity),
        (None, Some(nft)) => (nft.verdict.as_str(), nft.endpoints.len(), nft.affinity),
        (None, None) => ("reject", 0, None),
    };
    ServiceRow {
        port: port_row(name),
        addresses: addresses.into_iter().collect(),
        at_socket: summary.map(|summary| summary.addresses).unwrap_or_default(),
        verdict,
        endpoints,
        affinity_seconds: affinity,
        generation: ebpf.as_ref().map_or(0, |entries| entries.state.generation),
        id: ebpf.as_ref().map_or(0, |entries| entries.id),
        dataplanes: ebpf.iter().map(|_| "ebpf").chain(nft.iter().map(|_| "nftables")).collect(),
        counts: usage.filter(|_| ebpf.is_some()).map(|usage| usage.of(name)),
    }
}

fn backend_rows(name: &ServicePortName, both: &Both, usage: Option<&Usage>) -> Vec<BackendRow> {
    let Both { ebpf, nft } = both;
    let Some(entries) = ebpf else {
        let row = |endpoint: &SocketAddr| BackendRow {
            port: port_row(name),
            endpoint: endpoint.to_string(),
            state: "active",
            id: 0,
            opened: None,
            open: None,
        };
        return nft.iter().flat_map(|nft| &nft.endpoints).map(row).collect();
    };
    let active = describe(entries).active;
    let row = |(id, backend): &(u32, dataplane_ebpf::abi::Backend)| {
        let address = backend.endpoint.into();
        let state = if active.contains(&address) { "active" } else { "kept" };
        backend_row(name, (*id, address), state, usage)
    };
    let mut rows: Vec<BackendRow> = entries.backends.iter().map(row).collect();
    rows.extend(left(name, entries, usage));
    rows.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    rows
}

fn backend_row(
    name: &ServicePortName,
    (id, address): (u32, SocketAddr),
    state: &'static str,
    usage: Option<&Usage>,
) -> BackendRow {
    let found = usage.map(|usage| {
        let one = usage.endpoints(name).iter().find(|endpoint| endpoint.id == id);
        one.map_or((0, usage.open(0)), |endpoint| (endpoint.opened, endpoint.open))
    });
    let (opened, open) = (found.map(|(opened, _)| opened), found.and_then(|(_, open)| open));
    BackendRow { port: port_row(name), endpoint: address.to_string(), state, id, opened, open }
}

/// Endpoints that have left, and that sockets still have.
fn left(name: &ServicePortName, entries: &Entries, usage: Option<&Usage>) -> Vec<BackendRow> {
    let used = usage.map_or(&[][..], |usage| usage.endpoints(name));
    let is_left = |one: &&EndpointUse| {
        one.open.is_some_and(|open| open > 0) && entries.backends.iter().all(|(id, _)| *id != one.id)
    };
    let row = |one: &EndpointUse| backend_row(name, (one.id, one.address), "left", usage);
    used.iter().filter(is_left).map(row).collect()
}
