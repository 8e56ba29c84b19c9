//! What a socket comes to that names an address of a Service, held against a plan.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use lab::prober::{Action, Address, From, Plan};
use lab::process::{Place, Process};
use lab::server::agent;

const PATIENCE: Duration = Duration::from_secs(10);
/// Calls to each address that leads to somebody.
const CALLS: usize = 3;

/// A process that opens sockets.
struct Caller {
    process: Process,
    asked: usize,
}

impl Caller {
    fn start(place: &Place) -> Result<Self> {
        let mut command = place.command(agent()?);
        command.arg("probe").stdin(Stdio::piped());
        let mut process = place.start(command)?;
        process.line(PATIENCE, |line| line == "ready")?;
        Ok(Self { process, asked: 1 })
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        self.process.tell(line)?;
        let at = self.asked;
        self.asked += 1;
        self.process.out.wait(PATIENCE, |lines| lines.get(at).cloned()).context("no word from the caller")
    }
}

/// Connects sockets in a place to every address of a plan, and returns what is not as the plan says of `whom`.
pub(crate) fn contradictions(
    place: &Place,
    plan: &Plan,
    whom: impl Fn(&From) -> &Action,
) -> Result<Vec<String>> {
    let (mut caller, mut wrong) = (Caller::start(place)?, Vec::new());
    for port in plan.services.iter().filter(|port| port.protocol != "SCTP") {
        for address in &port.addresses {
            let (to, action) = (SocketAddr::new(address.ip, address.port), whom(&address.from));
            let kind = port.protocol.to_lowercase() + if to.is_ipv4() { "4" } else { "6" };
            for _ in 0..CALLS {
                let word = caller.ask(&format!("whither {kind} {to}"))?;
                if !allows(address, action, to, &word) {
                    wrong.push(format!(
                        "{}/{} {to} {kind} leads to {word}: {action:?}",
                        port.namespace, port.name
                    ));
                }
            }
        }
    }
    Ok(wrong)
}

/// What is dropped, passed on or filtered by its source is left as it is.
fn allows(address: &Address, action: &Action, to: SocketAddr, word: &str) -> bool {
    let is_left = word == to.to_string();
    if !address.source_ranges.is_empty() {
        return is_left;
    }
    match action {
        Action::Forward { endpoints, masquerade: _ } => endpoints.iter().any(|one| word == one.to_string()),
        Action::Reject => word == "ECONNREFUSED",
        Action::Drop | Action::Pass => is_left,
    }
}
