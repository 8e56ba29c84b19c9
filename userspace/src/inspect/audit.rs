//! `sluice audit`: what the kernel has beside what the running daemon wants it to have; without a daemon, whether what the kernel
//! has holds together.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::daemon::ask_within;
use super::table::table;
use super::{Answer, Output, Show, advice, present};
use crate::backend::difference::Difference;
use crate::backend::ebpf::{self, Pins, read_pinned, report_pinned};
use crate::backend::findings::Audited;
use crate::backend::nft;

/// How long the daemon may take to look through everything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is as it should be, or has been put right.
    Clean,
    /// Something is not.
    Differs,
    /// Nobody can tell.
    Unknown,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Answered {
    /// Why the daemon does not answer.
    no_daemon: Option<String>,
    #[serde(flatten)]
    audited: Audited,
}

/// Prints what differs.
pub fn run(fix: bool, socket: &Path, pin_dir: &Path, output: Output) -> anyhow::Result<Outcome> {
    let show = Show { output, watch: None };
    let question = if fix { "audit fix" } else { "audit" };
    let answered = present(&show, || match ask_within::<Audited>(socket, question, PATIENCE) {
        Ok(audited) => Ok(Answered { no_daemon: None, audited }),
        Err(error) if fix => anyhow::bail!("{}", advice::silent(socket, &error)),
        Err(error) => alone(advice::silent(socket, &error), pin_dir),
    })?;
    Ok(answered.outcome())
}

/// What can be said without a daemon.
fn alone(no_daemon: String, pin_dir: &Path) -> anyhow::Result<Answered> {
    let pins = Pins::new(pin_dir);
    let installed = read_pinned(&pins)?;
    let hooks = report_pinned(&pins)?.hooks;
    let is_there = !installed.ports.is_empty() || hooks.iter().any(|hook| hook.attached);
    let mut differences = Vec::new();
    if is_there {
        differences.extend(ebpf::unhooked(&hooks));
        differences.extend(ebpf::torn(&installed));
    }
    let tables = nft::torn_found()?;
    anyhow::ensure!(is_there || tables.is_some(), "{}", advice::nothing(pin_dir));
    differences.extend(tables.into_iter().flatten());
    let note = "without the daemon only what does not hold together is found; `sluice diff` with the objects finds the rest";
    let found = differences.len() as u64;
    let audited = Audited { found, differences, notes: vec![note.to_owned()], ..Audited::default() };
    Ok(Answered { no_daemon: Some(no_daemon), audited })
}

impl Answered {
    fn outcome(&self) -> Outcome {
        let Audited { found, healed, notes, .. } = &self.audited;
        match (found.saturating_sub(*healed), notes.is_empty()) {
            (0, true) => Outcome::Clean,
            (0, false) => Outcome::Unknown,
            (_, _) => Outcome::Differs,
        }
    }
}

impl Answer for Answered {
    fn text(&self, _wide: bool) -> String {
        let Audited { found, healed, differences, notes, took_millis, longest_millis: _ } = &self.audited;
        let mut text = String::new();
        text.extend(self.no_daemon.iter().map(|why| format!("daemon    {why}\n")));
        text.extend(notes.iter().map(|note| format!("note      {note}\n")));
        if *found == 0 {
            let is_whole = self.no_daemon.is_none() && notes.is_empty();
            let all =
                format!("the kernel has what the daemon wants (looked through in {took_millis:.0} ms)\n");
            return text
                + if is_whole { &all } else { "nothing wrong was found in what could be looked at\n" };
        }
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_owned());
        let row = |one: &Difference| {
            let Difference { dataplane, service, what, plan, kernel } = one;
            vec![dataplane.to_string(), service.clone(), what.clone(), side(plan), side(kernel)]
        };
        let rows: Vec<Vec<String>> = differences.iter().map(row).collect();
        text += &table(&["DATAPLANE", "SERVICE", "WHAT", "WANTED", "KERNEL"], &rows);
        if let Some(more) = found.checked_sub(rows.len() as u64).filter(|more| *more > 0) {
            text += &format!("and {more} more\n");
        }
        text + &format!("\n{found} differ, {healed} put right\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_clean_only_if_everything_was_looked_at_and_is_right() {
        let check = |found, healed, note: Option<&str>, expected| {
            let notes = note.map(str::to_owned).into_iter().collect();
            let audited = Audited { found, healed, notes, ..Audited::default() };
            assert_eq!(
                Answered { no_daemon: None, audited }.outcome(),
                expected,
                "{found} {healed} {note:?}"
            );
        };
        check(0, 0, None, Outcome::Clean);
        check(3, 3, None, Outcome::Clean);
        check(3, 2, None, Outcome::Differs);
        check(0, 0, Some("could not be read"), Outcome::Unknown);
        check(1, 0, Some("could not be read"), Outcome::Differs);
    }
}
