//! The edge layer as something that may be missing: whatever it cannot do, the packet filter below it does. So its failures
//! are nobody else's; it is taken away as a whole, and tried again later.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{Capacity, Edge, Report, Settings, remove_all, remove_hooks};
use crate::backend::findings::{Findings, Look, Turn};
use crate::backend::{Applied, BackendError, Wanted, chain};
use crate::desired::Context;

/// Wait before it is tried again: doubled each time, up to the second figure.
const RETRY: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(300)];

/// How often room is doubled at once.
const DOUBLINGS: u32 = 8;

/// The layer, if it is asked for and works.
#[derive(Debug, Default)]
pub struct Keeper {
    settings: Option<Settings>,
    context: Context,
    layer: Layer,
    /// Its tables are full: what it holds is not all.
    outgrown: bool,
    /// When it may be asked again whether its table of flows fills.
    patient: Option<Instant>,
    /// Hooks that were put right.
    repaired: u64,
}

#[derive(Debug, Default)]
enum Layer {
    /// Nobody wants it.
    #[default]
    Off,
    /// It works.
    Up(Box<Edge>),
    /// It does not, and is tried again at this time.
    Down { why: String, wait: Duration, again: Instant },
}

impl Keeper {
    /// Opens the layer, if there are settings for it. Nothing that is in force changes yet.
    pub fn open(settings: Option<Settings>) -> Self {
        let mut keeper = Self { settings, ..Self::default() };
        if let Some(settings) = &keeper.settings {
            match Edge::open(settings) {
                Ok(edge) => keeper.layer = Layer::Up(Box::new(edge)),
                Err(error) => keeper.down(&error),
            }
        }
        keeper
    }

    fn down(&mut self, error: &BackendError) {
        let wait = match &self.layer {
            Layer::Down { wait, .. } => (*wait * 2).min(RETRY[1]),
            Layer::Off | Layer::Up(_) => RETRY[0],
        };
        warn!(
            error = error as &dyn std::error::Error,
            again_in = ?wait,
            "the edge layer cannot be used; nftables has the traffic from outside"
        );
        self.layer = Layer::Down { why: chain(error), wait, again: Instant::now() + wait };
        self.release();
    }

    /// What nobody keeps up to date must not be in force.
    fn release(&self) {
        if let Some(settings) = &self.settings
            && let Err(error) = remove_hooks(&settings.pin_dir)
        {
            warn!(error = &error as &dyn std::error::Error, "could not take the edge layer's programs away");
        }
    }

    /// Whether it serves.
    pub fn is_up(&self) -> bool {
        matches!(self.layer, Layer::Up(_))
    }

    /// Takes what does not belong to a Service. Returns whether the kernel is behind now.
    pub fn surround(&mut self, context: &Context) -> bool {
        self.context = context.clone();
        match &mut self.layer {
            Layer::Up(edge) => edge.surround(context),
            Layer::Off | Layer::Down { .. } => false,
        }
    }

    /// Brings some Services to the wanted state.
    pub fn apply(&mut self, wanted: &Wanted) -> Applied {
        let Layer::Up(edge) = &mut self.layer else { return Applied::default() };
        if self.outgrown {
            // The bigger one gets everything.
            return Applied::default();
        }
        edge.apply(wanted).unwrap_or_else(|error| {
            if error.is_full() {
                self.outgrown = true;
            } else {
                self.down(&error);
            }
            Applied::default()
        })
    }

