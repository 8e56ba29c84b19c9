//! `--config`: a file written for kube-proxy, and what happens when it changes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use lab::{Daemon, Protocol};

use crate::stage::{Backend, Stage, WEB4, WEB6, web_as};

/// As kubeadm writes it.
const KUBEADM: &str = include_str!("../../../userspace/src/settings/kubeadm.yaml");

/// The same with another value.
fn other() -> String {
    KUBEADM.replace("mode: \"\"", "mode: nftables")
}

/// A file as it lies in a folder, or as the kubelet shows a ConfigMap: links that are swapped together.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    ConfigMap,
}

/// The configuration file of a stage.
struct Config {
    folder: PathBuf,
    kind: Kind,
}

impl Config {
    fn new(stage: &Stage, kind: Kind) -> Self {
        let folder = stage.lab.folder().join("config");
        fs::create_dir(&folder).unwrap();
        let this = Self { folder, kind };
        this.put("..1", KUBEADM);
        match kind {
            Kind::Plain => {}
            Kind::ConfigMap => symlink("..data/config.conf", this.path()).unwrap(),
        }
        this
    }

    fn path(&self) -> PathBuf {
        self.folder.join("config.conf")
    }

    /// Writes the file, or another version of the folder behind the links.
    fn put(&self, version: &str, text: &str) {
        match self.kind {
            Kind::Plain => fs::write(self.path(), text).unwrap(),
            Kind::ConfigMap => {
                fs::create_dir(self.folder.join(version)).unwrap();
                fs::write(self.folder.join(version).join("config.conf"), text).unwrap();
                symlink(version, self.folder.join("..data_tmp")).unwrap();
                fs::rename(self.folder.join("..data_tmp"), self.folder.join("..data")).unwrap();
            }
        }
    }
}

impl Stage {
    fn configured(&self, file: &Path) -> Daemon {
        let settings = self.settings().with(&["--config", file.to_str().unwrap()]);
        self.node.daemon_unsynced(settings).unwrap()
    }

    /// `web` has its only endpoint on this node: it answers only if the daemon knows the node's name.
    fn local_web(&self, backend: &Backend) {
        let text =
            web_as(|service| service.local(), |slice, ip| slice.ready(ip(&backend.pod)).on(self.node.name()));
        self.manifests.put("web.yaml", text).unwrap();
        self.node.wait_endpoints("default", "web", 4).unwrap();
    }

    fn answers(&self) {
        assert!(self.client.call(Protocol::Tcp, WEB4).unwrap().ok);
        assert!(self.client.call(Protocol::Udp, WEB6).unwrap().ok);
    }
}

/// A daemon with kubeadm's file serves; the same content changes nothing; other content ends it, and the next one takes
/// it.
fn check(kind: Kind) {
    let stage = Stage::new();
    let backend = stage.backend("a");
    let config = Config::new(&stage, kind);
    let mut daemon = stage.configured(&config.path());
    daemon.wait_synced().unwrap();
    stage.local_web(&backend);
    stage.answers();
    config.put("..2", KUBEADM);
    sleep(Duration::from_millis(400));
    assert!(daemon.process().is_running(), "the same content: {:#?}", daemon.log());
    config.put("..3", &other());
    let (code, log) = daemon.gives_up().unwrap();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("configuration changed; restarting to take it"), "{log}");
    stage.answers();
    daemon.restart().unwrap();
    stage.answers();
}

#[test]
fn a_daemon_with_the_file_of_kubeadm_serves_and_ends_when_the_file_is_written_anew() {
    check(Kind::Plain);
}

#[test]
fn a_daemon_ends_when_the_links_of_a_config_map_are_swapped() {
    check(Kind::ConfigMap);
}

#[test]
fn what_is_wrong_in_the_file_is_named_all_at_once() {
    let stage = Stage::new();
    let file = stage.lab.folder().join("bad.conf");
    let bad =
        KUBEADM.replace("10.244.0.0/16", "10.244.0.0").replace("masqueradeBit: null", "masqueradeBit: 40");
    fs::write(&file, bad).unwrap();
    let (code, text) = stage.configured(&file).gives_up().unwrap();
    assert_eq!(code, Some(2), "{text}");
    for word in ["clusterCIDR", "10.244.0.0", "iptables.masqueradeBit", "40", "bad.conf"] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}
