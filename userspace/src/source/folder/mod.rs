//! A folder of manifests, watched, and applied as if it came from the API.
//!
//! Files ending in `.yaml`, `.yml` or `.json` count, not those below sub-folders and none that begins with a dot. A file
//! is read when it is complete: on close after writing, or when it is moved or linked in. Editors and version control
//! take a file away before they put it back, and truncate it before they write it: what a file has lost is gone only if
//! it is still lost a moment later. A file in which anything does not parse takes nothing away at all: what it said
//! before stays in force until it parses again. So does everything while the folder itself is away.

mod read;
mod state;

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventMask, EventOwned, Inotify, WatchMask};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use self::read::{Contents, counts, list, read, spawn_readers, unreadable};
use self::state::{State, Taken};
use super::{Changes, until};
use crate::model::{Change, Kind, Problem};

/// How often a folder that is away is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// A mounted ConfigMap changes by turning this link; every file may be another.
const CONFIG_MAP_LINK: &str = "..data";

const GONE: EventMask =
    EventMask::DELETE_SELF.union(EventMask::MOVE_SELF).union(EventMask::UNMOUNT).union(EventMask::IGNORED);

/// Sends what the folder says, at once and whenever it changes, until nobody listens.
pub async fn follow(directory: PathBuf, changes: Changes) {
    let mut folder = Folder { directory, changes, state: State::default(), listed: false };
    loop {
        let Err(end) = folder.attempt().await;
        match end {
            End::Closed => return,
            End::Away(why) => {
                if folder.report(Some(why)).await.is_err() {
                    return;
                }
            }
        }
        sleep(RETRY).await;
    }
}

/// What the folder says just now, as one listing.
pub fn once(directory: &Path) -> io::Result<Vec<Change>> {
    let mut state = State::default();
    let mut changes: Vec<Change> = Kind::ALL.map(Change::Begin).into();
    let mut names: BTreeSet<String> = list(directory)?.into_iter().collect();
    while let Some(name) = names.pop_first() {
        let taken = state.take(&name, read(directory, &name), Instant::now());
        changes.extend(taken.changes);
        names.extend(taken.again);
    }
    changes.extend(Kind::ALL.map(Change::End));
    Ok(changes)
}

/// What a text says that could stand in a file of this name.
#[cfg(test)]
pub(crate) fn of_text(name: &str, text: &str) -> Vec<Change> {
    State::default().take(name, read::contents(name, text), Instant::now()).changes
}

/// Why the folder is not followed any more.
enum End {
    /// The loop has ended; nobody listens.
    Closed,
    /// The folder is away, or cannot be read.
    Away(String),
}

struct Folder {
    directory: PathBuf,
    changes: Changes,
    state: State,
    /// Whether all files were read once.
    listed: bool,
}

impl Folder {
    /// Follows the folder for as long as it is there.
    async fn attempt(&mut self) -> Result<Infallible, End> {
        let mut events = watch(&self.directory).map_err(unwatchable)?;
        self.state.begin_anew();
        self.read_all().await?;
        self.report(None).await?;
        loop {
            let alarm = self.state.alarm();
            tokio::select! {
                // First what is known to have changed: it may settle a doubt, or say that the folder has gone.
                biased;
                event = events.next() => self.heard(event).await?,
                () = until(alarm) => self.read_doubtful().await?,
            }
        }
    }

