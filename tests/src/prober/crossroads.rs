//! A node with three cables: to its pods, to the outside, and to everything beyond.
//!
//! ```text
//!   pods ---- node ---- beyond (the default routes lead here)
//!              |
//!           outside
//! ```
//!
//! At the far ends nobody lives: packets are put in there with any source, and whatever comes out is looked at and
//! forgotten. The node's neighbours are permanent, so that no packet waits for one.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::fate::{Fate, Seen};
use super::probe::{Class, FIRST, Probe, Protocol};
use super::sighting::Sighting;
use super::wires::{Cable, Ears, Mouth};
use crate::link::{End, batch, cable};
use crate::netns::Netns;
use crate::topology::Node;
use crate::wait;

/// What the caller wants of the node.
#[derive(Clone, Copy, Debug)]
pub struct Layout<'a> {
    /// Addresses of the node beside those it has on the wire.
    pub addresses: &'a [IpAddr],
    /// What the node calls the link to its pods.
    pub pod_link: &'a str,
}

/// The node, and all sockets around it.
#[derive(Debug)]
pub struct Crossroads {
    node: Node,
    pods: Cable,
    outside: Cable,
    beyond: Cable,
    mouth: Mouth,
    ears: Ears,
    /// The node's addresses.
    addresses: BTreeSet<IpAddr>,
    /// Number of the next probe.
    next: u32,
    /// How many ports have been given away.
    ports: u32,
}

/// What a flow gets as its source when it is masqueraded: an address of the link that it leaves by, which is no address of
/// the node otherwise, so that nothing else looks like it.
pub const MASQUERADE_V4: Ipv4Addr = Ipv4Addr::new(172, 31, 255, 1);
/// The same in IPv6.
pub const MASQUERADE_V6: Ipv6Addr = Ipv6Addr::new(0xfd31, 0, 0, 0, 0, 0, 0, 1);

/// Where nobody is, by the ranges for benchmarks (RFC 2544 and RFC 5180).
const NOBODY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 18, 255, 254)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 0xfeed)),
];
const SOMEBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1))];
/// A port that means nothing.
const DISCARD: u16 = 9;

/// Source ports go round.
const FIRST_PORT: u16 = 1024;
const PORTS: u32 = 64_000;

/// The node's end of every cable.
const NEAR: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// Nobody's address on the cable to beyond: what is sent there is seen by a raw socket, and by nothing else.
const GATE: &str = "02:00:00:00:00:fe";

/// The flag of a route to the node itself, in `/proc/net/ipv6_route`.
const LOCAL: u32 = 0x8000_0000;

/// So many packets go out before what has come is read.
const HANDFUL: usize = 256;
/// How long a flow that is let through may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How much later than a probe that was sent after it one may come, if another processor took it.
const GRACE: Duration = Duration::from_millis(20);

impl Crossroads {
    /// Lays the cables to a node of a lab, and leads its default routes to beyond.
    pub fn around(node: &Node, layout: &Layout<'_>) -> Result<Self> {
        let ways = [(layout.pod_link, "pods"), ("outside", "outside"), ("beyond", "beyond")];
        let [pods, outside, beyond] = ways.map(|(near, far)| lay(node, near, far));
        prepare(node, layout)?;
        let (mouth, ears) = node.netns().run(|| Ok((Mouth::open()?, Ears::open()?)))?;
        let mut addresses: BTreeSet<IpAddr> = layout.addresses.iter().copied().collect();
        addresses.extend([IpAddr::V4(node.v4()), IpAddr::V6(node.v6())]);
        let (node, pods, outside, beyond) = (node.clone(), pods?, outside?, beyond?);
        Ok(Self { node, pods, outside, beyond, mouth, ears, addresses, next: FIRST, ports: 0 })
    }

