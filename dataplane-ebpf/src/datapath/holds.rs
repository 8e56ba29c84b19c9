//! For which endpoints a socket counts: for one while it is connected, and for one of each service that it sends to without
//! connecting. It counts for as long as it is open and has not gone elsewhere.

use super::tables::{Holder, Socket, Tables};
use crate::abi::{Backend, Counter};

/// The last `close()` of a socket.
#[inline(always)]
pub fn release(socket: &mut impl Holder, tables: &impl Tables) {
    let Some(holds) = socket.holds() else { return };
    let_go(tables, &mut holds.connected);
    for place in &mut holds.datagrams {
        let_go(tables, place);
    }
}

/// It is connected to this endpoint now.
#[inline(always)]
pub(super) fn connected(socket: &mut impl Socket, tables: &impl Tables, id: u32, backend: &Backend) {
    match socket.holds_mut() {
        Some(holds) => exchange(tables, &mut holds.connected, id, backend),
        None => tables.count(Counter::Uncounted),
    }
}

/// It is connected to no endpoint any more.
#[inline(always)]
pub(super) fn disconnected(socket: &mut impl Socket, tables: &impl Tables) {
    if let Some(holds) = socket.holds() {
        let_go(tables, &mut holds.connected);
    }
}

/// It sends to this endpoint now, which is remembered in this place.
#[inline(always)]
pub(super) fn sends(
    socket: &mut impl Socket,
    tables: &impl Tables,
    place: usize,
    id: u32,
    backend: &Backend,
) {
    match socket.holds_mut().and_then(|holds| holds.datagrams.get_mut(place)) {
        Some(place) => exchange(tables, place, id, backend),
        None => tables.count(Counter::Uncounted),
    }
}

#[inline(always)]
fn exchange(tables: &impl Tables, place: &mut u32, id: u32, backend: &Backend) {
    let_go(tables, place);
    if tables.raise(id, backend) {
        *place = id;
    } else {
        tables.count(Counter::Uncounted);
    }
}

#[inline(always)]
fn let_go(tables: &impl Tables, place: &mut u32) {
    if *place != 0 {
        tables.lower(*place);
        *place = 0;
    }
}
