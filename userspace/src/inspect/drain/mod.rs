//! `sluice drain`: who left the list of new flows of a service port and still has some. Why and when is told by the daemon, which
//! flows there are by the kernel.

mod gather;
mod text;

use std::net::SocketAddr;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Answer, Show, present};
use crate::drain::{Flows, State, Why};
use crate::model::ServiceName;

/// Between two looks that are to tell who moves: a little more than the second by which the kernel counts.
const APART: Duration = Duration::from_millis(1100);
/// Between two looks of somebody who waits, at least; and how many times as long as a look took.
const PAUSE: Duration = Duration::from_millis(500);
const SHARE: u32 = 4;

/// Everything there is to tell.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Drain {
    /// Why reasons and times are not known; absent when the daemon has given them.
    #[serde(skip_serializing_if = "Option::is_none")]
    no_daemon: Option<String>,
    endpoints: Vec<Row>,
    notes: Vec<String>,
}

/// One endpoint of a service port. Rows are sorted by the first three fields, in this order.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    state: State,
    service: String,
    endpoint: SocketAddr,
    protocol: &'static str,
    why: Option<Why>,
    /// What it is now.
    is_now: Option<Why>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    why_unknown: Option<String>,
    /// RFC 3339.
    left_at: Option<String>,
    ago_seconds: Option<u64>,
    /// Why that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_unknown: Option<String>,
    flows: Flows,
}

/// Prints who drains, of one Service or of all. With `wait` it does so when nobody does any more; it is an error if after that
/// time somebody does.
pub fn run(
    wanted: Option<&ServiceName>,
    wait: Option<Duration>,
    socket: &Path,
    pin_dir: &Path,
    show: &Show,
) -> anyhow::Result<()> {
    let ground = gather::Ground { wanted, socket, pin_dir };
    ground.check()?;
    let Some(patience) = wait else {
        return present(show, || gather::gather(&ground, Some(APART))).map(drop);
    };
    let began = Instant::now();
    loop {
        let looked = Instant::now();
        let drain = gather::gather(&ground, None)?;
        let left = drain.endpoints.iter().filter(|row| !row.flows.is_quiet()).count();
        let is_over = began.elapsed() >= patience;
        if left > 0 && !is_over {
            let pause = PAUSE.max(looked.elapsed() * SHARE);
            sleep(pause.min(patience.saturating_sub(began.elapsed())));
            continue;
        }
        let mut drain = Some(drain);
        let once = Show { watch: None, ..*show };
        present(&once, || drain.take().map_or_else(|| gather::gather(&ground, None), Ok))?;
        let waited = patience.as_secs_f64();
        anyhow::ensure!(left == 0, "after {waited} s {}", still(left));
        return Ok(());
    }
}

fn still(left: usize) -> String {
    match left {
        1 => "one endpoint still drains".to_owned(),
        more => format!("{more} endpoints still drain"),
    }
}

impl Answer for Drain {
    fn text(&self, wide: bool) -> String {
        text::text(self, wide)
    }
}
