//! A table as nft reads and prints it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;

use super::chains::{COUNTERS, Chain, base, fixed as fixed_chains};
use super::image::{Image, Slot, Value};
use super::layout::Layout;
use super::rule::{Rule, text, typeof_text, word};
use super::sets::{Field, Says, Set, read_address};
use super::wire::Data;
use crate::model::Family;

/// nft takes no longer comments.
const COMMENT: usize = 127;

/// What is always in a table: what its comment is made from.
pub(super) fn fixed(layout: &Layout) -> String {
    let mut out = String::new();
    for set in Set::ALL {
        out += &declaration(set, layout, &[]);
    }
    for (name, rules) in fixed_chains(&layout.context, layout.bit) {
        out += &chain(name, "", &rules, layout.family);
    }
    for (name, hook, rules) in base(layout.bit, layout.ports) {
        let line = hook_line(hook.number, hook.priority);
        out += &chain(name, &line, &rules, layout.family);
    }
    out
}

/// A whole table.
pub(super) fn table(layout: &Layout, name: &str, image: &Image, cluster_ranges: &[IpNet]) -> String {
    let family = layout.family;
    let mut out = format!("table {} {name} {{\n\tcomment \"{}\"\n", word(family), layout.about());
    for (counter, about) in COUNTERS {
        let _ = writeln!(out, "\n\tcounter {counter} {{\n\t\t# {about}\n\t}}");
    }
    let elements = elements(image, family);
    for set in Set::ALL {
        let own = if set == Set::ClusterRanges {
            ranges(cluster_ranges, family)
        } else if set == Set::NodePortAddresses {
            ranges(&layout.node_port_ranges(), family)
        } else {
            elements.get(&set).cloned().unwrap_or_default()
        };
        out += &declaration(set, layout, &own);
    }
    for (name, rules) in fixed_chains(&layout.context, layout.bit) {
        out += &chain(name, "", &rules, family);
    }
    for chain_of in chains(image, family) {
        out += &chain(&chain_of.name(), "", &chain_of.rules(&layout.context, layout.bit), family);
    }
    for (name, hook, rules) in base(layout.bit, layout.ports) {
        out += &chain(name, &hook_line(hook.number, hook.priority), &rules, family);
    }
    out + "}\n"
}

/// The chains that are needed; each leads only to those before it.
fn chains(image: &Image, family: Family) -> Vec<&Chain> {
    let mut chains: Vec<&Chain> =
        image.chains.keys().filter(|(of, _)| *of == family).map(|(_, chain)| chain).collect();
    chains.sort_by_key(|chain| chain.depth());
    chains
}

fn hook_line(number: u32, priority: i32) -> String {
    let hook = match number {
        0 => "prerouting",
        3 => "output",
        _ => "postrouting",
    };
    format!("type nat hook {hook} priority {priority}; policy accept;")
}

fn chain(name: &str, hook: &str, rules: &[Rule], family: Family) -> String {
    let mut out = format!("\n\tchain {name} {{\n");
    if !hook.is_empty() {
        let _ = writeln!(out, "\t\t{hook}");
    }
    for rule in rules {
        let _ = writeln!(out, "\t\t{}", text(rule, family));
    }
    out + "\t}\n"
}

fn declaration(set: Set, layout: &Layout, elements: &[String]) -> String {
    let kind = if set.says() == Says::Nothing { "set" } else { "map" };
    let mut out = format!("\n\t{kind} {} {{\n\t\t{}\n", set.name(), types(set, layout.family));
    if set == Set::Affinity {
        let _ = writeln!(out, "\t\tsize {}\n\t\tflags dynamic,timeout", layout.clients);
    }
    if set.has_ranges() {
        out += "\t\tflags interval\n";
    }
    if !elements.is_empty() {
        let _ = writeln!(out, "\t\telements = {{ {} }}", elements.join(",\n\t\t\t     "));
    }
    out + "\t}\n"
}

fn types(set: Set, family: Family) -> String {
    let fields = set.fields();
    if !fields.contains(&Field::Number) {
        let names: Vec<&str> = fields.iter().map(|field| type_name(*field, family)).collect();
        let says = if set.says() == Says::Verdict { " : verdict" } else { "" };
        return format!("type {}{says}", names.join(" . "));
    }
    let says = match set.says() {
        Says::Endpoint => format!(" : {}", typeof_text(&[Field::To, Field::Port], family)),
        Says::Nothing | Says::Verdict => String::new(),
    };
    format!("typeof {}{says}", typeof_text(fields, family))
}

const fn type_name(field: Field, family: Family) -> &'static str {
    match field {
        Field::To | Field::From => match family {
            Family::V4 => "ipv4_addr",
            Family::V6 => "ipv6_addr",
        },
        Field::Protocol => "inet_proto",
        Field::Port => "inet_service",
        Field::Number => "integer",
    }
}

fn elements(image: &Image, family: Family) -> BTreeMap<Set, Vec<String>> {
    let nothing = Value::nothing();
    let shared = image.shared.keys().map(|slot| (slot, &nothing));
    let mut sets: BTreeMap<Set, Vec<String>> = BTreeMap::new();
    for (slot, value) in image.own.iter().chain(shared) {
        if slot.0 == family {
            sets.entry(slot.1).or_default().push(element(slot, value));
        }
    }
    sets
}

fn ranges(list: &[IpNet], family: Family) -> Vec<String> {
    let own = list.iter().filter(|range| Family::of(range.addr()) == family).copied().collect();
    IpNet::aggregate(&own).iter().map(ToString::to_string).collect()
}

fn element((family, set, key): &Slot, value: &Value) -> String {
    let mut out = key_text(set.fields(), key, value.end.as_deref(), *family);
    if let Some(comment) = &value.comment {
        let cut: String = comment.chars().take(COMMENT).collect();
        let _ = write!(out, " comment \"{cut}\"");
    }
    match &value.data {
        Data::None => out,
        Data::Drop => out + " : drop",
        Data::Goto(chain) => format!("{out} : goto {chain}"),
        Data::Bytes(bytes) => {
            let endpoint = key_text(&[Field::To, Field::Port], bytes, None, *family);
            format!("{out} : {endpoint}")
        }
    }
}

fn key_text(fields: &[Field], key: &[u8], end: Option<&[u8]>, family: Family) -> String {
    let mut place = 0;
    let mut words = Vec::new();
    for field in fields {
        let length = field.length(family) as usize;
        let of = |bytes: &[u8]| field_text(*field, bytes.get(place..).unwrap_or_default(), family);
        let (first, last) = (of(key), end.map(of));
        words.push(match last {
            Some(last) if last != first => format!("{first}-{last}"),
            Some(_) | None => first,
        });
        place += length.next_multiple_of(4);
    }
    words.join(" . ")
}

fn field_text(field: Field, bytes: &[u8], family: Family) -> String {
    match field {
        Field::To | Field::From => {
            read_address(bytes, family).map(|address| address.to_string()).unwrap_or_default()
        }
        Field::Protocol => match bytes.first() {
            Some(6) => "tcp".to_owned(),
            Some(17) => "udp".to_owned(),
            Some(132) => "sctp".to_owned(),
            other => other.map(ToString::to_string).unwrap_or_default(),
        },
        Field::Port => {
            bytes.first_chunk::<2>().map(|port| u16::from_be_bytes(*port).to_string()).unwrap_or_default()
        }
        Field::Number => {
            bytes.first_chunk::<4>().map(|number| u32::from_ne_bytes(*number).to_string()).unwrap_or_default()
        }
    }
}
