//! A node in short form: addresses have names, and what becomes of a packet is a line of text.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dataplane_ebpf::abi::{
    Address, COVERED, DROP_FLOW, EdgeCounter, EdgeDevice, FORWARD, Frontend, FrontendKey, ListState,
    MASQUERADE, Member, NODE_PORTS, NOT_LISTED, OWN, POD_RULES, REDIRECT, ServerKey, Side, SlotKey,
    SourceKey, TRUSTS_STACK, Target,
};
use dataplane_ebpf::datapath::edge::header::Version;
use dataplane_ebpf::datapath::edge::open::unspecified;
use dataplane_ebpf::datapath::edge::{Hop, Verdict, Way};
use dataplane_ebpf::host_edge::{EdgeTables, HostPacket, NO_SIDE};

use crate::packet::{self, ETHERNET, TCP, UDP};

/// The device on which clients are, and that on which the next hop is.
pub(crate) const OUTSIDE: u32 = 7;
pub(crate) const HOP: Hop = Hop { device: 9, addresses: [0x0302_0100, 0x0706_0504, 0x0b0a_0908] };
/// Ports for masqueraded flows.
pub(crate) const FIRST_PORT: u16 = 50_000;
/// Number of the service port.
pub(crate) const SERVICE: u32 = 77;

/// Whoever takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Outside the cluster.
    Client,
    /// The same.
    Stranger,
    /// Outside, on the way.
    Router,
    /// An address of a load balancer.
    Vip,
    /// Another one of the same service.
    Twin,
    /// The node's address, which answers at node ports.
    Node,
    /// An address of the node that does not.
    Quiet,
    /// Endpoints on the node.
    Here,
    Near,
    /// Endpoints elsewhere.
    There,
    Far,
}

use Who::{Client, Far, Here, Near, Node, Quiet, Router, Stranger, There, Twin, Vip};

pub(crate) const ALL: [Who; 11] = [Client, Stranger, Router, Vip, Twin, Node, Quiet, Here, Near, There, Far];

/// Of which family and protocol a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
}

/// Each.
pub(crate) const KINDS: [Kind; 4] = [
    Kind { v6: false, protocol: TCP },
    Kind { v6: false, protocol: UDP },
    Kind { v6: true, protocol: TCP },
    Kind { v6: true, protocol: UDP },
];

impl Kind {
    pub(crate) fn ip(self, who: Who) -> IpAddr {
        let (network, number) = match who {
            Client => ([198, 51, 100], 7),
            Stranger => ([203, 0, 113], 8),
            Router => ([198, 51, 100], 1),
            Vip => ([192, 0, 2], 10),
            Twin => ([192, 0, 2], 11),
            Node => ([10, 0, 0], 1),
            Quiet => ([10, 0, 0], 3),
            Here => ([10, 1, 0], 1),
            Near => ([10, 1, 0], 2),
            There => ([10, 1, 1], 1),
            Far => ([10, 1, 1], 2),
        };
        let [a, b, c] = network;
        if self.v6 {
            Ipv6Addr::new(0xfd00, a.into(), b.into(), c.into(), 0, 0, 0, number.into()).into()
        } else {
            Ipv4Addr::new(a, b, c, number).into()
        }
    }

    pub(crate) fn at(self, who: Who, port: u16) -> SocketAddr {
        (self.ip(who), port).into()
    }

    pub(crate) fn address(self, who: Who) -> Address {
        address(self.ip(who))
    }

    /// The first packet of a flow.
    pub(crate) fn first(self, from: (Who, u16), to: (Who, u16)) -> Vec<u8> {
        self.packet(from, to, packet::SYN)
    }

    /// A later one.
    pub(crate) fn next(self, from: (Who, u16), to: (Who, u16)) -> Vec<u8> {
        self.packet(from, to, packet::ACK)
    }

    pub(crate) fn packet(self, from: (Who, u16), to: (Who, u16), bits: u8) -> Vec<u8> {
        let (from, to) = (self.at(from.0, from.1), self.at(to.0, to.1));
        if self.protocol == TCP {
            packet::tcp(from, to, bits, b"words")
        } else {
            packet::udp(from, to, b"words")
        }
    }

    /// Addresses and ports of a packet by name.
    pub(crate) fn told(self, ip: &[u8]) -> String {
        let (from, to) = packet::ends(ip);
        let name = |at: SocketAddr| format!("{}:{}", self.name(at.ip()), at.port());
        format!("{} > {}", name(from), name(to))
    }

    pub(crate) fn name(self, ip: IpAddr) -> String {
        let found = ALL.into_iter().find(|who| self.ip(*who) == ip);
        found.map_or_else(|| ip.to_string(), |who| format!("{who:?}"))
    }

    fn place(self) -> usize {
        usize::from(self.v6)
    }
}

