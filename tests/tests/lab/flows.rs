//! `sluice flows`: who is served by the edge layer at this moment.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Protocol, wait};
use serde_json::{Value, json};

use crate::edge_devices::Gate;
use crate::stage::PORT;

/// How long a state may take to be seen.
const PATIENCE: Duration = Duration::from_secs(20);

impl Gate {
    /// The flows that are listed, with more flags.
    fn flows(&self, more: &[&str]) -> Result<Vec<Value>> {
        let output = self.stage.node.sluice(&[&["flows", "-o", "json"], more].concat())?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).context("not a list")
    }

    /// Waits until the flow of this client is in a state, and returns its row.
    fn wait_state(&self, client: SocketAddr, state: &str) -> Value {
        wait::until(&format!("a flow of {client} that is {state}"), PATIENCE, || {
            let flows = self.flows(&[])?;
            let rows: Vec<&Value> = flows.iter().filter(|row| row["client"] == client.to_string()).collect();
            ensure!(rows.len() == 1 && rows[0]["state"] == state, "{flows:#?}");
            Ok(rows[0].clone())
        })
        .unwrap()
    }

    fn connect(&self, to: SocketAddr) -> (TcpStream, SocketAddr) {
        let stream = self.asker.netns().run(|| Ok(TcpStream::connect(to)?)).unwrap();
        let own = stream.local_addr().unwrap();
        (stream, own)
    }
}

#[test]
fn a_connection_is_listed_with_everybody_in_it_until_it_ends() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    let mut daemon = gate.daemon(&["--edge=tcx", "--forwarding=redirect"]);
    gate.web(&[&gate.there]);
    let endpoints = [gate.there.at(PORT), gate.there.at6(PORT)];
    for (to, endpoint) in gate.node_ports().into_iter().zip(endpoints) {
        let (stream, client) = gate.connect(to);
        let row = gate.wait_state(client, "established");
        let source: SocketAddr = row["source"].as_str().unwrap().parse().unwrap();
        assert_eq!(source.ip(), to.ip(), "another node's endpoint sees this node: {row:#}");
        assert!(row["idleSeconds"].as_u64().unwrap() < 60, "{row:#}");
        let expected = json!({
            "service": "default/web:tcp", "protocol": "TCP", "client": client.to_string(), "address": to.to_string(),
            "endpoint": endpoint.to_string(), "source": row["source"], "state": "established",
            "idleSeconds": row["idleSeconds"],
        });
        assert_eq!(row, expected);
        drop(stream);
        wait::until("the connection to be closed, or gone", PATIENCE, || {
            let flows = gate.flows(&["--service", "default/web"])?;
            let here = |row: &&Value| row["client"] == client.to_string();
            ensure!(flows.iter().filter(here).all(|row| row["state"] == "closed"), "{flows:#?}");
            Ok(())
        })
        .unwrap();
    }
    // The endpoint here sees the client; and nobody needs the daemon for it.
    gate.web(&[&gate.here]);
    let [to, _] = gate.node_ports();
    let (_stream, client) = gate.connect(to);
    daemon.terminate().unwrap();
    assert!(gate.asker.call(Protocol::Udp, to).unwrap().ok);
    let row = gate.wait_state(client, "established");
    assert_eq!((&row["source"], &row["endpoint"]), (&Value::Null, &json!(gate.here.at(PORT).to_string())));
    let flows = gate.flows(&["--service", "default/web"]).unwrap();
    let datagrams: Vec<&Value> = flows.iter().filter(|row| row["protocol"] == "UDP").collect();
    assert_eq!(datagrams.len(), 1, "{flows:#?}");
    assert_eq!(
        (&datagrams[0]["service"], &datagrams[0]["state"]),
        (&json!("default/web:udp"), &json!("answered"))
    );
    let table = node.sluice(&["flows"]).unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("SERVICE") && table.contains(&client.to_string()), "{table}");
}

#[test]
fn without_an_edge_layer_there_are_no_flows_and_a_wrong_service_is_named() {
    let gate = Gate::new();
    let node = &gate.stage.node;
    assert_eq!(gate.flows(&["--service", "default/web"]).unwrap(), [] as [Value; 0]);
    let text = node.sluice(&["flows"]).unwrap();
    assert!(text.status.success());
    assert!(String::from_utf8_lossy(&text.stdout).contains("there is no edge layer"), "{text:?}");

    let _daemon = gate.daemon(&["--edge=tcx"]);
    gate.web(&[&gate.here]);
    assert_eq!(gate.flows(&["--service", "default/web"]).unwrap(), [] as [Value; 0]);
    for (service, code, said) in [
        ("web", 2, "write a namespace and a name, as in default/web"),
        ("default/nobody", 1, "no Service default/nobody is programmed here"),
    ] {
        let output = node.sluice(&["flows", "--service", service]).unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{error}");
        assert!(error.contains(said), "{error}");
    }
}
