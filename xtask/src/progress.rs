//! What a person sees of a slow step: its name, the seconds, and the last line it printed.

use std::fs::{self, File};
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::run;

/// How often a line is printed where nothing can be redrawn.
const LINE_EVERY: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LINES_OF_A_FAILURE: usize = 40;

/// Whether a step owns the terminal's last line or works behind another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Front,
    Behind,
}

/// Says one thing.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// Runs `command` with its output in a log file, and shows that it lives.
pub(crate) fn slow(what: &str, log: &Path, stage: Stage, command: &mut Command) -> Result<()> {
    say(what);
    let began = Instant::now();
    let child = start(log, command)?;
    let mut display = Display::new(what, stage);
    let status = watch(child, log, began, &mut display)?;
    display.clear();
    if !status {
        bail!("this failed: {what}\n  `{}`\n  log: {}\n{}", run::words(command), log.display(), ending(log));
    }
    say(&format!("  done in {}: {}", seconds(began.elapsed()), display.what));
    Ok(())
}

fn start(log: &Path, command: &mut Command) -> Result<Child> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    }
    let file = File::create(log).with_context(|| format!("could not write {}", log.display()))?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    command.spawn().with_context(|| format!("could not start `{}`", run::words(command)))
}

fn watch(mut child: Child, log: &Path, began: Instant, display: &mut Display) -> Result<bool> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        thread::sleep(LOOK_EVERY);
        display.show(began.elapsed(), &last_line(log));
    }
}

/// Where progress goes.
struct Display {
    what: String,
    redraw: bool,
    next_line: Duration,
}

impl Display {
    fn new(what: &str, stage: Stage) -> Self {
        let redraw = stage == Stage::Front && io::stderr().is_terminal();
        let what = what.split(':').next().unwrap_or(what).to_owned();
        Self { what, redraw, next_line: LINE_EVERY }
    }

    fn show(&mut self, elapsed: Duration, last: &str) {
        if self.redraw {
            let line = clip(&format!("  {} | {last}", seconds(elapsed)), 100);
            eprint!("\r\x1b[2K{line}");
        } else if elapsed >= self.next_line {
            self.next_line = elapsed + LINE_EVERY;
            eprintln!("xtask:   {} after {} | {}", self.what, seconds(elapsed), clip(last, 100));
        }
    }

    fn clear(&self) {
        if self.redraw {
            eprint!("\r\x1b[2K");
            let _ = io::stderr().flush();
        }
    }
}

/// `42 s` or `3 min 5 s`.
pub(crate) fn seconds(elapsed: Duration) -> String {
    let whole = elapsed.as_secs();
    match whole {
        0..60 => format!("{:.1} s", elapsed.as_secs_f64()),
        _ => format!("{} min {} s", whole / 60, whole % 60),
    }
}

fn clip(text: &str, width: usize) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(width).collect()
}

fn last_line(log: &Path) -> String {
    let text = tail(log, 2048).unwrap_or_default();
    let line = text.rsplit(['\n', '\r']).map(str::trim).find(|line| !line.is_empty());
    line.unwrap_or_default().to_owned()
}

fn ending(log: &Path) -> String {
    let text = tail(log, 16 * 1024).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_OF_A_FAILURE)..].join("\n")
}

fn tail(log: &Path, bytes: u64) -> Result<String> {
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// The log file of one step.
pub(crate) fn log_file(target: &Path, step: &str) -> PathBuf {
    target.join("xtask-logs").join(format!("{step}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_are_told_in_minutes() {
        assert_eq!(seconds(Duration::from_millis(4250)), "4.2 s");
        assert_eq!(seconds(Duration::from_secs(185)), "3 min 5 s");
    }

    #[test]
    fn a_failing_step_shows_the_end_of_its_log() {
        let log = std::env::temp_dir().join(format!("xtask-test-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo first; echo the reason >&2; exit 3"]);
        let error = slow("a step that fails", &log, Stage::Behind, &mut command).unwrap_err();
        fs::remove_file(&log).unwrap();
        assert!(error.to_string().contains("the reason"), "{error}");
    }
}
