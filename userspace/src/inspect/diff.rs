//! `sluice diff`: what this node should have by the objects, beside what the kernel has. Like diff(1).

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::daemon::ask;
use super::status::Status;
use super::table::table;
use super::{Answer, Output, Show, advice, present};
use crate::backend::difference::Difference;
use crate::backend::ebpf::{self, Pins, read_pinned, report_pinned};
use crate::backend::nft;
use crate::dry_run::Orders;
use crate::serve::Settings;

/// How often a difference is looked at again, and after how long: a change may be under way.
const AGAIN: (u32, Duration) = (3, Duration::from_millis(300));

/// Everything there is to tell.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    node: String,
    /// Where the settings are from.
    settings: String,
    /// Dataplanes that were looked at.
    compared: Vec<&'static str>,
    /// What was not, and why.
    notes: Vec<String>,
    differences: Vec<Difference>,
}

/// Prints the differences. True if there are none.
pub fn run(
    mut orders: impl FnMut() -> anyhow::Result<Orders>,
    settings: String,
    socket: &Path,
    pin_dir: &Path,
    output: Output,
) -> anyhow::Result<bool> {
    let show = Show { output, watch: None };
    let answered = present(&show, || {
        let mut answered = compare(&orders()?, &settings, socket, pin_dir)?;
        for _ in 0..AGAIN.0 {
            if answered.differences.is_empty() {
                break;
            }
            std::thread::sleep(AGAIN.1);
            answered = compare(&orders()?, &settings, socket, pin_dir)?;
        }
        Ok(answered)
    })?;
    Ok(answered.differences.is_empty())
}

/// What the running daemon was told, if there is one.
pub fn told(socket: &Path) -> Option<Settings> {
    ask(socket, "settings").ok()
}

fn compare(orders: &Orders, settings: &str, socket: &Path, pin_dir: &Path) -> anyhow::Result<Answered> {
    let Orders { context, cluster_ranges, ports } = orders;
    let status = ask::<Status>(socket, "status").ok();
    let running = status.and_then(|status| status.kernel?.running).map(|running| running.dataplane);
    let runs = |name: &str| running.as_ref().is_none_or(|running| running.contains(name));
    let mut answered = Answered {
        node: context.node.to_string(),
        settings: settings.to_owned(),
        compared: Vec::new(),
        notes: vec![
            "the edge layer's tables have no name and are not looked at: `sluice audit` asks the daemon for them".into(),
        ],
        differences: Vec::new(),
    };
    let pins = Pins::new(pin_dir);
    let installed = read_pinned(&pins)?;
    let is_there =
        !installed.ports.is_empty() || report_pinned(&pins)?.hooks.iter().any(|hook| hook.attached);
    if is_there && runs("ebpf") {
        answered.compared.push("ebpf");
        answered.differences.extend(ebpf::differences(&installed, ports));
        answered.differences.extend(ebpf::unhooked(&report_pinned(&pins)?.hooks));
        answered.differences.extend(ebpf::differing_addresses(&pins, context)?);
    }
    match nft::differences_found(context, cluster_ranges, ports)? {
        Some(differences) if runs("nftables") => {
            answered.compared.push("nftables");
            answered.differences.extend(differences);
        }
        Some(_) => answered
            .notes
            .push("nftables: the daemon says that it has no part in serving (--nftables=drain-only)".into()),
        None => answered.notes.push("nftables: there are no tables of ours".into()),
    }
    anyhow::ensure!(!answered.compared.is_empty(), "{}", advice::nothing(pin_dir));
    answered.differences.sort();
    Ok(answered)
}

impl Answer for Answered {
    fn text(&self, _wide: bool) -> String {
        let Self { node, settings, compared, notes, differences } = self;
        let compared = compared.join(", ");
        let mut text = format!("node      {node}\nsettings  {settings}\ncompared  {compared}\n");
        text.extend(notes.iter().map(|note| format!("note      {note}\n")));
        if differences.is_empty() {
            return text + "\nthe kernel has what the objects ask for\n";
        }
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
        let row = |one: &Difference| {
            let Difference { dataplane, service, what, plan, kernel } = one;
            vec![dataplane.to_string(), service.clone(), what.clone(), side(plan), side(kernel)]
        };
        let rows: Vec<Vec<String>> = differences.iter().map(row).collect();
        text + "\n" + &table(&["DATAPLANE", "SERVICE", "WHAT", "PLAN", "KERNEL"], &rows)
    }
}
