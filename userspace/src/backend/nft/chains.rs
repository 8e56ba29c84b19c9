//! The chains of one table. Some are always there; others come when a service port needs them. What is in a chain
//! follows from its name: one that is there need never be looked into. Pure.

use std::net::SocketAddr;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use super::rule::{Part, Rule};
use super::sets::Set;
use super::wire::Hook;
use crate::desired::{FamilyContext, List, NodePorts};
use crate::model::Protocol;

/// Names of chains that are always there.
pub(super) mod fixed {
    /// Answers that nobody is there.
    pub(crate) const REFUSE: &str = "refuse";
    /// Lets a flow vanish.
    pub(crate) const DISCARD: &str = "discard";
    /// Lets in whom the source ranges let in.
    pub(crate) const FILTERED: &str = "filtered";
    /// Addresses under a local policy.
    pub(crate) const BY_SOURCE: &str = "by-source";
    /// Of these, what comes from this node.
    pub(crate) const BY_SOURCE_NODE: &str = "by-source-node";
    /// Node ports under a local policy.
    pub(crate) const NODE_PORT_BY_SOURCE: &str = "node-port-by-source";
    /// Of these, what comes from this node.
    pub(crate) const NODE_PORT_BY_SOURCE_NODE: &str = "node-port-by-source-node";
    /// Every new flow.
    pub(crate) const DISPATCH: &str = "dispatch";
    /// New flows that nobody has translated.
    pub(crate) const UNSERVED: &str = "unserved";
}

/// Named counters, and what they count.
pub(super) const COUNTERS: [(&str, &str); 6] = [
    ("rejected", "new flows to a service without endpoints"),
    ("dropped", "new flows that a local policy drops"),
    ("filtered", "new flows that source ranges keep out"),
    ("undefined-port", "new flows to a cluster address at a port that is none of its"),
    ("unallocated", "new flows to a cluster address that no service has"),
    ("not-remembered", "new flows whose client is not remembered, because there is no room for it"),
];

/// Order among NAT chains before and after routing (`NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`).
const BEFORE: i32 = -100;
const AFTER: i32 = 100;
/// Behind everybody else's translation, so that another proxy's services are not taken for undefined.
const LATE: i32 = -90;
/// `NF_INET_PRE_ROUTING`, `NF_INET_LOCAL_OUT`, `NF_INET_POST_ROUTING`.
const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
const POSTROUTING: u32 = 4;

/// When a flow's source becomes an address of this node, besides hairpins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Mark {
    /// Never.
    Never,
    /// Unless it comes from a pod.
    UnlessPod,
    /// Always.
    Always,
}

/// By what a flow found its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum By {
    /// By address and port.
    Address,
    /// By node port.
    NodePort,
}

/// A chain that some service port needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Chain {
    /// Spreads flows over lists of this length.
    Spread {
        /// Over which list.
        list: List,
        /// Found how.
        by: By,
        /// Masqueraded when.
        mark: Mark,
        /// Its length, not zero.
        count: u32,
    },
    /// Sends clients where they have been lately, and spreads the others.
    Affine {
        /// Masqueraded when.
        mark: Mark,
        /// The endpoints' chains, with the number of each, in order.
        endpoints: Arc<[Affinity]>,
    },
    /// Sends flows to one endpoint and remembers the client.
    Remember(Affinity),
}

/// One endpoint of a service port whose clients keep their endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Affinity {
    /// Stands for service port and endpoint; clients are remembered under it.
    pub(super) place: u128,
    /// How long they are remembered, in seconds.
    pub(super) seconds: u32,
    /// Where it listens.
    pub(super) endpoint: SocketAddr,
    /// Its protocol.
    pub(super) protocol: Protocol,
}

