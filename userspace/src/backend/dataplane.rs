//! Both dataplanes as one: eBPF where it can run, the packet filter below it and wherever it cannot.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::conntrack::Usage;
use super::ebpf::{self, Ebpf};
use super::edge;
use super::findings::{Findings, Look, Turn};
use super::nft::{Marks, Nft};
use super::{Applied, Backend, BackendError, Report, Wanted, chain};
use crate::desired::{Context, ServicePort};
use crate::model::{Problem, ServiceName, ServicePortName};

/// Failures in a row after which the hooks are taken away, so that the packet filter has the traffic.
const PATIENCE: u32 = 3;
/// Wait before eBPF is tried again: doubled each time, up to the second figure.
const RETRY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// Why eBPF is not used where nobody wants it.
const NOT_ASKED: &str = "--dataplane=nftables";

/// Which dataplane the operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Choice {
    /// eBPF if it works here, else the packet filter.
    #[default]
    Auto,
    /// eBPF, or nothing.
    Ebpf,
    /// The packet filter alone.
    Nftables,
}

/// What the packet filter does while eBPF works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Floor {
    /// Everything: it serves what eBPF leaves alone.
    #[default]
    Always,
    /// Only the landing place for connections that are handed over.
    DrainOnly,
}

/// What to open.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which dataplane.
    pub choice: Choice,
    /// What the packet filter does beside eBPF.
    pub floor: Floor,
    /// Bits of the packet mark.
    pub marks: Marks,
    /// Most clients whose endpoints the packet filter remembers, in each family.
    pub affinity_clients: u32,
    /// Where eBPF is installed; or why it cannot be.
    pub ebpf: Result<ebpf::Settings, String>,
    /// What eBPF does on the node's outside devices, if that is asked for. The packet filter must be able to do it too.
    pub edge: Option<edge::Settings>,
    /// Where eBPF has its pins, of whichever process.
    pub pin_dir: PathBuf,
}

/// Which dataplane works, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Running {
    /// `ebpf+nftables`, `ebpf` or `nftables`.
    pub dataplane: String,
    /// Why this one.
    pub reason: String,
}

impl Running {
    /// Whether eBPF was wanted and does not work.
    pub fn is_fallback(&self) -> bool {
        self.reason.starts_with(NO_EBPF)
    }
}

/// What the reason begins with where eBPF was wanted.
const NO_EBPF: &str = "eBPF cannot be used";

/// Whether a daemon can do what was asked for where these work.
const fn can_run(choice: Choice, ebpf: bool, nft: bool) -> bool {
    match choice {
        Choice::Auto => ebpf || nft,
        Choice::Ebpf => ebpf,
        Choice::Nftables => nft,
    }
}

/// What works, and why; of what does not work, why not.
fn running(choice: Choice, floor: Floor, ebpf: Result<(), &str>, nft: Result<(), &str>) -> Running {
    let asked = match choice {
        Choice::Ebpf => "--dataplane=ebpf",
        Choice::Auto | Choice::Nftables => "eBPF works here",
    };
    let (dataplane, reason) = match (ebpf, nft, floor) {
        (Ok(()), Ok(()), Floor::Always) => ("ebpf+nftables", asked.to_owned()),
        (Ok(()), Ok(()), Floor::DrainOnly) => ("ebpf", format!("{asked}, --nftables=drain-only")),
        (Ok(()), Err(why), _) => ("ebpf", format!("the packet filter cannot be used: {why}")),
        (Err(why), _, _) if choice == Choice::Nftables => ("nftables", why.to_owned()),
        (Err(why), _, _) => ("nftables", format!("{NO_EBPF}: {why}")),
    };
    Running { dataplane: dataplane.to_owned(), reason }
}

