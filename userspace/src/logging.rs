//! The daemon's log: standard error, by way of a thread of its own.
//!
//! Whoever reads it may stop reading: a container runtime that is being upgraded leaves the pipe full. Then lines are lost, and
//! counted, and traffic goes on being looked after; writing them at once would hold up the loop until somebody reads.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{Detail, LogFormat};

/// So many lines may wait to be read. They are some hundred bytes each.
const WAITING: usize = 8192;

/// How long the end waits for lines to be read.
const PATIENCE: Duration = Duration::from_secs(1);

/// The log, from [`start`] on.
#[derive(Debug)]
pub struct Log {
    guard: WorkerGuard,
    lost: ErrorCounter,
}

/// Begins. Only once in a process.
pub fn start(detail: Detail, format: LogFormat) -> Log {
    let builder = NonBlockingBuilder::default().buffered_lines_limit(WAITING).lossy(true).thread_name("log");
    let (writer, guard) = builder.finish(io::stderr());
    let lost = writer.error_counter();
    let colour = io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_ansi(colour).with_writer(writer);
    let filter = filter(detail);
    match format {
        LogFormat::Text => tracing_subscriber::registry().with(layer.with_filter(filter)).init(),
        LogFormat::Json => tracing_subscriber::registry().with(layer.json().with_filter(filter)).init(),
    }
    Log { guard, lost }
}

impl Log {
    /// Reads how many lines have been lost, whenever it is asked.
    pub fn lost(&self) -> impl Fn() -> u64 + use<> {
        let lost = self.lost.clone();
        move || u64::try_from(lost.dropped_lines()).unwrap_or(u64::MAX)
    }

    /// Waits until all has been read, but not for long: where nobody reads, the guard's own farewell would wait for ever.
    pub fn end(self) {
        let (done, ended) = channel();
        thread::spawn(move || {
            drop(self.guard);
            let _ = done.send(());
        });
        let _ = ended.recv_timeout(PATIENCE);
    }
}

/// The client reports every failed request as an error, though it is tried again; the watches say it better.
fn filter(detail: Detail) -> Targets {
    let (level, client) = match detail {
        Detail::Operator => (LevelFilter::INFO, LevelFilter::OFF),
        Detail::Debug => (LevelFilter::DEBUG, LevelFilter::OFF),
        Detail::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new().with_default(level).with_target("kube_client", client)
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::filter;
    use crate::settings::Detail;

    #[test]
    fn the_client_speaks_only_where_everything_is_asked_for() {
        for (detail, level, ours, clients) in [
            (Detail::Operator, Level::ERROR, true, false),
            (Detail::Debug, Level::DEBUG, true, false),
            (Detail::Debug, Level::TRACE, false, false),
            (Detail::Trace, Level::TRACE, true, true),
        ] {
            let filter = filter(detail);
            assert_eq!(filter.would_enable("sluice", &level), ours, "{detail:?} {level}");
            assert_eq!(filter.would_enable("kube_client::client", &level), clients, "{detail:?} {level}");
        }
    }
}
