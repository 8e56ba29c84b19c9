//! Asks the daemon and the kernel.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::super::advice;
use super::super::daemon::ask;
use super::super::services::addresses_of;
use super::super::status::Status;
use super::judge::{self, Case};
use super::{Edge, Explained, Explanation, Flow, Found, Has, Kernel, Tried};
use crate::backend::dataplane::Running;
use crate::backend::ebpf::{Installed, Pins, held_at, own_pinned, read_pinned};
use crate::backend::edge::read_flows;
use crate::backend::edge::trial::{self, Outcome, Trial};
use crate::backend::held::Held;
use crate::backend::{BackendError, chain, nft};
use crate::explain::{Answering, Caller, Question, Reasons, Source, Target};
use crate::model::{Family, Protocol, ServicePortName};

/// So many flows of a client are shown.
const FLOWS: usize = 20;

/// What does not depend on the address.
struct Ground {
    question: Question,
    reasons: Result<Reasons, String>,
    running: Option<Running>,
    installed: Result<Installed, BackendError>,
    own: BTreeSet<IpAddr>,
    caller: Caller,
    is_here: Option<bool>,
    why_caller: String,
}

pub(super) fn explain(question: &Question, socket: &Path, pin_dir: &Path) -> anyhow::Result<Explanation> {
    let ground = ground(question, socket, pin_dir);
    let mut addresses = Vec::new();
    match &ground.reasons {
        Ok(reasons) => {
            for answer in &reasons.answers {
                addresses.push(explained(&ground, pin_dir, answer.address, Some(answer))?);
            }
            // Nobody should be there: the kernel may think otherwise.
            if let (true, Target::Address(at, _)) = (addresses.is_empty(), &question.target) {
                addresses.push(explained(&ground, pin_dir, *at, None)?);
            }
        }
        Err(_) => {
            for at in known_to_the_kernel(question, &ground.own, pin_dir)? {
                addresses.push(explained(&ground, pin_dir, at, None)?);
            }
        }
    }
    let (no_daemon, notes) = match &ground.reasons {
        Ok(reasons) => (None, reasons.notes.clone()),
        Err(why) => (Some(why.clone()), Vec::new()),
    };
    Ok(Explanation {
        source: question.source.to_string(),
        target: question.target.to_string(),
        caller: ground.caller,
        why_caller: ground.why_caller,
        is_here: ground.is_here,
        no_daemon,
        addresses,
        notes,
    })
}

fn ground(question: &Question, socket: &Path, pin_dir: &Path) -> Ground {
    let pins = Pins::new(pin_dir);
    let reasons = ask::<Reasons>(socket, &format!("explain {question}"))
        .map_err(|error| advice::silent(socket, &error));
    let status = ask::<Status>(socket, "status").ok();
    let own = own_pinned(&pins).ok().filter(|own| !own.is_empty()).unwrap_or_else(local_addresses);
    let (caller, is_here, why_caller) = match &reasons {
        Ok(reasons) => (reasons.caller, reasons.is_here, reasons.why_caller.clone()),
        Err(_) => guess(question.source, &own),
    };
    Ground {
        question: question.clone(),
        reasons,
        running: status.and_then(|status| status.kernel?.running),
        installed: read_pinned(&pins),
        own,
        caller,
        is_here,
        why_caller,
    }
}

/// Without the daemon.
fn guess(source: Source, own: &BTreeSet<IpAddr>) -> (Caller, Option<bool>, String) {
    match source {
        Source::Any(Caller::Pod) => (Caller::Pod, None, "as asked".to_owned()),
        Source::Any(caller) => (caller, Some(caller == Caller::Node), "as asked".to_owned()),
        Source::Address(address) if own.contains(&address) || address.is_loopback() => {
            (Caller::Node, Some(true), "it is an address of this node".to_owned())
        }
        Source::Address(_) => {
            let why =
                "unknown: only the daemon knows the pods' range; taken for outside (say `pod` if it is one)";
            (Caller::Outside, Some(false), why.to_owned())
        }
    }
}

fn local_addresses() -> BTreeSet<IpAddr> {
    let ip = |address: &SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
    };
    let all = getifaddrs().into_iter().flatten().filter_map(|found| ip(&found.address?));
    all.filter(|address| !address.is_loopback()).collect()
}

fn known_to_the_kernel(
    question: &Question,
    own: &BTreeSet<IpAddr>,
    pin_dir: &Path,
) -> anyhow::Result<Vec<SocketAddr>> {
    match &question.target {
        Target::Address(at, _) => Ok(vec![*at]),
        Target::Service(name, port, protocol) => {
            let found = addresses_of(pin_dir, name, port, *protocol, own)?;
            anyhow::ensure!(
                !found.is_empty(),
                "the kernel has no {}; see `sluice services`",
                question.target
            );
            Ok(found)
        }
    }
}

