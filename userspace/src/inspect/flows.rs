//! `sluice flows`: who is served by the edge layer at this moment, read from the kernel itself.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::services::names;
use super::table::table;
use super::{Answer, Show, present};
use crate::backend::edge::{Pair, State, read_flows, service_number};
use crate::model::{ServiceName, ServicePortName};

/// One flow, as printed. Rows are sorted by their fields, in this order.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    service: String,
    protocol: &'static str,
    client: String,
    address: String,
    endpoint: String,
    source: Option<String>,
    state: State,
    idle_seconds: u32,
}

/// The flows, and what to say where there is no edge layer.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Rows {
    rows: Vec<Row>,
    #[serde(skip)]
    nothing: Option<String>,
}

/// Prints the flows, of one Service or of all.
pub fn run(pin_dir: &Path, wanted: Option<&ServiceName>, show: &Show) -> anyhow::Result<()> {
    present(show, || read(pin_dir, wanted)).map(drop)
}

fn read(pin_dir: &Path, wanted: Option<&ServiceName>) -> anyhow::Result<Rows> {
    let flows = read_flows(pin_dir)?;
    let is_there = flows.is_some();
    let flows = flows.unwrap_or_default();
    // Who may not read names still sees flows.
    let names = if is_there { names(pin_dir).unwrap_or_default() } else { Vec::new() };
    if let Some(wanted) = wanted.filter(|_| is_there)
        && names.iter().all(|name| name.service != *wanted)
    {
        anyhow::bail!("no Service {wanted} is programmed here; see `sluice services`");
    }
    let nothing = || format!("there is no edge layer below {}; `sluice status` says why", pin_dir.display());
    Ok(Rows { rows: rows(&flows, &names, wanted), nothing: (!is_there).then(nothing) })
}

impl Answer for Rows {
    fn text(&self, _wide: bool) -> String {
        self.nothing.clone().unwrap_or_else(|| text(&self.rows))
    }
}

fn rows(flows: &[Pair], names: &[ServicePortName], wanted: Option<&ServiceName>) -> Vec<Row> {
    let by_number: BTreeMap<u32, &ServicePortName> =
        names.iter().map(|name| (service_number(name), name)).collect();
    let row = |flow: &Pair| {
        let Pair { service, protocol, client, address, endpoint, source, state, idle } = *flow;
        let name = by_number.get(&service);
        let is_wanted = wanted.is_none_or(|wanted| name.is_some_and(|name| name.service == *wanted));
        is_wanted.then(|| Row {
            service: name.map_or_else(|| format!("?{service}"), ToString::to_string),
            protocol: protocol.as_str(),
            client: client.to_string(),
            address: address.to_string(),
            endpoint: endpoint.to_string(),
            source: source.map(|source| source.to_string()),
            state,
            idle_seconds: idle,
        })
    };
    let mut rows: Vec<Row> = flows.iter().filter_map(row).collect();
    rows.sort_unstable();
    rows
}

fn text(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        let Row { service, protocol, client, address, endpoint, source, state, idle_seconds } = row;
        let source = source.clone().unwrap_or_else(|| "-".to_owned());
        let (state, idle) = (state.as_str().to_owned(), format!("{idle_seconds}s"));
        let [service, client, address, endpoint] = [service, client, address, endpoint].map(Clone::clone);
        vec![service, (*protocol).to_owned(), client, address, endpoint, source, state, idle]
    };
    let rows: Vec<Vec<String>> = rows.iter().map(cells).collect();
    table(&["SERVICE", "PROTOCOL", "CLIENT", "ADDRESS", "ENDPOINT", "SOURCE", "STATE", "IDLE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Family, Protocol};

    fn name(name: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    fn flow(service: u32, client: &str, source: Option<&str>) -> Pair {
        let at = |text: &str| text.parse().unwrap();
        Pair {
            service,
            protocol: Protocol::Tcp,
            client: at(client),
            address: at("10.0.0.1:30080"),
            endpoint: at("10.1.1.2:8080"),
            source: source.map(at),
            state: State::Established,
            idle: 3,
        }
    }

    fn some() -> (Vec<Pair>, Vec<ServicePortName>) {
        let names = vec![name("web"), name("api")];
        let [web, api] = [0, 1].map(|at: usize| service_number(&names[at]));
        let flows = vec![
            flow(web, "192.0.2.1:5000", Some("10.0.0.1:1024")),
            flow(7, "192.0.2.1:5001", None),
            flow(api, "192.0.2.2:5002", None),
        ];
        (flows, names)
    }

    #[test]
    fn people_get_a_row_a_flow_and_a_number_where_nobody_knows_the_name() {
        let (flows, names) = some();
        let expected = "\
SERVICE           PROTOCOL  CLIENT          ADDRESS         ENDPOINT       SOURCE         STATE        IDLE
?7                TCP       192.0.2.1:5001  10.0.0.1:30080  10.1.1.2:8080  -              established  3s
default/api:http  TCP       192.0.2.2:5002  10.0.0.1:30080  10.1.1.2:8080  -              established  3s
default/web:http  TCP       192.0.2.1:5000  10.0.0.1:30080  10.1.1.2:8080  10.0.0.1:1024  established  3s
";
        assert_eq!(text(&rows(&flows, &names, None)), expected);
    }

    #[test]
    fn programs_get_the_same_in_fixed_names() {
        let (flows, names) = some();
        let rows = rows(&flows, &names, Some(&ServiceName::new("default", "web")));
        let expected = serde_json::json!([{
            "service": "default/web:http", "protocol": "TCP", "client": "192.0.2.1:5000", "address": "10.0.0.1:30080",
            "endpoint": "10.1.1.2:8080", "source": "10.0.0.1:1024", "state": "established", "idleSeconds": 3,
        }]);
        assert_eq!(serde_json::to_value(rows).unwrap(), expected);
    }
}
