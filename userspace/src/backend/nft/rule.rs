//! Rules, made of parts that can be written for the kernel and for people. Pure.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::sets::{Field, Set, octets};
use super::wire::{Base, Expression, Meta, Side, Tables};
use crate::desired::Pods;
use crate::model::{Family, Protocol};

/// What the numbers of endpoints are hashed with. Whoever wants the same choice must use the same.
pub(super) const SEED: u32 = 0x51;
/// Bytes of an interface's name.
const NAME_BYTES: usize = 16;
/// `ICMP_PORT_UNREACH` and `ICMPV6_PORT_UNREACH`.
const UNREACHABLE: [u8; 2] = [3, 4];
/// `IPS_DST_NAT`: of a connection whose destination is translated.
const TRANSLATED: u32 = 1 << 5;
/// `RTN_LOCAL`: an address of this node.
const LOCAL: u32 = 2;

/// A part of a rule. A rule ends at the first part that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Where it goes is in the set.
    ToIn(Set),
    /// It does not go to a loopback address.
    NotToLoopback,
    /// It goes to an address of this node.
    ToHere,
    /// It goes to no address of this node.
    NotToHere,
    /// It comes from an address of this node.
    FromHere,
    /// It comes from a pod.
    FromPods(Pods),
    /// Its source is not one that the set lets in.
    NotLetIn(Set),
    /// Its destination has been translated, by whomever.
    IsTranslated,
    /// It comes back to where it began.
    IsHairpin(Set),
    /// Does what the map says.
    Decide(Set),
    /// Goes to the endpoint in the map whose number is the hash of the flow, of so many.
    Spread(Set, u32),
    /// Goes to this endpoint.
    To(SocketAddr, Protocol),
    /// The client has been there lately; "there" is a number.
    Knows(u32),
    /// Remembers that, for so many seconds.
    Remember(u32, u32),
    /// Goes to one of these chains, by the hash of the flow.
    OneOf(Vec<Box<str>>),
    /// Sets this bit of the mark.
    Mark(u32),
    /// This bit of the mark is set.
    Marked(u32),
    /// Clears this bit of the mark, which is set.
    Unmark(u32),
    /// Gives it an address of this node as its source, and one of these ports, if not any.
    Masquerade(Option<[u16; 2]>),
    /// Counts.
    Count(&'static str),
    /// Answers that nobody is there.
    Reject,
    /// Lets it vanish.
    Drop,
    /// Goes to a chain and comes back.
    Jump(&'static str),
    /// Goes to a chain.
    Goto(Box<str>),
    /// Keeps connection tracking away.
    Notrack,
}

/// A rule.
pub(super) type Rule = Vec<Part>;

/// Who is written for, and where maps without a name come from.
pub(super) struct Dialect<'a> {
    pub(super) family: Family,
    /// Gives a number to a map from numbers to these chains.
    pub(super) map: &'a mut dyn FnMut(&[&str]) -> u32,
}

/// A rule as the kernel takes it.
pub(super) fn steps<'a>(rule: &'a [Part], dialect: &mut Dialect<'_>) -> Vec<Expression<'a>> {
    rule.iter().flat_map(|part| part.steps(dialect)).collect()
}

/// A rule as nft takes it.
pub(super) fn text(rule: &[Part], family: Family) -> String {
    rule.iter().map(|part| part.text(family)).collect::<Vec<_>>().join(" ")
}