/// What a daemon would run where these work or do not; why none, if none can.
pub fn outlook(
    choice: Choice,
    floor: Floor,
    ebpf: Result<(), &str>,
    nft: Result<(), &str>,
) -> Result<Running, String> {
    let ebpf = if choice == Choice::Nftables { Err(NOT_ASKED) } else { ebpf };
    if can_run(choice, ebpf.is_ok(), nft.is_ok()) {
        return Ok(running(choice, floor, ebpf, nft));
    }
    let ebpf = ebpf.err().filter(|_| choice != Choice::Nftables).map(|why| ("eBPF", why));
    let nft = nft.err().filter(|_| choice != Choice::Ebpf).map(|why| ("the packet filter", why));
    if let (Some((_, why)), Some((_, same))) = (ebpf, nft)
        && why == same
    {
        return Err(why.to_owned());
    }
    let sentence = |(what, why)| format!("{what} cannot be used: {why}");
    Err(ebpf.into_iter().chain(nft).map(sentence).collect::<Vec<_>>().join("; "))
}

/// Both.
#[derive(Debug)]
pub struct Dataplane {
    settings: Settings,
    ebpf: Result<Ebpf, Down>,
    /// The node, for when eBPF comes back.
    context: Context,
    /// What eBPF does on the node's outside devices, if that is asked for.
    edge: edge::Keeper,
    nft: Result<Nft, String>,
    /// Why the packet filter is behind, while eBPF has the traffic.
    behind: Option<String>,
    failures: u32,
    /// Which of them an audit has looked through.
    audited: Audited,
    /// Whether it begins with that one.
    begins: bool,
}

/// How far an audit has come.
#[derive(Clone, Copy, Debug, Default)]
enum Audited {
    #[default]
    Nothing,
    Ebpf,
    Edge,
}

/// Why eBPF does not work, and when it is tried again.
#[derive(Debug)]
struct Down {
    why: String,
    wait: Duration,
    again: Option<Instant>,
}

impl Dataplane {
    /// Opens what was asked for. What is in force does not change yet.
    pub fn open(settings: Settings) -> Result<Self, BackendError> {
        let landing = settings.choice != Choice::Nftables;
        let nft = match Nft::open(settings.marks, landing, settings.affinity_clients) {
            Ok(nft) => Ok(nft),
            Err(error @ (BackendError::FilterBusy | BackendError::Foreign(_))) => return Err(error),
            Err(error) if !can_run(settings.choice, true, false) => return Err(error),
            Err(error) => {
                warn!(error = chain(&error), "the packet filter cannot be used");
                Err(chain(&error))
            }
        };
        let mut dataplane = Self {
            ebpf: Err(Down { why: NOT_ASKED.to_owned(), wait: RETRY[0], again: None }),
            context: Context::default(),
            edge: edge::Keeper::default(),
            nft,
            behind: None,
            failures: 0,
            audited: Audited::Nothing,
            begins: true,
            settings,
        };
        dataplane.open_at_start()?;
        let edge = dataplane.settings.edge.take();
        if edge.is_some() && dataplane.nft.is_err() {
            warn!("there is no edge layer without the packet filter, which does what is left to it");
        }
        dataplane.edge = edge::Keeper::open(edge.filter(|_| dataplane.nft.is_ok()));
        dataplane.edge.clear(&dataplane.settings.pin_dir);
        let Running { dataplane: name, reason } = dataplane.running();
        info!(dataplane = name, reason, "chose the dataplane");
        Ok(dataplane)
    }

    fn open_at_start(&mut self) -> Result<(), BackendError> {
        match self.settings.choice {
            Choice::Nftables => {}
            choice @ (Choice::Ebpf | Choice::Auto) => match self.try_ebpf() {
                Ok(ebpf) => self.ebpf = Ok(ebpf),
                Err(BackendError::Busy(directory)) => return Err(BackendError::Busy(directory)),
                Err(error) if !can_run(choice, false, self.nft.is_ok()) => return Err(error),
                Err(error) => self.down(&error),
            },
        }
        self.wake_if_needed();
        Ok(())
    }

