//! The value of a field: what kinds there are, and how they are read from flags and written.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use serde_json::json;

use super::duration::Duration;
use super::number;
use crate::model::address;

/// What a field can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number of 32 bits.
    Int,
    /// A number.
    Float,
    /// Any text.
    Text,
    /// A length of time.
    Duration,
    /// A length of time, or a whole number of nanoseconds.
    Nanos,
    /// A list of texts.
    List,
    /// Feature gates and whether they are on.
    Gates,
    /// Verbosity for single source files.
    Modules,
    /// An address.
    Ip,
    /// An address with or without a port.
    IpPort,
    /// A quantity in the manner of the API, such as `64Ki`.
    Quantity,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// true or false.
    Bool(bool),
    /// A whole number.
    Int(i32),
    /// A finite number.
    Float(f32),
    /// Any text.
    Text(String),
    /// A length of time.
    Duration(Duration),
    /// A list of texts.
    List(Vec<String>),
    /// Feature gates and whether they are on.
    Gates(BTreeMap<String, bool>),
    /// Patterns of source files and their verbosity.
    Modules(Vec<(String, i32)>),
}

impl Kind {
    /// How the help calls the value of a flag.
    pub fn placeholder(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Int => "INT",
            Self::Float => "NUMBER",
            Self::Text => "TEXT",
            Self::Duration | Self::Nanos => "DURATION",
            Self::List => "LIST",
            Self::Gates => "GATE=BOOL,..",
            Self::Modules => "PATTERN=N,..",
            Self::Ip => "IP",
            Self::IpPort => "IP:PORT",
            Self::Quantity => "QUANTITY",
        }
    }

    /// Reads the value of a flag.
    pub fn parse(self, text: &str) -> Result<Value, String> {
        match self {
            Self::Bool => bool(text).map(Value::Bool).ok_or_else(|| "must be true or false".to_owned()),
            Self::Int => number::whole(text).map(Value::Int).ok_or_else(|| NO_INT.to_owned()),
            Self::Float => float(text).ok_or_else(|| "must be a number".to_owned()),
            Self::Text => Ok(Value::Text(text.to_owned())),
            Self::Duration | Self::Nanos => {
                Duration::parse(text).map(Value::Duration).ok_or_else(|| NO_DURATION.to_owned())
            }
            Self::List => Ok(Value::List(pieces(text).map(str::to_owned).collect())),
            Self::Gates => pieces(text).map(gate).collect::<Result<_, _>>().map(Value::Gates),
            Self::Modules => pieces(text).map(module).collect::<Result<_, _>>().map(Value::Modules),
            Self::Ip => ip(text),
            Self::IpPort => ip_port(text),
            Self::Quantity => quantity(text),
        }
    }
}

/// Said of what is no whole number.
pub(super) const NO_INT: &str = "must be a whole number of 32 bits";
/// Said of what is no length of time.
pub(super) const NO_DURATION: &str = "must be a duration such as 5s, 100ms or 1h30m";

fn bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn float(text: &str) -> Option<Value> {
    text.parse().ok().filter(|number: &f32| number.is_finite()).map(Value::Float)
}

fn pieces(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').filter(move |_| !text.is_empty())
}

fn gate(text: &str) -> Result<(String, bool), String> {
    let Some((name, on)) = text.split_once('=') else {
        return Err(format!("{text:?} has no value: write {}=true or {0}=false", text.trim()));
    };
    let on = bool(on.trim()).ok_or_else(|| format!("{text:?}: must be true or false"))?;
    Ok((name.trim().to_owned(), on))
}

fn module(text: &str) -> Result<(String, i32), String> {
    let read = text.split_once('=').and_then(|(pattern, level)| {
        let level = level.parse().ok().filter(|level: &i32| *level >= 0)?;
        (!pattern.is_empty()).then(|| (pattern.to_owned(), level))
    });
    read.ok_or_else(|| format!("{text:?} is not of the form pattern=N"))
}

/// An empty text stands for the default, as in kube-proxy.
fn ip(text: &str) -> Result<Value, String> {
    match text.is_empty() || address::parse(text).is_some() {
        true => Ok(Value::Text(text.to_owned())),
        false => Err("must be an IP address".to_owned()),
    }
}

fn ip_port(text: &str) -> Result<Value, String> {
    let good = text.is_empty() || address::parse(text).is_some() || socket(text).is_ok();
    if good { Ok(Value::Text(text.to_owned())) } else { Err("must be IP or IP:port".to_owned()) }
}

/// Reads a quantity: a decimal number and a suffix.
pub(super) fn quantity(text: &str) -> Result<Value, String> {
    const SUFFIXES: [&str; 16] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let good = number.parse::<f64>().is_ok() && SUFFIXES.contains(&suffix);
    if good { Ok(Value::Text(text.to_owned())) } else { Err("must be a quantity such as 64Ki".to_owned()) }
}

/// Takes `IP:port` apart; an error tells what is wrong with which part.
pub(super) fn socket(text: &str) -> Result<(IpAddr, u16), (String, &'static str)> {
    let whole = || (text.to_owned(), "must be IP:port");
    let (host, port) = text.rsplit_once(':').ok_or_else(whole)?;
    let bare = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(bare) => bare,
        None if host.contains([':', '[', ']']) => return Err(whole()),
        None => host,
    };
    let address = address::parse(bare).ok_or_else(|| (bare.to_owned(), "must be a valid IP"))?;
    let number = port.parse().ok().filter(|port| *port > 0);
    Ok((address, number.ok_or_else(|| (port.to_owned(), "must be a valid port"))?))
}

