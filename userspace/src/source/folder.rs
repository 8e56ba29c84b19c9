//! A folder of manifests, watched, and applied as if it came from the API.
//!
//! Files ending in `.yaml`, `.yml` or `.json` count, not those below sub-folders and none that begins with a dot. A file
//! is read when it is complete: on close after writing, or when it is moved in. A file in which anything does not parse
//! takes nothing away: what it said before stays in force until it parses again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures::StreamExt;
use inotify::{EventMask, Inotify, WatchMask};
use tokio::sync::mpsc;
use tracing::{info, warn};

use super::Changes;
use super::manifest::{self, Object};
use crate::model::{Applied, Change, Kind, ObjectRef, Problem, parse};

/// How often a folder that has gone is looked for.
const RETRY: Duration = Duration::from_secs(1);

/// Threads that read files at start.
const READERS: usize = 2;

/// Files a reader takes at a time.
const SHARE: usize = 64;

/// The loop has ended; nobody listens any more.
struct Closed;

/// Sends what the folder says, at once and whenever it changes, until nobody listens.
pub async fn follow(directory: PathBuf, changes: Changes) {
    let mut folder = Folder { directory, files: BTreeMap::new(), claims: BTreeMap::new() };
    loop {
        let ended = match watch(&folder.directory) {
            Ok(events) => folder.follow(events, &changes).await,
            Err(error) => folder.missing(&error, &changes).await,
        };
        if ended.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

type Events = inotify::EventStream<Vec<u8>>;

fn watch(directory: &Path) -> io::Result<Events> {
    let inotify = Inotify::init()?;
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR;
    inotify.watches().add(directory, mask)?;
    inotify.into_event_stream(vec![0; 64 * 1024])
}

/// What one file says.
#[derive(Default)]
struct Contents {
    applied: BTreeMap<ObjectRef, Change>,
    problems: Vec<Problem>,
    /// Whether everything in it could be read.
    whole: bool,
}

struct Folder {
    directory: PathBuf,
    /// What each file says, by name.
    files: BTreeMap<String, BTreeSet<ObjectRef>>,
    /// Which files say something about an object: the first one counts.
    claims: BTreeMap<ObjectRef, BTreeSet<String>>,
}

impl Folder {
    async fn missing(&self, error: &io::Error, changes: &Changes) -> Result<(), Closed> {
        let problem = Problem {
            object: format!("folder {}", self.directory.display()),
            field: String::new(),
            message: format!("cannot be watched: {error}; what it said before stays in force"),
            source: None,
        };
        send(changes, problems_of("folder", vec![problem])).await
    }

    async fn follow(&mut self, mut events: Events, changes: &Changes) -> Result<(), Closed> {
        send(changes, problems_of("folder", Vec::new())).await?;
        self.read_all(changes).await?;
        while let Some(event) = events.next().await {
            let Ok(event) = event else { return Ok(()) };
            if event.mask.intersects(EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED) {
                warn!(folder = %self.directory.display(), "the folder has gone; its state stays in force");
                return Ok(());
            }
            let name = event.name.and_then(|name| name.into_string().ok());
            match name {
                // A mounted ConfigMap changes by turning the link `..data`; every file may be another.
                Some(name) if name.starts_with("..") => self.read_all(changes).await?,
                Some(name) if counts(&name) => self.read_again(&name, changes).await?,
                Some(_) => {}
                // No name: the queue overflowed.
                None => self.read_all(changes).await?,
            }
        }
        Ok(())
    }

    /// Reads every file, and takes away what no file says any more.
    async fn read_all(&mut self, changes: &Changes) -> Result<(), Closed> {
        let names = list(&self.directory);
        let gone: Vec<String> = self.files.keys().filter(|name| !names.contains(*name)).cloned().collect();
        for name in gone {
            self.read_again(&name, changes).await?;
        }
        let first = self.files.is_empty();
        if first {
            send(changes, Change::Begin(Kind::Service)).await?;
            send(changes, Change::Begin(Kind::EndpointSlice)).await?;
        }
        let files = names.len();
        let (found, mut contents) = mpsc::channel(4 * READERS);
        let readers = spawn_readers(&self.directory, names, &found);
        drop(found);
        while let Some(share) = contents.recv().await {
            for (name, contents) in share {
                self.take(name, contents, changes).await?;
            }
        }
        for reader in readers {
            // A reader that panicked has delivered less; its files keep what they said.
            drop(reader.join());
        }
        if first {
            send(changes, Change::End(Kind::Service)).await?;
            send(changes, Change::End(Kind::EndpointSlice)).await?;
            info!(folder = %self.directory.display(), files, "read all manifests");
        }
        Ok(())
    }

    /// Reads one file; if an object has gone from it that another file has too, that other file as well.
    async fn read_again(&mut self, name: &str, changes: &Changes) -> Result<(), Closed> {
        let mut queue = BTreeSet::from([name.to_owned()]);
        while let Some(name) = queue.pop_first() {
            let contents = read(&self.directory, &name);
            queue.extend(self.take(name, contents, changes).await?);
        }
        Ok(())
    }

    /// Applies what a file says. Returns the files that should be read anew.
    async fn take(
        &mut self,
        name: String,
        contents: Contents,
        changes: &Changes,
    ) -> Result<BTreeSet<String>, Closed> {
        let Contents { applied, mut problems, whole } = contents;
        let before = self.files.get(&name).cloned().unwrap_or_default();
        let mut stays: BTreeSet<ObjectRef> = applied.keys().cloned().collect();
        for (object, change) in applied {
            let claims = self.claims.entry(object.clone()).or_default();
            claims.insert(name.clone());
            match claims.first() {
                Some(first) if *first != name => problems.push(twice(&object, &name, first)),
                _ => send(changes, change).await?,
            }
        }
        let mut again = BTreeSet::new();
        if whole {
            for object in before.difference(&stays) {
                again.extend(self.release(object, &name, changes).await?);
            }
        } else {
            stays.extend(before);
        }
        if stays.is_empty() {
            self.files.remove(&name);
        } else {
            self.files.insert(name.clone(), stays);
        }
        send(changes, problems_of(&format!("file {name}"), problems)).await?;
        Ok(again)
    }

    /// A file says nothing about an object any more: the next file that does takes over, else the object is gone.
    async fn release(
        &mut self,
        object: &ObjectRef,
        name: &str,
        changes: &Changes,
    ) -> Result<Option<String>, Closed> {
        let Some(claims) = self.claims.get_mut(object) else { return Ok(None) };
        claims.remove(name);
        if let Some(next) = claims.first() {
            return Ok(Some(next.clone()));
        }
        self.claims.remove(object);
        send(changes, Change::Deleted(object.clone())).await?;
        Ok(None)
    }
}

fn twice(object: &ObjectRef, name: &str, first: &str) -> Problem {
    Problem {
        object: object.to_string(),
        field: String::new(),
        message: format!("stands in {first} too, which counts"),
        source: Some(name.to_owned()),
    }
}

fn problems_of(object: &str, problems: Vec<Problem>) -> Change {
    Change::Problems { object: object.to_owned(), problems }
}

async fn send(changes: &Changes, change: Change) -> Result<(), Closed> {
    changes.send(change).await.map_err(|_| Closed)
}

fn counts(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

fn list(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| counts(name)).collect()
}

type Share = Vec<(String, Contents)>;

/// Reads files on threads of their own: parsing a big folder is the longest part of a cold start.
fn spawn_readers(
    directory: &Path,
    names: BTreeSet<String>,
    found: &mpsc::Sender<Share>,
) -> Vec<JoinHandle<()>> {
    let names: Vec<String> = names.into_iter().collect();
    let names = Arc::new(names);
    let reader = |number: usize| {
        let (directory, names, found) = (directory.to_owned(), names.clone(), found.clone());
        std::thread::spawn(move || {
            for share in names.chunks(SHARE).skip(number).step_by(READERS) {
                let read = |name: &String| (name.clone(), read(&directory, name));
                if found.blocking_send(share.iter().map(read).collect()).is_err() {
                    return;
                }
            }
        })
    };
    (0..READERS).map(reader).collect()
}

/// Reads one file. One that is not there says nothing, and that is whole.
fn read(directory: &Path, name: &str) -> Contents {
    let text = match fs::read(directory.join(name)).map(String::from_utf8) {
        Ok(Ok(text)) => text,
        Ok(Err(_)) => return unreadable(name, "is not UTF-8 text"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Contents { whole: true, ..Contents::default() };
        }
        Err(error) => return unreadable(name, &format!("cannot be read: {error}")),
    };
    let (objects, complaints) = manifest::parse(&text);
    let mut contents = Contents { whole: complaints.is_empty(), ..Contents::default() };
    for object in objects {
        let (object, change) = change(object, name);
        contents.applied.insert(object, change);
    }
    contents.problems.extend(complaints.into_iter().map(|complaint| Problem {
        object: complaint.object,
        field: complaint.field,
        message: complaint.message,
        source: Some(name.to_owned()),
    }));
    contents
}

fn unreadable(name: &str, message: &str) -> Contents {
    let problem = Problem {
        object: format!("file {name}"),
        field: String::new(),
        message: message.to_owned(),
        source: Some(name.to_owned()),
    };
    Contents { problems: vec![problem], ..Contents::default() }
}

fn change(object: Object, file: &str) -> (ObjectRef, Change) {
    let from = |problems: Vec<Problem>| {
        problems.into_iter().map(|problem| Problem { source: Some(file.to_owned()), ..problem }).collect()
    };
    match object {
        Object::Service(mut service) => {
            parse::default_service(&mut service);
            let object = parse::reference(Kind::Service, &service.metadata);
            let (value, problems) = parse::service(&service);
            let applied = Applied { object: object.clone(), value, problems: from(problems) };
            (object, Change::Service(applied))
        }
        Object::Slice(mut slice) => {
            parse::default_slice(&mut slice);
            let object = parse::reference(Kind::EndpointSlice, &slice.metadata);
            let (value, problems) = parse::slice(&slice);
            let applied = Applied { object: object.clone(), value, problems: from(problems) };
            (object, Change::Slice(applied))
        }
    }
}
