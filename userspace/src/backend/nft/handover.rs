//! The landing place: a chain that keeps connection tracking away from packets with a mark. It is there before any other
//! rule of ours and stays behind them, because connections that are handed over to connection tracking must not have been
//! seen by it in a half translated form before.

use super::kernel::{is_hooked, read_tables};
use super::wire::{Batch, Hook, Place, Socket, Tables};
use super::{Family, is_ours, read, rule};
use crate::backend::BackendError;
use rule::{Dialect, Part};

const TABLE: Place<'static> = Place { family: Tables::Inet, table: "sluice-handover" };
const CHAIN: &str = "prerouting";
/// Before connection tracking (`NF_IP_PRI_RAW`).
const HOOK: Hook = Hook { kind: "filter", number: 0, priority: -300 };

fn about(bit: u32) -> String {
    format!("sluice, layout handover-{bit}")
}

fn rule(bit: u32) -> Vec<Part> {
    vec![Part::Marked(bit), Part::Notrack]
}

/// Whether the table is there as it should be.
pub(super) fn stands(socket: &mut Socket, bit: u32) -> Result<bool, BackendError> {
    let tables = read_tables(socket, TABLE.family).map_err(|source| read("read the tables", source))?;
    let same = tables.get(TABLE.table).is_some_and(|found| found.as_deref() == Some(&*about(bit)));
    Ok(same && is_hooked(socket, TABLE, CHAIN).map_err(|source| read("read the chains", source))?)
}

/// Makes the table unless it is there as it should be.
pub(super) fn ensure(socket: &mut Socket, bit: u32) -> Result<(), BackendError> {
    if stands(socket, bit)? {
        return Ok(());
    }
    let tables = read_tables(socket, TABLE.family).map_err(|source| read("read the tables", source))?;
    let found = tables.get(TABLE.table);
    if found.is_some() && !is_ours(found) {
        return Err(BackendError::Foreign(TABLE.table.to_owned()));
    }
    let mut batch = Batch::default();
    if found.is_some() {
        batch.delete_table(TABLE);
    }
    make(&mut batch, TABLE, bit);
    Ok(socket.commit(batch)?)
}

/// Writes the table, whatever its name.
pub(super) fn make(batch: &mut Batch, place: Place<'_>, bit: u32) {
    batch.add_table(place, &about(bit));
    batch.add_chain(place, CHAIN, Some(HOOK));
    let mut no_map = |_: &[&str]| 0;
    let rule = rule(bit);
    let steps = rule::steps(&rule, &mut Dialect { family: Family::V4, map: &mut no_map });
    batch.add_rule(place, CHAIN, &steps);
}

/// Removes it; returns its name if it was there.
pub(super) fn remove(socket: &mut Socket) -> Result<Option<String>, BackendError> {
    let tables = read_tables(socket, TABLE.family).map_err(|source| read("read the tables", source))?;
    if !is_ours(tables.get(TABLE.table)) {
        return Ok(None);
    }
    let mut batch = Batch::default();
    batch.delete_table(TABLE);
    socket.commit(batch)?;
    Ok(Some(format!("inet {}", TABLE.table)))
}

/// As nft reads it.
pub(super) fn text(bit: u32) -> String {
    let rule = rule::text(&rule(bit), Family::V4);
    format!(
        "table inet {} {{\n\tcomment \"{}\"\n\n\tchain {CHAIN} {{\n\t\ttype filter hook prerouting priority {}; \
         policy accept;\n\t\t{rule}\n\t}}\n}}\n",
        TABLE.table,
        about(bit),
        HOOK.priority
    )
}
