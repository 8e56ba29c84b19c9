//! The demonstration keeps its promises: no request lost, a summary for programs, nothing left behind.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use lab::process::program;
use lab::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

fn start() -> Child {
    let manifests = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/demo");
    let mut command = Command::new(program("LAB_DEMO_BIN", "lab-demo").expect("the demonstration is built"));
    command.args(["--json", "--manifests", manifests]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("a demonstration")
}

/// Control groups of a process's labs. Everything else of a lab has no name and goes with its processes.
fn control_groups(of: u32) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("a mount table");
    let mut fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mount = fields.find(|fields| fields.get(2) == Some(&"cgroup2")).expect("a cgroup2 mount");
    let prefix = format!("sluice-lab-{of}-");
    let entries = std::fs::read_dir(Path::new(mount[1])).expect("control groups").flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .collect()
}

#[test]
fn it_loses_no_request_and_ends_with_a_summary() {
    let demo = start();
    let id = demo.id();
    let output = demo.wait_with_output().expect("its end");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let summary: Value = serde_json::from_str(out.lines().last().unwrap_or_default()).expect("JSON");
    assert_eq!(summary["failed"], 0, "{summary}");
    assert!(summary["requests"].as_u64().is_some_and(|requests| requests > 1000), "{summary}");
    assert!(summary["spread"].as_object().is_some_and(|spread| spread.len() == 8), "{summary}");
    assert!(summary["change_to_kernel_ms"].as_f64().is_some_and(|millis| millis > 0.0), "{summary}");
    assert!(summary["seconds"].as_f64().is_some_and(|seconds| seconds < 60.0), "{summary}");
    assert!(summary["failures"].is_object(), "{summary}");
    assert_eq!(control_groups(id), Vec::<PathBuf>::new());
}

#[test]
fn interrupted_it_leaves_nothing_behind() {
    let mut demo = start();
    let id = demo.id();
    let mut lines = BufReader::new(demo.stderr.take().expect("a pipe")).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line.contains("steady")))
        .expect("clients at work")
        .unwrap();
    assert!(!control_groups(id).is_empty(), "it is in the middle of it");
    kill(Pid::from_raw(id.cast_signed()), Signal::SIGINT).expect("a signal");
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    let status = demo.wait().expect("its end");
    assert!(!status.success() && rest.iter().any(|line| line.contains("interrupted")), "{rest:?}");
    wait::until("its control groups to go", Duration::from_secs(5), || {
        anyhow::ensure!(control_groups(id).is_empty(), "{:?}", control_groups(id));
        Ok(())
    })
    .unwrap();
}
