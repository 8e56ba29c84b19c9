//! Two readings of the counts, and what came between them. Pure.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::Sort;
use crate::backend::counts::{Tally, Usage};
use crate::inspect::Answer;
use crate::inspect::table::table;
use crate::model::ServicePortName;

/// What the kernel had at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// By service port, those that were ever asked for.
    pub(super) ports: BTreeMap<ServicePortName, Look>,
}

/// One service port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    tally: Tally,
    draining: Option<u64>,
}

impl Reading {
    /// What is counted; `is_active` tells whether an endpoint, by its id, gets new connections.
    pub(super) fn of(usage: &Usage, is_active: impl Fn(&ServicePortName, u32) -> bool) -> Self {
        let look = |name: &ServicePortName| {
            let ending = usage.endpoints(name).iter().filter(|endpoint| !is_active(name, endpoint.id));
            let draining = ending
                .map(|endpoint| endpoint.open)
                .fold(usage.open(0), |sum, open| sum.zip(open).map(|(sum, open)| sum + open));
            (name.clone(), Look { tally: usage.of(name), draining })
        };
        Self { ports: usage.ports.keys().map(look).collect() }
    }
}

/// One service port, as printed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    namespace: String,
    name: String,
    port_name: String,
    protocol: &'static str,
    family: &'static str,
    /// New connections a second.
    new_per_second: f64,
    refused_per_second: f64,
    dropped_per_second: f64,
    open: Option<u64>,
    /// Of those that are open: at endpoints that get no new ones.
    draining: Option<u64>,
    connections: u64,
    refused: u64,
    dropped: u64,
}

/// What came in one interval.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Page {
    interval_seconds: f64,
    services: Vec<Row>,
    /// How many of them people see.
    #[serde(skip)]
    pub(super) most: usize,
    #[serde(skip)]
    sort: Sort,
}

impl Page {
    /// What came between two readings, `passed` apart.
    pub(super) fn between(before: &Reading, now: &Reading, passed: Duration, sort: Sort) -> Self {
        let row = |(name, look): (&ServicePortName, &Look)| {
            let last = before.ports.get(name).map(|look| look.tally).unwrap_or_default();
            row(name, look, &last, passed)
        };
        let mut services: Vec<Row> = now.ports.iter().map(row).collect();
        sort.apply(&mut services);
        Self { interval_seconds: rounded(passed.as_secs_f64()), services, most: usize::MAX, sort }
    }

    /// The same in another order.
    pub(super) fn sorted(mut self, sort: Sort) -> Self {
        sort.apply(&mut self.services);
        Self { sort, ..self }
    }
}

fn row(name: &ServicePortName, look: &Look, last: &Tally, passed: Duration) -> Row {
    let Look { tally: Tally { connections, refused, dropped, open }, draining } = *look;
    // Fewer than before: the kernel has begun anew.
    let rate = |now: u64, last: u64| {
        rounded(now.checked_sub(last).unwrap_or(now) as f64 / passed.as_secs_f64().max(0.001))
    };
    Row {
        namespace: name.service.namespace.to_string(),
        name: name.service.name.to_string(),
        port_name: name.port.to_string(),
        protocol: name.protocol.as_str(),
        family: name.family.as_str(),
        new_per_second: rate(connections, last.connections),
        refused_per_second: rate(refused, last.refused),
        dropped_per_second: rate(dropped, last.dropped),
        open,
        draining,
        connections,
        refused,
        dropped,
    }
}

/// To tenths.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

impl Sort {
    /// The most first; names decide between equals.
    fn apply(self, rows: &mut [Row]) {
        let tenths = |rate: f64| (rate * 10.0).round() as u64;
        let key = |row: &Row| match self {
            Self::New => tenths(row.new_per_second),
            Self::Refused => tenths(row.refused_per_second + row.dropped_per_second),
            Self::Open => row.open.unwrap_or(0),
            Self::Draining => row.draining.unwrap_or(0),
            Self::Service => 0,
        };
        let name = |row: &Row| {
            let [namespace, name, port] = [&row.namespace, &row.name, &row.port_name].map(String::clone);
            (namespace, name, port, row.protocol, row.family)
        };
        rows.sort_by_cached_key(|row| (Reverse(key(row)), name(row)));
    }
}

const HEAD: [&str; 10] = [
    "NAMESPACE",
    "SERVICE",
    "PORT",
    "PROTOCOL",
    "FAMILY",
    "NEW/S",
    "REFUSED/S",
    "DROPPED/S",
    "OPEN",
    "DRAINING",
];

