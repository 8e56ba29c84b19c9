//! `sluice cleanup` removes all that was ever installed.

use std::time::Duration;

use anyhow::ensure;
use lab::{Protocol, wait};

use crate::stage::{Stage, WEB4, WEB6};

#[test]
fn cleanup_removes_every_pin_and_service_addresses_stop_answering() {
    let stage = Stage::of_ebpf();
    let backend = stage.backend("a");
    let mut daemon = stage.daemon();
    stage.web(&[&backend.pod]);
    daemon.terminate().unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "without a daemon it still answers");
    assert!(stage.node.pin_dir().exists());

    let output = stage.node.sluice(&["cleanup"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!stage.node.pin_dir().exists(), "no pin is left");
    for (protocol, to) in [(Protocol::Tcp, WEB4), (Protocol::Udp, WEB6)] {
        // The kernel lets programs go a moment after their pins.
        wait::until("the end of translation", Duration::from_secs(10), || {
            let answer = stage.client.call(protocol, to)?;
            ensure!(!answer.ok && answer.error != "ECONNREFUSED", "{answer:?}");
            Ok(())
        })
        .unwrap();
    }

    let again = stage.node.sluice(&["cleanup"]).unwrap();
    assert!(again.status.success(), "nothing to do is no error");
    daemon.restart().unwrap();
    assert!(stage.client.call(Protocol::Tcp, WEB4).unwrap().ok, "a new daemon installs all again");
}