    fn try_ebpf(&self) -> Result<Ebpf, BackendError> {
        match &self.settings.ebpf {
            Ok(settings) => Ebpf::open(settings),
            Err(why) => Err(BackendError::NoEbpf(why.clone())),
        }
    }

    /// eBPF does not work: the packet filter has the traffic until it does.
    fn down(&mut self, error: &BackendError) {
        let wait = self.ebpf.as_ref().map_or_else(|down| (down.wait * 2).min(RETRY[1]), |_| RETRY[0]);
        warn!(error = chain(error), again_in = ?wait, "eBPF cannot be used; nftables has the traffic");
        self.ebpf = Err(Down { why: chain(error), wait, again: Some(Instant::now() + wait) });
        self.failures = 0;
        self.wake_if_needed();
    }

    fn wake_if_needed(&mut self) {
        let needed = self.settings.floor == Floor::Always || self.ebpf.is_err();
        if let Ok(nft) = &mut self.nft {
            nft.set_awake(needed);
        }
    }

    /// What to do after eBPF failed: go on without it, if the packet filter can have the traffic.
    fn failed(&mut self, error: BackendError, at_once: bool) -> Result<(), BackendError> {
        self.failures += 1;
        let may = self.settings.choice == Choice::Auto && self.nft.is_ok();
        if !may || (!at_once && self.failures < PATIENCE) {
            return Err(error);
        }
        self.down(&error);
        let enabled = self.nft.as_mut().map_or(Ok(()), |nft| nft.enable());
        // Whatever the programs still do is out of date.
        self.release();
        enabled
    }

    fn running(&self) -> Running {
        if let Some(why) = &self.behind {
            let reason = format!("eBPF works here; the packet filter is behind: {why}");
            return Running { dataplane: "ebpf".to_owned(), reason };
        }
        let ebpf = self.ebpf.as_ref().map(|_| ()).map_err(|down| &*down.why);
        let nft = self.nft.as_ref().map(|_| ()).map_err(|why| &**why);
        running(self.settings.choice, self.settings.floor, ebpf, nft)
    }

    /// Gives eBPF another try, and tells it everything.
    fn come_back(&mut self) {
        match self.raise() {
            Ok(()) => {
                info!("eBPF works again");
                self.wake_if_needed();
                self.catch_up();
            }
            Err(error) => {
                self.down(&error);
                self.release();
            }
        }
    }

    fn raise(&mut self) -> Result<(), BackendError> {
        let mut ebpf = self.try_ebpf()?;
        ebpf.surround(&self.context, &BTreeSet::new());
        let Ok(nft) = &self.nft else { return Ok(()) };
        for share in nft.shares() {
            ebpf.apply(&share)?;
        }
        let stale: Wanted = ebpf
            .installed()?
            .into_iter()
            .filter(|name| !nft.knows(name))
            .map(|name| (name, Default::default()))
            .collect();
        ebpf.apply(&stale)?;
        ebpf.enable()?;
        self.ebpf = Ok(ebpf);
        Ok(())
    }

    /// Where eBPF does not work, nobody keeps what it left in force up to date: takes the hooks away, of whichever process
    /// they are, or everything if eBPF is not wanted at all. Called once the packet filter has the traffic.
    fn release(&self) {
        if self.ebpf.is_ok() || self.nft.is_err() {
            return;
        }
        let everything = self.settings.choice == Choice::Nftables;
        if let Err(error) = ebpf::release(&self.settings.pin_dir, everything) {
            warn!(error = chain(&error), "could not take away what eBPF had left; trying again");
        }
    }

    /// The packet filter cannot take a change. As long as eBPF can, that is no reason to keep it from anybody.
    fn fell_behind(&mut self, error: BackendError, wanted: &Wanted) -> Result<(), BackendError> {
        if self.ebpf.is_err() {
            return Err(error);
        }
        warn!(error = chain(&error), "the packet filter cannot be programmed; eBPF has the traffic");
        self.behind = Some(chain(&error));
        if let Ok(nft) = &mut self.nft {
            nft.fall_behind(wanted);
        }
        Ok(())
    }

