//! What one core can forward: datagrams from outside, through a node, to an endpoint.
//!
//! Frames are made, forwarded and taken on one core, so that its time is the price of all three.

mod case;
mod clock;
mod conntrack;
mod offload;
mod pair;
mod programs;
mod rig;
mod road;
mod subject;
mod target;

use anyhow::Result;

use self::case::{Amount, Case};
use self::rig::Turn;
use self::subject::Subject;
use super::{Bench, lab};
use crate::cluster::Cluster;
use crate::report::{Better, Row, Title};
use crate::rival;

const SUITE: &str = "packets";

/// What one subject did in one case, round by round.
#[derive(Default)]
struct Figures {
    nanoseconds: Vec<f64>,
    sent: u64,
    lost: u64,
    /// The largest part of a turn's time that the core was seen to work for it.
    share: f64,
}

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let Bench { quick, report, cluster } = bench;
    let object = match programs::read() {
        Ok(object) => object,
        Err(error) => {
            eprintln!("suite {SUITE} is missing: {error:#}");
            return Ok(());
        }
    };
    let amount = Amount::of(*quick);
    let cluster = cluster.with_at_most(subject::FEW)?;
    let lab = lab(cluster.as_deref())?;
    let cases = amount.cases(conntrack::room()?);
    let mut subjects = subjects(&lab, cluster, &object, &amount, &cases)?;
    eprintln!("forwarding packets: {} rounds", amount.rounds);
    let figures = measure(&mut subjects, &cases, amount.rounds)?;
    for (case, figures) in cases.iter().zip(&figures) {
        rows(case, &subjects, figures).into_iter().for_each(|row| report.add(row));
        complain(case, &subjects, figures);
    }
    subjects.into_iter().try_for_each(Subject::retire)
}

/// Everybody who forwards in some case, each on a node of its own. Who cannot take part is told on standard error.
fn subjects(
    lab: &lab::Lab,
    cluster: Option<&mut Cluster>,
    object: &[u8],
    amount: &Amount,
    cases: &[Case],
) -> Result<Vec<Subject>> {
    let wanted = |name: &str| cases.iter().any(|case| case.takes(name));
    let mut all = vec![Subject::route(lab, object)?];
    if let Some(cluster) = cluster {
        if wanted(subject::RIVAL_OF_FEW) {
            all.push(Subject::kube_proxy(lab, cluster, object, subject::FEW)?);
        }
        all.push(Subject::kube_proxy(lab, cluster, object, amount.others)?);
    }
    all.extend(Subject::nftables(lab, object, amount.others)?);
    let usual = [subject::EDGE, subject::EDGE_XDP, subject::EDGE_STACK].map(|name| (name, amount.others));
    for (name, others) in usual.iter().chain(amount.growth) {
        if wanted(name) {
            all.extend(Subject::edge(lab, object, name, *others)?);
        }
    }
    Ok(all)
}

/// For each case, the figures of each subject. Every other round goes backwards, so that nobody always comes after the
/// same one.
fn measure(subjects: &mut [Subject], cases: &[Case], rounds: u32) -> Result<Vec<Vec<Figures>>> {
    let blank = || subjects.iter().map(|_| Figures::default()).collect();
    let mut all: Vec<Vec<Figures>> = cases.iter().map(|_| blank()).collect();
    for round in 0..rounds {
        let mut order: Vec<usize> = (0..subjects.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for (case, figures) in cases.iter().zip(&mut all) {
            for place in &order {
                let subject = &mut subjects[*place];
                if case.takes(subject.name()) {
                    figures[*place].push(subject.turn(case.policy, case.load)?);
                }
            }
        }
    }
    Ok(all)
}

impl Figures {
    fn push(&mut self, turn: Turn) {
        let Turn { nanoseconds, sent, arrived, share } = turn;
        self.nanoseconds.push(nanoseconds);
        self.sent += sent;
        self.lost += sent.saturating_sub(arrived);
        self.share = self.share.max(share);
    }

    fn rates(&self) -> Vec<f64> {
        self.nanoseconds.iter().map(|nanoseconds| 1e9 / nanoseconds).collect()
    }
}

/// Time against plain routing, rate against the rival; with more services, time against the same with few.
fn rows(case: &Case, subjects: &[Subject], figures: &[Figures]) -> Vec<Row> {
    let of = |name| {
        let place = subjects.iter().position(|subject| subject.name() == name);
        place.map(|place| &figures[place])
    };
    let all = |(subject, own): (&Subject, &Figures)| {
        let subject = subject.name();
        let title = |unit| Title { suite: SUITE, case: case.name.clone(), subject, unit };
        let beside = |name| of(name).filter(|_| subject != name);
        let (times, rates) = (&own.nanoseconds, &own.rates());
        let time = |name: &'static str| match beside(name) {
            Some(other) => title("ns").against(name, Better::Lower, times, &other.nanoseconds),
            None => title("ns").alone(times),
        };
        let rate = match beside(rival::NAME) {
            Some(rival) => title("/s").against(rival::NAME, Better::Higher, rates, &rival.rates()),
            None => title("/s").alone(rates),
        };
        let grown =
            subject::GROWTH.iter().any(|(name, _)| subject == *name && subject != subject::GROWN_FROM);
        [Some(time(subject::ROUTE)), Some(rate), grown.then(|| time(subject::GROWN_FROM))]
    };
    let those = subjects.iter().zip(figures).filter(|(subject, _)| case.takes(subject.name()));
    those.flat_map(all).flatten().collect()
}

/// A figure over packets that were lost, or beside a busy neighbour, is told to be one.
fn complain(case: &Case, subjects: &[Subject], figures: &[Figures]) {
    let those = subjects.iter().zip(figures).filter(|(subject, _)| case.takes(subject.name()));
    for (subject, Figures { nanoseconds: _, sent, lost, share }) in those {
        let (case, subject) = (&case.name, subject.name());
        if *lost > 0 {
            eprintln!("{case}, {subject}: {lost} of {sent} packets did not arrive");
        }
        if *share < 0.5 {
            eprintln!(
                "{case}, {subject}: at best {:.0} % of a turn's time was seen as work: others used the core, or \
                 this kernel counts soft interrupts elsewhere",
                share * 100.0
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_did_not_arrive_is_summed_up() {
        let mut figures = Figures::default();
        for (arrived, share) in [(90, 0.9), (100, 0.4)] {
            figures.push(Turn { nanoseconds: 500.0, sent: 100, arrived, share });
        }
        assert_eq!((figures.sent, figures.lost, figures.share), (200, 10, 0.9));
        assert_eq!(figures.rates(), [2e6, 2e6]);
    }
}
