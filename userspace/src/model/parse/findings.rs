//! What was found wrong with the object at hand.

use std::fmt;

use super::{ObjectRef, Problem};

/// The object, and its problems so far.
pub(super) struct Findings {
    object: String,
    problems: Vec<Problem>,
}

impl Findings {
    pub(super) fn of(object: &ObjectRef) -> Self {
        Self { object: object.to_string(), problems: Vec::new() }
    }

    /// Notes a problem in `field`.
    pub(super) fn note(&mut self, field: impl fmt::Display, message: impl fmt::Display) {
        self.problems.push(Problem::new(&self.object, field.to_string(), message.to_string()));
    }

    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems
    }
}
