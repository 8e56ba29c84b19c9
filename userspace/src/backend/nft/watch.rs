//! Whether anybody has taken away what is ours: `nft flush ruleset` is what a restart of the host's own firewall does.

use std::collections::BTreeSet;
use std::io;

use tracing::warn;

use super::kernel::{has_rules, is_hooked, read_generation};
use super::wire::{Place, Socket};
use super::{DISPATCH, Nft, handover, hook_names, read};
use crate::backend::BackendError;

/// What is missing of a table: chains on hooks, or all rules.
pub(super) fn missing(socket: &mut Socket, place: Place<'_>) -> io::Result<Vec<String>> {
    let hooks = hooks(socket, place)?;
    let mut missing: Vec<String> = hook_names().difference(&hooks).cloned().collect();
    if !has_rules(socket, place, DISPATCH).unwrap_or(false) {
        missing.push("its rules".to_owned());
    }
    Ok(missing)
}

/// Which of our chains hang on their hooks.
fn hooks(socket: &mut Socket, place: Place<'_>) -> io::Result<BTreeSet<String>> {
    let mut hooks = BTreeSet::new();
    for name in hook_names() {
        if is_hooked(socket, place, &name)? {
            hooks.insert(name);
        }
    }
    Ok(hooks)
}

impl Nft {
    /// Whether something of ours is missing. Cheap as long as nobody changes the ruleset: each transaction gives it a
    /// new number, and the number is asked first. Rules are looked at, elements are not.
    pub fn disturbed(&mut self) -> bool {
        let Ok(number) = read_generation(&mut self.socket) else { return false };
        if self.generation.replace(number) == Some(number) {
            return false;
        }
        let mut missing = |place| missing(&mut self.socket, place).is_ok_and(|missing| !missing.is_empty());
        let tables = self.tables.iter().filter(|_| self.in_force);
        let disturbed = tables.map(|table| table.layout.place(table.name)).any(&mut missing);
        disturbed || self.landing && !handover::stands(&mut self.socket, self.marks.notrack).unwrap_or(true)
    }

    /// Looks whether the tables are still there.
    pub(super) fn look(&mut self) -> Result<(), BackendError> {
        if self.landing {
            handover::ensure(&mut self.socket, self.marks.notrack)?;
        }
        for table in &mut self.tables {
            let place = table.layout.place(table.name);
            let ruled = has_rules(&mut self.socket, place, DISPATCH)
                .map_err(|source| read("read the rules", source))?;
            if !ruled {
                warn!(table = table.name, "somebody removed our table; building it anew");
                self.tables.clear();
                return Ok(());
            }
            table.hooks = hooks(&mut self.socket, place).map_err(|source| read("read the chains", source))?;
        }
        Ok(())
    }
}
