//! `docs/configuration.md` names every flag of every verb.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};

use super::command;

const BEGIN: &str = "<!-- verbs: a test writes this table with UPDATE=1 -->\n";
const END: &str = "<!-- end of verbs -->\n";

fn page() -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = fs::read_to_string(&path).unwrap();
    (path, text)
}

/// What a person can write, but for what every verb has.
fn named(verb: &Command) -> Vec<&Arg> {
    let is_common = |argument: &Arg| ["help", "version"].contains(&argument.get_id().as_str());
    verb.get_arguments().filter(|argument| !is_common(argument)).collect()
}

fn row(verb: &str, argument: &Arg) -> String {
    let name = match (argument.get_long(), argument.get_short()) {
        (Some(long), Some(short)) => format!("`-{short}`, `--{long}`"),
        (Some(long), None) => format!("`--{long}`"),
        (None, _) => format!("`{}`", argument.get_id().as_str().to_uppercase()),
    };
    let variable = argument.get_env().map(|name| format!("`{}`", name.to_string_lossy())).unwrap_or_default();
    let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let choice = argument.get_possible_values();
    let words: Vec<&str> = choice.iter().map(clap::builder::PossibleValue::get_name).collect();
    let words = if words.is_empty() { String::new() } else { format!(": {}", words.join(", ")) };
    format!("| `{verb}` | {name} | {variable} | {} |\n", (help + &words).replace('|', "\\|"))
}

fn written() -> String {
    let mut text = "| verb | flag | environment | what it is |\n|---|---|---|---|\n".to_owned();
    let command = command();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "run") {
        named(verb).into_iter().for_each(|argument| text += &row(verb.get_name(), argument));
    }
    text
}

#[test]
fn the_table_of_the_verbs_has_every_flag() {
    let (path, text) = page();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{}{END}{after}", written())).unwrap();
    } else {
        assert_eq!(table, written(), "write it anew with UPDATE=1");
    }
}

/// Of the daemon's own flags a person writes the rows; kube-proxy's have a table that a test writes.
#[test]
fn every_flag_of_run_is_named() {
    let (_, text) = page();
    let command = command();
    let run = command.find_subcommand("run").unwrap();
    for flag in named(run).into_iter().filter_map(Arg::get_long) {
        let stands = |end: char| text.contains(&format!("`--{flag}{end}"));
        assert!(stands('`') || stands(' '), "docs/configuration.md does not name --{flag}");
    }
}