impl Chain {
    /// Its name.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Spread { list, by, mark, count } => {
                let by = if *by == By::NodePort { "node-port-" } else { "" };
                format!("{by}{}-{count}{}", list_word(*list), mark_word(*mark))
            }
            Self::Affine { mark, endpoints } => {
                let mut whole = Context::new(&SHA256);
                for affinity in endpoints.iter() {
                    whole.update(&affinity.place.to_be_bytes());
                    whole.update(&affinity.seconds.to_be_bytes());
                }
                let seconds = endpoints.first().map_or(0, |affinity| affinity.seconds);
                format!("affine-{:032x}-{seconds}{}", finish(whole), mark_word(*mark))
            }
            Self::Remember(affinity) => affinity.chain(),
        }
    }

    /// Its rules.
    pub(super) fn rules(&self, context: &FamilyContext, bit: u32) -> Vec<Rule> {
        let rules = match self {
            Self::Spread { list, by, mark: _, count } => spread(*list, *by, *count),
            Self::Affine { mark: _, endpoints } => affine(endpoints),
            Self::Remember(affinity) => remember(affinity),
        };
        match self.mark() {
            Mark::Never => rules,
            Mark::Always => [vec![vec![Part::Mark(bit)]], rules].concat(),
            Mark::UnlessPod => {
                let on = || Part::Goto(self.unmarked().name().into());
                let pods = context.pods.iter().map(|pods| vec![Part::FromPods(pods.clone()), on()]);
                pods.chain([vec![Part::Mark(bit)], vec![on()]]).collect()
            }
        }
    }

    fn mark(&self) -> Mark {
        match self {
            Self::Spread { list: _, by: _, mark, count: _ } | Self::Affine { mark, endpoints: _ } => *mark,
            Self::Remember(_) => Mark::Never,
        }
    }

    /// Whether there are so few of its kind that it may stay when nobody needs it: making one anew takes the kernel long.
    pub(super) fn stays(&self) -> bool {
        match self {
            Self::Spread { .. } => true,
            Self::Affine { .. } | Self::Remember(_) => false,
        }
    }

    /// The chains that its rules lead to.
    pub(super) fn leads_to(&self) -> Vec<Self> {
        if self.mark() == Mark::UnlessPod {
            // And that leads to the endpoints.
            return vec![self.unmarked()];
        }
        match self {
            Self::Spread { .. } | Self::Remember(_) => Vec::new(),
            Self::Affine { mark: _, endpoints } => {
                endpoints.iter().map(|affinity| Self::Remember(affinity.clone())).collect()
            }
        }
    }

    /// How many chains one behind the other its rules lead to: what it leads to must be made before.
    pub(super) fn depth(&self) -> usize {
        self.leads_to().iter().map(|next| next.depth() + 1).max().unwrap_or(0)
    }

    /// The same for flows that are not masqueraded.
    fn unmarked(&self) -> Self {
        match self.clone() {
            Self::Spread { list, by, mark: _, count } => Self::Spread { list, by, mark: Mark::Never, count },
            Self::Affine { mark: _, endpoints } => Self::Affine { mark: Mark::Never, endpoints },
            Self::Remember(affinity) => Self::Remember(affinity),
        }
    }
}

impl Affinity {
    /// From the names of service port and endpoint.
    pub(super) fn new(port: &str, endpoint: SocketAddr, protocol: Protocol, seconds: u32) -> Self {
        let mut whole = Context::new(&SHA256);
        whole.update(format!("{port} {endpoint}").as_bytes());
        Self { place: finish(whole), seconds, endpoint, protocol }
    }

    fn chain(&self) -> String {
        format!("remember-{:032x}-{}", self.place, self.seconds)
    }

    /// What the packet filter calls it. That two endpoints share one of so many numbers only means that a client of the
    /// one is sent to the other first.
    pub(super) const fn number(&self) -> u32 {
        self.place as u32
    }
}

/// The same as [`Chain::stays`], of a chain of which only the name is known.
pub(super) fn may_stay(name: &str) -> bool {
    !name.starts_with("affine-") && !name.starts_with("remember-")
}

/// Half of a digest: names made by strangers must not come out as somebody else's.
fn finish(whole: Context) -> u128 {
    let digest = whole.finish();
    digest.as_ref().first_chunk::<16>().map_or(0, |half| u128::from_be_bytes(*half))
}

const fn list_word(list: List) -> &'static str {
    match list {
        List::Cluster => "cluster",
        List::Local => "local",
    }
}

const fn mark_word(mark: Mark) -> &'static str {
    match mark {
        Mark::Never => "",
        Mark::UnlessPod => "-masquerade-unless-pod",
        Mark::Always => "-masquerade",
    }
}

/// The map that a list is in.
pub(super) const fn endpoints_of(list: List, by: By) -> Set {
    match (list, by) {
        (List::Cluster, By::Address) => Set::Endpoints,
        (List::Local, By::Address) => Set::EndpointsLocal,
        (List::Cluster, By::NodePort) => Set::NodePortEndpoints,
        (List::Local, By::NodePort) => Set::NodePortEndpointsLocal,
    }
}

/// A list may get shorter between the choice of this chain and the look into the map; its first endpoint is there as
/// long as the list is.
fn spread(list: List, by: By, count: u32) -> Vec<Rule> {
    let set = endpoints_of(list, by);
    let mut rules = vec![vec![Part::Spread(set, count)]];
    if count > 1 {
        rules.push(vec![Part::Spread(set, 1)]);
    }
    rules
}

