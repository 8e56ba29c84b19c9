//! A table of nftables, read from what `nft -j list table` says. What kube-proxy does not write is an error, so that
//! nothing is overlooked.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::table::{Ranges, prefix};

/// One table of one family.
#[derive(Debug, Default)]
pub(super) struct Ruleset {
    pub(super) chains: BTreeMap<String, Vec<Rule>>,
    /// Base chains by hook, with their priorities, in the order in which they are passed.
    pub(super) hooks: BTreeMap<String, Vec<(i64, String)>>,
    pub(super) sets: BTreeMap<String, Set>,
    /// Verdict maps.
    pub(super) maps: BTreeMap<String, BTreeMap<Words, Verdict>>,
}

/// A key or an element: addresses, protocols and numbers, each as text.
pub(super) type Words = Vec<String>;
/// Statements, one after the other, until one ends it.
pub(super) type Rule = Vec<Statement>;

/// A named set.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub(super) elements: Vec<Words>,
    /// After how many seconds an element is forgotten.
    pub(super) timeout: Option<u64>,
}

/// What a rule says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Statement {
    /// Goes on only if this holds.
    If {
        left: Vec<Field>,
        is_not: bool,
        right: Operand,
    },
    /// Takes the verdict of a named map for these fields, if there is one.
    Look {
        fields: Vec<Field>,
        map: String,
    },
    /// Takes one of these verdicts, by chance.
    Choose(Vec<Verdict>),
    /// Changes bits of the mark.
    Mark {
        change: Change,
        bits: u64,
    },
    /// Puts the source into a named set, or renews it there.
    Remember(String),
    /// Changes the destination to one of these.
    Dnat(Vec<SocketAddr>),
    /// Changes the source to an address of the node.
    Masquerade,
    Then(Verdict),
}

/// What ends a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Goto(String),
    Jump(String),
    Drop,
    Reject,
}

/// How bits are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Or,
    Xor,
}

/// What is looked at in a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Source,
    Destination,
    Protocol,
    Port,
    /// `local` if an address of the node.
    SourceType,
    DestinationType,
    /// These bits of the mark.
    Mark(u64),
    /// Name of the link it came in by; empty for what the node sends itself.
    Interface,
    ConnectionState,
    ConnectionStatus,
}

/// What it is compared with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Operand {
    Word(String),
    Set(String),
    Ranges(Ranges),
}

impl Ruleset {
    /// Reads a listing.
    pub(super) fn read(listing: &Value) -> Result<Self> {
        let mut this = Self::default();
        for object in listing["nftables"].as_array().context("not a listing of nftables")? {
            this.add(object).with_context(|| format!("in {object}"))?;
        }
        this.hooks.values_mut().for_each(|chains| chains.sort());
        Ok(this)
    }

    fn add(&mut self, object: &Value) -> Result<()> {
        let (kind, body) = only(object)?;
        match kind {
            "metainfo" | "table" => Ok(()),
            "chain" => self.add_chain(body),
            "rule" => {
                let rule = each(&body["expr"])?.iter().map(statement).collect::<Result<_>>()?;
                self.chains.entry(text(&body["chain"])?).or_default().push(rule);
                Ok(())
            }
            "set" => {
                let elements =
                    body["elem"].as_array().into_iter().flatten().map(words).collect::<Result<_>>()?;
                let set = Set { elements, timeout: body["timeout"].as_u64() };
                self.sets.insert(text(&body["name"])?, set);
                Ok(())
            }
            "map" => {
                let pairs = body["elem"].as_array().into_iter().flatten().map(pair).collect::<Result<_>>()?;
                self.maps.insert(text(&body["name"])?, pairs);
                Ok(())
            }
            other => bail!("{other} is not expected"),
        }
    }

    fn add_chain(&mut self, body: &Value) -> Result<()> {
        let name = text(&body["name"])?;
        if let Some(hook) = body["hook"].as_str() {
            ensure!(body["policy"] == "accept", "a policy other than accept");
            let priority = body["prio"].as_i64().context("a hook without priority")?;
            self.hooks.entry(hook.to_owned()).or_default().push((priority, name.clone()));
        }
        self.chains.entry(name).or_default();
        Ok(())
    }
}

/// The name and the content of an object with one field.
fn only(value: &Value) -> Result<(&str, &Value)> {
    let fields = value.as_object().filter(|fields| fields.len() == 1);
    let first = fields.and_then(|fields| fields.iter().next());
    first.map(|(name, body)| (name.as_str(), body)).with_context(|| format!("{value} is not one thing"))
}

fn each(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("{value} is not a list"))
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).with_context(|| format!("{value} is not a text"))
}

fn statement(value: &Value) -> Result<Statement> {
    let (name, body) = only(value)?;
    Ok(match name {
        "match" => condition(body)?,
        "vmap" => lookup(body)?,
        "mangle" => mark(body)?,
        "set" => Statement::Remember(name_of(&body["set"])?),
        "dnat" => Statement::Dnat(targets(body)?),
        "masquerade" => Statement::Masquerade,
        "goto" | "jump" | "drop" | "reject" => Statement::Then(verdict(value)?),
        other => bail!("the statement {other} is not known"),
    })
}

fn verdict(value: &Value) -> Result<Verdict> {
    let (name, body) = only(value)?;
    Ok(match name {
        "goto" => Verdict::Goto(text(&body["target"])?),
        "jump" => Verdict::Jump(text(&body["target"])?),
        "drop" => Verdict::Drop,
        "reject" => Verdict::Reject,
        other => bail!("the verdict {other} is not known"),
    })
}

