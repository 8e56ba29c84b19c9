//! What a plan claims about new flows, as questions with the answer that it gives.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use super::asker::{Answer, Question, Source, ask, enough};
use super::crossroads::Crossroads;
use super::outlook::Outlook;
use super::plan::{Action, Address, Masquerade, Plan, ServicePort};
use super::probe::{Class, Protocol};

/// A question, and what a plan answers.
#[derive(Clone, Debug)]
pub struct Claim {
    /// What it is about.
    pub subject: String,
    /// The question.
    pub question: Question,
    /// What the plan answers.
    pub expected: Expected,
}

/// What is claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Just this.
    Answer(Answer),
    /// One of these endpoints, or several: the source has been there before, and affinity holds it.
    Some(Answer),
}

/// A port that no Service has.
const UNUSED: u16 = 9;

/// Everything that a plan claims, for every class of sources.
pub fn claims(plan: &Plan, outlook: &mut Outlook) -> Result<Vec<Claim>> {
    outlook.avoid(plan);
    let mut all = Vec::new();
    for port in &plan.services {
        for address in &port.addresses {
            of_address(&mut all, outlook, port, address)?;
        }
    }
    of_other_ports(&mut all, outlook, plan);
    if outlook.drops_unallocated {
        of_nobody(&mut all, outlook, plan);
    }
    Ok(all)
}

/// Asks everything, and returns what is not as it is claimed.
pub fn contradictions(roads: &mut Crossroads, claims: &[Claim]) -> Result<Vec<String>> {
    let questions: Vec<Question> = claims.iter().map(|claim| claim.question.clone()).collect();
    let answers = ask(roads, &questions)?;
    let wrong = claims.iter().zip(&answers).filter(|(claim, answer)| !claim.expected.allows(answer));
    Ok(wrong.map(|(claim, answer)| format!("{claim}\n    is:      {answer}")).collect())
}

impl Expected {
    /// Whether it may be so.
    pub fn allows(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (
                Self::Answer(Answer::Forward { endpoints, source, to_itself }),
                Answer::Forward { endpoints: seen, source: its, to_itself: its_own },
            ) => endpoints == seen && agree(*source, *its) && agree(*to_itself, *its_own),
            (
                Self::Some(Answer::Forward { endpoints, source, to_itself }),
                Answer::Forward { endpoints: seen, source: its, to_itself: its_own },
            ) => endpoints.is_superset(seen) && agree(*source, *its) && agree(*to_itself, *its_own),
            (Self::Answer(expected) | Self::Some(expected), answer) => expected == answer,
        }
    }
}

/// Where nothing is seen, nothing is wrong: all flows went to their own sender, or none, or to the node itself.
fn agree(expected: Option<Source>, seen: Option<Source>) -> bool {
    seen.is_none() || seen == expected
}

fn of_address(
    all: &mut Vec<Claim>,
    outlook: &mut Outlook,
    port: &ServicePort,
    address: &Address,
) -> Result<()> {
    for from in Class::ALL {
        let action = action(address, from);
        let here = outlook.shows_clients.then(|| outlook.here.clone());
        let asked = Asked { port, address, protocol: protocol(port)?, from, here };
        let count = enough(endpoints(action)) * if port.session_affinity.is_some() { 2 } else { 1 };
        let usual = outlook.usual(from, address.ip, count);
        let (inside, others) = usual.into_iter().partition(|ip| is_let_in(*ip, address));
        all.extend(asked.claim(inside, action));
        all.extend(asked.claim(others, &Action::Drop));
        for range in &address.source_ranges {
            all.extend(asked.claim(outlook.within(from, *range, count), action));
        }
        let own = endpoints_here(action, outlook, from);
        all.extend(
            own.into_iter().filter(|ip| is_let_in(*ip, address)).flat_map(|ip| asked.claim(vec![ip], action)),
        );
    }
    Ok(())
}

/// What is asked about.
struct Asked<'a> {
    port: &'a ServicePort,
    address: &'a Address,
    protocol: Protocol,
    from: Class,
    /// Endpoints that see who comes from outside, if any do.
    here: Option<BTreeSet<IpAddr>>,
}

impl Asked<'_> {
    /// Nothing, if there is nobody to come from.
    fn claim(&self, sources: Vec<IpAddr>, action: &Action) -> Option<Claim> {
        let Self { port: ServicePort { namespace, name, port_name, .. }, address, protocol, from, .. } = self;
        let is_sticky = self.port.session_affinity.is_some();
        let few = is_sticky && sources.len() < enough(endpoints(action));
        let count = if few { 1 } else { endpoints(action) };
        let to = SocketAddr::new(address.ip, address.port);
        let question = Question { from: *from, protocol: *protocol, to, sources, endpoints: count };
        let answer = self.answer(action);
        let expected = if few { Expected::Some(answer) } else { Expected::Answer(answer) };
        let subject = format!("{namespace}/{name}:{port_name} {}", address.kind);
        (!question.sources.is_empty()).then_some(Claim { subject, question, expected })
    }

    fn answer(&self, action: &Action) -> Answer {
        let plain = answer(action);
        match (plain, &self.here) {
            (Answer::Forward { endpoints, source: Some(Source::Masqueraded), to_itself }, Some(here))
                if self.is_at_the_edge() =>
            {
                let count = endpoints.iter().filter(|endpoint| here.contains(&endpoint.ip())).count();
                let source = match count {
                    0 => Source::Masqueraded,
                    all if all == endpoints.len() => Source::Kept,
                    _ => Source::Either,
                };
                Answer::Forward { endpoints, source: Some(source), to_itself }
            }
            (plain, _) => plain,
        }
    }

    /// Whether such a flow comes in by an outside device, to an address that is for outside.
    fn is_at_the_edge(&self) -> bool {
        self.from == Class::Outside && self.address.kind != "ClusterIP" && self.protocol != Protocol::Sctp
    }
}

