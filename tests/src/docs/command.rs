//! Commands, as a shell would read them.

use anyhow::{Result, bail};

use super::page::Block;

/// One command of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// The page.
    pub page: String,
    /// Number of its first line there.
    pub line: usize,
    /// What is typed, without the comment behind it.
    pub text: String,
    /// What the page says that it prints, if it says so.
    pub answer: Option<Vec<String>>,
}

impl Command {
    /// Whether this is the daemon itself, which does not end.
    pub fn is_daemon(&self) -> bool {
        let instead =
            ["--print-config", "--write-config-to", "--cleanup", "--init-only", "--version", "--help"];
        self.text.starts_with("sluice run ") && !instead.iter().any(|flag| self.text.contains(flag))
    }

    /// Whether the daemon must have ended before.
    pub fn wants_no_daemon(&self) -> bool {
        self.text == "sluice cleanup" || self.text.starts_with("sluice cleanup ")
    }

    /// Whether it is typed in the source tree; `xtask` holds that these are understood.
    pub fn is_built_with(&self) -> bool {
        self.text.starts_with("cargo ")
    }

    /// Whether it goes on until somebody stops it.
    pub fn lasts(&self) -> bool {
        let is_live = self.text.contains("sluice top") && !self.text.contains(" -n");
        is_live || self.text.contains("--watch") || self.text.contains("--follow")
    }
}

/// The commands of a block of kind `sh`.
pub(super) fn commanded(page: &str, block: &Block) -> Result<Vec<Command>> {
    let mut all = Vec::new();
    let mut lines = (block.line..).zip(&block.lines);
    while let Some((line, first)) = lines.next() {
        let mut reader = Reader::default();
        reader.line(first);
        while reader.wants_more() {
            let Some((_, next)) = lines.next() else { bail!("{page}:{line}: this command does not end") };
            reader.line(next);
        }
        if !reader.text.trim().is_empty() {
            all.push(Command {
                page: page.to_owned(),
                line,
                text: reader.text.trim().to_owned(),
                answer: None,
            });
        }
    }
    Ok(all)
}

/// The commands of a block of kind `console`: behind a prompt, and below each what it prints.
pub(super) fn answered(page: &str, block: &Block) -> Vec<Command> {
    let mut all: Vec<Command> = Vec::new();
    for (line, text) in (block.line..).zip(&block.lines) {
        match text.strip_prefix("$ ") {
            Some(typed) => {
                let mut reader = Reader::default();
                reader.line(typed);
                let text = reader.text.trim().to_owned();
                all.push(Command { page: page.to_owned(), line, text, answer: Some(Vec::new()) });
            }
            None => all
                .last_mut()
                .and_then(|command| command.answer.as_mut())
                .into_iter()
                .for_each(|answer| answer.push(text.clone())),
        }
    }
    all
}

/// As much of a shell's reading as tells where a command ends.
#[derive(Debug, Default)]
struct Reader {
    text: String,
    quote: Option<char>,
    /// The word that ends a text that is given in place.
    until: Option<String>,
    goes_on: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        if let Some(word) = &self.until {
            let is_end = line.trim() == word;
            self.text.push_str(line);
            self.until.take_if(|_| is_end);
            return;
        }
        let before = self.text.len();
        self.characters(line);
        self.goes_on = self.quote.is_none() && line.ends_with('\\');
        self.until = opened(&self.text[before..]);
    }

    /// Up to the comment.
    fn characters(&mut self, line: &str) {
        let mut last = ' ';
        for letter in line.chars() {
            match (self.quote, letter) {
                (None, '#') if last.is_whitespace() => break,
                (None, '"' | '\'') if last != '\\' => self.quote = Some(letter),
                (Some(quote), letter) if quote == letter => self.quote = None,
                _ => {}
            }
            self.text.push(letter);
            last = letter;
        }
    }

    fn wants_more(&self) -> bool {
        self.quote.is_some() || self.until.is_some() || self.goes_on
    }
}

/// The word behind `<<`, which ends the text that follows.
fn opened(line: &str) -> Option<String> {
    let (_, behind) = line.split_once("<<")?;
    let word: String =
        behind.trim_start_matches(['\'', '"', '-']).chars().take_while(char::is_ascii_alphanumeric).collect();
    (!word.is_empty()).then_some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        let lines = text.lines().map(str::to_owned).collect();
        let block = Block { line: 1, kind: "sh".to_owned(), lines };
        commanded("p", &block).unwrap().into_iter().map(|command| command.text).collect()
    }

    #[test]
    fn a_comment_is_no_part_of_a_command() {
        assert_eq!(texts("a b   # why\n\n# alone\nc '# no comment' x#y"), ["a b", "c '# no comment' x#y"]);
    }

    #[test]
    fn a_command_goes_on_behind_a_backslash_within_quotes_and_in_a_text() {
        assert_eq!(texts("a \\\n  b\nc"), ["a \\\n  b", "c"]);
        assert_eq!(texts("a '{\n}'\nc"), ["a '{\n}'", "c"]);
        assert_eq!(texts("cat > f <<'END'\nit's\nEND\nc"), ["cat > f <<'END'\nit's\nEND", "c"]);
    }

    #[test]
    fn a_command_that_does_not_end_is_an_error() {
        let block = Block { line: 7, kind: "sh".to_owned(), lines: vec!["a '".to_owned()] };
        assert!(commanded("p", &block).unwrap_err().to_string().contains("p:7"));
    }

    #[test]
    fn an_answer_belongs_to_the_command_above_it() {
        let lines = ["$ a", "one", "two", "$ b  # why", "three"].map(str::to_owned).to_vec();
        let all = answered("p", &Block { line: 3, kind: "console".to_owned(), lines });
        let said: Vec<_> = all
            .iter()
            .map(|command| (command.line, &*command.text, command.answer.clone().unwrap().len()))
            .collect();
        assert_eq!(said, [(3, "a", 2), (6, "b", 1)]);
    }
}
