//! `sluice status`: what the daemon does, and what the kernel has.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::daemon::ask;
use super::table::table;
use super::{Answer, Show, advice, present};
use crate::backend::conntrack::Usage;
use crate::backend::dataplane::Running;
use crate::backend::ebpf::{self, Pins, report_pinned};
use crate::backend::{Report, chain};
use crate::backend::{edge, nft};
use crate::model::Problem;

/// Everything there is to tell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// What the daemon says; absent when none answers.
    pub daemon: Option<DaemonStatus>,
    /// What is in the kernel; absent when nothing is installed or it cannot be read.
    pub kernel: Option<Report>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// The daemon's part.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DaemonStatus {
    /// Always true: a daemon that answers runs.
    pub running: bool,
    /// Its process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// Where its objects come from.
    pub source: String,
    /// Whether the kernel is as the objects say.
    pub synced: bool,
    /// Services it serves.
    pub services: usize,
    /// EndpointSlices it knows.
    pub slices: usize,
    /// Endpoints in them.
    pub endpoints: usize,
    /// How often it has programmed the kernel.
    pub passes: u64,
    /// How long the last change took from its arrival until it was in force, in milliseconds.
    pub last_change_millis: Option<f64>,
    /// Endpoints that get no new flows and have some.
    #[serde(default)]
    pub draining: Draining,
}

/// Endpoints that are known to drain, as counted within the last seconds; `sluice drain` says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// How many.
    pub endpoints: usize,
    /// Flows that they have, as far as layers can tell.
    pub flows: u64,
}

/// Prints the status. False if no daemon answers, or it is not synced.
pub fn run(socket: &Path, pin_dir: &Path, show: &Show) -> anyhow::Result<bool> {
    let look = || Ok(ask(socket, "status").unwrap_or_else(|error| without_daemon(socket, pin_dir, &error)));
    let status = present(show, look)?;
    Ok(status.daemon.is_some_and(|daemon| daemon.synced))
}

pub(super) fn without_daemon(socket: &Path, pin_dir: &Path, error: &std::io::Error) -> Status {
    let silent = Problem::new("daemon", "", advice::silent(socket, error));
    let mut problems = vec![silent];
    let mut unread = |error: &dyn std::error::Error| problems.push(Problem::new("kernel", "", chain(error)));
    let ebpf = report_pinned(&Pins::new(pin_dir)).inspect_err(|error| unread(error)).ok();
    let nftables = nft::report_found().inspect_err(|error| unread(error)).ok();
    let edge = edge::report_pinned(pin_dir).inspect_err(|error| unread(error)).ok().flatten();
    let conntrack = Usage::read().ok();
    problems.extend(conntrack.and_then(Usage::problem));
    let kernel = Report { running: None, ebpf, nftables, conntrack, edge };
    Status { daemon: None, kernel: Some(kernel), problems }
}

impl Answer for Status {
    fn text(&self, _wide: bool) -> String {
        text(self)
    }
}

fn text(status: &Status) -> String {
    let mut text = match &status.daemon {
        Some(daemon) => daemon_text(daemon),
        None => "daemon    not running; what follows is what the kernel has\n".to_owned(),
    };
    if let Some(report) = &status.kernel {
        text += &kernel_text(report);
    }
    if status.problems.is_empty() {
        return text + "problems  none\n";
    }
    let row = |problem: &Problem| {
        let Problem { object, field, message, source } = problem.clone();
        vec![object, field, message, source.unwrap_or_default()]
    };
    let rows: Vec<_> = status.problems.iter().map(row).collect();
    text + "\n" + &table(&["PROBLEM WITH", "FIELD", "WHAT", "FILE"], &rows)
}

fn daemon_text(daemon: &DaemonStatus) -> String {
    let DaemonStatus { running: _, pid, version, uptime_seconds, source, synced, .. } = daemon;
    let state = if *synced { "synced" } else { "NOT synced" };
    let took =
        daemon.last_change_millis.map_or_else(|| "none yet".to_owned(), |took| format!("{took:.2} ms"));
    format!(
        "daemon    sluice {version}, pid {pid}, up {uptime_seconds} s\n\
         source    {source}\n\
         state     {state}\n\
         objects   {} services, {} slices, {} endpoints\n\
         changes   {} passes, the last took {took}\n\
         draining  {} endpoints, {} flows\n",
        daemon.services,
        daemon.slices,
        daemon.endpoints,
        daemon.passes,
        daemon.draining.endpoints,
        daemon.draining.flows
    )
}

