//! Numbers for services and endpoints. They only grow, so that an old number read by a program in flight, or
//! remembered by a socket, never means something new.

/// Gives out numbers, each once. Zero is never given: it marks an unused place.
#[derive(Clone, Debug)]
pub struct Ids {
    last: u32,
}

impl Ids {
    /// Continues after the largest number in use (zero: none).
    pub fn after(largest: u32) -> Self {
        Self { last: largest }
    }

    /// The next number. After four thousand million it starts again at one: at a thousand new endpoints a second that
    /// takes seven weeks, and by then the low ones have long gone; a number still in use is skipped by `taken`.
    pub fn next(&mut self, taken: impl Fn(u32) -> bool) -> u32 {
        loop {
            self.last = self.last.checked_add(1).unwrap_or(1);
            if !taken(self.last) {
                return self.last;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn numbers_start_after_the_largest_in_use() {
        let mut ids = Ids::after(41);
        assert_eq!(ids.next(|_| false), 42);
        assert_eq!(ids.next(|_| false), 43);
    }

    #[test]
    fn a_number_in_use_is_skipped_after_the_turn() {
        let mut ids = Ids::after(u32::MAX);
        assert_eq!(ids.next(|id| id < 3), 3);
    }
}