impl Answer for Page {
    fn text(&self, wide: bool) -> String {
        let Self { interval_seconds, services, most, sort } = self;
        let sum = |rate: fn(&Row) -> f64| services.iter().map(rate).sum::<f64>();
        let open: Option<u64> = services.iter().map(|row| row.open).sum();
        let first = format!(
            "{} service ports, {:.1} new/s, {:.1} refused/s, {} open; in {interval_seconds} s, by {}\n\n",
            services.len(),
            sum(|row| row.new_per_second),
            sum(|row| row.refused_per_second),
            known(open),
            sort.as_str()
        );
        let more: &[&str] = if wide { &["CONNECTIONS", "REFUSED", "DROPPED"] } else { &[] };
        let rows: Vec<Vec<String>> = services.iter().take(*most).map(|row| cells(row, wide)).collect();
        first + &table(&[&HEAD, more].concat(), &rows)
    }
}

fn cells(row: &Row, wide: bool) -> Vec<String> {
    let text = |text: &str| text.to_owned();
    let rate = |rate: f64| format!("{rate:.1}");
    let mut cells = vec![
        text(&row.namespace),
        text(&row.name),
        text(&row.port_name),
        text(row.protocol),
        text(row.family),
        rate(row.new_per_second),
        rate(row.refused_per_second),
        rate(row.dropped_per_second),
        known(row.open),
        known(row.draining),
    ];
    let more = [row.connections, row.refused, row.dropped].map(|number| number.to_string());
    cells.extend(more.into_iter().filter(|_| wide));
    cells
}

fn known(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::counts::{EndpointUse, Layer, PortUse};
    use crate::model::{Family, Protocol, ServiceName};

    fn name(name: &str) -> ServicePortName {
        ServicePortName {
            service: ServiceName::new("default", name),
            port: "http".into(),
            protocol: Protocol::Tcp,
            family: Family::V4,
        }
    }

    /// Connections, refused ones, and how many endpoint 1 and endpoint 2 have; the latter gets no new ones.
    fn reading(rows: &[(&str, u64, u64, [u64; 2])]) -> Reading {
        let port = |(service, connections, refused, open): &(&str, u64, u64, [u64; 2])| {
            let tally = Tally {
                connections: *connections,
                refused: *refused,
                dropped: 0,
                open: Some(open.iter().sum()),
            };
            let endpoint = |(id, open): (u32, &u64)| EndpointUse {
                id,
                address: ([10, 0, 0, 1], 80).into(),
                opened: *open,
                open: Some(*open),
            };
            let endpoints = (1..).zip(open).map(endpoint).collect();
            (name(service), PortUse { layers: [(Layer::Socket, tally)].into(), endpoints })
        };
        let usage = Usage { ports: rows.iter().map(port).collect(), sees_ends: true };
        Reading::of(&usage, |_, id| id == 1)
    }

    fn page(sort: Sort) -> Page {
        let before = reading(&[("web", 10, 0, [0, 0]), ("api", 50, 9, [0, 0])]);
        let now = reading(&[("web", 30, 0, [3, 1]), ("api", 40, 12, [1, 0]), ("new", 5, 0, [0, 2])]);
        Page::between(&before, &now, Duration::from_secs(2), sort)
    }

    #[test]
    fn people_get_rates_and_what_is_open() {
        let expected = "\
3 service ports, 32.5 new/s, 1.5 refused/s, 7 open; in 2 s, by new

NAMESPACE  SERVICE  PORT  PROTOCOL  FAMILY  NEW/S  REFUSED/S  DROPPED/S  OPEN  DRAINING
default    api      http  TCP       IPv4    20.0   1.5        0.0        1     0
default    web      http  TCP       IPv4    10.0   0.0        0.0        4     1
default    new      http  TCP       IPv4    2.5    0.0        0.0        2     2
";
        assert_eq!(page(Sort::New).text(false), expected);
        let short = Page { most: 1, ..page(Sort::New) };
        assert_eq!(short.text(false).lines().count(), 4, "as many as there is room for");
    }

    #[track_caller]
    fn check(sort: Sort, expected: [&str; 3]) {
        for page in [page(sort), page(Sort::New).sorted(sort)] {
            let names: Vec<&str> = page.services.iter().map(|row| row.name.as_str()).collect();
            assert_eq!(names, expected, "{sort:?}");
        }
    }

    #[test]
    fn each_order_has_the_most_first() {
        check(Sort::New, ["api", "web", "new"]);
        check(Sort::Refused, ["api", "new", "web"]);
        check(Sort::Open, ["web", "new", "api"]);
        check(Sort::Draining, ["new", "web", "api"]);
        check(Sort::Service, ["api", "new", "web"]);
    }

    #[test]
    fn programs_get_one_object_with_numbers() {
        let json = serde_json::to_value(page(Sort::Service)).unwrap();
        let api = serde_json::json!({
            "namespace": "default", "name": "api", "portName": "http", "protocol": "TCP", "family": "IPv4",
            "newPerSecond": 20.0, "refusedPerSecond": 1.5, "droppedPerSecond": 0.0, "open": 1, "draining": 0,
            "connections": 40, "refused": 12, "dropped": 0,
        });
        assert_eq!((&json["intervalSeconds"], &json["services"][0]), (&serde_json::json!(2.0), &api));
    }
}