pub(crate) fn address(ip: IpAddr) -> Address {
    let octets = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words
}

pub(crate) fn network(port: u16) -> u32 {
    u32::from(port.to_be())
}

/// A node with services.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) tables: EdgeTables,
    pub(crate) way: Way,
    pub(crate) way_back: Option<u32>,
    /// Bytes before the IP header.
    pub(crate) at: usize,
    /// By which device the last packet left at once, and whether its next hop was known.
    pub(crate) leaves: Cell<Option<(u32, bool)>>,
}

impl World {
    /// Packets go to the next hop at once. The service at port 80 has these endpoints; its flows may be masqueraded.
    pub(crate) fn new(kind: Kind, endpoints: &[Who]) -> Self {
        let mut world = Self::stack(kind, endpoints);
        world.side().forwarding |= REDIRECT;
        world
    }

    /// The same, and packets go to the host's stack.
    pub(crate) fn stack(kind: Kind, endpoints: &[Who]) -> Self {
        let mut tables = EdgeTables::default();
        tables.own.insert(kind.address(Node), NODE_PORTS);
        tables.own.insert(kind.address(Quiet), OWN);
        let own = kind.address(Node);
        tables.devices.insert(OUTSIDE, EdgeDevice { flags: COVERED, own_v4: own, own_v6: own });
        tables.sides[kind.place()] =
            Side { first_port: FIRST_PORT.into(), ports: 100, forwarding: TRUSTS_STACK, ..NO_SIDE };
        let way = Way::To(HOP);
        let mut world =
            Self { kind, tables, way, way_back: Some(OUTSIDE), at: ETHERNET, leaves: Cell::new(None) };
        for who in [Vip, Twin] {
            world.rules(who, FORWARD | MASQUERADE);
        }
        world.list(1, endpoints, &[]);
        world
    }

    pub(crate) fn side(&mut self) -> &mut Side {
        &mut self.tables.sides[self.kind.place()]
    }

    /// What becomes of flows to an address at port 80, from outside; those of pods would be dropped. The node's address
    /// stands for node ports.
    pub(crate) fn rules(&mut self, who: Who, rules: u32) {
        self.put(
            who,
            80,
            Frontend {
                outside: 1,
                pod: 1,
                sources: 0,
                rules: rules | DROP_FLOW << POD_RULES,
                service: SERVICE,
            },
        );
    }

    pub(crate) fn put(&mut self, who: Who, port: u16, frontend: Frontend) {
        let version = if self.kind.v6 { Version::V6 } else { Version::V4 };
        let address = if who == Node { unspecified(version) } else { self.kind.address(who) };
        for protocol in [TCP, UDP].map(u32::from) {
            self.tables.frontends.insert(FrontendKey { address, port: network(port), protocol }, frontend);
        }
    }

    /// Addresses of pods are known.
    pub(crate) fn with_pods(mut self) -> Self {
        let (pods, mask): (IpAddr, IpAddr) = if self.kind.v6 {
            ("fd00:a:1::".parse().expect("an address"), "ffff:ffff:ffff::".parse().expect("a mask"))
        } else {
            (Ipv4Addr::new(10, 1, 0, 0).into(), Ipv6Addr::from(u128::MAX << 16).into())
        };
        (self.side().pods, self.side().pods_mask) = (address(pods), address(mask));
        self
    }

    /// A new generation of list 1: who gets new flows, and who keeps those it has. All listen at port 8080.
    pub(crate) fn list(&mut self, generation: u32, listed: &[Who], kept: &[Who]) {
        let port = network(8080);
        let timeout = self.tables.lists.get(&1).map_or(0, |state| state.timeout);
        let slots = u32::try_from(listed.len()).expect("a short list");
        self.tables.lists.insert(1, ListState { generation, slots, timeout, service: SERVICE });
        self.tables.targets.clear();
        self.tables.servers.clear();
        for (index, who) in (0..).zip(listed) {
            let address = self.kind.address(*who);
            let here = u32::from(matches!(who, Here | Near));
            self.tables
                .targets
                .insert(SlotKey { service: 1, generation, index }, Target { address, port, here });
            self.tables.servers.insert(ServerKey { list: 1, port, address }, Member { index });
        }
        for who in kept {
            let key = ServerKey { list: 1, port, address: self.kind.address(*who) };
            self.tables.servers.insert(key, Member { index: NOT_LISTED });
        }
    }

    /// Clients of the service stay for so many seconds.
    pub(crate) fn stick(&mut self, timeout: u32) {
        self.tables.lists.get_mut(&1).expect("a list").timeout = timeout;
    }

