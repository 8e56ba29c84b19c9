//! One copy of each name. A hundred thousand endpoints run on a few hundred nodes.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Names in use, each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interner {
    names: BTreeSet<Arc<str>>,
    /// Size at which names that nobody holds are swept out.
    sweep_at: usize,
}

/// Below this size a sweep is not worth its time.
const SMALL: usize = 1024;

impl Interner {
    /// Replaces `name` by the one copy of it.
    pub(crate) fn share(&mut self, name: &mut Arc<str>) {
        match self.names.get(name) {
            Some(known) => name.clone_from(known),
            None => self.keep(name.clone()),
        }
    }

    /// The one copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.keep(name.clone());
        name
    }

    fn keep(&mut self, name: Arc<str>) {
        if self.names.len() >= self.sweep_at.max(SMALL) {
            self.names.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = self.names.len() * 2;
        }
        self.names.insert(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_the_same_memory() {
        let mut interner = Interner::default();
        let first = interner.get("node-1");
        let mut second: Arc<str> = "node-1".into();
        interner.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn names_that_nobody_holds_do_not_pile_up() {
        let mut interner = Interner::default();
        let held = interner.get("held");
        for number in 0..10 * SMALL {
            interner.get(&number.to_string());
        }
        assert!(interner.names.len() <= SMALL + 1, "{}", interner.names.len());
        assert!(Arc::ptr_eq(&held, &interner.get("held")));
    }
}