fn kernel_text(report: &Report) -> String {
    let Report { running, ebpf, nftables, conntrack, edge } = report;
    let running =
        running.as_ref().map(|Running { dataplane, reason }| format!("dataplane {dataplane}: {reason}\n"));
    let ebpf = ebpf.as_ref().map(ebpf_text);
    let nftables = nftables.as_ref().map(nftables_text);
    let edge = edge.as_ref().map(edge_text);
    let conntrack = conntrack.map(conntrack_text);
    [running, ebpf, edge, nftables, conntrack].into_iter().flatten().collect()
}

fn conntrack_text(usage: Usage) -> String {
    let Usage { entries, max } = usage;
    match usage.percent() {
        Some(percent) => format!("conntrack {entries} of {max} flows ({percent} %)\n"),
        None => format!("conntrack {entries} flows, without a limit\n"),
    }
}

fn edge_text(report: &edge::Report) -> String {
    let edge::Report {
        down,
        forwarding,
        devices,
        endpoint_devices,
        repaired,
        missing: _,
        flow_entries,
        flow_room,
        counters,
    } = report;
    if let Some(why) = down {
        return format!("edge      NOT in force: {why}\n");
    }
    let forwarding =
        if forwarding.is_empty() { String::new() } else { format!("; forwarding by {forwarding}") };
    let counters: Vec<String> = counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let hooks: String = devices.iter().map(hooks_text).collect();
    format!(
        "edge      {}{forwarding}; answers taken at {}; {} of {} flows; {repaired} hooks put right\n{hooks}          {}\n",
        or_none(devices.iter().map(device_text).collect()),
        or_none(endpoint_devices.clone()),
        flow_entries / 2,
        flow_room / 2,
        or_none(counters)
    )
}

fn device_text(state: &edge::DeviceState) -> String {
    let kind = state.hook.map_or("", edge::HookKind::as_str);
    let says = match (state.attached, state.first) {
        (false, _) => "NOT attached",
        (true, false) => "NOT first",
        (true, true) => "",
    };
    let xdp =
        if state.xdp == edge::XdpState::Off { String::new() } else { format!("xdp {}", state.xdp.word()) };
    let words: Vec<&str> = [kind, says, &xdp].into_iter().filter(|word| !word.is_empty()).collect();
    format!("{} ({})", state.device, words.join(", "))
}

/// What packets meet on a device, in that order.
fn hooks_text(state: &edge::DeviceState) -> String {
    let program = |hung: &edge::Hung| {
        let edge::Hung { name, program: _, hook, priority, ours } = hung;
        let priority = priority.map(|priority| format!(" {priority}")).unwrap_or_default();
        let ours = if *ours { ", ours" } else { "" };
        format!("{name} ({}{priority}{ours})", hook.as_str())
    };
    let side = |name: &str, hung: &[edge::Hung]| {
        let all = or_none(hung.iter().map(program).collect());
        format!("          {} {name}: {all}\n", state.device)
    };
    side("in", &state.ingress) + &side("out", &state.egress)
}

fn nftables_text(report: &nft::Report) -> String {
    let table = |table: &nft::TableReport| match table.missing.as_slice() {
        [] => format!("{} {}", table.family, table.name),
        missing => format!("{} {} (NOT in force: {})", table.family, table.name, missing.join(" ")),
    };
    let tables: Vec<String> = report.tables.iter().map(table).collect();
    let counters: Vec<String> =
        report.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let stale = report.stale_flows_removed;
    format!(
        "tables    {}\nrefusals  {}, stale UDP flows removed {stale}\n",
        or_none(tables),
        or_none(counters)
    )
}

fn or_none(list: Vec<String>) -> String {
    if list.is_empty() { "none".to_owned() } else { list.join(", ") }
}

fn ebpf_text(report: &ebpf::Report) -> String {
    let off: Vec<&str> =
        report.hooks.iter().filter(|hook| !hook.attached).map(|hook| hook.hook.as_str()).collect();
    let on = report.hooks.len() - off.len();
    let missing = if off.is_empty() { String::new() } else { format!(", NOT attached: {}", off.join(" ")) };
    let maps: Vec<String> = report
        .maps
        .iter()
        .map(|fill| format!("{} {}/{}", fill.map.to_lowercase(), fill.entries, fill.capacity))
        .collect();
    let counters: Vec<String> =
        report.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
    let leftovers = match report.leftovers.as_slice() {
        [] => String::new(),
        names => format!("leftovers {} (being replaced, or could not be removed yet)\n", names.join(", ")),
    };
    format!(
        "hooks     {on} of {} attached{missing}\n\
         maps      {}\n\
         events    {}\n\
         pins      {}\n{leftovers}",
        report.hooks.len(),
        or_none(maps),
        or_none(counters),
        report.pin_dir.display()
    )
}