fn action(address: &Address, from: Class) -> &Action {
    match from {
        Class::Pod => &address.from.pod,
        Class::Node => &address.from.node,
        Class::Outside => &address.from.outside,
    }
}

fn endpoints(action: &Action) -> usize {
    match action {
        Action::Forward { endpoints, masquerade: _ } => endpoints.len(),
        Action::Reject | Action::Drop | Action::Pass => 0,
    }
}

fn answer(action: &Action) -> Answer {
    match action {
        Action::Reject => Answer::Reject,
        Action::Drop => Answer::Drop,
        Action::Pass => Answer::Pass(Source::Kept),
        Action::Forward { endpoints, masquerade } => Answer::Forward {
            endpoints: endpoints.iter().copied().collect(),
            source: Some(match masquerade {
                Masquerade::Always => Source::Masqueraded,
                Masquerade::Hairpin => Source::Kept,
            }),
            to_itself: Some(Source::Masqueraded),
        },
    }
}

fn is_let_in(ip: IpAddr, address: &Address) -> bool {
    address.source_ranges.is_empty() || address.source_ranges.iter().any(|range| range.contains(&ip))
}

/// Pods of this node that may be sent to themselves.
fn endpoints_here(action: &Action, outlook: &Outlook, from: Class) -> BTreeSet<IpAddr> {
    match action {
        Action::Reject | Action::Drop | Action::Pass => BTreeSet::new(),
        Action::Forward { endpoints, masquerade: _ } => {
            let all = endpoints.iter().map(SocketAddr::ip);
            all.filter(|ip| outlook.here.contains(ip) && outlook.class(*ip) == from).collect()
        }
    }
}

fn protocol(port: &ServicePort) -> Result<Protocol> {
    match port.protocol.as_str() {
        "TCP" => Ok(Protocol::Tcp),
        "UDP" => Ok(Protocol::Udp),
        "SCTP" => Ok(Protocol::Sctp),
        other => Err(anyhow::anyhow!("no protocol: {other}")).context("a plan with a new protocol"),
    }
}

/// Other ports of a ClusterIP are refused, those of other addresses are nobody's business.
fn of_other_ports(all: &mut Vec<Claim>, outlook: &mut Outlook, plan: &Plan) {
    let of_kind = |is_cluster: bool| -> BTreeSet<IpAddr> {
        let addresses = plan.services.iter().flat_map(|port| &port.addresses);
        let ours = addresses
            .filter(|address| address.kind != "NodePort" && (address.kind == "ClusterIP") == is_cluster);
        ours.map(|address| address.ip).collect()
    };
    let cluster = of_kind(true);
    let others = of_kind(false).into_iter().filter(|ip| !cluster.contains(ip) && !outlook.own.contains(ip));
    let others: BTreeSet<IpAddr> = others.collect();
    for (ips, expected) in [(cluster, Answer::Reject), (others, Answer::Pass(Source::Kept))] {
        for ip in ips.into_iter().filter(|ip| !is_taken(plan, *ip, UNUSED)) {
            unspecific(all, outlook, SocketAddr::new(ip, UNUSED), &expected);
        }
    }
}

fn is_taken(plan: &Plan, ip: IpAddr, port: u16) -> bool {
    let mut addresses = plan.services.iter().flat_map(|service| &service.addresses);
    addresses.any(|address| address.ip == ip && address.port == port)
}

/// An address of a range of ClusterIPs that nobody has.
fn of_nobody(all: &mut Vec<Claim>, outlook: &mut Outlook, plan: &Plan) {
    for range in &plan.service_cidrs {
        for ip in outlook.unused(*range) {
            unspecific(all, outlook, SocketAddr::new(ip, 80), &Answer::Drop);
        }
    }
}

fn unspecific(all: &mut Vec<Claim>, outlook: &mut Outlook, to: SocketAddr, expected: &Answer) {
    let pairs = Class::ALL.into_iter().flat_map(|from| Protocol::ALL.map(|protocol| (from, protocol)));
    for (from, protocol) in pairs {
        let question =
            Question { from, protocol, to, sources: outlook.usual(from, to.ip(), 1), endpoints: 0 };
        let expected = Expected::Answer(expected.clone());
        all.push(Claim { subject: "no Service".to_owned(), question, expected });
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Question { from, protocol, to, sources, endpoints: _ } = &self.question;
        let sources: BTreeSet<IpAddr> = sources.iter().take(2).copied().collect();
        let (Expected::Answer(expected) | Expected::Some(expected)) = &self.expected;
        write!(f, "{}, {protocol:?} {to} from {from:?} {sources:?}\n    claimed: {expected}", self.subject)
    }
}
