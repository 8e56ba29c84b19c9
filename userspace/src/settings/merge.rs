//! Which value of a field counts: that of the file, of a flag, of the environment, or the default.

use std::collections::BTreeMap;
use std::fmt;

use super::fields::{FIELDS, Field};
use super::file::Decoded;
use super::value::{self, Kind, Value};
use crate::model::address;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// Nobody set it, and the default depends on the mode.
    Mode(&'static str),
    /// The configuration file.
    File,
    /// This flag.
    Flag(&'static str),
    /// This variable.
    Environment(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => out.write_str("default"),
            Self::Mode(mode) => write!(out, "default of mode {mode}"),
            Self::File => out.write_str("file"),
            Self::Flag(name) if name.len() == 1 => write!(out, "flag -{name}"),
            Self::Flag(name) => write!(out, "flag --{name}"),
            Self::Environment(name) => write!(out, "environment {name}"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The value.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
}

/// The flags that were given, by name.
pub type Flags = BTreeMap<&'static str, Value>;

/// The name of this node, where neither flag nor file has it.
pub const NODE_NAME: &str = "NODE_NAME";
/// The kubeconfig, where neither flag nor file has it.
pub const KUBECONFIG: &str = "SLUICE_KUBECONFIG";

/// Variables of the environment, and the field each fills when nothing else does.
pub const VARIABLES: [(&str, &str); 2] =
    [(NODE_NAME, "hostnameOverride"), (KUBECONFIG, "clientConnection.kubeconfig")];

const HEALTHZ_PORT: i32 = 10_256;
const METRICS_PORT: i32 = 10_249;

/// Sections that share masqueradeAll and periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// iptables, and everything that is not known.
    IpTables,
    /// ipvs.
    Ipvs,
    /// nftables.
    NfTables,
}

impl Mode {
    fn named(name: &str) -> Self {
        match name {
            "ipvs" => Self::Ipvs,
            "nftables" => Self::NfTables,
            _ => Self::IpTables,
        }
    }

    /// Its section in the file.
    pub fn section(self) -> &'static str {
        match self {
            Self::IpTables => "iptables",
            Self::Ipvs => "ipvs",
            Self::NfTables => "nftables",
        }
    }

    /// The field that says which bit of the mark asks for masquerading.
    pub fn masquerade_bit(self) -> &'static str {
        match self {
            Self::IpTables | Self::Ipvs => "iptables.masqueradeBit",
            Self::NfTables => "nftables.masqueradeBit",
        }
    }

    /// The section that holds masqueradeAll.
    pub fn masquerade_all(self) -> &'static str {
        match self {
            Self::IpTables | Self::Ipvs => "iptables.masqueradeAll",
            Self::NfTables => "nftables.masqueradeAll",
        }
    }
}

/// All fields with the values that count.
#[derive(Clone, Debug, PartialEq)]
pub struct Fields {
    /// By path.
    pub entries: BTreeMap<&'static str, Entry>,
    /// The mode that decides.
    pub mode: Mode,
}

/// Settles all fields. The second value names the flags that were given in vain, because there is a file.
pub fn settle(
    flags: &Flags,
    file: Option<&Decoded>,
    environment: &BTreeMap<&str, String>,
) -> (Fields, Vec<String>) {
    let chosen = match file {
        Some(file) => file.values.get("mode"),
        None => flags.get("proxy-mode"),
    };
    let mode = if let Some(Value::Text(name)) = chosen { Mode::named(name) } else { Mode::IpTables };
    let settle = |field: &Field| settled(field, flag_of(field, mode, flags), file, environment);
    let mut fields =
        Fields { entries: FIELDS.iter().map(|field| (field.path, settle(field))).collect(), mode };
    fields.fill_modes();
    fields.fill_addresses(if file.is_none() { flags.clone() } else { Flags::new() });
    (fields, if file.is_some() { replaced(flags) } else { Vec::new() })
}

/// The flag that fills a field. kube-proxy's flags for iptables fill the section of nftables in that mode.
fn flag_of(field: &Field, mode: Mode, flags: &Flags) -> Option<(&'static str, Value)> {
    let name = match (mode, field.path) {
        (Mode::NfTables, "nftables.masqueradeAll") => "masquerade-all",
        (Mode::NfTables, "nftables.syncPeriod") => "iptables-sync-period",
        (Mode::NfTables, "nftables.minSyncPeriod") => "iptables-min-sync-period",
        (Mode::NfTables, "iptables.masqueradeAll" | "iptables.syncPeriod" | "iptables.minSyncPeriod") => {
            return None;
        }
        _ => field.flag?,
    };
    let value = flags.get(name)?;
    // kube-proxy takes an empty address for none.
    let empty = matches!(field.kind, Kind::Ip | Kind::IpPort) && value.is_zero();
    (!empty).then(|| (name, value.clone()))
}

/// Whether a flag counts although there is a file.
fn survives(flag: &str) -> bool {
    let field = FIELDS.iter().find(|field| field.flag == Some(flag));
    flag == "master" || field.is_some_and(wins)
}

fn wins(field: &Field) -> bool {
    field.path == "hostnameOverride" || field.path.starts_with("logging.")
}