fn explained(
    ground: &Ground,
    pin_dir: &Path,
    address: SocketAddr,
    computed: Option<&Answering>,
) -> anyhow::Result<Explained> {
    let protocol = match &ground.question.target {
        Target::Address(_, protocol) | Target::Service(_, _, protocol) => *protocol,
    };
    let is_own = ground.own.contains(&address.ip());
    let caller = ground.caller;
    let socket = match &ground.installed {
        Ok(installed) => Ok(held_at(installed, address, protocol, is_own, caller)),
        Err(error) => Err(chain(error)),
    };
    let nftables = nft::held_found(address, protocol, is_own, caller).map_err(|error| chain(&error));
    if let (Err(_), Err(why)) = (&socket, &nftables) {
        anyhow::bail!("could not read what the kernel has: {why}; this takes root");
    }
    let held = [&socket, &nftables].into_iter().flatten().flatten().next();
    let service = held.map(|held| held.port.clone());
    let edge = edge(ground, pin_dir, address, protocol, service.as_ref(), computed);
    let client = match ground.question.source {
        Source::Address(client) => Some(client),
        Source::Any(_) => None,
    };
    let remembered = client.zip(service.as_ref());
    let remembered =
        remembered.and_then(|(client, service)| trial::stay(pin_dir, client, service).ok().flatten());
    let kernel = Kernel {
        running: ground.running.clone(),
        socket: found(socket),
        nftables: found(nftables),
        edge,
        flows: client.map(|client| flows(pin_dir, client, address, protocol)).unwrap_or_default(),
        remembered,
    };
    let has_daemon = ground.reasons.is_ok();
    let case = Case {
        caller,
        is_here: ground.is_here,
        protocol,
        address,
        is_own,
        has_daemon,
        computed,
        kernel: &kernel,
    };
    let (served_by, why_served_by) = judge::served_by(&case);
    let (masquerade, alarms) = (judge::masquerade(&case, served_by), judge::alarms(&case));
    Ok(Explained {
        address,
        protocol: protocol.as_str().to_owned(),
        computed: computed.cloned(),
        served_by,
        why_served_by,
        masquerade,
        alarms,
        kernel,
    })
}

fn found(read: Result<Option<Held>, String>) -> Found {
    let has = |held: Held| {
        let Held { port, verdict, endpoints, affinity, masquerade } = held;
        let affinity_seconds = affinity.map(std::num::NonZeroU32::get);
        Has { service: port.to_string(), verdict: verdict.as_str(), endpoints, affinity_seconds, masquerade }
    };
    match read {
        Ok(held) => Found { unread: None, has: held.map(has) },
        Err(why) => Found { unread: Some(why), has: None },
    }
}

/// Tries the edge's program, where such a flow would meet it.
fn edge(
    ground: &Ground,
    pin_dir: &Path,
    address: SocketAddr,
    protocol: Protocol,
    service: Option<&ServicePortName>,
    computed: Option<&Answering>,
) -> Edge {
    let untried = |why: &str| Edge { untried: Some(why.to_owned()), ..Edge::default() };
    let Some(service) = service else { return untried("the kernel has no service there") };
    if protocol == Protocol::Sctp {
        return untried("it takes TCP and UDP");
    }
    if ground.is_here != Some(false) {
        return untried("callers on this node do not meet it; the socket's hooks cannot be run for a test");
    }
    let client = match ground.question.source {
        Source::Address(client) => client,
        Source::Any(_) if computed.is_some_and(|one| !one.source_ranges.is_empty()) => {
            return untried("there are source ranges: name a client's address");
        }
        Source::Any(_) => sample(Family::of(address.ip())),
    };
    match trial::run(pin_dir, &Trial { client, address, protocol, service: service.clone() }) {
        Ok(Ok(tried)) => Edge {
            untried: None,
            device: Some(tried.device),
            program: Some(tried.program),
            outcomes: tried
                .outcomes
                .iter()
                .map(|(outcome, packets)| outcome_of(*outcome, *packets))
                .collect(),
        },
        Ok(Err(why)) => untried(&why),
        Err(error) => untried(&chain(&error)),
    }
}

/// Somebody in the ranges for documentation (RFC 5737, RFC 3849).
fn sample(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn outcome_of(outcome: Outcome, packets: u32) -> Tried {
    match outcome {
        Outcome::Forward(endpoint, source) => {
            Tried { verdict: "forward", endpoint: Some(endpoint), source, packets }
        }
        Outcome::Drop => Tried { verdict: "drop", endpoint: None, source: None, packets },
        Outcome::Left => Tried { verdict: "left", endpoint: None, source: None, packets },
    }
}

fn flows(pin_dir: &Path, client: IpAddr, address: SocketAddr, protocol: Protocol) -> Vec<Flow> {
    let all = read_flows(pin_dir).ok().flatten().unwrap_or_default();
    let ours = all
        .iter()
        .filter(|flow| flow.client.ip() == client && flow.address == address && flow.protocol == protocol);
    let shown = ours.take(FLOWS);
    shown
        .map(|flow| Flow { client: flow.client, endpoint: flow.endpoint, state: flow.state.as_str() })
        .collect()
}
