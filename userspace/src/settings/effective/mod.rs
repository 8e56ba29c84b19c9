//! The effective configuration: everything that was given, settled, validated and typed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::file::{Decoded, decode};
use super::listen::Listen;
use super::merge::{Fields, Flags, Origin, settle};
use super::notes;
use super::validate::{complaint, validate};
use super::value::Value;
use crate::desired::settings::Settings;

/// All that the configuration is made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// kube-proxy's flags that were given.
    pub flags: &'a Flags,
    /// The file named by `--config`.
    pub file: Option<&'a File>,
    /// Variables that are set, of those in `merge::VARIABLES`.
    pub environment: &'a BTreeMap<&'a str, String>,
    /// The host's own name.
    pub host_name: &'a str,
}

/// A configuration file as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it held.
    pub bytes: Vec<u8>,
}

/// The effective configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Effective {
    /// The Node's name.
    pub node: String,
    /// What changes Services.
    pub settings: Settings,
    /// Bit of the packet mark that asks nftables for masquerading.
    pub masquerade_bit: u32,
    /// The kubeconfig; without it and `master`, the pod's service account.
    pub kubeconfig: Option<PathBuf>,
    /// The API server's address, before that of the kubeconfig.
    pub master: Option<String>,
    /// How to log.
    pub log_format: LogFormat,
    /// How much to log.
    pub detail: Detail,
    /// For /proc/self/oom_score_adj.
    pub oom_score_adj: i32,
    /// Where the daemon answers probes, and by what it is judged.
    pub listen: Listen,
    /// The file it came from, to be watched.
    pub file: Option<File>,
    /// All fields, with the origin of each value.
    pub fields: Fields,
    /// What is probably a mistake.
    pub warnings: Vec<String>,
    /// What has no meaning here, and what happens instead.
    pub notes: Vec<String>,
}

impl Effective {
    /// Whether nobody set a field.
    pub fn is_default(&self, path: &str) -> bool {
        self.fields.entries.get(path).is_none_or(|entry| entry.origin == Origin::Default)
    }
}

/// How to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What an operator needs.
    Operator,
    /// What a developer needs.
    Debug,
    /// Everything.
    Trace,
}

/// Makes the effective configuration, or says everything that is wrong with it.
pub fn resolve(input: Input<'_>) -> Result<Effective, Vec<String>> {
    let Input { flags, file, environment, host_name } = input;
    let name = file.map(|file| file.path.display().to_string()).unwrap_or_default();
    let decoded = file.map(|file| decode(&name, &file.bytes)).transpose()?;
    let (fields, replaced) = settle(flags, decoded.as_ref(), environment);
    let checked = validate(&fields, &name);
    let named = node(&fields, &name, host_name);
    match (checked, named) {
        (Ok(settings), Ok(node)) => Ok(assemble(input, fields, decoded, &replaced, settings, node)),
        (Err(wrong), Ok(_)) => Err(wrong),
        (Ok(_), Err(wrong)) => Err(vec![wrong]),
        (Err(mut wrong), Err(more)) => {
            wrong.push(more);
            Err(wrong)
        }
    }
}

/// The Node's name, as kube-proxy makes it.
fn node(fields: &Fields, file: &str, host_name: &str) -> Result<String, String> {
    let given = fields.text("hostnameOverride");
    let name = if given.is_empty() { host_name } else { given }.trim().to_lowercase();
    match (name.is_empty(), given.is_empty()) {
        (false, _) => Ok(name),
        (true, true) => Err("the host has no name; give the Node's with --node-name".to_owned()),
        (true, false) => Err(complaint(
            fields,
            file,
            "hostnameOverride",
            &format!(": Invalid value: {given:?}: must not be blank"),
        )),
    }
}

fn assemble(
    input: Input<'_>,
    fields: Fields,
    decoded: Option<Decoded>,
    replaced: &[String],
    settings: Settings,
    node: String,
) -> Effective {
    let Input { flags, file, environment: _, host_name: _ } = input;
    let told = if file.is_some() { Flags::new() } else { flags.clone() };
    let notes = notes::notes(&fields, &told, &settings);
    let mut warnings = decoded.map(|decoded| decoded.warnings).unwrap_or_default();
    if !replaced.is_empty() {
        warnings.push(format!("{}: replaced by the file of --config", replaced.join(", ")));
    }
    warnings.extend(notes::warnings(&fields, &settings));
    Effective {
        node,
        settings,
        masquerade_bit: fields.number(fields.mode.masquerade_bit()).unsigned_abs(),
        kubeconfig: filled(fields.text("clientConnection.kubeconfig")).map(PathBuf::from),
        master: flag(flags, "master"),
        log_format: if fields.text("logging.format") == "json" { LogFormat::Json } else { LogFormat::Text },
        detail: detail(fields.number("logging.verbosity")),
        oom_score_adj: fields.number("oomScoreAdj"),
        file: file.cloned(),
        listen: Listen::of(&fields),
        fields,
        warnings,
        notes,
    }
}

fn filled(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn flag(flags: &Flags, name: &str) -> Option<String> {
    if let Some(Value::Text(text)) = flags.get(name) { filled(text) } else { None }
}

/// kube-proxy's scale: 2 is what is usual in production, 4 is for looking for mistakes.
fn detail(verbosity: i32) -> Detail {
    match verbosity {
        ..4 => Detail::Operator,
        4..6 => Detail::Debug,
        6.. => Detail::Trace,
    }
}

#[cfg(test)]
mod tests;
