//! What operators are told through the API: about which object, and how often at most. Pure.

#![forbid(unsafe_code)]

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use crate::model::{Kind, ObjectRef, Problem};

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The Service that it is about; `None`: this node.
    pub service: Option<ObjectRef>,
    /// Whether somebody must act.
    pub is_warning: bool,
    /// Why, as one word: what alerts and scripts look for.
    pub reason: Reason,
    /// What happened, with names and values.
    pub note: String,
}

/// Why something is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The daemon has begun.
    Starting,
    /// An object says something that cannot be carried out; the rest of it is.
    InvalidObject,
    /// An object asks for an address that another one has.
    AddressConflict,
    /// An object asks for something that this dataplane does not do.
    NotServed,
    /// The configuration does not fit the node.
    Configuration,
    /// The kernel refuses what has to be written.
    ProgrammingFailed,
    /// Another dataplane than before has the traffic.
    DataplaneChanged,
    /// Somebody took away hooks, tables or programs.
    Repaired,
    /// A table of flows has hardly room left.
    TableNearlyFull,
}

impl Reason {
    /// Each of them.
    pub const ALL: [Self; 9] = [
        Self::Starting,
        Self::InvalidObject,
        Self::AddressConflict,
        Self::NotServed,
        Self::Configuration,
        Self::ProgrammingFailed,
        Self::DataplaneChanged,
        Self::Repaired,
        Self::TableNearlyFull,
    ];

    /// As it stands in the event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::InvalidObject => "InvalidObject",
            Self::AddressConflict => "AddressConflict",
            Self::NotServed => "NotServed",
            Self::Configuration => "Configuration",
            Self::ProgrammingFailed => "ProgrammingFailed",
            Self::DataplaneChanged => "DataplaneChanged",
            Self::Repaired => "Repaired",
            Self::TableNearlyFull => "TableNearlyFull",
        }
    }
}

/// Longest note that the API takes (events.k8s.io/v1), in bytes.
const NOTE: usize = 1024;

impl Notice {
    /// About this node.
    pub fn of_node(is_warning: bool, reason: Reason, note: impl Into<String>) -> Self {
        Self { service: None, is_warning, reason, note: shorten(note.into()) }
    }

    /// A problem, about the Service whose it is; any other is the node's.
    pub fn of_problem(reason: Reason, problem: &Problem) -> Self {
        let service = service_of(&problem.object);
        let note = match &service {
            Some(_) if problem.field.is_empty() => problem.message.clone(),
            Some(_) => format!("{}: {}", problem.field, problem.message),
            None => problem.to_string(),
        };
        Self { service, is_warning: true, reason, note: shorten(note) }
    }

    /// The event's name. All nodes find the same wrong with a Service and call it the same, so that the API holds it once,
    /// however many they are. What is about a node is told each time.
    pub fn name(&self, node: &str, now: u128) -> String {
        let Some(service) = &self.service else { return format!("{node}.{now:x}") };
        let mut hasher = DefaultHasher::new();
        (self.reason, &self.note).hash(&mut hasher);
        format!("{}.{:016x}", service.name, hasher.finish())
    }
}

/// The Service in "Service default/web".
fn service_of(object: &str) -> Option<ObjectRef> {
    let (namespace, name) = object.strip_prefix("Service ")?.split_once('/')?;
    Some(ObjectRef::new(Kind::Service, namespace, name))
}

fn shorten(mut note: String) -> String {
    if note.len() > NOTE {
        let end = (0..=NOTE - 3).rev().find(|at| note.is_char_boundary(*at)).unwrap_or(0);
        note.truncate(end);
        note.push_str("...");
    }
    note
}

/// How often something may happen: so many times at once, and once more each period.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    left: u32,
    most: u32,
    period: Duration,
    since: Instant,
}

impl Throttle {
    /// Full.
    pub(super) const fn new(most: u32, period: Duration, now: Instant) -> Self {
        Self { left: most, most, period, since: now }
    }

    /// Whether it may happen now.
    pub(super) fn admits(&mut self, now: Instant) -> bool {
        let periods = now.saturating_duration_since(self.since).as_nanos() / self.period.as_nanos().max(1);
        if let Some(periods) = u32::try_from(periods).ok().filter(|periods| *periods > 0) {
            self.left = self.left.saturating_add(periods).min(self.most);
            self.since += self.period * periods;
        }
        let admits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(object: &str, field: &str) -> Problem {
        Problem::new(object, field, "70000 is not a port")
    }

    #[test]
    fn a_problem_of_a_service_is_told_about_it_and_any_other_about_the_node() {
        for (object, field, service, note) in [
            ("Service default/web", "spec.ports[0]", Some("web"), "spec.ports[0]: 70000 is not a port"),
            ("Service default/web", "", Some("web"), "70000 is not a port"),
            ("EndpointSlice default/web-1", "", None, "EndpointSlice default/web-1: 70000 is not a port"),
            ("kernel", "", None, "kernel: 70000 is not a port"),
            ("Service ", "", None, "Service : 70000 is not a port"),
        ] {
            let notice = Notice::of_problem(Reason::InvalidObject, &problem(object, field));
            let named = notice.service.as_ref().map(|service| &*service.name);
            assert_eq!((named, &*notice.note, notice.is_warning), (service, note, true), "{object}");
        }
    }

    #[test]
    fn all_nodes_call_the_same_thing_the_same_if_it_is_about_a_service() {
        let of = |reason, object: &str| Notice::of_problem(reason, &problem(object, ""));
        let web = of(Reason::InvalidObject, "Service default/web");
        assert_eq!(web.name("n1", 1), web.name("n2", 2));
        assert!(web.name("n1", 1).starts_with("web."));
        assert_ne!(web.name("n1", 1), of(Reason::AddressConflict, "Service default/web").name("n1", 1));
        let kernel = of(Reason::ProgrammingFailed, "kernel");
        assert_eq!(kernel.name("n1", 255), "n1.ff");
        assert_ne!(kernel.name("n1", 1), kernel.name("n1", 2));
    }

    #[test]
    fn notes_are_as_long_as_the_api_takes() {
        let note = |text: String| Notice::of_node(true, Reason::Starting, text).note;
        assert_eq!(note("a".repeat(1024)).len(), 1024);
        let cut = note("ü".repeat(1000));
        assert!(cut.len() <= 1024 && cut.ends_with("ü..."), "{cut}");
    }

    #[test]
    fn it_happens_so_often_at_once_and_then_once_a_period() {
        let start = Instant::now();
        let mut throttle = Throttle::new(2, Duration::from_secs(10), start);
        let mut at = |seconds| throttle.admits(start + Duration::from_secs(seconds));
        assert_eq!([0, 0, 0, 9].map(&mut at), [true, true, false, false]);
        assert_eq!([10, 10, 19, 20].map(&mut at), [true, false, false, true]);
        assert_eq!([500, 500, 500].map(&mut at), [true, true, false], "no more than that is saved up");
    }

    #[test]
    fn reasons_are_words() {
        for reason in Reason::ALL {
            assert!(reason.as_str().chars().all(|c| c.is_ascii_alphabetic()), "{reason:?}");
        }
    }
}
