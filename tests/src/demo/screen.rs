//! What people see: a table that is drawn over on a terminal, plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::time::Instant;

use anyhow::Result;

use super::scene::Scene;
use super::summary::Summary;

/// Where it is shown: on standard error when standard output is for a program.
pub(super) struct Screen {
    is_terminal: bool,
    to_stderr: bool,
    started: Instant,
    /// Lines of the last table.
    drawn: usize,
    last_act: String,
    beats: u32,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        let is_terminal =
            if json { std::io::stderr().is_terminal() } else { std::io::stdout().is_terminal() };
        Self {
            is_terminal,
            to_stderr: json,
            started: Instant::now(),
            drawn: 0,
            last_act: String::new(),
            beats: 0,
        }
    }

    /// One line.
    pub(super) fn say(&mut self, line: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.put(&format!("{seconds:5.1} s  {line}\n"));
    }

    /// The state of the scene.
    pub(super) fn draw(&mut self, act: &str, scene: &Scene) {
        self.beats += 1;
        if self.is_terminal {
            let table = self.table(act, scene);
            let up = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
            self.drawn = table.lines().count();
            self.put(&(up + &table));
        } else if act != self.last_act || self.beats.is_multiple_of(4) {
            self.last_act = act.to_owned();
            self.say(&line(act, scene));
        }
    }

    /// Ends the live table.
    pub(super) fn close(&mut self) {
        self.drawn = 0;
    }

    fn table(&self, act: &str, scene: &Scene) -> String {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut text = format!(
            "\n  {seconds:4.1} s   {act}\n\n  {:<14}{:>10}{:>9}   answered by\n",
            "clients", "requests", "failed"
        );
        for (name, progress) in scene.progress() {
            let spread: Vec<String> =
                progress.spread.iter().map(|(server, count)| format!("{server} {count}")).collect();
            text += &format!(
                "  {name:<14}{:>10}{:>9}   {}\n",
                progress.requests,
                progress.failed,
                spread.join("  ")
            );
        }
        text + &format!("\n  manifest changes: {}\n", changes(scene))
    }

    /// The end.
    pub(super) fn summary(&mut self, summary: &Summary, json: bool) -> Result<()> {
        let Summary { requests, failed, failures, refused_at_zero, spread, .. } = summary;
        let Summary { change_to_kernel_ms, change_to_kernel_ms_max, changes, seconds, .. } = summary;
        let list = |map: &std::collections::BTreeMap<String, u64>| {
            let items: Vec<String> = map.iter().map(|(name, count)| format!("{name} {count}")).collect();
            if items.is_empty() { "none".to_owned() } else { items.join(", ") }
        };
        self.put(&format!(
            "\nrequests          {requests} in {seconds:.1} s\n\
             failed            {failed} ({})\n\
             refused at zero   {refused_at_zero} (expected)\n\
             spread            {}\n\
             change to kernel  median {:.2} ms, longest {:.2} ms, {} changes\n",
            list(failures),
            list(spread),
            change_to_kernel_ms,
            change_to_kernel_ms_max,
            changes,
        ));
        if json {
            writeln!(std::io::stdout(), "{}", serde_json::to_string(summary)?)?;
        }
        Ok(())
    }

    fn put(&self, text: &str) {
        // Nobody looks any more: that is no reason to leave things standing about.
        let _ = if self.to_stderr {
            std::io::stderr().write_all(text.as_bytes())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
    }
}

fn line(act: &str, scene: &Scene) -> String {
    let progress = scene.progress();
    let requests: u64 = progress.iter().map(|(_, progress)| progress.requests).sum();
    let failed: u64 = progress.iter().map(|(_, progress)| progress.failed).sum();
    format!("{act}; {requests} requests, {failed} failed or refused; manifest changes: {}", changes(scene))
}

fn changes(scene: &Scene) -> String {
    match scene.changes.last() {
        Some(last) => format!("{}, the last one in the kernel after {last:.2} ms", scene.changes.len()),
        None => "none yet".to_owned(),
    }
}
