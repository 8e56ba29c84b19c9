//! What a server says: kube-proxy's words, headers and order of fields.

use std::fmt;

use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// 200, 404, 500 or 503.
    pub(super) status: u16,
    /// `Content-Type`.
    pub(super) content_type: &'static str,
    /// `X-Load-Balancing-Endpoint-Weight`.
    pub(super) weight: Option<usize>,
    /// What follows the headers.
    pub(super) body: String,
}

/// Of texts for people.
const TEXT: &str = "text/plain; charset=utf-8";
/// Of objects.
const JSON: &str = "application/json";

impl Answer {
    /// A text.
    pub(super) fn text(body: impl Into<String>) -> Self {
        Self { status: 200, content_type: TEXT, weight: None, body: body.into() }
    }

    /// An object in one line, as an answer to a probe.
    pub(super) fn probe(is_well: bool, body: &impl Serialize) -> Self {
        Self { content_type: JSON, ..Self::text(written(body)) }.with(is_well)
    }

    /// An object over several lines, as an answer to a load balancer.
    pub(super) fn check(is_well: bool, weight: usize, body: &impl Serialize) -> Self {
        let mut text = Vec::new();
        let mut serializer = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"\t"));
        // A struct of texts and numbers, written to memory, cannot fail.
        let _ = body.serialize(&mut serializer);
        let body = String::from_utf8_lossy(&text).into_owned();
        Self { content_type: JSON, weight: Some(weight), ..Self::text(body) }.with(is_well)
    }

    /// An object in one line.
    pub(super) fn json(body: &impl Serialize) -> Self {
        Self::probe(true, body)
    }

    /// A text for Prometheus.
    pub(super) fn metrics(body: String, content_type: &'static str) -> Self {
        Self { content_type, ..Self::text(body) }
    }

    /// There is nothing of that name.
    pub(super) fn missing() -> Self {
        Self { status: 404, ..Self::text("404 page not found\n") }
    }

    /// It should be there, but could not be made.
    pub(super) fn failed(why: impl fmt::Display) -> Self {
        Self { status: 500, ..Self::text(format!("{why}\n")) }
    }

    fn with(self, is_well: bool) -> Self {
        Self { status: if is_well { 200 } else { 503 }, ..self }
    }
}

fn written(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}
