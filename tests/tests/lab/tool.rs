//! The tool as an operator meets it: how it prints, what it says when something is missing, how it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::ensure;
use lab::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::stage::{Stage, pods};

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn a_list_comes_in_four_forms_and_without_colour_where_there_is_no_terminal() {
    let stage = Stage::new();
    let backends = stage.backends(&["a"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    for verb in ["services", "backends"] {
        let of = |form: &str| stdout(&stage.node.sluice(&[verb, "-o", form]).unwrap());
        let (table, wide) = (of("table"), of("wide"));
        let heads = [&table, &wide].map(|text| text.lines().next().unwrap().to_owned());
        assert!(!heads[0].contains("FAMILY") && heads[1].contains("FAMILY"), "{heads:?}");
        assert!(!table.contains('\x1b') && !wide.contains('\x1b'), "{table:?}");
        let json: Value = serde_json::from_str(&of("json")).unwrap();
        let rows = json.as_array().unwrap().len();
        assert_eq!((rows, table.lines().count()), (4, 5), "{table}");
        assert_eq!(of("yaml").matches("namespace: default").count(), rows);
    }
}

#[test]
fn what_is_watched_is_printed_a_line_each_time_until_sigint() {
    let stage = Stage::new();
    let backends = stage.backends(&["a", "b"]);
    let _daemon = stage.daemon();
    stage.web(&[&backends[0].pod]);
    let mut command = stage.node.sluice_command(&["backends", "--watch=0.1", "-o", "json"]).unwrap();
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut rows = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        line.as_array().unwrap().iter().filter(|row| row["state"] == "active").count()
    };
    assert_eq!((rows(), rows()), (4, 4), "again and again");
    stage.web(&pods(&backends));
    wait::until("the other endpoint in a line", Duration::from_secs(20), || {
        let rows = rows();
        ensure!(rows == 8, "{rows}");
        Ok(())
    })
    .unwrap();
    kill(Pid::from_raw(watch.id().try_into().unwrap()), Signal::SIGINT).unwrap();
    for line in lines {
        assert!(serde_json::from_str::<Value>(&line.unwrap()).is_ok(), "no line is half");
    }
    assert_eq!(watch.wait().unwrap().code(), Some(0));
}

#[test]
fn a_watch_ends_when_nobody_reads_it() {
    let stage = Stage::new();
    let _daemon = stage.daemon();
    let mut command = stage.node.sluice_command(&["services", "--watch=0.1"]).unwrap();
    let mut watch = command.stdout(Stdio::piped()).spawn().unwrap();
    watch.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
    wait::until("the end of the watch", Duration::from_secs(20), || {
        ensure!(watch.try_wait()?.is_some(), "it goes on");
        Ok(())
    })
    .unwrap();
}

#[test]
fn what_is_missing_is_said_with_what_to_do_about_it() {
    let stage = Stage::new();
    for verb in ["services", "backends"] {
        let output = stage.node.sluice(&[verb]).unwrap();
        let text = stdout(&output);
        assert!(output.status.success() && text.contains("nothing is installed here"), "{text}");
        assert!(text.contains("sluice run") && text.contains("--pin-dir"), "{text}");
    }
    let status = |stage: &Stage| {
        let output = stage.node.sluice(&["status"]).unwrap();
        (output.status.code(), stdout(&output))
    };
    let (code, text) = status(&stage);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("there is no socket") && text.contains("Is it running"), "{text}");
    let mut daemon = stage.daemon();
    daemon.kill9().unwrap();
    let (code, text) = status(&stage);
    assert_eq!(code, Some(3), "{text}");
    assert!(text.contains("has ended"), "{text}");
}

#[test]
fn who_may_not_read_the_kernel_is_told_to_be_root() {
    let stage = Stage::of_ebpf();
    let _daemon = stage.daemon();
    let mut command = stage.node.sluice_command(&["services"]).unwrap();
    lab::become_nobody(&mut command);
    let output = command.output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("sudo"), "{error}");
}

#[test]
fn manual_pages_can_be_read_and_completions_are_a_script() {
    let stage = Stage::new();
    let folder = stage.lab.folder().join("man");
    let output = stage.node.sluice(&["man", folder.to_str().unwrap()]).unwrap();
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(folder.join("sluice-status.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("\\-\\-socket"), "{page}");
    let script = stage.node.sluice(&["completions", "bash"]).unwrap();
    let file = stage.lab.folder().join("complete.bash");
    fs::write(&file, script.stdout).unwrap();
    let check = Command::new("bash").arg("-n").arg(&file).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}