impl Part {
    fn steps<'a>(&'a self, dialect: &mut Dialect<'_>) -> Vec<Expression<'a>> {
        let family = dialect.family;
        match self {
            Self::ToIn(set) | Self::IsHairpin(set) => with(
                load_key(set.fields(), family),
                Expression::In { from: 0, set: set.name(), inverted: false },
            ),
            Self::NotLetIn(set) => with(
                load_key(set.fields(), family),
                Expression::In { from: 0, set: set.name(), inverted: true },
            ),
            Self::IsTranslated => is_translated(),
            Self::NotToLoopback => not_to_loopback(family),
            Self::ToHere => address_type(Side::Destination, true),
            Self::NotToHere => address_type(Side::Destination, false),
            Self::FromHere => address_type(Side::Source, true),
            Self::FromPods(pods) => from_pods(pods, family),
            Self::Decide(set) => {
                with(load_key(set.fields(), family), Expression::VerdictMap { from: 0, set: set.name() })
            }
            Self::Spread(set, count) => spread(*set, *count, family),
            Self::To(endpoint, protocol) => to(*endpoint, *protocol, family),
            Self::Knows(place) => {
                with(client_at(*place, family), Expression::In { from: 0, set: AFFINITY, inverted: false })
            }
            Self::Remember(place, seconds) => {
                let timeout_millis = u64::from(*seconds) * 1000;
                with(client_at(*place, family), Expression::Update { set: AFFINITY, key: 0, timeout_millis })
            }
            Self::OneOf(chains) => {
                let names: Vec<&str> = chains.iter().map(|chain| &**chain).collect();
                let id = (dialect.map)(&names);
                with(flow_hash(names.len() as u32, 0, family), Expression::VerdictMapById { from: 0, id })
            }
            Self::Mark(bit) => set_mark(!(1 << bit), 1 << bit),
            Self::Unmark(bit) => set_mark(u32::MAX, 1 << bit),
            Self::Marked(bit) => marked(1 << bit),
            Self::Masquerade(None) => vec![Expression::Masquerade { ports: None }],
            Self::Masquerade(Some(ports)) => masquerade(*ports),
            Self::Count(counter) => vec![Expression::Count { counter }],
            Self::Reject => vec![Expression::Reject { code: UNREACHABLE[usize::from(family == Family::V6)] }],
            Self::Drop => vec![Expression::Drop],
            Self::Jump(chain) => vec![Expression::Jump { chain }],
            Self::Goto(chain) => vec![Expression::Goto { chain }],
            Self::Notrack => vec![Expression::Notrack],
        }
    }

    fn text(&self, family: Family) -> String {
        let ip = word(family);
        match self {
            Self::ToIn(set) | Self::IsHairpin(set) => {
                format!("{} @{}", key(set.fields(), family), set.name())
            }
            Self::NotLetIn(set) => format!("{} != @{}", key(set.fields(), family), set.name()),
            Self::IsTranslated => "ct status dnat".to_owned(),
            Self::NotToLoopback => format!("{ip} daddr != {}", loopback(family)),
            Self::ToHere => "fib daddr type local".to_owned(),
            Self::NotToHere => "fib daddr type != local".to_owned(),
            Self::FromHere => "fib saddr type local".to_owned(),
            Self::FromPods(Pods::Within(range)) => format!("{ip} saddr {range}"),
            Self::FromPods(Pods::Interface(name)) => format!("iifname \"{name}\""),
            Self::FromPods(Pods::InterfacePrefix(prefix)) => format!("iifname \"{prefix}*\""),
            Self::Decide(set) => format!("{} vmap @{}", key(set.fields(), family), set.name()),
            Self::Spread(set, count) => {
                let fields = set.fields().split_last().map(|(_, fields)| fields).unwrap_or_default();
                let number = number(*count, family);
                format!("dnat {ip} to {} . {number} map @{}", key(fields, family), set.name())
            }
            Self::To(endpoint, protocol) => {
                format!("meta l4proto {} dnat {ip} to {endpoint}", protocol.as_str().to_lowercase())
            }
            Self::Knows(place) => format!("{} @{AFFINITY}", client_text(*place, family)),
            Self::Remember(place, seconds) => {
                format!("update @{AFFINITY} {{ {} timeout {seconds}s }}", client_text(*place, family))
            }
            Self::OneOf(chains) => {
                let pairs = (0..).zip(chains).map(|(index, chain)| format!("{index} : goto {chain}"));
                let pairs = pairs.collect::<Vec<_>>().join(", ");
                format!("{} vmap {{ {pairs} }}", number(chains.len() as u32, family))
            }
            Self::Mark(bit) => format!("meta mark set meta mark | 0x{:08x}", 1_u32 << bit),
            Self::Marked(bit) => format!("meta mark & 0x{0:08x} == 0x{0:08x}", 1_u32 << bit),
            Self::Unmark(bit) => format!("meta mark set meta mark ^ 0x{:08x}", 1_u32 << bit),
            Self::Masquerade(None) => "masquerade fully-random".to_owned(),
            // As text a rule with ports is only accepted behind protocols that have some. None other comes here.
            Self::Masquerade(Some([first, last])) => {
                format!("meta l4proto {{ tcp, udp, sctp }} masquerade to :{first}-{last} fully-random")
            }
            Self::Count(counter) => format!("counter name \"{counter}\""),
            Self::Reject => "reject".to_owned(),
            Self::Drop => "drop".to_owned(),
            Self::Jump(chain) => format!("jump {chain}"),
            Self::Goto(chain) => format!("goto {chain}"),
            Self::Notrack => "notrack".to_owned(),
        }
    }
}

const AFFINITY: &str = Set::Affinity.name();

