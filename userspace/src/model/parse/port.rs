//! Numbers, names and protocols of ports.

use std::num::NonZeroU16;

use super::super::Protocol;
use super::findings::Findings;

/// Longest DNS label (RFC 1123).
const LABEL_BYTES: usize = 63;

/// The API counts ports in 32 bits.
pub(super) fn number(field: &str, number: i32, findings: &mut Findings) -> Option<NonZeroU16> {
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    if port.is_none() {
        findings.note(format_args!("{field}.port"), format_args!("{number} is not a port (1-65535)"));
    }
    port
}

/// A protocol; TCP if none is named.
pub(super) fn protocol(field: &str, text: Option<&str>, findings: &mut Findings) -> Option<Protocol> {
    let text = text.unwrap_or("TCP");
    match text.parse() {
        Ok(protocol) => Some(protocol),
        Err(unknown) => {
            findings.note(format_args!("{field}.protocol"), format_args!("{text:?} is {unknown}"));
            None
        }
    }
}

/// Whether `text` is a DNS label, as names of namespaces, Services and ports have to be.
pub(super) fn is_label(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let edges = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= LABEL_BYTES
        && edges.into_iter().all(|byte| byte.is_some_and(plain))
        && text.bytes().all(|byte| plain(byte) || byte == b'-')
}
