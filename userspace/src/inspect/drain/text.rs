//! For people.

use super::super::table::table;
use super::{Drain, Row};
use crate::drain::{Layer, Tally};

const HEAD: [&str; 10] =
    ["SERVICE", "ENDPOINT", "STATE", "WHY", "LEFT", "SOCKET", "EDGE", "NFTABLES", "DIRECT", "MOVING"];
const MORE: [&str; 5] = ["PROTOCOL", "NOW", "AT", "IDLE", "OLDEST"];

pub(super) fn text(drain: &Drain, wide: bool) -> String {
    let Drain { no_daemon, endpoints, notes } = drain;
    let body = if endpoints.is_empty() {
        "nothing drains\n".to_owned()
    } else {
        let head: Vec<&str> = if wide { HEAD.into_iter().chain(MORE).collect() } else { HEAD.to_vec() };
        table(&head, &endpoints.iter().map(|row| cells(row, wide)).collect::<Vec<_>>())
    };
    let silent = no_daemon.iter().map(|why| format!("reasons are not known: {why}\n"));
    let notes = notes.iter().map(|note| format!("{note}\n"));
    body + &silent.chain(notes).collect::<String>()
}

fn cells(row: &Row, wide: bool) -> Vec<String> {
    let Row { state, service, endpoint, protocol, why, is_now, left_at, ago_seconds, flows, .. } = row;
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let left = ago_seconds.map(ago).or_else(|| row.left_unknown.clone());
    let mut cells = vec![
        service.clone(),
        endpoint.to_string(),
        state.as_str().to_owned(),
        or_unknown(why.map(|why| why.as_str().to_owned())),
        or_unknown(left),
    ];
    cells.extend(Layer::ALL.map(|layer| or_unknown(flows.of(layer).flows.map(|flows| flows.to_string()))));
    let known = [&flows.edge, &flows.nftables, &flows.socket];
    cells.push(moving(&known));
    if wide {
        let is_now = is_now.map(|is_now| is_now.as_str().to_owned());
        let idle = each(&known, |tally| tally.idle_seconds.map(u64::from), u64::min);
        let oldest = each(&known, |tally| tally.oldest_seconds, u64::max);
        let protocol = (*protocol).to_owned();
        cells.extend([protocol, or_unknown(is_now), or_unknown(left_at.clone()), idle, oldest]);
    }
    cells
}

/// Of those of whom it is known whether they move.
fn moving(tallies: &[&Tally]) -> String {
    let known = tallies.iter().filter_map(|tally| Some((tally.moving?, tally.flows?)));
    let (moving, all) = known.fold((0, 0), |(moving, all), (some, of)| (moving + some, all + of));
    let has_flows = tallies.iter().any(|tally| tally.flows.is_some_and(|flows| flows > 0));
    match (has_flows, all) {
        (false, _) => "-".to_owned(),
        (true, 0) => "unknown".to_owned(),
        (true, all) => format!("{moving} of {all}"),
    }
}

/// Of all layers that have flows, if it is known of each.
fn each(tallies: &[&Tally], of: fn(&Tally) -> Option<u64>, which: fn(u64, u64) -> u64) -> String {
    let some = tallies.iter().filter(|tally| tally.flows.is_some_and(|flows| flows > 0));
    let all: Option<Vec<u64>> = some.map(|tally| of(tally)).collect();
    match all.map(|all| all.into_iter().reduce(which)) {
        None => "unknown".to_owned(),
        Some(None) => "-".to_owned(),
        Some(Some(seconds)) => span(seconds),
    }
}

fn ago(seconds: u64) -> String {
    format!("{} ago", span(seconds))
}

/// Two figures are enough.
fn span(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (hours, minutes, _) => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::{Flows, State, Why};

    fn row() -> Row {
        let tally = Tally { moving: Some(1), idle_seconds: Some(4), ..Tally::of(3) };
        Row {
            state: State::Draining,
            service: "default/web:http".to_owned(),
            endpoint: "10.1.0.1:8080".parse().unwrap(),
            protocol: "TCP",
            why: Some(Why::TerminatingServing),
            is_now: Some(Why::Gone),
            why_unknown: None,
            left_at: Some("2026-01-02T03:04:05Z".to_owned()),
            ago_seconds: Some(192),
            left_unknown: None,
            flows: Flows {
                socket: Tally::unknown("so"),
                edge: tally,
                nftables: Tally { moving: Some(0), ..Tally::of(0) },
                direct: Tally::of(0),
            },
        }
    }

    #[test]
    fn people_get_a_row_an_endpoint_and_what_is_not_known_beneath() {
        let unknown = Row {
            why: None,
            is_now: None,
            left_at: None,
            ago_seconds: None,
            left_unknown: Some("before this daemon began".to_owned()),
            ..row()
        };
        let notes = vec!["socket is unknown: so".to_owned()];
        let drain = Drain { no_daemon: Some("it died".to_owned()), endpoints: vec![row(), unknown], notes };
        let expected = "\
SERVICE           ENDPOINT       STATE     WHY                         LEFT                      SOCKET   EDGE  NFTABLES  DIRECT  MOVING
default/web:http  10.1.0.1:8080  draining  terminating, still serving  3m12s ago                 unknown  3     0         0       1 of 3
default/web:http  10.1.0.1:8080  draining  unknown                     before this daemon began  unknown  3     0         0       1 of 3
reasons are not known: it died
socket is unknown: so
";
        assert_eq!(text(&drain, false), expected);
        let wide = text(&drain, true);
        assert!(
            wide.contains("TCP       gone from the slices  2026-01-02T03:04:05Z  4s    unknown"),
            "{wide}"
        );
        let nobody = Drain { no_daemon: None, endpoints: vec![], notes: vec![] };
        assert_eq!(text(&nobody, false), "nothing drains\n");
    }

    #[test]
    fn what_moves_is_told_of_those_layers_that_know() {
        let known = |flows, moving| Tally { moving: Some(moving), ..Tally::of(flows) };
        assert_eq!(moving(&[&known(3, 1), &known(2, 2), &Tally::of(5)]), "3 of 5");
        assert_eq!(moving(&[&known(0, 0), &Tally::of(5)]), "unknown");
        assert_eq!(moving(&[&known(0, 0), &Tally::unknown("so")]), "-");
        assert_eq!(each(&[&Tally::of(1), &Tally::of(0)], |tally| tally.oldest_seconds, u64::max), "unknown");
    }

    #[test]
    fn programs_get_null_and_a_reason() {
        let value = serde_json::to_value(row()).unwrap();
        let layer = serde_json::json!({
            "flows": null, "unknown": "so", "moving": null, "idleSeconds": null, "oldestSeconds": null,
        });
        assert_eq!(value["flows"]["socket"], layer);
        assert_eq!((&value["why"], &value["state"]), (&"terminatingServing".into(), &"draining".into()));
        assert_eq!((&value["agoSeconds"], &value["leftAt"]), (&192.into(), &"2026-01-02T03:04:05Z".into()));
    }

    #[test]
    fn a_span_has_two_figures() {
        assert_eq!(
            [0, 59, 60, 3599, 3600, 90_061].map(span),
            ["0s", "59s", "1m00s", "59m59s", "1h00m", "25h01m"]
        );
    }
}
