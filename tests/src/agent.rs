//! What the laboratory's clients and servers say to each other and to the tests: one JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What a server answers to one request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// Which server.
    pub name: String,
    /// Whom it saw.
    pub source: String,
    /// What it was sent.
    pub said: String,
}

/// Outcome of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether there was an answer.
    pub ok: bool,
    /// Which server answered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Whom the server saw.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Whom the client sees: `getpeername()`, or the sender that `recvfrom()` names.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// What went wrong: the name of the system's error, or `timeout`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// How long it took.
    pub micros: u64,
}

/// How far a load is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Requests so far, failed ones included.
    pub requests: u64,
    /// Those without a right answer.
    pub failed: u64,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
    /// Answers by server.
    pub spread: BTreeMap<String, u64>,
    /// True in the last line.
    #[serde(default)]
    pub done: bool,
}

impl Progress {
    /// Counts one outcome.
    pub fn count(&mut self, answer: &Answer) {
        self.requests += 1;
        if answer.ok {
            *self.spread.entry(answer.name.clone()).or_default() += 1;
        } else {
            self.failed += 1;
            *self.failures.entry(answer.error.clone()).or_default() += 1;
        }
    }
}
