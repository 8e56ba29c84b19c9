//! Waiting: ask again until it holds or the time is up, and say what was seen last.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Time between two questions.
const PAUSE: Duration = Duration::from_millis(5);

/// Asks until the answer is `Ok`; after `limit` the last error is the result, with `what` was waited for.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| format!("waited {limit:?} in vain: {what}"));
            }
            Err(_) => sleep(PAUSE),
        }
    }
}
