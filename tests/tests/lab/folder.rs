//! The folder of manifests, changed by people and programs of every habit.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use lab::manifest::{Service, file};
use lab::{Pace, Protocol, wait};

use crate::stage::{Stage, V4, WEB4, web};

impl Stage {
    fn path(&self, name: &str) -> PathBuf {
        self.manifests.folder().join(name)
    }
}

/// A Service that does nothing but be there.
fn other(name: &str) -> String {
    file(&[Service::new(name, &["10.96.0.20".parse().unwrap()]).port("", "TCP", 80).object()])
}

/// Changes the file of `web` again and again, under load, and expects that no client notices.
fn check(change: impl Fn(&Stage, &str)) {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    let text = web(&[&backend.pod], &[]);
    let load = stage.client.load(Protocol::Tcp, WEB4, Pace { rate: 200.0, ..Pace::default() }).unwrap();
    for _ in 0..5 {
        change(&stage, &text);
        load.more(60).unwrap();
    }
    let end = load.stop().unwrap();
    assert_eq!(end.failed, 0, "{end:?}");
    stage.node.wait_endpoints("default", "web", 4).unwrap();
    daemon.no_errors().unwrap();
}

/// For a few milliseconds, as between two system calls of an editor on a busy machine.
fn moment() {
    std::thread::sleep(Duration::from_millis(50));
}

#[test]
fn a_file_that_is_removed_and_written_anew_takes_nothing_away() {
    check(|stage, text| {
        fs::remove_file(stage.path("web.yaml")).unwrap();
        moment();
        fs::write(stage.path("web.yaml"), text).unwrap();
    });
}

#[test]
fn a_file_that_is_renamed_for_a_copy_and_written_anew_takes_nothing_away() {
    check(|stage, text| {
        fs::rename(stage.path("web.yaml"), stage.path("web.yaml~")).unwrap();
        moment();
        fs::write(stage.path("web.yaml"), text).unwrap();
    });
}

#[test]
fn a_file_that_is_closed_empty_or_half_written_takes_nothing_away() {
    check(|stage, text| {
        fs::write(stage.path("web.yaml"), "").unwrap();
        moment();
        fs::write(stage.path("web.yaml"), &text[..text.len() / 2]).unwrap();
        moment();
        fs::write(stage.path("web.yaml"), text).unwrap();
    });
}

#[test]
fn a_folder_that_goes_away_takes_nothing_with_it() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    let (folder, aside) = (stage.manifests.folder(), stage.manifests.folder().with_extension("aside"));
    fs::rename(folder, &aside).unwrap();
    let object = format!("folder {}", folder.display());
    stage.node.wait_problem(&object, "").unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    fs::rename(&aside, folder).unwrap();
    no_problem(&stage);
    stage.web(&[]);
}

#[test]
fn after_a_restart_a_file_that_cannot_be_read_takes_nothing_away_until_it_is_mended() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let mut daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    daemon.kill9().unwrap();
    stage.manifests.put("web.yaml", "kind: [").unwrap();
    daemon.restart().unwrap();
    daemon.wait_synced().unwrap();
    stage.node.wait_problem("file web.yaml", "").unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok);
    stage.manifests.put("web.yaml", other("other")).unwrap();
    stage.node.wait_gone("default", "web").unwrap();
}

#[test]
fn of_two_files_with_the_same_object_the_first_counts_and_the_other_is_named() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    let mine = file(&[Service::new("web", &[V4]).port("tcp", "TCP", 81).object()]);
    stage.manifests.put("a.yaml", mine).unwrap();
    let message = stage.node.wait_problem("Service default/web", "").unwrap();
    assert!(message.contains("a.yaml"), "{message}");
    stage.manifests.remove("a.yaml").unwrap();
    no_problem(&stage);
    stage.node.wait_endpoints("default", "web", 4).unwrap();
}

#[test]
fn links_are_followed_when_they_are_made() {
    let stage = Stage::new();
    let _daemon = stage.daemon();
    fs::write(stage.path("elsewhere"), other("other")).unwrap();
    symlink("elsewhere", stage.path("soft.yaml")).unwrap();
    stage.node.wait_endpoints("default", "other", 0).unwrap();
    stage.manifests.remove("soft.yaml").unwrap();
    stage.node.wait_gone("default", "other").unwrap();
    fs::hard_link(stage.path("elsewhere"), stage.path("hard.yaml")).unwrap();
    stage.node.wait_endpoints("default", "other", 0).unwrap();
}

#[test]
fn a_service_of_knative_is_no_service_of_ours() {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let _daemon = stage.daemon();
    let theirs =
        "apiVersion: serving.knative.dev/v1\nkind: Service\nmetadata: {name: theirs}\nspec: {template: {}}\n";
    stage.manifests.put("theirs.yaml", format!("%YAML 1.2\n---\n{theirs}...\n")).unwrap();
    stage.web(&[&backend.pod]);
    no_problem(&stage);
}

fn no_problem(stage: &Stage) {
    wait::until("the end of all problems", Duration::from_secs(10), || {
        let status = stage.node.status()?;
        ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{}", status["problems"]);
        Ok(())
    })
    .unwrap();
}
