//! One copy of each name. A hundred thousand endpoints run on a few hundred nodes in a few zones.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Values in use, each once.
#[derive(Debug)]
pub(crate) struct Interner<T: ?Sized> {
    known: BTreeSet<Arc<T>>,
    /// Size at which values that nobody holds are swept out.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Interner<T> {
    fn default() -> Self {
        Self { known: BTreeSet::new(), sweep_at: 0 }
    }
}

/// Below this size a sweep is not worth its time.
const SMALL: usize = 1024;

impl<T: ?Sized> Clone for Interner<T> {
    fn clone(&self) -> Self {
        Self { known: self.known.clone(), sweep_at: self.sweep_at }
    }
}

impl<T: ?Sized + Ord> Interner<T> {
    /// Replaces `value` by the one copy of it.
    pub(crate) fn share(&mut self, value: &mut Arc<T>) {
        match self.known.get(value) {
            Some(known) => value.clone_from(known),
            None => self.keep(value.clone()),
        }
    }

    fn keep(&mut self, value: Arc<T>) {
        if self.known.len() >= self.sweep_at.max(SMALL) {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = self.known.len() * 2;
        }
        self.known.insert(value);
    }
}

impl Interner<str> {
    /// The one copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        self.keep(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_text_is_the_same_memory() {
        let mut interner = Interner::<str>::default();
        let first = interner.get("node-1");
        let mut second: Arc<str> = "node-1".into();
        interner.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn names_that_nobody_holds_do_not_pile_up() {
        let mut interner = Interner::<str>::default();
        let held = interner.get("held");
        for number in 0..10 * SMALL {
            interner.get(&number.to_string());
        }
        assert!(interner.known.len() <= SMALL + 1, "{}", interner.known.len());
        assert!(Arc::ptr_eq(&held, &interner.get("held")));
    }
}
