//! What an operator should know of a configuration that is valid: values without a meaning here, and values that
//! hardly can be meant.

use ipnet::IpNet;

use super::fields::{FIELDS, FLAGS, Field, Stance};
use super::gates;
use super::merge::{Fields, Flags, Mode, Origin, default};
use super::value::{self, Value};
use crate::desired::settings::{Detector, NodePortAddress, Settings};
use crate::model::Family;

/// What kube-proxy does whatever the configuration, and this version does not.
pub(super) const NOT_YET: [&str; 1] =
    ["conntrack limits and timeouts are not set by this version: the kernel's values stay"];

/// What this version does not do, and values that change nothing here, one line each, with what happens instead.
pub(super) fn notes(fields: &Fields, flags: &Flags, settings: &Settings) -> Vec<String> {
    let ignored = FIELDS.iter().filter_map(|field| ignored(field, fields));
    let mut lines: Vec<String> = NOT_YET
        .into_iter()
        .map(str::to_owned)
        .chain(ignored)
        .chain(FLAGS.iter().filter_map(|flag| {
            let Stance::Instead(instead) = flag.stance else { return None };
            flags.get(flag.name).map(|value| format!("--{}={}: {instead}", flag.name, plain(value)))
        }))
        .collect();
    lines.extend(gates_in_vain(fields));
    lines.extend(no_pods(settings));
    lines
}

/// What is probably a mistake.
pub(super) fn warnings(fields: &Fields, settings: &Settings) -> Vec<String> {
    let mut lines = Vec::new();
    for name in fields.gates().keys().filter(|name| !gates::is_known(name)) {
        lines.push(format!("featureGates.{name}: this gate is not known; it changes nothing"));
    }
    lines.extend(one_family_only(settings));
    lines.extend(other_family(settings));
    for path in ["healthzBindAddress", "metricsBindAddress"] {
        lines.extend(server_of_other_family(path, fields, settings));
    }
    lines
}

fn ignored(field: &Field, fields: &Fields) -> Option<String> {
    let instead = match field.stance {
        Stance::Honoured(_) => of_other_mode(field.path, fields.mode)?,
        Stance::Instead(instead) => instead,
    };
    let entry = fields.entries.get(field.path)?;
    // What a flag of its own did is told with that flag.
    let told = |name| FLAGS.iter().any(|flag| Origin::Flag(flag.name) == name);
    if usual(field, &entry.value) || entry.origin == Origin::Default || told(entry.origin) {
        return None;
    }
    let shown = plain(&entry.value);
    let shown = if shown.is_empty() { "\"\"" } else { &shown };
    Some(format!("{}: {shown} ({}): {instead}", field.path, entry.origin))
}

/// Of a field that has a twin in the section of another mode: why it changes nothing in this one.
fn of_other_mode(path: &str, mode: Mode) -> Option<&'static str> {
    match (mode, path) {
        (Mode::IpTables | Mode::Ipvs, "nftables.masqueradeAll" | "nftables.masqueradeBit") => {
            Some("it counts in mode nftables only")
        }
        (Mode::NfTables, "iptables.masqueradeAll" | "iptables.masqueradeBit") => {
            Some("it counts in modes iptables and ipvs only")
        }
        (Mode::IpTables | Mode::Ipvs | Mode::NfTables, _) => None,
    }
}

/// Whether it is what kube-proxy has by itself.
fn usual(field: &Field, value: &Value) -> bool {
    let filled = if field.path == "mode" { Mode::IpTables.section() } else { field.default };
    *value == Value::Text(filled.to_owned()) || default(field).value == *value
}

fn plain(value: &Value) -> String {
    if let Value::Text(text) = value { text.clone() } else { value.to_string() }
}

/// What follows where nothing says which traffic is from pods.
fn no_pods(settings: &Settings) -> Option<String> {
    let who = if settings.masquerade_all { "everybody" } else { "nobody" };
    (settings.detector == Detector::ClusterCidr { v4: None, v6: None }).then(|| {
        format!(
            "clusterCIDR is empty with detectLocalMode ClusterCIDR: traffic from pods is not told from other traffic: {who} is \
             masqueraded to ClusterIPs, and pods count as outside under externalTrafficPolicy: Local"
        )
    })
}

/// All gates that are set and known, but the one with a meaning here, in one line.
fn gates_in_vain(fields: &Fields) -> Option<String> {
    let gates = fields.gates();
    let names: Vec<&str> = gates
        .keys()
        .map(String::as_str)
        .filter(|name| *name != gates::EXTERNAL_IPS && gates::is_known(name))
        .collect();
    (!names.is_empty()).then(|| format!("featureGates: {} change nothing here", names.join(", ")))
}

fn name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn of(net: &IpNet) -> Family {
    match net {
        IpNet::V4(_) => Family::V4,
        IpNet::V6(_) => Family::V6,
    }
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// The family of all ranges, if it is the same.
fn single(nets: &[IpNet]) -> Option<Family> {
    let first = nets.first().map(of)?;
    nets.iter().all(|net| of(net) == first).then_some(first)
}

fn pods(settings: &Settings) -> Vec<IpNet> {
    let Detector::ClusterCidr { v4, v6 } = &settings.detector else { return Vec::new() };
    v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)).collect()
}

/// Ranges of one family open the node's addresses of the other.
fn one_family_only(settings: &Settings) -> Option<String> {
    let mut nets = Vec::new();
    for entry in &settings.node_port_addresses {
        match entry {
            NodePortAddress::Cidr(net) => nets.push(*net),
            NodePortAddress::Primary | NodePortAddress::Localhost | NodePortAddress::All => return None,
        }
    }
    let family = single(&nets)?;
    let dual = pods(settings).len() == 2;
    let wrong = settings.bind_address.is_some_and(|address| address.is_ipv6() != (family == Family::V6));
    (dual || wrong).then(|| {
        let (has, lacks) = (name(family), name(other(family)));
        let why = if dual { "clusterCIDR is dual-stack" } else { "bindAddress is of the other family" };
        format!(
            "{why}, but nodePortAddresses contains only {has} addresses, which means NodePorts on all local {lacks} \
             addresses"
        )
    })
}

/// Pods of another family than the one bindAddress makes first.
fn other_family(settings: &Settings) -> Option<String> {
    let first = first(settings)?;
    let found = single(&pods(settings)).filter(|family| *family != first)?;
    Some(format!(
        "bindAddress makes {} first, but clusterCIDR contains only {} addresses; kube-proxy would not start on a node with {0} \
         only",
        name(first),
        name(found)
    ))
}

/// A server's address that a node with the first family only does not have.
fn server_of_other_family(path: &str, fields: &Fields, settings: &Settings) -> Option<String> {
    let first = first(settings)?;
    let (address, _) = value::socket(fields.text(path)).ok()?;
    let found = if address.is_ipv6() { Family::V6 } else { Family::V4 };
    let set = fields.entries.get(path).is_some_and(|entry| entry.origin != Origin::Default);
    let wrong = set && found != first && !address.is_unspecified();
    wrong
        .then(|| format!("bindAddress makes {} first, but {path} is an {} address", name(first), name(found)))
}

/// The family that bindAddress makes first. Without it the Node's addresses do, and they are not known here.
fn first(settings: &Settings) -> Option<Family> {
    settings.bind_address.map(|address| if address.is_ipv6() { Family::V6 } else { Family::V4 })
}
