//! `sluice top` at a terminal.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::ensure;
use lab::{Protocol, wait};
use nix::pty::{OpenptyResult, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;

use crate::stage::{Stage, WEB4, pods};

const PATIENCE: Duration = Duration::from_secs(20);

/// A terminal, and the program on it.
struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
    before: Termios,
    child: Child,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn of(stage: &Stage) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
        let before = tcgetattr(&slave).expect("its settings");
        let end = || Stdio::from(slave.try_clone().expect("its end"));
        let mut command = stage.node.sluice_command(&["top", "--interval=0.2"]).expect("a command");
        let child = command.stdin(end()).stdout(end()).stderr(end()).env_remove("NO_COLOR").spawn();
        let shown = Arc::new(Mutex::new(String::new()));
        follow(master.try_clone().expect("its other end"), Arc::clone(&shown));
        Self { master, slave, before, child: child.expect("a process"), shown }
    }

    #[track_caller]
    fn wait_for(&self, words: &str) {
        wait::until(words, PATIENCE, || {
            let shown = self.shown.lock().expect("nobody panicked").clone();
            ensure!(shown.contains(words), "{shown:?}");
            Ok(())
        })
        .expect("it is shown");
    }

    fn press(&self, key: u8) {
        nix::unistd::write(&self.master, &[key]).expect("a key");
    }

    #[track_caller]
    fn gives_it_back(mut self) {
        let status = self.child.wait().expect("an end");
        assert!(status.success(), "{status}");
        self.wait_for("\x1b[?1049l");
        self.wait_for("\x1b[?25h");
        assert_eq!(tcgetattr(&self.slave).expect("its settings"), self.before);
    }
}

fn follow(master: OwnedFd, shown: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let (mut master, mut room) = (File::from(master), [0; 4096]);
        // An error means that the terminal has gone.
        while let Ok(count) = master.read(&mut room) {
            let text = String::from_utf8_lossy(&room[..count]).into_owned();
            shown.lock().expect("nobody panicked").push_str(&text);
        }
    });
}

#[test]
fn keys_change_the_order_and_the_terminal_is_given_back_at_every_end() {
    let stage = Stage::of_ebpf();
    let backends = stage.backends(&["a"]);
    let _daemon = stage.daemon();
    stage.web(&pods(&backends));
    stage.client.call(Protocol::Tcp, WEB4).unwrap();

    let top = Terminal::of(&stage);
    top.wait_for("\x1b[?1049h");
    top.wait_for("default");
    top.wait_for("by new");
    top.press(b's');
    top.wait_for("by service");
    assert_ne!(tcgetattr(&top.slave).unwrap(), top.before, "it takes keys one by one");
    top.press(b'q');
    top.gives_it_back();

    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let top = Terminal::of(&stage);
        top.wait_for("default");
        kill(Pid::from_raw(top.child.id().try_into().unwrap()), signal).unwrap();
        top.gives_it_back();
    }
}