fn replaced(flags: &Flags) -> Vec<String> {
    flags.keys().filter(|name| !survives(name)).map(|name| format!("--{name}")).collect()
}

fn settled(
    field: &Field,
    flag: Option<(&'static str, Value)>,
    file: Option<&Decoded>,
    environment: &BTreeMap<&str, String>,
) -> Entry {
    let written = file.and_then(|file| file.values.get(field.path)).cloned();
    let flag = flag.filter(|_| file.is_none() || wins(field)).filter(|(_, value)| {
        // An empty name is no name.
        field.path != "hostnameOverride" || !value.is_zero()
    });
    match (flag, written) {
        // Patterns of the flag stand before those of the file.
        (Some((name, value)), Some(written)) if field.kind == Kind::Modules => {
            Entry { value: value.and_then(written), origin: Origin::Flag(name) }
        }
        (Some((name, value)), _) => Entry { value, origin: Origin::Flag(name) },
        (None, Some(value)) => Entry { value, origin: Origin::File },
        (None, None) => fallback(field, environment),
    }
}

fn fallback(field: &Field, environment: &BTreeMap<&str, String>) -> Entry {
    let variable = VARIABLES.iter().find(|(_, path)| *path == field.path);
    let found = variable.and_then(|(name, _)| Some((*name, environment.get(name)?.clone())));
    match found.filter(|(_, text)| !text.is_empty()) {
        Some((name, text)) => Entry { value: Value::Text(text), origin: Origin::Environment(name) },
        None => default(field),
    }
}

/// The default of a field, before modes and addresses are known.
pub(super) fn default(field: &Field) -> Entry {
    // A test reads every default; a text is never refused.
    let value = field.kind.parse(field.default).unwrap_or_else(Value::Text);
    Entry { value, origin: Origin::Default }
}

impl Fields {
    /// Defaults that depend on other fields.
    fn fill_modes(&mut self) {
        self.fill("mode", Origin::Default, Value::Text("iptables".to_owned()));
        self.fill("detectLocalMode", Origin::Default, Value::Text("ClusterCIDR".to_owned()));
        if self.mode == Mode::NfTables {
            self.fill("nodePortAddresses", Origin::Mode("nftables"), Value::List(vec!["primary".to_owned()]));
        }
    }

    fn fill(&mut self, path: &'static str, origin: Origin, value: Value) {
        if self.entries.get(path).is_none_or(|entry| entry.value.is_zero()) {
            self.entries.insert(path, Entry { value, origin });
        }
    }

    /// Servers listen on all addresses of the node's family, and get a port if they have none.
    fn fill_addresses(&mut self, flags: Flags) {
        let six = address::parse(self.text("bindAddress")).is_some_and(|address| address.is_ipv6());
        let servers = [
            ("healthzBindAddress", "healthz-port", HEALTHZ_PORT, "[::]:10256"),
            ("metricsBindAddress", "metrics-port", METRICS_PORT, "[::1]:10249"),
        ];
        for (path, flag, port, default) in servers {
            let port = if let Some(Value::Int(given)) = flags.get(flag) { *given } else { port };
            let Some(entry) = self.entries.get_mut(path) else { continue };
            let Value::Text(text) = &mut entry.value else { continue };
            match (port, entry.origin) {
                (0, _) => (text.clear(), entry.origin = Origin::Flag(flag)).1,
                (_, Origin::Default) if six => default.clone_into(text),
                (_, _) => *text = with_port(text, port),
            }
        }
    }

    /// A field that is a text.
    pub fn text(&self, path: &str) -> &str {
        if let Some(Value::Text(text)) = self.value(path) { text } else { "" }
    }

    /// A field that is true or false.
    pub fn is_on(&self, path: &str) -> bool {
        if let Some(Value::Bool(on)) = self.value(path) { *on } else { false }
    }

    /// A field that is a whole number.
    pub fn number(&self, path: &str) -> i32 {
        if let Some(Value::Int(number)) = self.value(path) { *number } else { 0 }
    }

    /// A field that is a length of time, in nanoseconds.
    pub fn nanos(&self, path: &str) -> i64 {
        if let Some(Value::Duration(length)) = self.value(path) { length.0 } else { 0 }
    }

    /// A field that is a list.
    pub fn list(&self, path: &str) -> &[String] {
        if let Some(Value::List(list)) = self.value(path) { list } else { &[] }
    }

    /// The feature gates that are set.
    pub fn gates(&self) -> BTreeMap<String, bool> {
        if let Some(Value::Gates(gates)) = self.value("featureGates") {
            gates.clone()
        } else {
            BTreeMap::new()
        }
    }

    fn value(&self, path: &str) -> Option<&Value> {
        self.entries.get(path).map(|entry| &entry.value)
    }
}

fn with_port(text: &str, port: i32) -> String {
    match (value::socket(text), address::parse(text)) {
        (Err(_), Some(_)) if text.contains(':') => format!("[{text}]:{port}"),
        (Err(_), Some(_)) => format!("{text}:{port}"),
        (Ok(_), _) | (Err(_), None) => text.to_owned(),
    }
}