    /// The node in the middle.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Adds an address to the node, if it is not there.
    pub fn add_address(&mut self, ip: IpAddr) -> Result<()> {
        if !self.addresses.insert(ip) {
            return Ok(());
        }
        batch(self.node.netns(), &add(ip))?;
        in_force(&self.node, &[ip])
    }

    /// Calls the link to the pods by another name.
    pub fn rename_pod_link(&self, before: &str, name: &str) -> Result<()> {
        batch(
            self.node.netns(),
            &format!(
                "link set dev {before} down\nlink set dev {before} name {name}\nlink set dev {name} up\n"
            ),
        )
    }

    /// A source port that no probe has had for a long time.
    pub fn fresh_port(&mut self) -> u16 {
        self.ports = (self.ports + 1) % PORTS;
        FIRST_PORT + u16::try_from(self.ports).unwrap_or(0)
    }

    /// Sends probes, and tells what became of each, in their order. Each begins a new flow: the caller sees to it that
    /// no two of one node have all of source, destination and protocol in common.
    pub fn send(&mut self, probes: &[Probe]) -> Result<Vec<Fate>> {
        let last = self.last();
        let all: Vec<Probe> = probes.iter().copied().chain(last).collect();
        let first = self.next;
        self.next = first.wrapping_add(u32::try_from(all.len())?);
        let mut seen = vec![Seen::default(); all.len()];
        self.read(first, &mut [])?;
        for (at, handful) in all.chunks(HANDFUL).enumerate() {
            for (probe, number) in handful.iter().zip(first + u32::try_from(at * HANDFUL)?..) {
                self.put(probe, number).with_context(|| format!("with {probe:?}"))?;
            }
            self.read(first, &mut seen)?;
        }
        self.until_quiet(first, &all, &mut seen)?;
        Ok(probes.iter().zip(&seen).map(|(probe, seen)| seen.fate(probe)).collect())
    }

    /// The last probes of every batch: when those have passed, all others have had their time.
    fn last(&mut self) -> Vec<Probe> {
        let mut all = Vec::new();
        for (from, (source, to)) in Class::ALL
            .into_iter()
            .flat_map(|class| SOMEBODY.into_iter().zip(NOBODY).map(move |ways| (class, ways)))
        {
            let own = if source.is_ipv4() { self.node.v4().into() } else { self.node.v6().into() };
            let source = if from == Class::Node { own } else { source };
            let (source, to) = (SocketAddr::new(source, self.fresh_port()), SocketAddr::new(to, DISCARD));
            all.push(Probe { from, protocol: Protocol::Udp, source, to });
        }
        all
    }

    fn until_quiet(&self, first: u32, all: &[Probe], seen: &mut [Seen]) -> Result<()> {
        let count = all.len() - Class::ALL.len() * NOBODY.len();
        wait::until("probes that are nobody's business to pass", PATIENCE, || {
            self.read(first, seen)?;
            for (probe, seen) in all.iter().zip(seen.iter()).skip(count) {
                let fate = seen.fate(probe);
                ensure!(fate == Fate::Passed { source: probe.source.ip() }, "{probe:?} was {fate}");
            }
            Ok(())
        })?;
        let is_settled = all.iter().zip(seen.iter()).all(|(probe, seen)| seen.fate(probe) != Fate::Dropped);
        if !is_settled {
            std::thread::sleep(GRACE);
            self.read(first, seen)?;
        }
        Ok(())
    }

    fn put(&self, probe: &Probe, number: u32) -> Result<()> {
        let packet = probe.packet(number)?;
        match probe.from {
            Class::Pod => self.pods.send(&packet),
            Class::Outside => self.outside.send(&packet),
            Class::Node => self.mouth.send(&packet, probe.to.ip()),
        }
    }

