//! `sluice completions` and `sluice man`: what the command line knows of itself.

use std::path::Path;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use super::print;

/// Prints the words that a shell completes.
pub fn completions(mut command: Command, shell: Shell) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "sluice", &mut script);
    print(&String::from_utf8(script)?)
}

/// Prints the page of the program, or writes one for it and one for each verb into a directory.
pub fn man(command: Command, directory: Option<&Path>) -> anyhow::Result<()> {
    let mut pages = pages(command)?;
    let Some(directory) = directory else {
        return print(&String::from_utf8(pages.swap_remove(0).1)?);
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("could not make the directory {}", directory.display()))?;
    for (name, page) in &pages {
        let path = directory.join(name);
        std::fs::write(&path, page).with_context(|| format!("could not write {}", path.display()))?;
    }
    print(&format!("wrote {} pages to {}", pages.len(), directory.display()))
}

/// Names of files, and what is in them; the program's comes first.
fn pages(command: Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    // `help` explains itself.
    let command = command.disable_help_subcommand(true);
    let verbs: Vec<Command> = command.get_subcommands().cloned().collect();
    let page = |name: String, command: Command| {
        let mut page = Vec::new();
        let command = command.display_name(name.clone()).bin_name(name.replacen('-', " ", 1));
        clap_mangen::Man::new(command).title(name.to_uppercase()).render(&mut page)?;
        Ok((format!("{name}.1"), page))
    };
    let verbs = verbs.into_iter().map(|verb| page(format!("sluice-{}", verb.get_name()), verb));
    std::iter::once(page("sluice".to_owned(), command.clone())).chain(verbs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn each_verb_has_a_page_with_its_flags() {
        let pages = pages(config::command()).unwrap();
        let of = |name: &str| {
            let page = pages.iter().find(|(file, _)| file == name);
            String::from_utf8(page.unwrap_or_else(|| panic!("{name} is missing")).1.clone()).unwrap()
        };
        assert_eq!(pages[0].0, "sluice.1");
        assert!(of("sluice.1").contains("EXIT STATUS") || of("sluice.1").contains("Exit codes"));
        assert!(of("sluice-run.1").contains("\\-\\-cluster\\-cidr"), "kube-proxy's flags are there");
        assert!(of("sluice-flows.1").contains("\\-\\-watch"));
        let verbs = config::command().get_subcommands().count();
        assert_eq!(pages.len(), verbs + 1);
    }

    #[test]
    fn every_shell_completes_every_verb() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish, Shell::Elvish, Shell::PowerShell] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut config::command(), "sluice", &mut script);
            let script = String::from_utf8(script).unwrap();
            for verb in config::command().get_subcommands() {
                assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }
}