    /// Lets a range of sources in: the first bits of somebody's address.
    pub(crate) fn let_in(&mut self, sources: u32, who: Who, bits: u32) {
        let before = if self.kind.v6 { 32 } else { 32 + 96 };
        self.tables.sources.insert(SourceKey {
            bits: before + bits,
            sources,
            address: self.kind.address(who),
        });
    }

    /// A packet as it is before the IP header has been looked at.
    pub(crate) fn wrapped(&self, ip: &[u8]) -> HostPacket {
        let bytes = if self.at == ETHERNET { packet::framed(ip) } else { ip.to_vec() };
        HostPacket { way: self.way, way_back: self.way_back, ..HostPacket::new(bytes) }
    }

    /// A packet comes in: the verdict, and what it is then.
    pub(crate) fn come_in(&self, ip: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = self.wrapped(ip);
        let before = packet.clone();
        let verdict = self.tables.come_in(&mut packet, self.at);
        self.judged(&before, &packet, verdict)
    }

    /// A packet leaves.
    pub(crate) fn go_out(&self, ip: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = self.wrapped(ip);
        let before = packet.clone();
        let verdict = self.tables.go_out(&mut packet, self.at);
        self.judged(&before, &packet, verdict)
    }

    /// A packet comes in by the device of endpoints here.
    pub(crate) fn come_back(&self, ip: &[u8]) -> (Verdict, Vec<u8>) {
        let mut packet = self.wrapped(ip);
        let before = packet.clone();
        let verdict = self.tables.come_back(&mut packet, self.at);
        self.judged(&before, &packet, verdict)
    }

    /// Whatever happens: a packet that is left is what it was, and a checksum that was right is right.
    fn judged(&self, before: &HostPacket, after: &HostPacket, verdict: Verdict) -> (Verdict, Vec<u8>) {
        check_change(before, after, verdict, self.at);
        self.leaves.set(after.leaves);
        (verdict, after.bytes[self.at..].to_vec())
    }

    /// The outcome as a line.
    pub(crate) fn line(&self, (verdict, ip): (Verdict, Vec<u8>)) -> String {
        let word = match verdict {
            Verdict::Left => return "left".to_owned(),
            Verdict::Dropped => return "dropped".to_owned(),
            Verdict::Passed => "passed",
            Verdict::Redirected if self.leaves.get() == Some((HOP.device, true)) => "sent",
            Verdict::Redirected => {
                assert_eq!(self.leaves.get(), Some((HOP.device, false)));
                "asked"
            }
        };
        format!("{word} {}", self.kind.told(&ip))
    }

    #[track_caller]
    pub(crate) fn check_in(&self, ip: &[u8], line: &str) {
        assert_eq!(self.line(self.come_in(ip)), line, "{:?}: {}", self.kind, self.kind.told(ip));
    }

    #[track_caller]
    pub(crate) fn check_out(&self, ip: &[u8], line: &str) {
        assert_eq!(self.line(self.go_out(ip)), line, "{:?}: {}", self.kind, self.kind.told(ip));
    }

    #[track_caller]
    pub(crate) fn check_back(&self, ip: &[u8], line: &str) {
        assert_eq!(self.line(self.come_back(ip)), line, "{:?}: {}", self.kind, self.kind.told(ip));
    }

    /// The whole of what was counted.
    pub(crate) fn counted(&self) -> Vec<(EdgeCounter, u64)> {
        self.tables.counted.borrow().iter().map(|(counter, times)| (*counter, *times)).collect()
    }

    pub(crate) fn count(&self, counter: EdgeCounter) -> u64 {
        self.tables.counted.borrow().get(&counter).copied().unwrap_or(0)
    }

    pub(crate) fn entries(&self) -> usize {
        self.tables.flows.borrow().len()
    }
}

/// A packet that is left or dropped is what it was; another has the same length, and checksums that are wrong by as much as
/// before.
#[track_caller]
pub(crate) fn check_change(before: &HostPacket, after: &HostPacket, verdict: Verdict, at: usize) {
    assert_eq!(before.bytes.len(), after.bytes.len(), "{verdict:?}");
    if matches!(verdict, Verdict::Left | Verdict::Dropped) {
        assert_eq!(before.bytes, after.bytes, "{verdict:?}");
        return;
    }
    let (old, new) = (&before.bytes[at..], &after.bytes[at..]);
    assert_eq!(packet::errors(old), packet::errors(new), "{verdict:?}\n{old:02x?}\n{new:02x?}");
    let checksum =
        (packet::protocol(new) == UDP && !packet::is_rest(new)).then(|| packet::header_bytes(new) + 6);
    if let Some(checksum) = checksum {
        let is_none = |ip: &[u8]| packet::word(ip, checksum) == 0;
        assert_eq!(
            is_none(old),
            is_none(new),
            "a zero says that there is no checksum\n{old:02x?}\n{new:02x?}"
        );
    }
}
