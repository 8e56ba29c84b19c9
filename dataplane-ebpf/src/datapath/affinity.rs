//! Session affinity: a client gets the endpoint it had, for as long as it keeps coming and that one is listed.

use super::tables::{List, Socket, Tables};
use crate::abi::{Affinity, AffinityKey, Member, MemberKey};

/// The clock counts these.
const NANOS: u64 = 1_000_000_000;

/// A client of a service port with affinity, and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    key: AffinityKey,
    now: u64,
}

/// Who asks, if it matters. Without affinity neither the client nor the clock is asked for.
#[inline(always)]
pub(super) fn client(
    socket: &impl Socket,
    tables: &impl Tables,
    service: u32,
    list: &List,
) -> Option<Client> {
    (list.timeout != 0)
        .then(|| Client { key: AffinityKey { client: socket.client(), service, zero: 0 }, now: tables.now() })
}

/// The place of the endpoint that the client had, if the record is fresh and the endpoint still in the list.
#[inline(always)]
pub(super) fn recall(tables: &impl Tables, client: &Client, list: &List) -> Option<u32> {
    let Client { key, now } = client;
    let Affinity { used, backend, zero: _ } = tables.affinity(key)?;
    if !is_fresh(used, *now, list.timeout) {
        return None;
    }
    let member = MemberKey { service: key.service, generation: list.generation, backend };
    let Member { index } = tables.member(&member)?;
    (index < list.slots).then_some(index)
}

/// Writes down what the client got, and when.
#[inline(always)]
pub(super) fn record(tables: &impl Tables, client: &Client, backend: u32) {
    let Client { key, now } = client;
    tables.set_affinity(key, &Affinity { used: *now, backend, zero: 0 });
}

/// Whether a flow at `now` comes within `timeout` seconds of the one before. Another CPU may have written a moment
/// later than this one looked at the clock.
#[inline(always)]
pub fn is_fresh(used: u64, now: u64, timeout: u32) -> bool {
    now.saturating_sub(used) < timeout as u64 * NANOS
}
