//! Both dataplanes as one: eBPF where it can run, the packet filter below it and wherever it cannot.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::ebpf::{self, Ebpf};
use super::nft::{Marks, Nft};
use super::{Applied, Backend, BackendError, Report, Wanted};
use crate::causes::chain;
use crate::desired::{Context, ServicePort};
use crate::model::{Problem, ServiceName, ServicePortName};

/// Failures in a row after which the hooks are taken away, so that the packet filter has the traffic.
const PATIENCE: u32 = 3;
/// Wait before eBPF is tried again: doubled each time, up to the second figure.
const RETRY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

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
    /// Where eBPF is installed; or why it cannot be.
    pub ebpf: Result<ebpf::Settings, String>,
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

/// Both.
#[derive(Debug)]
pub struct Dataplane {
    settings: Settings,
    ebpf: Result<Ebpf, Down>,
    nft: Result<Nft, String>,
    /// Why the packet filter is behind, while eBPF has the traffic.
    behind: Option<String>,
    failures: u32,
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
        let nft = match Nft::open(settings.marks, settings.choice != Choice::Nftables) {
            Ok(nft) => Ok(nft),
            Err(error @ (BackendError::FilterBusy | BackendError::Foreign(_))) => return Err(error),
            Err(error) if settings.choice == Choice::Nftables => return Err(error),
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "the packet filter cannot be used");
                Err(chain(&error))
            }
        };
        let mut dataplane = Self {
            ebpf: Err(Down { why: "--dataplane=nftables".to_owned(), wait: RETRY[0], again: None }),
            nft,
            behind: None,
            failures: 0,
            settings,
        };
        dataplane.open_at_start()?;
        let Running { dataplane: name, reason } = dataplane.running();
        info!(dataplane = name, reason, "chose the dataplane");
        Ok(dataplane)
    }

    fn open_at_start(&mut self) -> Result<(), BackendError> {
        match self.settings.choice {
            Choice::Nftables => {}
            Choice::Ebpf => match &self.settings.ebpf {
                Ok(settings) => self.ebpf = Ok(Ebpf::open(settings)?),
                Err(why) => return Err(BackendError::NoEbpf(why.clone())),
            },
            Choice::Auto => match self.try_ebpf() {
                Ok(ebpf) => self.ebpf = Ok(ebpf),
                Err(BackendError::Busy(directory)) => return Err(BackendError::Busy(directory)),
                Err(error) if self.nft.is_err() => return Err(error),
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
        warn!(error = error as &dyn std::error::Error, again_in = ?wait, "eBPF cannot be used; nftables has the traffic");
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
        let floor = self.nft.as_ref().is_ok_and(Nft::is_awake);
        if let Some(why) = &self.behind {
            let reason = format!("{}; the packet filter is behind: {why}", self.why_ebpf());
            return Running { dataplane: "ebpf".to_owned(), reason };
        }
        let (dataplane, reason) = match (&self.ebpf, &self.nft) {
            (Ok(_), Ok(_)) if floor => ("ebpf+nftables", self.why_ebpf()),
            (Ok(_), Ok(_)) => ("ebpf", format!("{}, --nftables=drain-only", self.why_ebpf())),
            (Ok(_), Err(why)) => ("ebpf", format!("the packet filter cannot be used: {why}")),
            (Err(down), _) if self.settings.choice == Choice::Nftables => ("nftables", down.why.clone()),
            (Err(down), _) => ("nftables", format!("eBPF cannot be used: {}", down.why)),
        };
        Running { dataplane: dataplane.to_owned(), reason }
    }

    fn why_ebpf(&self) -> String {
        match self.settings.choice {
            Choice::Ebpf => "--dataplane=ebpf".to_owned(),
            Choice::Auto | Choice::Nftables => "eBPF works here".to_owned(),
        }
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
            warn!(
                error = &error as &dyn std::error::Error,
                "could not take away what eBPF had left; trying again"
            );
        }
    }

    /// The packet filter cannot take a change. As long as eBPF can, that is no reason to keep it from anybody.
    fn fell_behind(&mut self, error: BackendError, wanted: &Wanted) -> Result<(), BackendError> {
        if self.ebpf.is_err() {
            return Err(error);
        }
        warn!(
            error = &error as &dyn std::error::Error,
            "the packet filter cannot be programmed; eBPF has the traffic"
        );
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
        self.nft.as_mut().is_ok_and(|nft| nft.surround(context, cluster_ranges))
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

    fn apply(&mut self, wanted: &Wanted) -> Result<Applied, BackendError> {
        let mut applied = Applied::default();
        match &mut self.nft {
            Ok(nft) if self.behind.is_some() => nft.fall_behind(wanted),
            Ok(nft) => match nft.apply(wanted) {
                Ok(done) => applied = done,
                Err(error) => self.fell_behind(error, wanted)?,
            },
            Err(_) => {}
        }
        let Ok(ebpf) = &mut self.ebpf else { return Ok(applied) };
        match ebpf.apply(wanted) {
            Ok(Applied { puts, drops }) => {
                self.failures = 0;
                applied = Applied { puts: applied.puts + puts, drops: applied.drops + drops };
            }
            Err(error) => self.failed(error, false)?,
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
        let outcome = self.ebpf.as_mut().map_or(Ok(()), Backend::enable);
        outcome.or_else(|error| self.failed(error, true))?;
        self.release();
        Ok(())
    }

    fn tend(&mut self) {
        let due = |down: &Down| down.again.is_some_and(|again| Instant::now() >= again);
        if self.ebpf.as_ref().is_err_and(due) {
            self.come_back();
        }
        if self.behind.is_some() {
            self.catch_up();
        }
        self.release();
    }

    fn report(&self) -> Result<Report, BackendError> {
        Ok(Report {
            running: Some(self.running()),
            ebpf: self.ebpf.as_ref().ok().map(Ebpf::report).transpose()?,
            nftables: self.nft.as_ref().ok().map(Nft::report).transpose()?,
        })
    }

    fn unserved(&self, name: &ServicePortName, port: &ServicePort) -> Vec<Problem> {
        match (&self.ebpf, &self.nft) {
            (_, Ok(nft)) if nft.is_awake() => Vec::new(),
            (Ok(ebpf), _) => ebpf.unserved(name, port),
            (Err(_), _) => Vec::new(),
        }
    }
}