    /// Gives it bigger tables if these are full, or will be soon. Nothing that is in force stops.
    pub fn grow<I: Iterator<Item = Wanted>>(&mut self, everything: impl FnOnce() -> I) {
        let (Layer::Up(edge), Some(settings)) = (&mut self.layer, &self.settings) else { return };
        let is_patient = self.patient.is_some_and(|until| Instant::now() < until);
        let flows = if is_patient { None } else { edge.wanted_flows() };
        if !self.outgrown && flows.is_none() {
            return;
        }
        let mut settings = settings.clone();
        settings.capacity.flows = flows.unwrap_or(settings.capacity.flows);
        match raise(&mut settings, &self.context, everything()) {
            Ok(edge) => {
                info!(capacity = ?settings.capacity, "the edge layer has bigger tables");
                self.settings = Some(settings);
                self.outgrown = false;
                self.layer = Layer::Up(Box::new(edge));
            }
            Err(error) if self.outgrown => {
                self.outgrown = false;
                self.down(&error);
            }
            Err(error) => {
                warn!(error = &error as &dyn std::error::Error, "could not make a bigger table of flows");
                self.patient = Some(Instant::now() + RETRY[1]);
            }
        }
    }

    /// Puts it into force.
    pub fn enable(&mut self) {
        if let Layer::Up(edge) = &mut self.layer
            && let Err(error) = edge.enable()
        {
            self.down(&error);
        }
    }

    /// Follows devices, addresses and routes, and looks after hooks. Called several times a second.
    pub fn watch(&mut self) {
        let Layer::Up(edge) = &mut self.layer else { return };
        match edge.watch() {
            Ok(repaired) => self.repaired += repaired,
            Err(error) => self.down(&error),
        }
    }

    /// One step of looking through its maps.
    pub fn audit(&mut self, look: Look, findings: &mut Findings) -> Turn {
        let Layer::Up(edge) = &mut self.layer else { return Turn::Done };
        if self.outgrown {
            return Turn::Done;
        }
        edge.audit(look, findings).unwrap_or_else(|error| {
            findings.notes.push(format!("edge: {}", chain(&error)));
            self.down(&error);
            Turn::Done
        })
    }

    /// Tries again what did not work, with all there is.
    pub fn tend<I: Iterator<Item = Wanted>>(&mut self, everything: impl FnOnce() -> I) {
        let Layer::Down { again, .. } = &self.layer else { return };
        let Some(settings) = self.settings.as_mut().filter(|_| Instant::now() >= *again) else { return };
        match raise(settings, &self.context, everything()) {
            Ok(edge) => {
                info!("the edge layer works again");
                self.layer = Layer::Up(Box::new(edge));
            }
            Err(error) => self.down(&error),
        }
    }

    /// Where nobody wants it, nothing of it may be in force, of whichever daemon.
    pub fn clear(&self, pin_dir: &std::path::Path) {
        if let Layer::Off = self.layer
            && let Err(error) = remove_all(pin_dir)
        {
            warn!(error = &error as &dyn std::error::Error, "could not remove what the edge layer had left");
        }
    }

    /// Devices, and counts; why there are none.
    pub fn report(&self) -> Option<Report> {
        match &self.layer {
            Layer::Off => None,
            Layer::Up(edge) => Some(Report { repaired: self.repaired, ..edge.report() }),
            Layer::Down { why, .. } => {
                Some(Report { down: Some(why.clone()), repaired: self.repaired, ..Report::default() })
            }
        }
    }
}

/// Room for Services is doubled until all of them fit.
fn raise(
    settings: &mut Settings,
    context: &Context,
    everything: impl Iterator<Item = Wanted>,
) -> Result<Edge, BackendError> {
    let everything: Vec<Wanted> = everything.collect();
    for _ in 0..DOUBLINGS {
        match fill(settings, context, &everything) {
            Err(error) if error.is_full() => {
                let Capacity { services, slots, .. } = &mut settings.capacity;
                (*services, *slots) = (services.saturating_mul(2), slots.saturating_mul(2));
            }
            outcome => return outcome,
        }
    }
    fill(settings, context, &everything)
}

fn fill(settings: &Settings, context: &Context, everything: &[Wanted]) -> Result<Edge, BackendError> {
    let mut edge = Edge::open(settings)?;
    edge.surround(context);
    for share in everything {
        edge.apply(share)?;
    }
    edge.enable()?;
    Ok(edge)
}