    /// Brings a packet filter that is behind up to date.
    fn catch_up(&mut self) {
        let Ok(nft) = &mut self.nft else { return };
        match nft.apply(&Wanted::new()).and_then(|_| nft.enable()) {
            Ok(()) => {
                if self.behind.take().is_some() {
                    info!("the packet filter can be programmed again");
                }
            }
            Err(error) => self.behind = Some(chain(&error)),
        }
    }
}

impl Backend for Dataplane {
    fn surround(&mut self, context: &Context, cluster_ranges: &BTreeSet<IpNet>) -> bool {
        self.context = context.clone();
        let edge = self.edge.surround(context);
        let ebpf = self.ebpf.as_mut().is_ok_and(|ebpf| ebpf.surround(context, cluster_ranges));
        self.nft.as_mut().is_ok_and(|nft| nft.surround(context, cluster_ranges)) || edge || ebpf
    }

    fn installed(&mut self) -> Result<BTreeSet<ServiceName>, BackendError> {
        let found = self.nft.as_mut().map_or_else(|_| Ok(BTreeSet::new()), Nft::installed);
        let mut all = match found {
            Ok(all) => all,
            Err(error) => {
                self.fell_behind(error, &Wanted::new())?;
                BTreeSet::new()
            }
        };
        if let Ok(ebpf) = &mut self.ebpf {
            all.extend(ebpf.installed()?);
        }
        Ok(all)
    }

