//! One packet's way through the rules, step by step as the kernel goes it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, ensure};

use super::ruleset::{Change, Field, Operand, Ruleset, Statement, Verdict, Words};
use super::table::{Deed, Key, Masquerade};
use super::viewpoint::Source;

/// Chains before this priority filter what has not been translated yet.
const DNAT: i64 = -100;

/// The first packet of a flow.
#[derive(Clone, Debug)]
pub(super) struct Packet<'a> {
    source: IpAddr,
    to: Key,
    /// The link it came in by; empty for what the node sends itself.
    interface: &'static str,
    /// The node's own addresses.
    own: &'a BTreeSet<IpAddr>,
    mark: u64,
    is_translated: bool,
    affinity: Option<u64>,
}

/// How a chain was left.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Drop,
    Reject,
    Dnat(BTreeSet<SocketAddr>),
    Masquerade,
}

/// What one statement leads to.
enum Step {
    /// The next statement.
    On,
    /// The next rule.
    Skip,
    /// The chain from which this one was jumped to.
    Leave,
    End(End),
}

impl<'a> Packet<'a> {
    pub(super) fn new(source: Source, to: Key, own: &'a BTreeSet<IpAddr>) -> Self {
        let Source { ip, interface } = source;
        Self { source: ip, to, interface, own, mark: 0, is_translated: false, affinity: None }
    }

    fn words(&self, fields: &[Field]) -> Words {
        fields.iter().map(|field| self.word(*field)).collect()
    }

    fn word(&self, field: Field) -> String {
        let kind = |ip| if self.own.contains(ip) { "local" } else { "unicast" };
        match field {
            Field::Source => self.source.to_string(),
            Field::Destination => self.to.ip.to_string(),
            Field::Protocol => self.to.protocol.clone(),
            Field::Port => self.to.port.to_string(),
            Field::SourceType => kind(&self.source).to_owned(),
            Field::DestinationType => kind(&self.to.ip).to_owned(),
            Field::Mark(mask) => (self.mark & mask).to_string(),
            Field::Interface => self.interface.to_owned(),
            Field::ConnectionState => "new".to_owned(),
            Field::ConnectionStatus => if self.is_translated { "dnat" } else { "none" }.to_owned(),
        }
    }
}

/// What becomes of a packet that no filter before translation stops.
pub(super) fn deed(rules: &Ruleset, packet: &Packet<'_>) -> Result<Deed> {
    let mut packet = packet.clone();
    let hooks = way(&packet).into_iter();
    let end = hooks.map(|hook| pass(rules, hook, &mut packet, |at| at >= DNAT)).find_map(Result::transpose);
    Ok(match end.transpose()? {
        None => Deed::Pass,
        Some(End::Drop) => Deed::Drop,
        Some(End::Reject) => Deed::Reject,
        Some(End::Dnat(endpoints)) => Deed::Forward {
            masquerade: masquerade(rules, &packet, &endpoints)?,
            affinity: packet.affinity,
            endpoints,
        },
        Some(End::Masquerade) => anyhow::bail!("masqueraded before it was routed"),
    })
}

/// Whether a filter before translation stops it.
pub(super) fn is_stopped_before(rules: &Ruleset, packet: &Packet<'_>) -> Result<bool> {
    let end = pass(rules, way(packet)[0], &mut packet.clone(), |at| at < DNAT)?;
    ensure!(end.is_none() || end == Some(End::Drop), "{end:?} before translation");
    Ok(end.is_some())
}

