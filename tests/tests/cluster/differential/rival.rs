//! What a kube-proxy does, from the rules that it has written.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, Result, bail, ensure};
use lab::kube_proxy::KubeProxy;

use super::ruleset::{Field, Operand, Ruleset, Statement, Verdict, Words};
use super::table::{Deed, Key, Ranges, Row, Table};
use super::viewpoint::Viewpoint;
use super::walk::{Packet, deed, is_stopped_before};

/// Maps keyed by address, protocol and port.
const BY_ADDRESS: [&str; 3] = ["service-ips", "no-endpoint-services", FIREWALL];
/// Maps keyed by protocol and port.
const BY_PORT: [&str; 2] = ["service-nodeports", "no-endpoint-nodeports"];
/// Which chain filters the sources of an address.
const FIREWALL: &str = "firewall-ips";
/// A port that no Service of the scenario has.
const UNUSED: u16 = 9;

/// All that it does on its node.
pub(super) fn table(rival: &KubeProxy, view: &Viewpoint) -> Result<Table> {
    let mut table = Table::default();
    let mut unallocated = Vec::new();
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let rules = Ruleset::read(&rival.table(family)?)?;
        add(&mut table, &rules, view, is_v4).with_context(|| format!("table {family} kube-proxy"))?;
        unallocated.extend(emptiness(&rules)?);
    }
    table.unallocated = Ranges::of(unallocated);
    Ok(table)
}

fn add(table: &mut Table, rules: &Ruleset, view: &Viewpoint, is_v4: bool) -> Result<()> {
    for key in keys(rules, view, is_v4)? {
        let row = row(rules, &key, view).with_context(|| format!("at {key}"))?;
        if !row.is_idle() {
            table.rows.insert(key, row);
        }
    }
    let set = rules.sets.get("cluster-ips").context("no set cluster-ips")?;
    for words in &set.elements {
        let ip = words.first().context("an element without words")?.parse()?;
        refuses_other_ports(rules, ip, view)?;
        table.cluster_ips.insert(ip);
    }
    Ok(())
}

/// Every destination that one of its maps names.
fn keys(rules: &Ruleset, view: &Viewpoint, is_v4: bool) -> Result<BTreeSet<Key>> {
    let known = rules.maps.keys().all(|name| BY_ADDRESS.iter().chain(&BY_PORT).any(|known| known == name));
    ensure!(known, "a map is not known: {:?}", rules.maps.keys());
    let mut keys = BTreeSet::new();
    for words in named(rules, &BY_ADDRESS)? {
        let [ip, protocol, port] = words.as_slice() else { bail!("{words:?} is no address with a port") };
        keys.insert(Key { ip: ip.parse()?, protocol: protocol.clone(), port: port.parse()? });
    }
    for words in named(rules, &BY_PORT)? {
        let [protocol, port] = words.as_slice() else { bail!("{words:?} is no port") };
        let port = port.parse()?;
        keys.extend(view.of_family(is_v4).map(|ip| Key { ip, protocol: protocol.clone(), port }));
    }
    Ok(keys)
}

fn named<'a>(rules: &'a Ruleset, names: &[&str]) -> Result<Vec<&'a Words>> {
    let maps: Result<Vec<_>> =
        names.iter().map(|name| rules.maps.get(*name).with_context(|| format!("no map {name}"))).collect();
    Ok(maps?.into_iter().flat_map(|map| map.keys()).collect())
}

fn row(rules: &Ruleset, key: &Key, view: &Viewpoint) -> Result<Row> {
    let sources = sources(rules, key)?;
    let mut deeds = Vec::new();
    for source in view.sources(key.ip.is_ipv4()) {
        let packet = Packet::new(source, key.clone(), &view.own);
        let is_let_in = sources.as_ref().is_none_or(|sources| sources.contains(source.ip));
        ensure!(
            is_stopped_before(rules, &packet)? != is_let_in,
            "{source:?} is not filtered as it is written"
        );
        deeds.push(deed(rules, &packet)?);
    }
    let deeds: Result<[Deed; 3], _> = deeds.try_into();
    let Ok([pod, node, outside]) = deeds else { bail!("not three classes of sources") };
    Ok(Row { pod, node, outside, sources })
}

