//! Questions: what becomes of new flows of one kind, asked by as many probes as it takes to know.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};

use super::crossroads::Crossroads;
use super::fate::Fate;
use super::probe::{Class, Probe, Protocol};
use super::sighting::Refusal;

/// New flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where they start.
    pub from: Class,
    /// What they speak.
    pub protocol: Protocol,
    /// Where they want to go.
    pub to: SocketAddr,
    /// Where they say they come from; taken in turn.
    pub sources: Vec<IpAddr>,
    /// How many endpoints may turn up. Asking goes on for a while until they have.
    pub endpoints: usize,
}

/// What becomes of new flows of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// They go to one of these.
    Forward {
        /// All that were seen.
        endpoints: BTreeSet<SocketAddr>,
        /// With which source, where an endpoint is reached by another one or by somebody else.
        source: Option<Source>,
        /// With which source, where an endpoint reaches itself.
        to_itself: Option<Source>,
    },
    /// They are told that nobody listens.
    Reject,
    /// They are told something else.
    Refuse(Refusal),
    /// They vanish.
    Drop,
    /// They go where they are addressed to, with this source.
    Pass(Source),
    /// They come to the node itself, where they are addressed to.
    Deliver,
    /// Some this, some that.
    Mixed(BTreeSet<Fate>),
}

/// What the endpoint sees as the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The source itself.
    Kept,
    /// An address of the node.
    Masqueraded,
    /// Now this, now that.
    Either,
}

/// How often a question is asked again.
const ROUNDS: usize = 6;

/// So many probes miss none of so many endpoints, but once in thousands of questions; then they are sent again. Where one
/// is claimed, a second one shall turn up, too.
pub(super) fn enough(endpoints: usize) -> usize {
    match endpoints {
        0 => 6,
        1 => 16,
        several => 8 * several + 24,
    }
}

/// Asks, and returns the answers in order.
pub fn ask(roads: &mut Crossroads, questions: &[Question]) -> Result<Vec<Answer>> {
    let mut facts: Vec<Vec<(Probe, Fate)>> = vec![Vec::new(); questions.len()];
    for _ in 0..ROUNDS {
        let open = |index: &usize| is_open(&questions[*index], &facts[*index]);
        let open: Vec<usize> = (0..questions.len()).filter(open).collect();
        if open.is_empty() {
            break;
        }
        let mut probes = Vec::new();
        for index in open {
            probes.extend(self::probes(roads, &questions[index])?.into_iter().map(|probe| (index, probe)));
        }
        let fates = roads.send(&probes.iter().map(|(_, probe)| *probe).collect::<Vec<_>>())?;
        for ((index, probe), fate) in probes.into_iter().zip(fates) {
            facts[index].push((probe, fate));
        }
    }
    Ok(facts.iter().map(|facts| Answer::of(facts)).collect())
}

/// Whether there is more to learn: nothing is known, or fewer endpoints have been seen than may be.
fn is_open(question: &Question, facts: &[(Probe, Fate)]) -> bool {
    let seen: BTreeSet<_> = facts.iter().filter_map(|(_, fate)| endpoint(fate)).collect();
    facts.is_empty() || (!seen.is_empty() && seen.len() < question.endpoints)
}

fn probes(roads: &mut Crossroads, question: &Question) -> Result<Vec<Probe>> {
    let Question { from, protocol, to, sources, endpoints } = question;
    ensure!(!sources.is_empty(), "a question without sources: {question:?}");
    let to = if *protocol == Protocol::Icmp { SocketAddr::new(to.ip(), 0) } else { *to };
    let sources = sources.iter().cycle().take(enough(*endpoints));
    Ok(sources
        .map(|ip| {
            let source = SocketAddr::new(*ip, roads.fresh_port());
            Probe { from: *from, protocol: *protocol, source, to }
        })
        .collect())
}

fn endpoint(fate: &Fate) -> Option<SocketAddr> {
    match fate {
        Fate::Forwarded { to, source: _, is_here: _ } => Some(*to),
        Fate::Delivered | Fate::Passed { source: _ } | Fate::Refused(_) | Fate::Dropped => None,
    }
}

impl Answer {
    /// Where flows go, if they are forwarded.
    pub fn endpoints(&self) -> Option<&BTreeSet<SocketAddr>> {
        match self {
            Self::Forward { endpoints, source: _, to_itself: _ } => Some(endpoints),
            Self::Reject | Self::Refuse(_) | Self::Drop | Self::Pass(_) | Self::Deliver | Self::Mixed(_) => {
                None
            }
        }
    }

    fn of(facts: &[(Probe, Fate)]) -> Self {
        let each: Vec<Self> = facts.iter().map(|(probe, fate)| Self::of_one(probe, *fate)).collect();
        let joined = each.into_iter().map(Some).reduce(|one, other| join(one?, other?)).flatten();
        joined.unwrap_or_else(|| Self::Mixed(facts.iter().map(|(_, fate)| *fate).collect()))
    }

    fn of_one(probe: &Probe, fate: Fate) -> Self {
        let kept = |source| if source == probe.source.ip() { Source::Kept } else { Source::Masqueraded };
        match fate {
            Fate::Forwarded { to, source, is_here } => {
                // On its way to the node itself a packet passes no place where it could be masqueraded.
                let source = (!is_here).then(|| kept(source));
                let endpoints = BTreeSet::from([to]);
                if to.ip() == probe.source.ip() {
                    Self::Forward { endpoints, source: None, to_itself: source }
                } else {
                    Self::Forward { endpoints, source, to_itself: None }
                }
            }
            Fate::Delivered => Self::Deliver,
            Fate::Passed { source } => Self::Pass(kept(source)),
            Fate::Refused(Refusal::PortUnreachable) => Self::Reject,
            Fate::Refused(refusal) => Self::Refuse(refusal),
            Fate::Dropped => Self::Drop,
        }
    }
}

/// Two answers as one, if they are of one kind.
fn join(one: Answer, other: Answer) -> Option<Answer> {
    match (one, other) {
        (
            Answer::Forward { endpoints, source, to_itself },
            Answer::Forward { endpoints: more, source: its, to_itself: its_own },
        ) => Some(Answer::Forward {
            endpoints: endpoints.union(&more).copied().collect(),
            source: either(source, its),
            to_itself: either(to_itself, its_own),
        }),
        (one, other) => (one == other).then_some(one),
    }
}

fn either(one: Option<Source>, other: Option<Source>) -> Option<Source> {
    match (one, other) {
        (Some(one), Some(other)) if one != other => Some(Source::Either),
        (one, other) => one.or(other),
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { endpoints, source, to_itself } => {
                write!(f, "to")?;
                endpoints.iter().try_for_each(|endpoint| write!(f, " {endpoint}"))?;
                source.map_or(Ok(()), |source| write!(f, ", source {source}"))?;
                to_itself.map_or(Ok(()), |source| write!(f, ", source to itself {source}"))
            }
            Self::Reject => write!(f, "reject"),
            Self::Refuse(refusal) => write!(f, "{refusal}"),
            Self::Drop => write!(f, "drop"),
            Self::Pass(source) => write!(f, "pass, source {source}"),
            Self::Deliver => write!(f, "deliver to the node"),
            Self::Mixed(fates) => {
                write!(f, "mixed:")?;
                fates.iter().take(SOME).try_for_each(|fate| write!(f, " {fate};"))
            }
        }
    }
}

/// So many examples are enough to understand a mixture.
const SOME: usize = 6;

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kept => "kept",
            Self::Masqueraded => "masqueraded",
            Self::Either => "sometimes masqueraded",
        })
    }
}
