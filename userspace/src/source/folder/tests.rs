//! A real folder, and what is said about it.

use std::os::unix::fs::symlink;

use tokio::sync::mpsc::Receiver;
use tokio::time::timeout;

use super::*;
use crate::model::{Applied, Kind};

const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than a file may be without what it said.
const LONG: Duration = Duration::from_millis(600);

#[tokio::test]
async fn a_file_that_is_taken_away_and_put_back_loses_nothing() {
    let mut rig = Rig::new("put-back", &["web"]).await;
    fs::rename(rig.file("web"), rig.file("web").with_extension("yaml~")).unwrap();
    rig.write("web");
    rig.hear("+web").await;
    fs::remove_file(rig.file("web")).unwrap();
    fs::write(rig.file("web"), "").unwrap();
    rig.write("web");
    rig.hear("+web").await;
    rig.silent(&["-web"]).await;
}

#[tokio::test]
async fn a_file_that_is_taken_away_is_gone_a_moment_later() {
    let mut rig = Rig::new("gone", &["web", "api"]).await;
    fs::remove_file(rig.file("web")).unwrap();
    rig.hear("-web").await;
    rig.silent(&["-api"]).await;
}

#[tokio::test]
async fn links_are_read_when_they_are_made() {
    let mut rig = Rig::new("links", &[]).await;
    fs::write(rig.directory.join("elsewhere"), manifest("hard")).unwrap();
    fs::hard_link(rig.directory.join("elsewhere"), rig.file("hard")).unwrap();
    rig.hear("+hard").await;
    fs::write(rig.directory.join("beside"), manifest("soft")).unwrap();
    symlink("beside", rig.file("soft")).unwrap();
    rig.hear("+soft").await;
}

#[tokio::test]
async fn a_mounted_config_map_changes_as_a_whole() {
    let mut rig = Rig::new("config-map", &[]).await;
    let directory = rig.directory.clone();
    let version = |number: u32, names: &[&str]| {
        let version = format!("..{number}");
        fs::create_dir(directory.join(&version)).unwrap();
        for name in names {
            fs::write(directory.join(&version).join(format!("{name}.yaml")), manifest(name)).unwrap();
        }
        symlink(version, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    version(1, &["web"]);
    for name in ["web", "api"] {
        symlink(format!("..data/{name}.yaml"), rig.file(name)).unwrap();
    }
    rig.hear("+web").await;
    version(2, &["api"]);
    rig.hear("+api").await;
    rig.hear("-web").await;
}

#[tokio::test]
async fn while_the_folder_is_away_what_it_said_stays() {
    let mut rig = Rig::new("away", &["web", "api"]).await;
    fs::remove_dir_all(&rig.directory).unwrap();
    rig.hear("folder:has gone; what it said before stays in force").await;
    rig.silent(&["-web", "-api"]).await;
    fs::create_dir(&rig.directory).unwrap();
    rig.write("web");
    rig.hear("folder:").await;
    rig.hear("-api").await;
    rig.silent(&["-web"]).await;
}

#[tokio::test]
async fn that_something_cannot_be_read_is_said_before_the_end_of_the_listing() {
    let directory = empty("partial");
    fs::write(directory.join("bad.yaml"), "kind: [").unwrap();
    let mut rig = Rig::start(directory);
    let said = rig.hear("end").await;
    assert!(said.contains(&"partial".to_owned()), "{said:?}");
    fs::write(rig.file("bad"), manifest("bad")).unwrap();
    rig.hear("whole").await;
}

#[tokio::test]
async fn folders_and_pipes_with_the_name_of_a_manifest_say_nothing() {
    let directory = empty("odd");
    fs::create_dir(directory.join("a.yaml")).unwrap();
    make_pipe(&directory.join("b.yaml"));
    let mut rig = Rig::start(directory);
    let said = rig.hear("folder:").await;
    let expected = ["begin"; Kind::ALL.len()].into_iter().chain(["end"; Kind::ALL.len()]).chain(["folder:"]);
    assert!(said.iter().eq(expected), "{said:?}");
}

#[test]
fn a_folder_that_cannot_be_listed_is_not_an_empty_one() {
    let directory = empty("unlisted");
    assert!(list(&directory).unwrap().is_empty());
    fs::remove_dir(&directory).unwrap();
    assert!(list(&directory).is_err());
}

struct Rig {
    directory: PathBuf,
    received: Receiver<Change>,
}

impl Rig {
    /// A folder that is followed, and was read, with a file for each of these Services.
    async fn new(name: &str, services: &[&str]) -> Self {
        let directory = empty(name);
        for name in services {
            fs::write(directory.join(format!("{name}.yaml")), manifest(name)).unwrap();
        }
        let mut rig = Self::start(directory);
        rig.hear("folder:").await;
        rig
    }

    fn start(directory: PathBuf) -> Self {
        let (changes, received) = mpsc::channel(64);
        tokio::spawn(follow(directory.clone(), changes));
        Self { directory, received }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.yaml"))
    }

    fn write(&self, name: &str) {
        fs::write(self.file(name), manifest(name)).unwrap();
    }

    /// Waits for this word, and returns all up to it.
    async fn hear(&mut self, expected: &str) -> Vec<String> {
        let mut said = Vec::new();
        while said.last().is_none_or(|last| last != expected) {
            let change = timeout(PATIENCE, self.received.recv()).await;
            let change = change.unwrap_or_else(|_| panic!("no {expected:?} in {said:?}"));
            said.push(word(&change.unwrap()));
        }
        said
    }

    /// Waits for a while, in which none of these words may be said.
    async fn silent(&mut self, unwanted: &[&str]) {
        let end = Instant::now() + LONG;
        while let Ok(change) = tokio::time::timeout_at(end, self.received.recv()).await {
            let said = word(&change.unwrap());
            assert!(!unwanted.contains(&said.as_str()), "{said}");
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn empty(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("sluice-folder-{}-{name}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    directory
}

fn manifest(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
}

fn word(change: &Change) -> String {
    match change {
        Change::Service(Applied { object, .. }) => format!("+{}", object.name),
        Change::Deleted(object) => format!("-{}", object.name),
        Change::Begin(_) => "begin".to_owned(),
        Change::End(_) => "end".to_owned(),
        Change::Partial(partial) => if *partial { "partial" } else { "whole" }.to_owned(),
        Change::Problems { object, problems } => {
            let messages: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
            format!("{object}:{}", messages.join(","))
        }
        Change::Slice(_)
        | Change::Node(_)
        | Change::ServiceCidr(_)
        | Change::Unreadable { .. }
        | Change::Hears(..) => {
            panic!("{change:?}")
        }
    }
}

fn make_pipe(path: &Path) {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
    // SAFETY: a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
}
