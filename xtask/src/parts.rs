//! The real parts of the cluster tests: etcd, the API server, its controllers and scheduler, kube-proxy to compare with, what renders
//! `deploy/`, and the kubectl of our pages.
//!
//! `tests/parts/go.mod` names them with their exact versions; nothing of their source is in this tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow};

use crate::go;
use crate::operators;
use crate::place::Place;
use crate::progress::{self, Stage};

/// Where the tests look for the binaries.
pub(crate) const VARIABLE: &str = "SLUICE_PARTS";

/// Kube clients look at the server's version, which is only known to it through these.
const FLAGS: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.1 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=37";

/// Binary and package.
const PARTS: [(&str, &str); 6] = [
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// A build that may still be going on.
pub(crate) enum Parts {
    Ready(PathBuf),
    Coming(JoinHandle<Result<PathBuf>>),
}

impl Parts {
    /// Starts what is needed and returns at once.
    pub(crate) fn start(place: &Place) -> Result<Self> {
        if is_fresh(place) {
            return Ok(Self::Ready(directory(place)));
        }
        let go = go::ensure(place)?;
        let (root, target) = (place.root.clone(), place.target.clone());
        let build = move || make(&Place { root, target }, &go, Stage::Behind);
        Ok(Self::Coming(std::thread::spawn(build)))
    }

    /// The directory with the binaries, once they are there.
    pub(crate) fn wait(self) -> Result<PathBuf> {
        match self {
            Self::Ready(directory) => Ok(directory),
            Self::Coming(build) => {
                if !build.is_finished() {
                    progress::say("waiting for the Kubernetes parts");
                }
                build.join().map_err(|_| anyhow!("the build of the Kubernetes parts died"))?
            }
        }
    }
}

/// Builds the parts in the foreground where they are not up to date.
pub(crate) fn ensure(place: &Place) -> Result<PathBuf> {
    if is_fresh(place) {
        return Ok(directory(place));
    }
    make(place, &go::ensure(place)?, Stage::Front)
}

fn make(place: &Place, go: &Path, stage: Stage) -> Result<PathBuf> {
    let into = directory(place);
    fs::create_dir_all(&into).with_context(|| format!("could not make {}", into.display()))?;
    if !operators::is_fresh(place, &into) {
        operators::make(place, go, &into, stage)?;
    }
    if !are_fresh(place) {
        make_kubernetes(place, go, &into, stage)?;
    }
    Ok(into)
}

fn make_kubernetes(place: &Place, go: &Path, into: &Path, stage: Stage) -> Result<()> {
    for (binary, package) in PARTS {
        let log = progress::log_file(&place.target, binary);
        let what = format!("building {binary}: a real part of the cluster tests{}", patience(binary));
        let mut command = go::command(go);
        command.args(["build", "-trimpath", "-ldflags", FLAGS, "-o"]).arg(into.join(binary)).arg(package);
        progress::slow(&what, &log, stage, command.current_dir(source(place)))?;
    }
    Ok(fs::write(stamp_file(place), stamp(place)?)?)
}

fn patience(binary: &str) -> &'static str {
    match binary {
        "kube-apiserver" => "; up to ten minutes the first time on two cores",
        _ => "",
    }
}

fn is_fresh(place: &Place) -> bool {
    are_fresh(place) && operators::is_fresh(place, &directory(place))
}

fn are_fresh(place: &Place) -> bool {
    let all_here = PARTS.iter().all(|(binary, _)| directory(place).join(binary).exists());
    let same = match (fs::read_to_string(stamp_file(place)), stamp(place)) {
        (Ok(old), Ok(new)) => old == new,
        _ => false,
    };
    all_here && same
}

/// Everything the binaries depend on, as text.
fn stamp(place: &Place) -> Result<String> {
    let read = |name: &str| {
        let file = source(place).join(name);
        fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))
    };
    Ok(format!("{PARTS:?}\n{FLAGS}\n{}\n{}", read("go.mod")?, read("go.sum")?))
}

fn stamp_file(place: &Place) -> PathBuf {
    directory(place).join("stamp")
}

fn source(place: &Place) -> PathBuf {
    place.root.join("tests/parts")
}

fn directory(place: &Place) -> PathBuf {
    place.built("parts")
}
