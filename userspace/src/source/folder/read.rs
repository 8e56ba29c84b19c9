//! Files in, changes out.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::sync::mpsc::Sender;

use crate::model::{Applied, Change, Kind, ObjectRef, Parsed, Problem, parse};
use crate::source::manifest::{self, Complaint, Object};

/// Threads that read files when all are read.
const READERS: usize = 2;

/// Files a reader takes at a time.
const SHARE: usize = 64;

/// Shares that readers may be ahead.
pub(super) const AHEAD: usize = 4 * READERS;

/// What one file says.
#[derive(Default)]
pub(super) struct Contents {
    /// Its objects.
    pub(super) applied: BTreeMap<ObjectRef, Change>,
    /// What is wrong with the file.
    pub(super) problems: Vec<Problem>,
    /// Whether everything in it could be read.
    pub(super) whole: bool,
}

/// What a reader delivers at a time.
type Share = Vec<(String, Contents)>;

/// Whether a file of this name is a manifest.
pub(super) fn counts(name: &str) -> bool {
    !name.starts_with('.') && [".yaml", ".yml", ".json"].iter().any(|ending| name.ends_with(ending))
}

/// The manifests of a folder.
pub(super) fn list(directory: &Path) -> io::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(directory)? {
        names.extend(entry?.file_name().into_string().ok().filter(|name| counts(name)));
    }
    Ok(names)
}

/// Reads files on threads of their own: parsing a big folder is the longest part of a cold start.
pub(super) fn spawn_readers(
    directory: &Path,
    names: BTreeSet<String>,
    found: &Sender<Share>,
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

/// Reads one file. One that is not there, or is no file, says nothing, and that is whole.
pub(super) fn read(directory: &Path, name: &str) -> Contents {
    let nothing = Contents { whole: true, ..Contents::default() };
    let path = directory.join(name);
    // A pipe would never end.
    if fs::metadata(&path).is_ok_and(|entry| !entry.is_file()) {
        return nothing;
    }
    match fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => contents(name, &text),
        Ok(Err(_)) => unreadable(name, "is not UTF-8 text"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => nothing,
        Err(error) => unreadable(name, &format!("cannot be read: {error}")),
    }
}

/// A file of which nothing is known.
pub(super) fn unreadable(name: &str, message: &str) -> Contents {
    let problem = problem(name, format!("file {name}"), String::new(), message.to_owned());
    Contents { problems: vec![problem], ..Contents::default() }
}

/// What a text says that stands in the file `name`.
pub(super) fn contents(name: &str, text: &str) -> Contents {
    let (objects, complaints) = manifest::parse(name, text);
    let mut contents = Contents { whole: complaints.is_empty(), ..Contents::default() };
    for object in objects {
        let (object, change) = change(object, name);
        match contents.applied.entry(object) {
            Entry::Vacant(place) => {
                place.insert(change);
            }
            Entry::Occupied(place) => {
                let message = "stands in this file more than once; the first one counts".to_owned();
                contents.problems.push(problem(name, place.key().to_string(), String::new(), message));
            }
        }
    }
    contents.problems.extend(
        complaints
            .into_iter()
            .map(|Complaint { object, field, message }| problem(name, object, field, message)),
    );
    contents
}

fn problem(file: &str, object: String, field: String, message: String) -> Problem {
    Problem { object, field, message, source: Some(file.to_owned()) }
}

fn change(object: Object, file: &str) -> (ObjectRef, Change) {
    match object {
        Object::Service(mut service) => {
            parse::default_service(&mut service);
            let object = parse::reference(Kind::Service, &service.metadata);
            (object.clone(), Change::Service(applied(object, parse::service(&service), file)))
        }
        Object::Slice(mut slice) => {
            parse::default_slice(&mut slice);
            let object = parse::reference(Kind::EndpointSlice, &slice.metadata);
            (object.clone(), Change::Slice(applied(object, parse::slice(&slice), file)))
        }
        Object::Node(node) => {
            let object = parse::reference(Kind::Node, &node.metadata);
            (object.clone(), Change::Node(applied(object, parse::node(&node), file)))
        }
        Object::ServiceCidr(cidr) => {
            let object = parse::reference(Kind::ServiceCidr, &cidr.metadata);
            (object.clone(), Change::ServiceCidr(applied(object, parse::service_cidr(&cidr), file)))
        }
    }
}

fn applied<T>(object: ObjectRef, (value, problems): (Parsed<T>, Vec<Problem>), file: &str) -> Applied<T> {
    let from = |problem| Problem { source: Some(file.to_owned()), ..problem };
    Applied { object, value, problems: problems.into_iter().map(from).collect() }
}
