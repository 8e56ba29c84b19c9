//! What has been heard so far of the answers to a request.

use super::message::{Answer, Content, answers};

/// The entry is gone already.
const ENOENT: i32 = 2;

/// Whether a listing can be trusted to have no holes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Quality {
    Whole,
    /// The kernel said that the table changed its shape meanwhile.
    Interrupted,
}

/// A listing that goes on.
pub(super) struct Listed {
    sequence: u32,
    quality: Quality,
}

/// Removals of which some are not answered yet.
pub(super) struct Deleted {
    waiting: Vec<u32>,
    /// The number of entries removed, or the first error.
    deleted: Result<usize, i32>,
}

impl Listed {
    pub(super) fn new(sequence: u32) -> Self {
        Self { sequence, quality: Quality::Whole }
    }

    /// Hands over the attributes of every entry. `None`: the listing goes on; else how it ended.
    pub(super) fn hear(
        &mut self,
        reading: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Option<Result<Quality, i32>> {
        for answer in answers(reading).filter(|answer| answer.sequence == self.sequence) {
            let Answer { sequence: _, interrupted, content } = answer;
            if interrupted {
                self.quality = Quality::Interrupted;
            }
            match content {
                Content::Entry(attributes) => take(attributes),
                Content::End(0) => return Some(Ok(self.quality)),
                Content::End(error) => return Some(Err(error)),
                Content::Other => {}
            }
        }
        None
    }
}

impl Deleted {
    pub(super) fn new(waiting: Vec<u32>) -> Self {
        Self { waiting, deleted: Ok(0) }
    }

    /// `None`: some are not answered yet; else how many were removed. One that was gone already is not counted, and one
    /// that cannot be removed does not hold up the others.
    pub(super) fn hear(&mut self, reading: &[u8]) -> Option<Result<usize, i32>> {
        for Answer { sequence, interrupted: _, content } in answers(reading) {
            let Content::End(error) = content else { continue };
            let Some(at) = self.waiting.iter().position(|one| *one == sequence) else { continue };
            self.waiting.swap_remove(at);
            self.deleted = match (self.deleted, error) {
                (Ok(sum), 0) => Ok(sum + 1),
                (Ok(sum), ENOENT) => Ok(sum),
                (Ok(_), error) => Err(error),
                (Err(first), _) => Err(first),
            };
        }
        self.waiting.is_empty().then_some(self.deleted)
    }
}