/// The sources that are let in to a destination, from its filter's only rule.
fn sources(rules: &Ruleset, key: &Key) -> Result<Option<Ranges>> {
    let words = vec![key.ip.to_string(), key.protocol.clone(), key.port.to_string()];
    let Some(verdict) = rules.maps.get(FIREWALL).and_then(|map| map.get(&words)) else { return Ok(None) };
    let Verdict::Goto(chain) = verdict else { bail!("{verdict:?} is no filter") };
    let only = rules.chains.get(chain).map(Vec::as_slice);
    let Some([rule]) = only else { bail!("{chain} is not one rule") };
    let [Statement::If { left, is_not: true, right }, Statement::Then(Verdict::Drop)] = rule.as_slice()
    else {
        bail!("{chain} is no filter: {rule:?}")
    };
    ensure!(*left == [Field::Source], "{chain} does not filter sources");
    Ok(Some(Ranges::of(pieces(right)?)))
}

fn pieces(operand: &Operand) -> Result<Vec<(IpAddr, IpAddr)>> {
    match operand {
        Operand::Ranges(ranges) => Ok(ranges.pieces().to_vec()),
        Operand::Word(word) => Ok(vec![(word.parse()?, word.parse()?)]),
        Operand::Set(name) => bail!("{name} is no range"),
    }
}

/// Where flows to nobody vanish: what the last check of cluster addresses drops.
fn emptiness(rules: &Ruleset) -> Result<Vec<(IpAddr, IpAddr)>> {
    let chain = rules.chains.get("cluster-ips-check").context("no chain cluster-ips-check")?;
    let mut all = Vec::new();
    for rule in chain {
        if let [Statement::If { left, is_not: false, right }, Statement::Then(Verdict::Drop)] =
            rule.as_slice()
        {
            ensure!(*left == [Field::Destination], "something else than destinations is dropped");
            all.extend(pieces(right)?);
        }
    }
    Ok(all)
}

fn refuses_other_ports(rules: &Ruleset, ip: IpAddr, view: &Viewpoint) -> Result<()> {
    for source in view.sources(ip.is_ipv4()) {
        let key = Key { ip, protocol: "tcp".to_owned(), port: UNUSED };
        let deed = deed(rules, &Packet::new(source, key, &view.own))?;
        ensure!(deed == Deed::Reject, "port {UNUSED} of {ip} is not refused: {deed}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    /// What kube-proxy wrote on `n1` for a few Services of the scenario.
    fn listing() -> Ruleset {
        let text = include_str!("listing.json");
        Ruleset::read(&serde_json::from_str(text).unwrap()).unwrap()
    }

    fn check(address: &str, expected: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let view =
            Viewpoint::at([10, 0, 0, 1].into(), "fd00::1".parse().unwrap(), &["10.0.9.1".parse().unwrap()]);
        let key = Key { ip: address.ip(), protocol: "tcp".to_owned(), port: address.port() };
        assert_eq!(row(&listing(), &key, &view).unwrap().to_string(), expected, "{key}");
    }

    #[test]
    fn a_cluster_address_is_masqueraded_for_all_but_pods_and_remembers_its_clients() {
        let to = "to 10.1.1.19:8080 10.1.2.19:8080";
        let pod = format!("{to}, masqueraded from 10.1.1.19:8080, sticky 600 s");
        let others = format!("{to}, masqueraded, sticky 600 s");
        check("10.96.1.9:80", &format!("pod: {pod}; node: {others}; outside: {others}"));
    }

    #[test]
    fn a_local_policy_is_gone_around_by_pods_and_the_node_and_only_at_addresses_for_node_ports() {
        let (inside, outside) = ("to 10.1.3.74:8080", "to 10.1.1.74:8080, masqueraded from 10.1.1.74:8080");
        let expected =
            format!("pod: {inside}, not masqueraded; node: {inside}, masqueraded; outside: {outside}");
        check("10.0.0.1:30006", &expected);
        check("10.0.9.1:30006", "pod: pass; node: pass; outside: pass");
    }

    #[test]
    fn a_filter_counts_whether_or_not_somebody_serves() {
        let all = |deed: &str| format!("pod: {deed}; node: {deed}; outside: {deed}");
        let some_nodes = "[10.0.0.1-10.0.0.3 192.0.2.0-192.0.2.127 203.0.113.19-203.0.113.19]";
        check(
            "203.0.113.19:80",
            &format!("{}; only from {some_nodes}", all("to 10.1.1.90:8080, masqueraded")),
        );
        check("203.0.113.20:80", &format!("{}; only from [192.0.2.0-192.0.2.255]", all("reject")));
        check("10.0.0.1:30023", &all("reject"));
    }

    #[test]
    fn cluster_addresses_are_refused_at_other_ports_and_vanish_where_nobody_has_them() {
        check("10.96.1.9:81", "pod: reject; node: reject; outside: reject");
        check("10.96.7.7:80", "pod: drop; node: drop; outside: drop");
        check("203.0.113.19:81", "pod: pass; node: pass; outside: pass");
    }
}
