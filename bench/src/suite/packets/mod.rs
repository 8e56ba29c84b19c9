//! What one core can forward: datagrams from outside, through a node, to an endpoint.
//!
//! Frames are made, forwarded and taken on one core, so that its time is the price of all three.

mod clock;
mod conntrack;
mod programs;
mod rig;
mod road;
mod subject;
mod target;

use anyhow::Result;

use self::rig::{Load, Turn};
use self::subject::Subject;
use self::target::Policy;
use super::{Bench, lab};
use crate::cluster::Cluster;
use crate::report::{Better, Row, Title};
use crate::rival;

const SUITE: &str = "packets";
/// Frames of one turn over known flows.
const FRAMES: u32 = 200_000;
/// Of one turn in which every frame is a flow of its own; fewer if the kernel's table is small.
const FRESH: u32 = 100_000;

/// One row of figures for each subject.
struct Case {
    name: String,
    policy: Policy,
    load: Load,
}

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
    let cluster = cluster.with_at_most(subject::FEW)?;
    let lab = lab(cluster.as_deref())?;
    let mut subjects = subjects(&lab, cluster, &object)?;
    let cases = cases(conntrack::room()?);
    let rounds = if *quick { 3 } else { 11 };
    eprintln!("forwarding packets: {rounds} rounds");
    let figures = measure(&mut subjects, &cases, rounds)?;
    for (case, figures) in cases.iter().zip(&figures) {
        rows(case, &subjects, figures).into_iter().for_each(|row| report.add(row));
        complain(case, &subjects, figures);
    }
    subjects.into_iter().try_for_each(Subject::retire)
}

/// Everybody who forwards, each on a node of its own. Who cannot take part is told on standard error.
fn subjects(lab: &lab::Lab, cluster: Option<&mut Cluster>, object: &[u8]) -> Result<Vec<Subject>> {
    let mut all = vec![Subject::route(lab, object)?];
    if let Some(cluster) = cluster {
        all.push(Subject::kube_proxy(lab, cluster, object, subject::FEW)?);
        all.push(Subject::kube_proxy(lab, cluster, object, subject::MANY)?);
    }
    all.extend(Subject::nftables(lab, object)?);
    for how in [["redirect", "off"], ["redirect", "native"], ["stack", "off"]] {
        all.extend(Subject::edge(lab, object, how)?);
    }
    Ok(all)
}

/// `room` is how many flows the kernel tracks.
fn cases(room: u32) -> Vec<Case> {
    let fresh = FRESH.min(room / 2);
    let loads = [
        ("established", Load::Known { flows: 64, frames: FRAMES }),
        ("established 20k", Load::Known { flows: 20_000.min(fresh), frames: FRAMES }),
        ("new", Load::Fresh { flows: fresh }),
    ];
    let case =
        |policy: Policy, (name, load)| Case { name: format!("{} {name}", policy.word()), policy, load };
    Policy::ALL.into_iter().flat_map(|policy| loads.map(|load| case(policy, load))).collect()
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
                figures[*place].push(subjects[*place].turn(case.policy, case.load)?);
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

/// Time against plain routing, rate against the rival.
fn rows(case: &Case, subjects: &[Subject], figures: &[Figures]) -> Vec<Row> {
    let of = |name| {
        let place = subjects.iter().position(|subject| subject.name() == name);
        place.map(|place| &figures[place])
    };
    let both = |(subject, own): (&Subject, &Figures)| {
        let subject = subject.name();
        let title = |unit| Title { suite: SUITE, case: case.name.clone(), subject, unit };
        let beside = |name| of(name).filter(|_| subject != name);
        let (time, rate) = (title("ns"), title("/s"));
        let (times, rates) = (&own.nanoseconds, &own.rates());
        [
            match beside(subject::ROUTE) {
                Some(route) => time.against(subject::ROUTE, Better::Lower, times, &route.nanoseconds),
                None => time.alone(times),
            },
            match beside(rival::NAME) {
                Some(rival) => rate.against(rival::NAME, Better::Higher, rates, &rival.rates()),
                None => rate.alone(rates),
            },
        ]
    };
    subjects.iter().zip(figures).flat_map(both).collect()
}

/// A figure over packets that were lost, or beside a busy neighbour, is told to be one.
fn complain(case: &Case, subjects: &[Subject], figures: &[Figures]) {
    for (subject, Figures { nanoseconds: _, sent, lost, share }) in subjects.iter().zip(figures) {
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
    fn a_small_table_of_flows_is_never_filled() {
        for case in cases(10_000) {
            let (Load::Known { flows, frames: _ } | Load::Fresh { flows }) = case.load;
            assert!(flows <= 5_000, "{}", case.name);
        }
    }

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
