//! Counts the flows of endpoints that left, on a thread of its own: connection tracking may be large, and the loop waits for nobody.

use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tracing::debug;

use crate::backend::survey::{Finder, Whose, look};
use crate::drain::Subject;
use crate::drain::memory::Found;

/// How often flows are counted at most.
const PACE: Duration = Duration::from_secs(10);
/// Of a processor's time it takes no more than one part in so many.
const SHARE: u32 = 20;

/// What was found.
#[derive(Debug)]
pub(super) struct Survey {
    /// When it was asked for, on the loop's clock.
    pub(super) asked: Duration,
    pub(super) found: Found,
    took: Duration,
}

/// The loop's end. The thread ends with it.
#[derive(Debug)]
pub struct Surveyor {
    orders: Sender<(Vec<Subject>, Duration)>,
    /// Never more than one: the next is ordered when one has come.
    surveys: UnboundedReceiver<Survey>,
    /// When flows may be counted again; `None`: while they are.
    next: Option<Duration>,
}

impl Surveyor {
    /// Starts the thread, in the network namespace of the caller. Maps are pinned below `pin_dir`.
    pub fn start(pin_dir: PathBuf) -> std::io::Result<Self> {
        let (orders, received) = channel::<(Vec<Subject>, Duration)>();
        let (found, surveys) = unbounded_channel();
        let work = move || {
            for (subjects, asked) in received {
                let mut finder = Finder::of(subjects);
                let look = look(&pin_dir, &mut finder);
                let named =
                    look.counted(&finder, None).into_iter().filter_map(
                        |(whose, endpoint, flows)| match whose {
                            Whose::Port(port) => Some(((port, endpoint), flows)),
                            Whose::Number(..) => None,
                        },
                    );
                let survey = Survey { asked, found: named.collect(), took: look.took() };
                debug!(endpoints = survey.found.len(), took = ?survey.took, "counted flows of endpoints that left");
                if found.send(survey).is_err() {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("sluice-drain".to_owned()).spawn(work)?;
        Ok(Self { orders, surveys, next: Some(Duration::ZERO) })
    }

    /// What has been found since the last call.
    pub(super) fn take(&mut self, now: Duration) -> Option<Survey> {
        let survey = self.surveys.try_recv().ok()?;
        self.next = Some(now + PACE.max(survey.took * SHARE));
        Some(survey)
    }

    /// Whether flows may be counted now.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.next.is_some_and(|next| next <= now)
    }

    /// Has flows counted.
    pub(super) fn order(&mut self, subjects: Vec<Subject>, now: Duration) {
        // The thread ends after this sender only.
        if self.orders.send((subjects, now)).is_ok() {
            self.next = None;
        }
    }
}