    async fn heard(&mut self, event: Option<io::Result<EventOwned>>) -> Result<(), End> {
        let event = event.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into())).map_err(unwatchable)?;
        if event.mask.intersects(GONE) {
            return Err(gone());
        }
        if event.mask.contains(EventMask::Q_OVERFLOW) {
            return self.read_all().await;
        }
        let Some(name) = event.name.and_then(|name| name.into_string().ok()) else { return Ok(()) };
        if name == CONFIG_MAP_LINK {
            return self.read_all().await;
        }
        let complete = !event.mask.contains(EventMask::CREATE) || is_link(&self.directory.join(&name));
        if counts(&name) && complete { self.read_again(BTreeSet::from([name])).await } else { Ok(()) }
    }

    /// Reads every file, those too that were there before.
    async fn read_all(&mut self) -> Result<(), End> {
        let mut names =
            list(&self.directory).map_err(|error| End::Away(format!("cannot be read: {error}")))?;
        let files = names.len();
        names.extend(self.state.names().cloned());
        self.mark_listing(Change::Begin).await?;
        let (found, mut shares) = mpsc::channel(read::AHEAD);
        let readers = spawn_readers(&self.directory, names.clone(), &found);
        drop(found);
        let mut again = BTreeSet::new();
        while let Some(share) = shares.recv().await {
            for (name, contents) in share {
                names.remove(&name);
                again.extend(self.take(&name, contents).await?);
            }
        }
        // A reader that panicked has delivered less.
        for reader in readers {
            drop(reader.join());
        }
        for name in names {
            self.take(&name, unreadable(&name, "could not be read; the log says more")).await?;
        }
        self.read_again(again).await?;
        self.mark_listing(Change::End).await?;
        if !std::mem::replace(&mut self.listed, true) {
            info!(folder = %self.directory.display(), files, "read all manifests");
        }
        Ok(())
    }

    /// Only the first reading is a listing: afterwards it is known which files have gone.
    async fn mark_listing(&self, mark: fn(Kind) -> Change) -> Result<(), End> {
        for kind in Kind::ALL.into_iter().filter(|_| !self.listed) {
            self.send(mark(kind)).await?;
        }
        Ok(())
    }

    /// Reads those files again that looked as if they had lost something.
    async fn read_doubtful(&mut self) -> Result<(), End> {
        // Without the folder every file seems to be gone.
        if !self.directory.is_dir() {
            return Err(gone());
        }
        let names = self.state.due(Instant::now());
        self.read_again(names).await
    }

    /// Reads files; if an object has gone from one that another file has too, that other file as well.
    async fn read_again(&mut self, mut names: BTreeSet<String>) -> Result<(), End> {
        while let Some(name) = names.pop_first() {
            let contents = read(&self.directory, &name);
            names.extend(self.take(&name, contents).await?);
        }
        Ok(())
    }

    /// Applies what a file says. Returns the files that should be read anew.
    async fn take(&mut self, name: &str, contents: Contents) -> Result<BTreeSet<String>, End> {
        let Taken { changes, again, concerned: _ } = self.state.take(name, contents, Instant::now());
        for change in changes {
            self.send(change).await?;
        }
        Ok(again)
    }

    /// Says what is wrong with the folder itself.
    async fn report(&self, why: Option<String>) -> Result<(), End> {
        let folder = self.directory.display();
        let problem = |why: String| {
            warn!(%folder, "the folder {why}; its state stays in force");
            let message = format!("{why}; what it said before stays in force");
            Problem::new(format_args!("folder {folder}"), "", message)
        };
        let problems = why.map(problem).into_iter().collect();
        self.send(Change::Problems { object: "folder".to_owned(), problems }).await
    }

    async fn send(&self, change: Change) -> Result<(), End> {
        self.changes.send(change).await.map_err(|_| End::Closed)
    }
}

type Events = inotify::EventStream<Vec<u8>>;

fn watch(directory: &Path) -> io::Result<Events> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::CREATE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask)?;
    inotify.into_event_stream(vec![0; 64 * 1024])
}

/// Whether an entry that was made just now is complete: nobody will close it after writing.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|entry| entry.is_symlink() || entry.nlink() > 1)
}

fn unwatchable(error: io::Error) -> End {
    End::Away(format!("cannot be watched: {error}"))
}

fn gone() -> End {
    End::Away("has gone".to_owned())
}

#[cfg(test)]
mod tests;
