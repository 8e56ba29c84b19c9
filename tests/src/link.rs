//! Links, addresses and routes, by the `ip` command run inside a namespace.

use std::io::Write as _;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::process::Place;

/// Runs the lines of `script` as one batch of `ip`, all or an error.
pub fn batch(netns: &Netns, script: &str) -> Result<()> {
    let mut ip = Place::new(netns).command("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ip.spawn().context("could not run ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip refused:\n{script}\n{complaint}");
    Ok(())
}

/// One end of a virtual cable.
pub struct End<'a> {
    /// Where it is.
    pub netns: &'a Netns,
    /// What it is called there.
    pub name: &'a str,
}

/// Lays a virtual cable between two namespaces; both ends are up afterwards.
pub fn cable(left: &End<'_>, right: &End<'_>) -> Result<()> {
    let (a, b, far) = (left.name, right.name, right.netns.path());
    batch(left.netns, &format!("link add {a} type veth peer name {b} netns {far}\nlink set dev {a} up\n"))?;
    batch(right.netns, &format!("link set dev {b} up\n"))
}
