//! The pages that people read: what is in them, and what their commands do when somebody types them.
//!
//! A page is a story told on one stage ([`ground`]): its commands run in their order. A command that cannot run anywhere
//! stands in [`listed`], with the reason.

pub mod command;
pub mod ground;
pub mod links;
pub mod listed;
pub mod page;
pub mod said;
pub mod world;

use anyhow::Result;

pub use command::Command;
pub use ground::Ground;
pub use page::{Page, pages};

/// Where the commands of a page mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// One node, a folder of manifests.
    Node,
    /// The same, and an API server.
    Cluster,
}

/// What makes a command one for an API server.
const OF_A_CLUSTER: [&str; 2] = ["kubectl", "kubeconfig"];

/// The pages of a home that are to be told: all, or those whose name contains the variable `PAGE`.
pub fn to_tell(home: Home) -> Result<Vec<Page>> {
    let word = std::env::var("PAGE").unwrap_or_default();
    let mut told = Vec::new();
    for page in pages()?.into_iter().filter(|page| page.name.contains(&word)) {
        if page.home()? == home && !page.to_run()?.is_empty() {
            told.push(page);
        }
    }
    Ok(told)
}

impl Page {
    /// What is to be run, in order.
    pub fn to_run(&self) -> Result<Vec<Command>> {
        let mut all = self.commands()?;
        all.retain(|command| !command.is_built_with() && listed::reason(command).is_none());
        Ok(all)
    }

    /// Where that is.
    pub fn home(&self) -> Result<Home> {
        let run = self.to_run()?;
        let is_of_a_cluster = |command: &Command| OF_A_CLUSTER.iter().any(|word| command.text.contains(word));
        Ok(if run.iter().any(is_of_a_cluster) { Home::Cluster } else { Home::Node })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn what_is_listed_as_not_run_is_on_a_page() {
        let all = pages().unwrap();
        let commands: Vec<Command> = all.iter().flat_map(|page| page.commands().unwrap()).collect();
        let texts: BTreeSet<(&str, &str)> =
            commands.iter().map(|command| (command.page.as_str(), command.text.as_str())).collect();
        for entry in listed::NOT_RUN {
            assert!(
                texts.contains(&(entry.page, entry.command)),
                "{} does not have: {}",
                entry.page,
                entry.command
            );
            assert!(!entry.why.is_empty(), "{}: no reason", entry.command);
        }
        for entry in listed::ENDS_WITH {
            assert!(
                texts.contains(&(entry.page, entry.command)),
                "{} does not have: {}",
                entry.page,
                entry.command
            );
        }
    }

    #[test]
    fn every_block_says_what_it_is() {
        for page in pages().unwrap() {
            for block in page.blocks() {
                let place = format!("{}:{}", page.name, block.line);
                assert!(
                    page::KINDS.contains(&block.kind.as_str()),
                    "{place}: a block of kind `{}`",
                    block.kind
                );
                let talks = block.lines.iter().any(|line| line.starts_with("$ "));
                assert_eq!(talks, block.kind == "console", "{place}: a prompt belongs to a console");
            }
        }
    }

    #[test]
    fn there_are_pages_for_both_homes() {
        let homes: Vec<Home> = pages().unwrap().iter().map(|page| page.home().unwrap()).collect();
        assert!(homes.contains(&Home::Node) && homes.contains(&Home::Cluster), "{homes:?}");
    }
}
