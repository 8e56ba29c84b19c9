//! Pages and their blocks.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::command::{Command, answered, commanded};

/// What a block may call itself: commands, commands with what they say, what is only to be looked at.
pub const KINDS: [&str; 6] = ["sh", "console", "text", "yaml", "json", "rust"];

/// One page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Its path in the tree.
    pub name: String,
    /// All of it.
    pub text: String,
}

/// What stands between two fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Number of its first line.
    pub line: usize,
    /// The word behind the fence.
    pub kind: String,
    /// What is in it.
    pub lines: Vec<String>,
}

/// The tree.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every page for operators: `README.md`, `docs/` and what `deploy/` says of itself.
pub fn pages() -> Result<Vec<Page>> {
    let mut names = vec!["README.md".to_owned()];
    for folder in ["docs", "deploy"] {
        gather(folder, &mut names)?;
    }
    names.sort();
    names.into_iter().map(read).collect()
}

fn gather(folder: &str, names: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root().join(folder)).with_context(|| format!("could not list {folder}"))? {
        let entry = entry?;
        let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            gather(&name, names)?;
        } else if name.ends_with(".md") {
            names.push(name);
        }
    }
    Ok(())
}

fn read(name: String) -> Result<Page> {
    let text = fs::read_to_string(root().join(&name)).with_context(|| format!("could not read {name}"))?;
    Ok(Page { name, text })
}

impl Page {
    /// Its blocks.
    pub fn blocks(&self) -> Vec<Block> {
        let mut all = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            match (line.strip_prefix("```"), &mut open) {
                (Some(kind), None) => {
                    let kind = kind.trim().to_owned();
                    open = Some(Block { line: number + 1, kind, lines: Vec::new() });
                }
                (Some(_), Some(_)) => all.extend(open.take()),
                (None, Some(block)) => block.lines.push(line.to_owned()),
                (None, None) => {}
            }
        }
        all
    }

    /// Its lines outside blocks, each with its number.
    pub fn prose(&self) -> Vec<(usize, &str)> {
        let mut inside = false;
        let mut all = Vec::new();
        for (number, line) in (1..).zip(self.text.lines()) {
            match line.starts_with("```") {
                true => inside = !inside,
                false if !inside => all.push((number, line)),
                false => {}
            }
        }
        all
    }

    /// All commands, in order.
    pub fn commands(&self) -> Result<Vec<Command>> {
        let mut all = Vec::new();
        for block in self.blocks() {
            match block.kind.as_str() {
                "sh" => all.extend(commanded(&self.name, &block)?),
                "console" => all.extend(answered(&self.name, &block)),
                _ => {}
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_a_kind_and_a_place() {
        let text = "# A\n\n```sh\na\nb\n```\ntext\n```text\n```\n".to_owned();
        let page = Page { name: "p".to_owned(), text };
        let [first, second] = &page.blocks()[..] else { panic!("{:?}", page.blocks()) };
        assert_eq!(
            (first.line, &*first.kind, &first.lines[..]),
            (4, "sh", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!((&*second.kind, second.lines.len()), ("text", 0));
        assert_eq!(page.prose(), [(1, "# A"), (2, ""), (7, "text")]);
    }
}