/// The tables of a family.
pub(super) const fn tables(family: Family) -> Tables {
    match family {
        Family::V4 => Tables::Ip,
        Family::V6 => Tables::Ip6,
    }
}

/// nft's word for a family.
pub(super) const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

const fn loopback(family: Family) -> &'static str {
    match family {
        Family::V4 => "127.0.0.0/8",
        Family::V6 => "::1",
    }
}

/// Registers of four bytes that an address takes.
const fn words(family: Family) -> u32 {
    Field::To.length(family) / 4
}

fn with<'a>(mut steps: Vec<Expression<'a>>, last: Expression<'a>) -> Vec<Expression<'a>> {
    steps.push(last);
    steps
}

/// Loads the fields of a key one behind the other; a number is left to somebody else.
fn load_key<'a>(fields: &[Field], family: Family) -> Vec<Expression<'a>> {
    let mut place = 0;
    let mut steps = Vec::new();
    for field in fields {
        steps.extend(load(*field, place, family));
        place += field.length(family).div_ceil(4);
    }
    steps
}

fn load<'a>(field: Field, to: u32, family: Family) -> Option<Expression<'a>> {
    let length = field.length(family);
    // Where source and destination stand in the two IP headers.
    let (from_offset, to_offset) = match family {
        Family::V4 => (12, 16),
        Family::V6 => (8, 24),
    };
    match field {
        Field::To => Some(Expression::Load { base: Base::Network, offset: to_offset, length, to }),
        Field::From => Some(Expression::Load { base: Base::Network, offset: from_offset, length, to }),
        Field::Protocol => Some(Expression::LoadMeta { what: Meta::Protocol, to }),
        Field::Port => Some(Expression::Load { base: Base::Transport, offset: 2, length, to }),
        Field::Number => None,
    }
}

/// A number for a flow, below `count`: from its source's address and port, which differ from flow to flow.
fn flow_hash<'a>(count: u32, to: u32, family: Family) -> Vec<Expression<'a>> {
    if count == 1 {
        return vec![Expression::Random { modulus: 1, offset: 0, to }];
    }
    // Behind the key, however long it is, so that it is not overwritten.
    let from = to + 1 + words(family);
    let mut steps: Vec<_> = load(Field::From, from, family).into_iter().collect();
    let port = from + words(family);
    steps.push(Expression::Load { base: Base::Transport, offset: 0, length: 2, to: port });
    let length = words(family) * 4 + 4;
    with(steps, Expression::Hash { from, length, modulus: count, seed: SEED, to })
}

fn number(count: u32, family: Family) -> String {
    match count {
        1 => "numgen random mod 1".to_owned(),
        _ => format!("jhash {} saddr . th sport mod {count} seed 0x{SEED:x}", word(family)),
    }
}

fn spread<'a>(set: Set, count: u32, family: Family) -> Vec<Expression<'a>> {
    let mut steps = load_key(set.fields(), family);
    let fields = set.fields().iter().filter(|field| **field != Field::Number);
    let place = fields.map(|field| field.length(family).div_ceil(4)).sum();
    steps.extend(flow_hash(count, place, family));
    steps.push(Expression::Map { from: 0, set: set.name(), to: 0 });
    with(steps, dnat(family))
}

fn dnat<'a>(family: Family) -> Expression<'a> {
    Expression::Dnat { family: tables(family) as u32, address: 0, port: words(family) }
}

fn to<'a>(endpoint: SocketAddr, protocol: Protocol, family: Family) -> Vec<Expression<'a>> {
    let [high, low] = endpoint.port().to_be_bytes();
    vec![
        Expression::LoadMeta { what: Meta::Protocol, to: 0 },
        Expression::Compare { from: 0, equal: true, with: vec![protocol.number()] },
        Expression::Immediate { to: 0, bytes: octets(endpoint.ip()) },
        Expression::Immediate { to: words(family), bytes: vec![high, low] },
        dnat(family),
    ]
}

fn masquerade<'a>(ports: [u16; 2]) -> Vec<Expression<'a>> {
    let [first, last] = ports.map(|port| port.to_be_bytes().to_vec());
    vec![
        Expression::Immediate { to: 0, bytes: first },
        Expression::Immediate { to: 1, bytes: last },
        Expression::Masquerade { ports: Some([0, 1]) },
    ]
}

/// The client, and a number for the endpoint.
fn client_at<'a>(place: u32, family: Family) -> Vec<Expression<'a>> {
    let steps = load_key(Set::Affinity.fields(), family);
    with(steps, Expression::Random { modulus: 1, offset: place, to: words(family) })
}

