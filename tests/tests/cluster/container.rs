//! The daemon as it is installed: from its image, as the container that `deploy/` describes, under its own account.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::container::{self, Ground, Image};
use lab::control_plane::ControlPlane;
use lab::deploy::Rendered;
use lab::http;
use lab::kubelet::Kubelet;
use lab::process::{Process, program};
use lab::topology::Wire;
use lab::{Protocol, wait};
use serde_json::{Value, json};

use crate::stage::{Stage, shared};

const PATIENCE: Duration = Duration::from_secs(60);

/// The chart's objects for this cluster.
fn rendered(more: Value) -> Rendered {
    let mut values = json!({ "apiServer": { "host": Wire::V4, "port": ControlPlane::PORT } });
    let fields = values.as_object_mut().expect("an object");
    fields.extend(more.as_object().cloned().unwrap_or_default());
    Rendered::chart(&values).expect("the chart")
}

/// A node with its image and what the DaemonSet's mounts lead to.
struct Berth {
    stage: Stage,
    image: Image,
    ground: Ground,
}

impl Berth {
    fn new(name: &str) -> Self {
        let stage = Stage::new(shared(), name);
        let folder = stage.node.folder().join("container");
        let image = Image::unpack(&folder).expect("the image");
        let ground = Ground {
            host_paths: vec![
                ("/sys/fs/bpf", stage.node.pin_dir().to_owned()),
                ("/run/sluice", stage.node.folder().join("run")),
            ],
            account: account(&stage),
            folder,
        };
        for (_, path) in &ground.host_paths {
            fs::create_dir_all(path).expect("a folder");
        }
        Self { stage, image, ground }
    }

    fn start(&self, rendered: &Rendered) -> Process {
        container::start(&self.stage.node, &self.image, rendered, &self.ground).expect("a container")
    }

    /// A verb of the tool, from outside.
    fn ask(&self, verb: &str) -> Result<Output> {
        let node = &self.stage.node;
        let mut command = node.place().command(program("SLUICE_BIN", "sluice")?);
        command.args([verb, "-o", "json", "--pin-dir"]).arg(node.pin_dir().join("sluice"));
        if verb == "status" {
            command.arg("--socket").arg(node.folder().join("run/sluice.sock"));
        }
        Ok(command.output()?)
    }

    fn synced(&self, daemon: &Process) -> Value {
        let status = wait::until("the container to be synced", PATIENCE, || {
            let output = self.ask("status")?;
            ensure!(output.status.success(), "{}\nits log:\n{}", output.status, daemon.err);
            Ok(serde_json::from_slice(&output.stdout)?)
        });
        status.expect("a synced daemon")
    }

    /// What the kernel says of the daemon's process: the fields of /proc/PID/status.
    fn process(&self) -> Result<(i32, BTreeMap<String, String>)> {
        let members = fs::read_to_string(self.stage.node.cgroup().path().join("cgroup.procs"))?;
        let status = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let fields = text.lines().filter_map(|line| line.split_once(":\t"));
            let fields: BTreeMap<_, _> =
                fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect();
            (fields["Name"] == "sluice").then_some((pid, fields))
        };
        let mut pids = members.lines().filter_map(|line| line.parse().ok());
        pids.find_map(status).context("no process `sluice` in the node's group")
    }
}

/// What the kubelet puts into a pod of the service account.
fn account(stage: &Stage) -> PathBuf {
    let folder = stage.node.folder().join("account");
    fs::create_dir_all(&folder).expect("a folder");
    let token = stage.objects.token("kube-system", "sluice").expect("a token");
    fs::write(folder.join("token"), token).expect("a file");
    fs::write(folder.join("ca.crt"), shared().authority()).expect("a file");
    fs::write(folder.join("namespace"), "kube-system").expect("a file");
    folder
}

/// The kubelet's stand-in, and the ranges that a controller would give the node.
fn kubelet(stage: &Stage) -> Kubelet {
    let kubelet = Kubelet::start(&stage.node, shared().admin_kubeconfig()).expect("a kubelet");
    let node = json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": stage.node.name() } });
    let pod = stage.node.pod("first").expect("a pod");
    let ranges = [format!("{}/24", pod.v4()), format!("{}/64", pod.v6())];
    let ranges = ranges.map(|range| range.parse::<ipnet::IpNet>().expect("a range").trunc().to_string());
    let piece = json!({ "spec": { "podCIDR": ranges[0], "podCIDRs": ranges } });
    stage.objects.merge(&node, &piece).expect("ranges of the node");
    kubelet
}