impl Value {
    /// The value for programs.
    pub fn json(&self) -> serde_json::Value {
        match self {
            Self::Bool(on) => json!(on),
            Self::Int(number) => json!(number),
            Self::Float(number) if number.fract() == 0.0 && number.abs() < 1e9 => json!(*number as i64),
            // By way of its shortest text, so that 0.1 stays 0.1.
            Self::Float(number) => json!(number.to_string().parse::<f64>().unwrap_or_default()),
            Self::Text(text) => json!(text),
            Self::Duration(length) => json!(length.to_string()),
            Self::List(list) => json!(list),
            Self::Gates(gates) => json!(gates),
            Self::Modules(modules) => modules
                .iter()
                .map(|(pattern, level)| json!({ "filePattern": pattern, "verbosity": level }))
                .collect(),
        }
    }

    /// Whether it is what Go takes for "not given".
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Bool(on) => !on,
            Self::Int(number) => *number == 0,
            Self::Float(number) => *number == 0.0,
            Self::Text(text) => text.is_empty(),
            Self::Duration(length) => length.0 == 0,
            Self::List(list) => list.is_empty(),
            Self::Gates(gates) => gates.is_empty(),
            Self::Modules(modules) => modules.is_empty(),
        }
    }

    /// Joins a flag that was given again: lists grow, everything else is replaced.
    #[must_use]
    pub fn and_then(self, later: Self) -> Self {
        match (self, later) {
            (Self::List(mut all), Self::List(more)) => {
                all.extend(more);
                Self::List(all)
            }
            (Self::Gates(mut all), Self::Gates(more)) => {
                all.extend(more);
                Self::Gates(all)
            }
            (Self::Modules(mut all), Self::Modules(more)) => {
                all.extend(more);
                Self::Modules(all)
            }
            (_, later) => later,
        }
    }
}

/// As complaints show it: texts in quotes, everything else plain.
impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(out, "{text:?}"),
            Self::Duration(length) => write!(out, "{length}"),
            Self::Bool(_) | Self::Int(_) | Self::Float(_) | Self::List(_) => write!(out, "{}", self.json()),
            Self::Gates(_) | Self::Modules(_) => write!(out, "{}", self.json()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Kind;

    const ALL: [Kind; 12] = [
        Kind::Bool,
        Kind::Int,
        Kind::Float,
        Kind::Text,
        Kind::Duration,
        Kind::Nanos,
        Kind::List,
        Kind::Gates,
        Kind::Modules,
        Kind::Ip,
        Kind::IpPort,
        Kind::Quantity,
    ];

    #[test]
    fn values_of_flags_are_read_by_kind() {
        check(Kind::Bool, "T", "true");
        check(Kind::Bool, "0", "false");
        check(Kind::Int, "-999", "-999");
        check(Kind::Int, "0x1_0", "16");
        check(Kind::Float, "5.5", "5.5");
        check(Kind::Float, "5", "5");
        check(Kind::Duration, "90s", "1m30s");
        check(Kind::List, "10.0.0.0/8,primary", r#"["10.0.0.0/8","primary"]"#);
        check(Kind::List, "", "[]");
        check(Kind::Gates, "B=false,A=true", r#"{"A":true,"B":false}"#);
        check(Kind::Modules, "proxy*=4", r#"[{"filePattern":"proxy*","verbosity":4}]"#);
        check(Kind::Ip, "010.0.0.1", r#""010.0.0.1""#);
        check(Kind::IpPort, "[::]:10256", r#""[::]:10256""#);
        check(Kind::IpPort, "::", r#""::""#);
        check(Kind::Quantity, "64Ki", r#""64Ki""#);
    }

    #[test]
    fn what_does_not_fit_the_kind_is_refused_with_its_reason() {
        wrong(Kind::Bool, "yes", "true or false");
        wrong(Kind::Int, "1.5", "whole number");
        wrong(Kind::Int, "4294967296", "whole number");
        wrong(Kind::Float, "inf", "number");
        wrong(Kind::Duration, "15", "duration");
        wrong(Kind::Gates, "A", "A=true");
        wrong(Kind::Gates, "A=maybe", "true or false");
        wrong(Kind::Modules, "a", "pattern=N");
        wrong(Kind::Ip, "node1", "IP address");
        wrong(Kind::IpPort, "0.0.0.0:0", "IP:port");
        wrong(Kind::Quantity, "much", "quantity");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "[0-9a-zA-Z.:=,/+-]{0,20}|.*") {
            for kind in ALL {
                let _ = kind.parse(&text);
            }
        }
    }

    #[track_caller]
    fn check(kind: Kind, text: &str, shown: &str) {
        assert_eq!(kind.parse(text).map(|value| value.to_string()), Ok(shown.to_owned()), "{text:?}");
    }

    #[track_caller]
    fn wrong(kind: Kind, text: &str, part: &str) {
        let why = kind.parse(text).expect_err(text);
        assert!(why.contains(part), "{text:?}: {why}");
    }
}
