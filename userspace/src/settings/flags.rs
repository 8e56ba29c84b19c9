//! kube-proxy's flags, made from the table of fields.

use clap::{Arg, ArgAction, ArgMatches};

use super::fields::{FIELDS, FLAGS, Stance};
use super::merge::Flags;
use super::value::{Kind, Value};

/// Other names of flags: Sluice's own, and the short one.
pub const ALIASES: [(&str, &str); 3] =
    [("hostname-override", "node-name"), ("logging-format", "log-format"), ("v", "verbosity")];

/// All flags, for the command line.
pub fn arguments() -> Vec<Arg> {
    all().map(|(name, kind, stance)| argument(name, kind, stance)).collect()
}

/// The flags that were given.
pub fn given(matches: &ArgMatches) -> Flags {
    let one = |(name, _, _): (&'static str, Kind, Stance)| {
        let values = matches.get_many::<Value>(name)?.cloned();
        Some((name, values.reduce(Value::and_then)?))
    };
    all().filter_map(one).collect()
}

fn all() -> impl Iterator<Item = (&'static str, Kind, Stance)> {
    let fields = FIELDS.iter().filter_map(|field| Some((field.flag?, field.kind, field.stance)));
    fields.chain(FLAGS.iter().map(|flag| (flag.name, flag.kind, flag.stance)))
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn argument(name: &'static str, kind: Kind, stance: Stance) -> Arg {
    let help = match stance {
        Stance::Honoured(what) => sentence(what),
        Stance::Instead(what) => format!("Accepted: {what}"),
    };
    let alias = ALIASES.iter().find(|(of, _)| *of == name).map(|(_, alias)| *alias);
    let argument = Arg::new(name)
        .long(name)
        .help(help)
        .help_heading("kube-proxy's flags")
        .hide_short_help(matches!(stance, Stance::Instead(_)))
        .visible_aliases(alias)
        .value_name(kind.placeholder())
        .value_parser(move |text: &str| kind.parse(text))
        .action(ArgAction::Append);
    let argument = if name == "v" { argument.short('v') } else { argument };
    match kind {
        Kind::Bool => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        // The next word is the value, whatever it looks like: `--oom-score-adj -999`.
        Kind::Int | Kind::Float | Kind::Duration | Kind::Nanos => argument.allow_negative_numbers(true),
        Kind::Text | Kind::List | Kind::Gates | Kind::Modules | Kind::Ip | Kind::IpPort | Kind::Quantity => {
            argument
        }
    }
}