fn affine(endpoints: &[Affinity]) -> Vec<Rule> {
    let chain = |affinity: &Affinity| affinity.chain().into_boxed_str();
    let known = |one: &Affinity| vec![Part::Knows(one.number()), Part::Goto(chain(one))];
    let mut rules: Vec<Rule> = match endpoints {
        [_] => Vec::new(),
        several => several.iter().map(known).collect(),
    };
    rules.push(match endpoints {
        [only] => vec![Part::Goto(chain(only))],
        several => vec![Part::OneOf(several.iter().map(chain).collect())],
    });
    rules
}

/// If there is no room to remember, the kernel ends the rule there: the next one counts that, and the flow goes on all
/// the same.
fn remember(affinity: &Affinity) -> Vec<Rule> {
    let to = || Part::To(affinity.endpoint, affinity.protocol);
    vec![
        vec![Part::Remember(affinity.number(), affinity.seconds), to()],
        vec![Part::Count("not-remembered"), to()],
    ]
}

/// The chains that are always there, in an order in which each leads only to those before it.
pub(super) fn fixed(context: &FamilyContext, bit: u32) -> Vec<(&'static str, Vec<Rule>)> {
    vec![
        (fixed::REFUSE, vec![vec![Part::Count("rejected"), Part::Reject]]),
        (fixed::DISCARD, vec![vec![Part::Count("dropped"), Part::Drop]]),
        (
            fixed::FILTERED,
            vec![
                vec![Part::NotLetIn(Set::Sources), Part::Count("filtered"), Part::Drop],
                vec![Part::Decide(Set::ServicesFiltered)],
            ],
        ),
        (fixed::BY_SOURCE_NODE, vec![vec![Part::Mark(bit)], vec![Part::Decide(Set::ServicesInside)]]),
        (
            fixed::BY_SOURCE,
            by_source(context, fixed::BY_SOURCE_NODE, [Set::ServicesInside, Set::ServicesOutside]),
        ),
        (
            fixed::NODE_PORT_BY_SOURCE_NODE,
            vec![vec![Part::Mark(bit)], vec![Part::Decide(Set::NodePortsInside)]],
        ),
        (
            fixed::NODE_PORT_BY_SOURCE,
            by_source(
                context,
                fixed::NODE_PORT_BY_SOURCE_NODE,
                [Set::NodePortsInside, Set::NodePortsOutside],
            ),
        ),
        (fixed::DISPATCH, vec![vec![Part::Decide(Set::Services)], node_ports(context)]),
        (
            fixed::UNSERVED,
            vec![
                vec![
                    Part::ToIn(Set::ClusterIps),
                    Part::NotToHere,
                    Part::Count("undefined-port"),
                    Part::Reject,
                ],
                vec![Part::ToIn(Set::ClusterRanges), Part::NotToHere, Part::Count("unallocated"), Part::Drop],
            ],
        ),
    ]
}

fn by_source(context: &FamilyContext, node: &str, [inside, outside]: [Set; 2]) -> Vec<Rule> {
    let pods = context.pods.iter().map(|pods| vec![Part::FromPods(pods.clone()), Part::Decide(inside)]);
    let rest = [vec![Part::FromHere, Part::Goto(node.into())], vec![Part::Decide(outside)]];
    pods.chain(rest).collect()
}

fn node_ports(context: &FamilyContext) -> Rule {
    let within = match &context.node_ports {
        NodePorts::All => None,
        NodePorts::Within(_) => Some(Part::ToIn(Set::NodePortAddresses)),
    };
    within.into_iter().chain([Part::NotToLoopback, Part::ToHere, Part::Decide(Set::NodePorts)]).collect()
}

/// The chains on hooks. With them the table comes into force.
pub(super) fn base(bit: u32, ports: Option<[u16; 2]>) -> Vec<(&'static str, Hook, Vec<Rule>)> {
    let hook = |number, priority| Hook { kind: "nat", number, priority };
    let dispatch = || vec![vec![Part::Jump(fixed::DISPATCH)]];
    let unserved = || vec![vec![Part::Jump(fixed::UNSERVED)]];
    vec![
        ("prerouting", hook(PREROUTING, BEFORE), dispatch()),
        ("output", hook(OUTPUT, BEFORE), dispatch()),
        ("prerouting-late", hook(PREROUTING, LATE), unserved()),
        ("output-late", hook(OUTPUT, LATE), unserved()),
        (
            "postrouting",
            hook(POSTROUTING, AFTER),
            vec![
                vec![Part::Marked(bit), Part::Unmark(bit), Part::Masquerade(ports)],
                vec![Part::IsTranslated, Part::IsHairpin(Set::Hairpins), Part::Masquerade(ports)],
            ],
        ),
    ]
}
