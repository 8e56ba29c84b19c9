//! How a verb's answer is printed: for people or for programs, once or again and again.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use super::colour::{dress, is_wanted};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For people with room: more columns.
    Wide,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

impl Output {
    /// Whether people read it.
    pub(super) const fn is_for_people(self) -> bool {
        match self {
            Self::Table | Self::Wide => true,
            Self::Json | Self::Yaml => false,
        }
    }
}

/// How to print, and how often.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Show {
    /// How to print
    #[arg(short, long, default_value = "table")]
    pub output: Output,
    /// Print again every so many seconds, until SIGINT; with -o json a line each time
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "2", value_parser = seconds)]
    pub watch: Option<Duration>,
}

/// Reads a number of seconds, with a fraction if need be.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.parse::<f64>().ok().filter(|number| (0.1..=86_400.0).contains(number));
    number
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("{text} is not a time from 0.1 to 86400 seconds"))
}

/// What a verb answers.
pub trait Answer: Serialize {
    /// For people.
    fn text(&self, wide: bool) -> String;
}

/// Prints what `look` finds: once, or until SIGINT. Returns what was found last.
pub fn present<A: Answer>(show: &Show, mut look: impl FnMut() -> anyhow::Result<A>) -> anyhow::Result<A> {
    let Show { output, watch } = *show;
    let Some(pause) = watch else {
        let answer = look()?;
        written(write(&page(&answer, output, false)?))?;
        return Ok(answer);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Before anything is printed: whoever has read a page may ask for the end.
        let mut signals = [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?];
        loop {
            let answer = look()?;
            let outcome = write(&page(&answer, output, true)?);
            if outcome.as_ref().is_err_and(is_enough) {
                return Ok(answer);
            }
            outcome?;
            let [interrupt, terminate] = &mut signals;
            tokio::select! {
                _ = interrupt.recv() => return Ok(answer),
                _ = terminate.recv() => return Ok(answer),
                () = tokio::time::sleep(pause) => {}
            }
        }
    })
}

/// Prints what comes again; whether anybody reads on.
pub(super) fn again(answer: &impl Answer, output: Output) -> anyhow::Result<bool> {
    let outcome = write(&page(answer, output, true)?);
    if outcome.as_ref().is_err_and(is_enough) {
        return Ok(false);
    }
    outcome?;
    Ok(true)
}

/// One printing. Of those that come again each is told from the next: by a cleared screen, an empty line, a line of its own
/// (JSON), or a document of its own (YAML).
fn page(answer: &impl Answer, output: Output, again: bool) -> anyhow::Result<String> {
    let terminal = io::stdout().is_terminal();
    let people = |wide| {
        let text = dress(answer.text(wide).trim_end(), is_wanted(terminal));
        match (again, terminal) {
            (false, _) => text + "\n",
            (true, true) => format!("\x1b[H\x1b[2J{text}\n"),
            (true, false) => text + "\n\n",
        }
    };
    Ok(match output {
        Output::Table => people(false),
        Output::Wide => people(true),
        Output::Json if again => serde_json::to_string(answer)? + "\n",
        Output::Json => serde_json::to_string_pretty(answer)? + "\n",
        Output::Yaml if again => format!("---\n{}", serde_norway::to_string(answer)?),
        Output::Yaml => serde_norway::to_string(answer)?,
    })
}

/// Prints a line or several.
pub fn print(text: &str) -> anyhow::Result<()> {
    written(write(&format!("{}\n", text.trim_end())))
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Whoever reads may have seen enough (`| head`): that is no error.
fn written(outcome: io::Result<()>) -> anyhow::Result<()> {
    match outcome {
        Err(error) if is_enough(&error) => Ok(()),
        other => Ok(other?),
    }
}

fn is_enough(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Two {
        a: u8,
        b: Vec<u8>,
    }

    impl Answer for Two {
        fn text(&self, wide: bool) -> String {
            format!("A {}{}\n\n", self.a, if wide { " B" } else { "" })
        }
    }

    /// Tests have no terminal.
    #[track_caller]
    fn check(output: Output, again: bool, expected: &str) {
        assert_eq!(page(&Two { a: 1, b: vec![2] }, output, again).unwrap(), expected, "{output:?} {again}");
    }

    #[test]
    fn each_form_ends_with_one_newline() {
        check(Output::Table, false, "A 1\n");
        check(Output::Wide, false, "A 1 B\n");
        check(Output::Json, false, "{\n  \"a\": 1,\n  \"b\": [\n    2\n  ]\n}\n");
        check(Output::Yaml, false, "a: 1\nb:\n- 2\n");
    }

    #[test]
    fn what_comes_again_can_be_taken_apart() {
        check(Output::Table, true, "A 1\n\n");
        check(Output::Json, true, "{\"a\":1,\"b\":[2]}\n");
        check(Output::Yaml, true, "---\na: 1\nb:\n- 2\n");
    }

    #[test]
    fn a_pause_has_bounds() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for wrong in ["0", "-1", "x", "NaN", "inf", "1e9"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