fn condition(body: &Value) -> Result<Statement> {
    let is_not = match body["op"].as_str() {
        Some("==" | "in") => false,
        Some("!=") => true,
        Some(_) | None => bail!("the operator {} is not known", body["op"]),
    };
    Ok(Statement::If { left: fields(&body["left"])?, is_not, right: operand(&body["right"])? })
}

fn fields(value: &Value) -> Result<Vec<Field>> {
    match value.get("concat") {
        Some(parts) => each(parts)?.iter().map(field).collect(),
        None => Ok(vec![field(value)?]),
    }
}

fn field(value: &Value) -> Result<Field> {
    let (name, body) = only(value)?;
    let detail = |key: &str| body[key].as_str().unwrap_or_default();
    Ok(match (name, detail("field"), detail("key")) {
        ("payload", "saddr", _) => Field::Source,
        ("payload", "daddr", _) => Field::Destination,
        ("payload", "dport", _) => Field::Port,
        ("meta", _, "l4proto") => Field::Protocol,
        ("meta", _, "iifname") => Field::Interface,
        ("ct", _, "state") => Field::ConnectionState,
        ("ct", _, "status") => Field::ConnectionStatus,
        ("&", ..) if is_mark(&body[0]) => Field::Mark(body[1].as_u64().context("a mask that is no number")?),
        ("fib", ..) if body["result"] == "type" && body["flags"] == serde_json::json!(["saddr"]) => {
            Field::SourceType
        }
        ("fib", ..) if body["result"] == "type" && body["flags"] == serde_json::json!(["daddr"]) => {
            Field::DestinationType
        }
        other => bail!("the field {other:?} is not known"),
    })
}

fn is_mark(value: &Value) -> bool {
    value["meta"]["key"] == "mark"
}

fn operand(value: &Value) -> Result<Operand> {
    if value.as_str().is_some_and(|text| text.starts_with('@')) {
        return Ok(Operand::Set(name_of(value)?));
    }
    match value.get("set") {
        Some(members) => {
            Ok(Operand::Ranges(Ranges::of(each(members)?.iter().map(range).collect::<Result<Vec<_>>>()?)))
        }
        None if value.is_object() => Ok(Operand::Ranges(Ranges::of([range(value)?]))),
        None => Ok(Operand::Word(word(value)?)),
    }
}

fn range(value: &Value) -> Result<(IpAddr, IpAddr)> {
    let ip = |value: &Value| -> Result<IpAddr> { Ok(text(value)?.parse()?) };
    if value.is_string() {
        return Ok((ip(value)?, ip(value)?));
    }
    let (name, body) = only(value)?;
    match name {
        "prefix" => prefix(
            ip(&body["addr"])?,
            u32::try_from(body["len"].as_u64().context("a prefix without length")?)?,
        ),
        "range" => Ok((ip(&body[0])?, ip(&body[1])?)),
        other => bail!("the range {other} is not known"),
    }
}

fn lookup(body: &Value) -> Result<Statement> {
    match body["data"].get("set") {
        Some(choices) if body["key"].get("numgen").is_some() => {
            let verdicts = each(choices)?.iter().map(|choice| verdict(&choice[1]));
            Ok(Statement::Choose(verdicts.collect::<Result<_>>()?))
        }
        Some(_) => bail!("a map without a name"),
        None => Ok(Statement::Look { fields: fields(&body["key"])?, map: name_of(&body["data"])? }),
    }
}

fn mark(body: &Value) -> Result<Statement> {
    ensure!(is_mark(&body["key"]), "something other than the mark is changed");
    let (operator, operands) = only(&body["value"])?;
    let change = match operator {
        "|" => Change::Or,
        "^" => Change::Xor,
        other => bail!("the change {other} is not known"),
    };
    ensure!(is_mark(&operands[0]), "the mark is not made from itself");
    Ok(Statement::Mark { change, bits: operands[1].as_u64().context("bits that are no number")? })
}

fn targets(body: &Value) -> Result<Vec<SocketAddr>> {
    let Some(map) = body["addr"].get("map") else {
        return Ok(vec![target(&body["addr"], &body["port"])?]);
    };
    ensure!(map["key"].get("numgen").is_some(), "a target that is not chosen by chance");
    let choices = each(&map["data"]["set"])?;
    ensure!(map["key"]["numgen"]["mod"] == choices.len(), "some numbers lead nowhere");
    choices.iter().map(|choice| target(&choice[1]["concat"][0], &choice[1]["concat"][1])).collect()
}

fn target(ip: &Value, port: &Value) -> Result<SocketAddr> {
    let port = port.as_u64().context("a target without port")?;
    Ok(SocketAddr::new(text(ip)?.parse()?, u16::try_from(port)?))
}

/// The key and the verdict of an element of a map; a comment stands around the key.
fn pair(value: &Value) -> Result<(Words, Verdict)> {
    let key = value[0].get("elem").map_or(&value[0], |elem| &elem["val"]);
    Ok((words(key)?, verdict(&value[1])?))
}

fn words(value: &Value) -> Result<Words> {
    let value = value.get("elem").map_or(value, |elem| &elem["val"]);
    match value.get("concat") {
        Some(parts) => each(parts)?.iter().map(word).collect(),
        None => Ok(vec![word(value)?]),
    }
}

fn word(value: &Value) -> Result<String> {
    match (value.as_str(), value.as_u64()) {
        (Some(text), _) => Ok(text.parse::<IpAddr>().map_or_else(|_| text.to_owned(), |ip| ip.to_string())),
        (None, Some(number)) => Ok(number.to_string()),
        (None, None) => bail!("{value} is neither a text nor a number"),
    }
}

/// The name of a set or a map, without the sign that says so.
fn name_of(value: &Value) -> Result<String> {
    let text = text(value)?;
    text.strip_prefix('@').map(str::to_owned).with_context(|| format!("{text} is no name of a set"))
}
