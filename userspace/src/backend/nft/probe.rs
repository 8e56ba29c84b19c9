//! What the packet filter of this kernel can do. Each question is a transaction without its end: the kernel checks every
//! message, says what it does not like, and takes all of it back. It may load modules for that, as it would for the daemon.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::chains::{Affinity, By, Chain, Mark, base};
use super::layout::{Layout, ranges};
use super::rule::{Part, tables, word};
use super::sets::{AFFINITY_CLIENTS, Set, address_key, octets};
use super::wire::{Base, Batch, Data, Element, Expression, Place, Socket, Tables};
use super::{NOTRACK_BIT, handover};
use crate::backend::chain;
use crate::backend::probe::Finding;
use crate::desired::{FamilyContext, List, NodePorts};
use crate::model::{Family, Protocol};

/// Of a table that is never there.
const TABLE: &str = "sluice-probe";
const BIT: u32 = 14;
const BOTH: &[Family] = &[Family::V4, Family::V6];

/// One question.
struct Trial {
    feature: &'static str,
    needed_for: &'static str,
    families: &'static [Family],
    ask: fn(&mut Draft),
}

/// A transaction that is being written for one family; the table is there.
struct Draft {
    batch: Batch,
    layout: Layout,
}

const TRIALS: [Trial; 13] = [
    Trial { feature: "NAT chains, IPv4", needed_for: "nftables: all", families: &[Family::V4], ask: hooks },
    Trial { feature: "NAT chains, IPv6", needed_for: "nftables: all", families: &[Family::V6], ask: hooks },
    Trial { feature: "keys of several fields", needed_for: "nftables: services", families: BOTH, ask: keys },
    Trial {
        feature: "maps to address and port",
        needed_for: "nftables: endpoints",
        families: BOTH,
        ask: maps,
    },
    Trial { feature: "jhash", needed_for: "nftables: choice of an endpoint", families: BOTH, ask: hash },
    Trial { feature: "numgen", needed_for: "nftables: endpoints, affinity", families: BOTH, ask: number },
    Trial { feature: "fib", needed_for: "nftables: node ports, local policies", families: BOTH, ask: local },
    Trial {
        feature: "masquerade",
        needed_for: "nftables: answers that come back",
        families: BOTH,
        ask: mask,
    },
    Trial { feature: "reject in prerouting", needed_for: "nftables: refusing", families: BOTH, ask: refuse },
    Trial {
        feature: "dynamic sets",
        needed_for: "nftables: session affinity",
        families: BOTH,
        ask: remember,
    },
    Trial { feature: "ranges in keys", needed_for: "nftables: source ranges", families: BOTH, ask: sources },
    Trial {
        feature: "named counters",
        needed_for: "nftables: counting refusals",
        families: BOTH,
        ask: count,
    },
    Trial {
        feature: "notrack",
        needed_for: "nftables: handing connections over",
        families: &[Family::V4],
        ask: notrack,
    },
];

/// Asks about every feature, and about the tables as a whole.
pub fn probe() -> Vec<Finding> {
    const NETLINK: &str = "nftables: all";
    let mut socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) => return vec![Finding::new("netlink", NETLINK, Err(error.to_string()))],
    };
    let mut found = vec![Finding::new("netlink", NETLINK, Ok(()))];
    found.extend(TRIALS.iter().map(|trial| trial.run(&mut socket)));
    let outcome = socket.try_out(whole()).map_err(|refused| chain(&refused));
    found.push(Finding::new("the tables as a whole", NETLINK, outcome));
    found
}

impl Trial {
    fn run(&self, socket: &mut Socket) -> Finding {
        let refused = self.families.iter().find_map(|family| {
            let mut draft = Draft::new(*family);
            (self.ask)(&mut draft);
            let refused = socket.try_out(draft.batch).err()?;
            Some(format!("{}: {}", word(*family), chain(&refused)))
        });
        Finding::new(self.feature, self.needed_for, refused.map_or(Ok(()), Err))
    }
}

impl Draft {
    fn new(family: Family) -> Self {
        let mut draft = Self { batch: Batch::default(), layout: layout(family) };
        draft.batch.add_table(draft.place(), TABLE);
        draft
    }

    fn place(&self) -> Place<'static> {
        Place { family: tables(self.layout.family), table: TABLE }
    }

    fn set(&mut self, set: Set, elements: &[Element]) {
        self.batch.add_set(self.place(), &set.shape(self.layout.family, AFFINITY_CLIENTS));
        self.batch.add_elements(self.place(), set.name(), elements.iter());
    }

    /// Makes a chain on one of our hooks, with these rules.
    fn chain(&mut self, name: &str, rules: &[Vec<Part>]) {
        for (_, hook, _) in base(BIT, None).into_iter().filter(|(hooked, ..)| *hooked == name) {
            self.batch.add_chain(self.place(), name, Some(hook));
        }
        self.layout.rules(&mut self.batch, TABLE, name, rules);
    }

    fn steps(&mut self, steps: &[Expression<'_>]) {
        self.chain("prerouting", &[]);
        self.batch.add_rule(self.place(), "prerouting", steps);
    }

    fn address(&self) -> IpAddr {
        match self.layout.family {
            Family::V4 => IpAddr::from([10, 0, 0, 1]),
            Family::V6 => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
        }
    }
}