/// Asks what the kubelet would ask, and whoever collects metrics.
fn probe(berth: &Berth, rendered: &Rendered) -> Result<()> {
    let container = &rendered.pod()?["containers"][0];
    let questions = ["livenessProbe", "readinessProbe"].map(|probe| &container[probe]["httpGet"]);
    let metrics = json!({ "path": "/metrics", "port": "metrics" });
    for question in questions.into_iter().chain([&metrics]) {
        let ports = container["ports"].as_array().context("no ports")?;
        let port = ports.iter().find(|port| port["name"] == question["port"]).context("no such port")?;
        let port = u16::try_from(port["containerPort"].as_u64().context("no number")?)?;
        let to = SocketAddr::new(berth.stage.node.v4().into(), port);
        let path = question["path"].as_str().context("no path")?;
        let reply = http::get(berth.stage.node.netns(), to, path)?;
        ensure!(reply.status == 200, "{path} at {to}: {reply:?}");
    }
    Ok(())
}

/// Capabilities 12, 38 and 39: CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF.
const THREE: &str = "000000c000001000";

#[test]
fn the_image_serves_as_the_container_of_deploy_and_is_replaced_without_a_break() {
    let berth = Berth::new("berth");
    let _kubelet = kubelet(&berth.stage);
    let client = berth.stage.node.pod("client").unwrap();
    let service = berth.stage.service("berth");
    berth.stage.objects.apply(&[service.clone(), berth.stage.deployment("berth", 2)]).unwrap();
    let addresses = berth.stage.addresses(&service);
    let answers = || -> Result<()> {
        for to in addresses.iter().map(|address| SocketAddr::new(*address, 80)) {
            let answer = client.call(Protocol::Tcp, to)?;
            ensure!(answer.ok && answer.name.starts_with("berth-"), "{to}: {answer:?}");
        }
        Ok(())
    };
    let mut daemon = berth.start(&rendered(json!({})));
    let status = berth.synced(&daemon);
    wait::until("answers", PATIENCE, answers).unwrap();
    assert_eq!(status["problems"], json!([]), "{status:#}");
    wait::until("the container to be alive and ready", PATIENCE, || probe(&berth, &rendered(json!({}))))
        .unwrap();
    let (pid, process) = berth.process().unwrap();
    for set in ["CapEff", "CapPrm", "CapBnd"] {
        assert_eq!(process[set], THREE, "{set}");
    }
    assert_eq!((&*process["NoNewPrivs"], &*process["Seccomp"], &*process["Uid"]), ("1", "2", "0\t0\t0\t0"));
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
    for place in ["/", "/host/cgroup", "/etc/sluice"] {
        let is_read_only = |line: &str| line.contains(&format!(" {place} ")) && line.contains(" ro");
        assert!(mounts.lines().any(is_read_only), "{place} can be written: {mounts}");
    }
    daemon.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.end(PATIENCE).unwrap();
    answers().unwrap();
    let daemon = berth.start(&rendered(json!({})));
    berth.synced(&daemon);
    answers().unwrap();
    let log = daemon.err.all();
    assert!(!log.iter().any(|line| line.contains("ERROR") || line.contains("orbidden")), "{log:#?}");
}

/// What the operator reads in the pod's log.
fn check_without(berth: &Berth, capability: &str) {
    let mut rendered = rendered(json!({ "extraArgs": ["--dataplane=ebpf"] }));
    let set = rendered.0.iter_mut().find(|object| object["kind"] == "DaemonSet").expect("a DaemonSet");
    let added =
        &mut set["spec"]["template"]["spec"]["containers"][0]["securityContext"]["capabilities"]["add"];
    let list = added.as_array_mut().expect("a list");
    let before = list.len();
    list.retain(|name| *name != *capability);
    assert_eq!(list.len() + 1, before, "{capability} was not there");
    let mut daemon = berth.start(&rendered);
    let code = daemon.end(PATIENCE).expect("its end").code();
    let said = daemon.err.to_string();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("CAP_{capability} is missing")), "{said}");
}

#[test]
fn a_container_that_lacks_a_capability_says_which() {
    let berth = Berth::new("lacking");
    for capability in ["BPF", "NET_ADMIN", "PERFMON"] {
        check_without(&berth, capability);
    }
}

#[test]
fn a_container_for_cleaning_up_leaves_nothing() {
    let berth = Berth::new("leaving");
    let _kubelet = kubelet(&berth.stage);
    let mut daemon = berth.start(&rendered(json!({})));
    berth.synced(&daemon);
    let pins = berth.stage.node.pin_dir().join("sluice");
    assert!(fs::read_dir(&pins).unwrap().count() > 0);
    daemon.signal(nix::sys::signal::Signal::SIGKILL).unwrap();
    daemon.end(PATIENCE).unwrap();
    let mut cleaner = berth.start(&rendered(json!({ "cleanup": true })));
    let code = cleaner.end(PATIENCE).unwrap().code();
    assert_eq!(code, Some(0), "{}{}", cleaner.out, cleaner.err);
    let left =
        fs::read_dir(&pins).map(|all| all.flatten().map(|entry| entry.file_name()).collect::<Vec<_>>());
    assert!(left.as_ref().is_ok_and(Vec::is_empty) || left.is_err(), "{left:?}");
    let mut tables = berth.stage.node.place().command("nft");
    let tables = tables.args(["list", "tables"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&tables.stdout), "");
}
