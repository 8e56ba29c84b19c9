//! Numbers for services and endpoints. They go up and come round late, so that an old number read by a program in
//! flight, or remembered by a socket, does not mean something new.

/// Gives out numbers from one up to a limit, then those that have become free. Zero is never given: it marks an unused
/// place.
#[derive(Clone, Debug)]
pub struct Ids {
    last: u32,
    limit: u32,
}

impl Ids {
    /// Continues after the largest number in use (zero: none), up to `limit`.
    pub fn after(largest: u32, limit: u32) -> Self {
        Self { last: largest, limit }
    }

    /// Allows higher numbers from now on.
    pub fn raise(&mut self, limit: u32) {
        self.limit = limit;
    }

    /// The same, but not behind `other`.
    #[must_use]
    pub fn not_before(self, other: &Self) -> Self {
        Self { last: self.last.max(other.last), ..self }
    }

    /// The next number that is not `taken`, or `None` if all are.
    pub fn next(&mut self, taken: impl Fn(u32) -> bool) -> Option<u32> {
        for _ in 0..self.limit {
            self.last = if self.last >= self.limit { 1 } else { self.last + 1 };
            if !taken(self.last) {
                return Some(self.last);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn numbers_start_after_the_largest_in_use() {
        let mut ids = Ids::after(41, u32::MAX);
        assert_eq!(ids.next(|_| false), Some(42));
        assert_eq!(ids.next(|_| false), Some(43));
    }

    #[test]
    fn a_number_in_use_is_skipped_after_the_turn() {
        let mut ids = Ids::after(9, 9);
        assert_eq!(ids.next(|id| id < 3), Some(3));
    }

    #[test]
    fn when_all_are_in_use_there_is_none() {
        assert_eq!(Ids::after(0, 4).next(|_| true), None);
    }
}