fn client_text(place: u32, family: Family) -> String {
    format!("{} saddr . numgen random mod 1 offset {place}", word(family))
}

fn key(fields: &[Field], family: Family) -> String {
    let ip = word(family);
    let field = |field: &Field| match field {
        Field::To => format!("{ip} daddr"),
        Field::From => format!("{ip} saddr"),
        Field::Protocol => "meta l4proto".to_owned(),
        Field::Port => "th dport".to_owned(),
        Field::Number => "numgen random mod 65536".to_owned(),
    };
    fields.iter().map(field).collect::<Vec<_>>().join(" . ")
}

/// The same text as in a set's declaration by expressions.
pub(super) fn typeof_text(fields: &[Field], family: Family) -> String {
    key(fields, family)
}

fn is_translated<'a>() -> Vec<Expression<'a>> {
    vec![
        Expression::LoadStatus { to: 0 },
        Expression::Bits { at: 0, mask: TRANSLATED.to_ne_bytes().to_vec(), xor: vec![0; 4] },
        Expression::Compare { from: 0, equal: false, with: vec![0; 4] },
    ]
}

fn not_to_loopback<'a>(family: Family) -> Vec<Expression<'a>> {
    let (length, bytes) = match family {
        // A range that ends with a byte is compared by its bytes.
        Family::V4 => (1, vec![127]),
        Family::V6 => (16, std::net::Ipv6Addr::LOCALHOST.octets().to_vec()),
    };
    let offset = if family == Family::V4 { 16 } else { 24 };
    vec![
        Expression::Load { base: Base::Network, offset, length, to: 0 },
        Expression::Compare { from: 0, equal: false, with: bytes },
    ]
}

fn address_type<'a>(side: Side, local: bool) -> Vec<Expression<'a>> {
    vec![
        Expression::AddressType { side, to: 0 },
        Expression::Compare { from: 0, equal: local, with: LOCAL.to_ne_bytes().to_vec() },
    ]
}

fn from_pods<'a>(pods: &Pods, family: Family) -> Vec<Expression<'a>> {
    match pods {
        Pods::Within(range) => from_range(*range, family),
        Pods::Interface(name) => {
            let mut whole = name.as_bytes().to_vec();
            whole.resize(NAME_BYTES, 0);
            from_interface(whole)
        }
        Pods::InterfacePrefix(prefix) => from_interface(prefix.as_bytes().to_vec()),
    }
}

fn from_interface<'a>(name: Vec<u8>) -> Vec<Expression<'a>> {
    vec![
        Expression::LoadMeta { what: Meta::IncomingName, to: 0 },
        Expression::Compare { from: 0, equal: true, with: name },
    ]
}

/// As nft does it: a prefix of whole bytes is compared by these bytes, any other under a mask.
fn from_range<'a>(range: IpNet, family: Family) -> Vec<Expression<'a>> {
    let bits = u32::from(range.prefix_len());
    let (network, mask) = (octets(range.network()), octets(range.netmask()));
    let offset = if family == Family::V4 { 12 } else { 8 };
    let whole = (bits / 8) as usize;
    if bits.is_multiple_of(8) && whole > 0 {
        let length = whole as u32;
        let with = network.get(..whole).unwrap_or_default().to_vec();
        return vec![
            Expression::Load { base: Base::Network, offset, length, to: 0 },
            Expression::Compare { from: 0, equal: true, with },
        ];
    }
    let (length, nothing) = (network.len() as u32, vec![0; network.len()]);
    vec![
        Expression::Load { base: Base::Network, offset, length, to: 0 },
        Expression::Bits { at: 0, mask, xor: nothing },
        Expression::Compare { from: 0, equal: true, with: network },
    ]
}

/// Marks are in the machine's byte order.
fn set_mark<'a>(keep: u32, flip: u32) -> Vec<Expression<'a>> {
    vec![
        Expression::LoadMeta { what: Meta::Mark, to: 0 },
        Expression::Bits { at: 0, mask: keep.to_ne_bytes().to_vec(), xor: flip.to_ne_bytes().to_vec() },
        Expression::SetMark { from: 0 },
    ]
}

fn marked<'a>(bit: u32) -> Vec<Expression<'a>> {
    let mask = bit.to_ne_bytes().to_vec();
    vec![
        Expression::LoadMeta { what: Meta::Mark, to: 0 },
        Expression::Bits { at: 0, mask: mask.clone(), xor: vec![0; 4] },
        Expression::Compare { from: 0, equal: true, with: mask },
    ]
}