/// The hooks that an untranslated packet passes. What the node sends to itself comes in as well.
fn way(packet: &Packet<'_>) -> Vec<&'static str> {
    let begin = if packet.own.contains(&packet.source) { "output" } else { "prerouting" };
    match (begin, packet.own.contains(&packet.to.ip)) {
        (begin, true) => vec![begin, "input"],
        ("prerouting", false) => vec![begin, "forward"],
        (begin, false) => vec![begin],
    }
}

/// Every endpoint is treated alike, or there is no one answer.
fn masquerade(rules: &Ruleset, packet: &Packet<'_>, endpoints: &BTreeSet<SocketAddr>) -> Result<Masquerade> {
    let ask = |source: Option<IpAddr>, endpoint: &SocketAddr| {
        let to = Key { ip: endpoint.ip(), port: endpoint.port(), protocol: packet.to.protocol.clone() };
        let source = source.unwrap_or(endpoint.ip());
        let mut packet = Packet { source, to, is_translated: true, ..packet.clone() };
        Ok::<_, anyhow::Error>(pass(rules, "postrouting", &mut packet, |_| true)? == Some(End::Masquerade))
    };
    let answers: BTreeSet<bool> =
        endpoints.iter().map(|one| ask(Some(packet.source), one)).collect::<Result<_>>()?;
    ensure!(answers.len() == 1, "some endpoints are masqueraded, others not");
    if answers.contains(&true) {
        return Ok(Masquerade::Always);
    }
    let own: Result<Vec<_>> = endpoints.iter().map(|one| Ok((*one, ask(None, one)?))).collect();
    Ok(Masquerade::Hairpin(own?.into_iter().filter(|(_, is)| *is).map(|(one, _)| one).collect()))
}

/// Goes through the chains of a hook that have a certain priority.
fn pass(
    rules: &Ruleset,
    hook: &str,
    packet: &mut Packet<'_>,
    is_meant: fn(i64) -> bool,
) -> Result<Option<End>> {
    let chains = rules.hooks.get(hook).with_context(|| format!("no chain at {hook}"))?;
    for (_, chain) in chains.iter().filter(|(priority, _)| is_meant(*priority)) {
        if let Some(end) = through(rules, chain, packet)? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn through(rules: &Ruleset, chain: &str, packet: &mut Packet<'_>) -> Result<Option<End>> {
    for rule in rules.chains.get(chain).with_context(|| format!("no chain {chain}"))? {
        for statement in rule {
            match step(rules, statement, packet)? {
                Step::On => {}
                Step::Skip => break,
                Step::Leave => return Ok(None),
                Step::End(end) => return Ok(Some(end)),
            }
        }
    }
    Ok(None)
}

fn step(rules: &Ruleset, statement: &Statement, packet: &mut Packet<'_>) -> Result<Step> {
    match statement {
        Statement::If { left, is_not, right } => {
            let holds = holds(rules, &packet.words(left), right)? != *is_not;
            Ok(if holds { Step::On } else { Step::Skip })
        }
        Statement::Look { fields, map } => {
            let map = rules.maps.get(map).with_context(|| format!("no map {map}"))?;
            map.get(&packet.words(fields)).map_or(Ok(Step::On), |verdict| obey(rules, verdict, packet))
        }
        Statement::Choose(verdicts) => choose(rules, verdicts, packet),
        Statement::Mark { change, bits } => {
            packet.mark = match change {
                Change::Or => packet.mark | bits,
                Change::Xor => packet.mark ^ bits,
            };
            Ok(Step::On)
        }
        Statement::Remember(set) => {
            packet.affinity = rules.sets.get(set).with_context(|| format!("no set {set}"))?.timeout;
            Ok(Step::On)
        }
        Statement::Dnat(to) => Ok(Step::End(End::Dnat(to.iter().copied().collect()))),
        Statement::Masquerade => Ok(Step::End(End::Masquerade)),
        Statement::Then(verdict) => obey(rules, verdict, packet),
    }
}

fn obey(rules: &Ruleset, verdict: &Verdict, packet: &mut Packet<'_>) -> Result<Step> {
    Ok(match verdict {
        Verdict::Drop => Step::End(End::Drop),
        Verdict::Reject => Step::End(End::Reject),
        Verdict::Goto(chain) => through(rules, chain, packet)?.map_or(Step::Leave, Step::End),
        Verdict::Jump(chain) => through(rules, chain, packet)?.map_or(Step::On, Step::End),
    })
}

/// Takes every way that chance could take; all must lead to endpoints.
fn choose(rules: &Ruleset, verdicts: &[Verdict], packet: &mut Packet<'_>) -> Result<Step> {
    let mut all = BTreeSet::new();
    for verdict in verdicts {
        match obey(rules, verdict, packet)? {
            Step::End(End::Dnat(some)) => all.extend(some),
            Step::End(End::Drop | End::Reject | End::Masquerade) | Step::On | Step::Skip | Step::Leave => {
                anyhow::bail!("{verdict:?} leads to no endpoint")
            }
        }
    }
    Ok(Step::End(End::Dnat(all)))
}

/// A set that forgets holds clients from before; this flow is its client's first.
fn holds(rules: &Ruleset, words: &Words, right: &Operand) -> Result<bool> {
    let one = || words.first().context("a condition on nothing");
    Ok(match right {
        Operand::Word(word) => match word.strip_suffix('*') {
            Some(begin) => one()?.starts_with(begin),
            None => one()? == word,
        },
        Operand::Ranges(ranges) => ranges.contains(one()?.parse()?),
        Operand::Set(name) => {
            let set = rules.sets.get(name).with_context(|| format!("no set {name}"))?;
            set.timeout.is_none() && set.elements.contains(words)
        }
    })
}