fn layout(family: Family) -> Layout {
    let node_ports = NodePorts::Within(Default::default());
    let context = FamilyContext { node_ports, ..FamilyContext::default() };
    Layout { family, context, bit: BIT, ports: None, clients: AFFINITY_CLIENTS }
}

fn hooks(draft: &mut Draft) {
    base(BIT, None).into_iter().for_each(|(name, ..)| draft.chain(name, &[]));
}

fn keys(draft: &mut Draft) {
    draft.set(Set::Services, &[]);
    draft.chain("prerouting", &[vec![Part::Decide(Set::Services)]]);
}

fn maps(draft: &mut Draft) {
    draft.set(Set::Endpoints, &[]);
    draft.chain("prerouting", &[vec![Part::Spread(Set::Endpoints, 1)]]);
}

fn hash(draft: &mut Draft) {
    let load = Expression::Load { base: Base::Network, offset: 12, length: 4, to: 1 };
    draft.steps(&[load, Expression::Hash { from: 1, length: 4, modulus: 2, seed: 1, to: 0 }]);
}

fn number(draft: &mut Draft) {
    draft.steps(&[Expression::Random { modulus: 1, offset: 0, to: 0 }]);
}

fn local(draft: &mut Draft) {
    draft.chain("prerouting", &[vec![Part::ToHere], vec![Part::FromHere]]);
    draft.chain("output", &[vec![Part::ToHere]]);
}

fn mask(draft: &mut Draft) {
    draft.chain("postrouting", &[vec![Part::Marked(BIT), Part::Unmark(BIT), Part::Masquerade(None)]]);
}

fn refuse(draft: &mut Draft) {
    draft.chain("prerouting", &[vec![Part::Reject]]);
    draft.chain("output", &[vec![Part::Reject]]);
}

fn remember(draft: &mut Draft) {
    draft.set(Set::Affinity, &[]);
    draft.chain("prerouting", &[vec![Part::Knows(1)], vec![Part::Remember(1, 60)]]);
}

fn sources(draft: &mut Draft) {
    let address = draft.address();
    let key = [address_key((address, 80).into(), Protocol::Tcp), octets(address)].concat();
    let one = Element { end: Some(key.clone().into()), data: Data::None, ..Element::plain(key.into()) };
    draft.set(Set::Sources, &[one]);
    draft.set(Set::ClusterRanges, &ranges(&[address.into()]));
    draft.chain("prerouting", &[vec![Part::NotLetIn(Set::Sources)], vec![Part::ToIn(Set::ClusterRanges)]]);
}

fn count(draft: &mut Draft) {
    draft.batch.add_counter(draft.place(), "rejected");
    draft.chain("prerouting", &[vec![Part::Count("rejected")]]);
}

fn notrack(draft: &mut Draft) {
    handover::make(&mut draft.batch, Place { family: Tables::Inet, table: TABLE }, NOTRACK_BIT);
}

/// Everything that the daemon would write, and chains of every kind that Services need.
fn whole() -> Batch {
    let mut batch = Batch::default();
    handover::make(&mut batch, Place { family: Tables::Inet, table: TABLE }, NOTRACK_BIT);
    for family in [Family::V4, Family::V6] {
        let layout = layout(family);
        layout.make(&mut batch, TABLE);
        chains(Draft::new(family).address()).iter().for_each(|chain| layout.chain(&mut batch, TABLE, chain));
        layout.hook(&mut batch, TABLE, &BTreeSet::new());
    }
    batch
}

/// In an order in which each leads only to those before it.
fn chains(address: IpAddr) -> Vec<Chain> {
    let affinity = |port: u16| Affinity::new("probe", (address, port).into(), Protocol::Tcp, 60);
    let mark = Mark::UnlessPod;
    let mut chains = vec![
        Chain::Spread { list: List::Cluster, by: By::Address, mark, count: 2 },
        Chain::Spread { list: List::Local, by: By::NodePort, mark, count: 2 },
        Chain::Affine { mark, endpoints: [affinity(1), affinity(2)].into() },
    ];
    let mut next = 0;
    while let Some(chain) = chains.get(next) {
        let leads_to = chain.leads_to();
        chains.extend(leads_to);
        next += 1;
    }
    chains.sort();
    chains.dedup();
    chains.sort_by_key(Chain::depth);
    chains
}