    /// eBPF first: most new flows are its own, and its maps take a change in a fraction of the time of a transaction.
    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        let ebpf = self.ebpf.as_mut().ok().map(|ebpf| ebpf.apply(wanted));
        let mut applied = Applied::default();
        match &mut self.nft {
            Ok(nft) if self.behind.is_some() => nft.fall_behind(wanted),
            Ok(nft) => match nft.apply(wanted) {
                Ok(done) => applied = done,
                Err(error) => self.fell_behind(error, wanted)?,
            },
            Err(_) => {}
        }
        // What stands in the way of this one is its own affair: it has no part in whether a change was carried out.
        let Applied { puts, drops } = self.edge.apply(wanted);
        applied = Applied { puts: applied.puts + puts, drops: applied.drops + drops };
        match ebpf {
            Some(Ok(Applied { puts, drops })) => {
                self.failures = 0;
                applied = Applied { puts: applied.puts + puts, drops: applied.drops + drops };
            }
            Some(Err(error)) => self.failed(error, false)?,
            None => {}
        }
        Ok(applied)
    }

    fn enable(&mut self) -> Result<(), BackendError> {
        if self.behind.is_none()
            && let Ok(nft) = &mut self.nft
            && let Err(error) = nft.enable()
        {
            self.fell_behind(error, &Wanted::new())?;
        }
        self.edge.enable();
        let outcome = self.ebpf.as_mut().map_or(Ok(()), Backend::enable);
        outcome.or_else(|error| self.failed(error, true))?;
        self.release();
        Ok(())
    }

    fn disturbed(&mut self) -> bool {
        self.edge.watch();
        if let Ok(ebpf) = &mut self.ebpf {
            ebpf.follow();
        }
        if let Ok(nft) = &self.nft {
            self.edge.grow(|| nft.shares());
        }
        self.behind.is_none() && self.nft.as_mut().is_ok_and(Nft::disturbed)
    }

    fn tend(&mut self) {
        let due = |down: &Down| down.again.is_some_and(|again| Instant::now() >= again);
        if self.ebpf.as_ref().is_err_and(due) {
            self.come_back();
        }
        if let Ok(ebpf) = &mut self.ebpf {
            ebpf.tend();
        }
        if self.behind.is_some() {
            self.catch_up();
        }
        if let Ok(nft) = &self.nft {
            self.edge.tend(|| nft.shares());
        }
        self.release();
    }

    fn audit(&mut self, look: Look, findings: &mut Findings) -> Result<Turn, BackendError> {
        if look.is_first {
            self.audited = Audited::Nothing;
        }
        // The next of them begins, too, wherever an earlier round has left it.
        let look = Look { is_first: look.is_first || std::mem::take(&mut self.begins), ..look };
        let outcome = match (self.audited, &mut self.ebpf, &mut self.nft) {
            (Audited::Nothing, Ok(ebpf), _) => ebpf.audit(look, findings),
            (Audited::Edge, _, Ok(nft)) if self.behind.is_none() => nft.audit(look, findings),
            (Audited::Ebpf, _, _) => Ok(self.edge.audit(look, findings)),
            (Audited::Nothing | Audited::Edge, _, _) => Ok(Turn::Done),
        };
        let next = match (self.audited, &outcome) {
            (_, Ok(Turn::More | Turn::Wait)) => return outcome,
            (_, Err(_)) | (Audited::Edge, Ok(Turn::Done)) => Audited::Nothing,
            (Audited::Nothing, Ok(Turn::Done)) => Audited::Ebpf,
            (Audited::Ebpf, Ok(Turn::Done)) => Audited::Edge,
        };
        (self.audited, self.begins) = (next, true);
        outcome.map(|turn| if matches!(next, Audited::Nothing) { turn } else { Turn::More })
    }

    fn report(&self) -> Result<Report, BackendError> {
        Ok(Report {
            running: Some(self.running()),
            ebpf: self.ebpf.as_ref().ok().map(Ebpf::report).transpose()?,
            nftables: self.nft.as_ref().ok().map(Nft::report).transpose()?,
            conntrack: Usage::read().ok(),
            edge: self.edge.report(),
        })
    }

    fn unserved(&self, name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
        match (&self.ebpf, &self.nft) {
            (_, Ok(nft)) if nft.is_awake() => Vec::new(),
            (Ok(ebpf), _) => ebpf.unserved_beside(name, port, self.edge.is_up()),
            (Err(_), _) => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Choice, Floor, outlook};

    const YES: Result<(), &str> = Ok(());
    const NO: Result<(), &str> = Err("broken");

    fn check(choice: Choice, floor: Floor, ebpf: Result<(), &str>, nft: Result<(), &str>, expected: &str) {
        let found = match outlook(choice, floor, ebpf, nft) {
            Ok(running) => format!("{}: {}", running.dataplane, running.reason),
            Err(why) => format!("none: {why}"),
        };
        assert_eq!(found, expected, "{choice:?} {floor:?} {ebpf:?} {nft:?}");
    }

    #[test]
    fn ebpf_runs_where_it_works_and_is_wanted() {
        use Choice::{Auto, Ebpf, Nftables};
        use Floor::{Always, DrainOnly};
        check(Auto, Always, YES, YES, "ebpf+nftables: eBPF works here");
        check(Auto, DrainOnly, YES, YES, "ebpf: eBPF works here, --nftables=drain-only");
        check(Auto, Always, YES, NO, "ebpf: the packet filter cannot be used: broken");
        check(Ebpf, Always, YES, YES, "ebpf+nftables: --dataplane=ebpf");
        check(Nftables, Always, YES, YES, "nftables: --dataplane=nftables");
    }

    #[test]
    fn without_ebpf_nftables_runs_unless_ebpf_must() {
        use Choice::{Auto, Ebpf};
        check(Auto, Floor::Always, NO, YES, "nftables: eBPF cannot be used: broken");
        check(Ebpf, Floor::Always, NO, YES, "none: eBPF cannot be used: broken");
    }

    #[test]
    fn why_nothing_can_run_names_only_what_was_asked_for() {
        use Choice::{Auto, Nftables};
        let both = "none: eBPF cannot be used: broken; the packet filter cannot be used: gone";
        check(Auto, Floor::Always, NO, Err("gone"), both);
        check(Auto, Floor::Always, NO, NO, "none: broken");
        check(Nftables, Floor::Always, YES, NO, "none: the packet filter cannot be used: broken");
    }
}