    /// Reads what has come. What does not belong to these probes is thrown away. The node's own ears come last: an
    /// answer that is seen at a far end has been caused before.
    fn read(&self, first: u32, seen: &mut [Seen]) -> Result<()> {
        let mut all = Vec::new();
        for cable in [&self.pods, &self.outside, &self.beyond] {
            cable.read(|sighting| all.push((sighting, false)))?;
        }
        self.ears.read(|sighting| all.push((sighting, true)))?;
        for (Sighting { number, what }, is_here) in all {
            let index = usize::try_from(number.wrapping_sub(first))?;
            seen.get_mut(index).map_or(Ok(()), |seen| seen.add(what, is_here))?;
        }
        Ok(())
    }
}

fn lay(node: &Node, near: &str, far: &str) -> Result<Cable> {
    let there = Netns::new()?;
    cable(&End { netns: node.netns(), name: near }, &End { netns: &there, name: far })?;
    there.run(|| Cable::open(far, NEAR))
}

/// Addresses, routes, neighbours, and no limit for answers.
fn prepare(node: &Node, layout: &Layout<'_>) -> Result<()> {
    let mut lines: String = [layout.pod_link, "outside", "beyond"]
        .map(|link| format!("link set dev {link} address {NEAR}\n", NEAR = text(NEAR)))
        .concat();
    lines += &format!(
        "addr add {MASQUERADE_V4}/32 dev beyond\naddr add {MASQUERADE_V6}/128 dev beyond nodad\n\
         neigh add 169.254.0.1 lladdr {GATE} dev beyond nud permanent\n\
         neigh add fe80::1 lladdr {GATE} dev beyond nud permanent\n\
         route replace default via 169.254.0.1 dev beyond onlink\n\
         route del ::/0 dev wire\nroute add ::/0 via fe80::1 dev beyond\n"
    );
    lines.extend(layout.addresses.iter().copied().map(add));
    batch(node.netns(), &lines)?;
    in_force(node, &[layout.addresses, &[MASQUERADE_V6.into(), node.v6().into()]].concat())?;
    node.netns().run(unlimited)
}

/// An IPv6 address gets its route a moment after it is added, from a work queue of the kernel.
fn in_force(node: &Node, addresses: &[IpAddr]) -> Result<()> {
    node.netns().run(|| {
        wait::until("routes of the node's addresses", PATIENCE, || {
            let routes = std::fs::read_to_string("/proc/thread-self/net/ipv6_route")?;
            for ip in addresses {
                let is_there = match ip {
                    IpAddr::V4(_) => true,
                    IpAddr::V6(ip) => routes.lines().any(|line| leads_here(line, *ip)),
                };
                ensure!(is_there, "{ip} has no route");
            }
            Ok(())
        })
    })
}

/// Whether a line of the kernel's table, of which the last two words are flags and link, is the local route of an address.
fn leads_here(line: &str, ip: Ipv6Addr) -> bool {
    let flags = line.split_whitespace().rev().nth(1).and_then(|flags| u32::from_str_radix(flags, 16).ok());
    line.starts_with(&format!("{:032x} 80 ", ip.to_bits())) && flags.is_some_and(|flags| flags & LOCAL != 0)
}

/// Not on a cable: there they could be chosen for masquerading.
fn add(ip: IpAddr) -> String {
    let how = if ip.is_ipv6() { " nodad" } else { "" };
    format!("addr add {ip}/{} dev lo{how}\n", width(ip))
}

fn width(ip: IpAddr) -> u8 {
    if ip.is_ipv4() { 32 } else { 128 }
}

fn text(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// Answers to probes are not counted and not held back.
fn unlimited() -> Result<()> {
    // The mask of IPv6 is a list; 127 is nothing that is sent here.
    let settings = [
        ("ipv4/icmp_ratemask", "0"),
        ("ipv4/icmp_ratelimit", "0"),
        ("ipv6/icmp/ratelimit", "0"),
        ("ipv6/icmp/ratemask", "127"),
    ];
    for (name, value) in settings {
        std::fs::write(format!("/proc/sys/net/{name}"), value)
            .with_context(|| format!("could not set {name}"))?;
    }
    Ok(())
}
