//! Packets by the dice: of new flows, answers to those that went before, messages about them, and damaged ones.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, PacketBuilder, PacketBuilderStep, TcpHeader};
use fastrand::Rng;

use super::node::{CLIENTS, HERE, NODE, SERVICES, THERE, ip};

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// One who throws, and the packets that came out of the node last, from their IP headers on.
pub(crate) struct Drafts {
    dice: Rng,
    last: Vec<Vec<u8>>,
}

/// Who speaks to whom.
#[derive(Clone, Copy)]
pub(crate) struct Talk {
    pub(crate) protocol: u8,
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Talk {
    /// A packet, if it is of TCP with these bits.
    pub(crate) fn packet(
        self,
        hops: u8,
        bits: impl FnOnce(PacketBuilderStep<TcpHeader>) -> PacketBuilderStep<TcpHeader>,
        payload: &[u8],
    ) -> Vec<u8> {
        let Self { protocol, from, to } = self;
        let (ip, mut packet) = (header(from.ip(), to.ip(), hops), Vec::new());
        let written = if protocol == TCP {
            bits(ip.tcp(from.port(), to.port(), 5, 9)).write(&mut packet, payload)
        } else {
            ip.udp(from.port(), to.port()).write(&mut packet, payload)
        };
        written.expect("a packet");
        packet
    }
}

impl Drafts {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Rng::with_seed(seed), last: Vec::new() }
    }

    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.dice.u8(..bound)
    }

    /// What the node made of a packet.
    pub(crate) fn remember(&mut self, ip: &[u8]) {
        if self.last.len() == 16 {
            self.last.remove(0);
        }
        self.last.push(ip.to_vec());
    }

    /// A packet, from its IP header on.
    pub(crate) fn throw(&mut self) -> Vec<u8> {
        let last = self.dice.choice(&self.last).cloned();
        let mut packet = match (last, self.dice.u8(..8)) {
            (Some(last), 0..=2) => self.answer(&last),
            (Some(last), 3..=4) => self.report(&last),
            _ => self.fresh(),
        };
        if self.dice.u8(..8) == 0 {
            self.damage(&mut packet);
        }
        packet
    }

    fn fresh(&mut self) -> Vec<u8> {
        let v6 = self.dice.bool();
        let networks = [CLIENTS, CLIENTS, CLIENTS, CLIENTS, HERE, NODE];
        let from = self.dice.choice(networks).expect("one of them");
        let from = ip(v6, from, self.dice.u8(1..5));
        let network =
            self.dice.choice([SERVICES, SERVICES, SERVICES, SERVICES, NODE, THERE]).expect("one of them");
        let to = ip(v6, network, self.dice.u8(1..9));
        let port = if self.dice.u8(..10) == 0 { 81 } else { 80 };
        let protocol = if self.dice.bool() { TCP } else { UDP };
        let from = (from, 4000 + self.dice.u16(..4)).into();
        self.speak(Talk { protocol, from, to: (to, port).into() })
    }

    /// From whom it went to.
    fn answer(&mut self, last: &[u8]) -> Vec<u8> {
        match talk(last) {
            Some(Talk { protocol, from, to }) => self.speak(Talk { protocol, from: to, to: from }),
            None => self.fresh(),
        }
    }

    fn speak(&mut self, talk: Talk) -> Vec<u8> {
        let hops = self.dice.choice([64, 64, 64, 2, 1]).expect("one of them");
        let payload: Vec<u8> = (0..self.dice.u8(..20)).map(|_| self.dice.u8(..)).collect();
        let (number, reset) = (self.dice.u8(..8), self.dice.bool());
        let bits = |tcp: PacketBuilderStep<TcpHeader>| match number {
            0..=3 => tcp.syn(),
            4 => tcp.fin().ack(7),
            5 if reset => tcp.rst(),
            _ => tcp.ack(8),
        };
        let mut packet = talk.packet(hops, bits, &payload);
        if talk.protocol == UDP && self.dice.u8(..10) == 0 {
            let at = packet.len() - payload.len() - 2;
            packet[at..at + 2].fill(0);
        }
        packet
    }

    /// A message about it to its sender, from its receiver or somebody on the way.
    fn report(&mut self, last: &[u8]) -> Vec<u8> {
        let Some(Talk { from, to, .. }) = talk(last) else { return self.fresh() };
        let router = ip(from.is_ipv6(), CLIENTS, 99);
        let reporter = if self.dice.bool() { to.ip() } else { router };
        let start = if from.is_ipv6() { 40 } else { 20 };
        let quoted = if self.dice.bool() { last.len() } else { start + self.dice.usize(4..32) };
        let quoted = &last[..quoted.min(last.len())];
        let (code, rest) = (self.dice.u8(..5), [0, 0, 5, 0]);
        let ip = header(reporter, from.ip(), 64);
        let mut packet = Vec::new();
        if from.is_ipv6() {
            let kind = self.dice.choice([1, 2, 3, 4, 128]).expect("one of them");
            ip.icmpv6_raw(kind, code, rest).write(&mut packet, quoted).expect("a packet");
        } else {
            let kind = self.dice.choice([3, 11, 12, 8]).expect("one of them");
            ip.icmpv4_raw(kind, code, rest).write(&mut packet, quoted).expect("a packet");
        }
        packet
    }

    /// Cut, lengthened, or with a byte changed.
    fn damage(&mut self, packet: &mut Vec<u8>) {
        match self.dice.u8(..3) {
            0 => packet.truncate(self.dice.usize(20..packet.len())),
            1 => packet.extend([0xa5; 24]),
            _ => {
                let at = self.dice.usize(..packet.len());
                packet[at] = self.dice.u8(..);
            }
        }
        // The kernel (6.18) runs no program over a part of an IP header.
        let least = if packet[0] >> 4 == 6 { 40 } else { 20 };
        packet.resize(packet.len().max(least), 0);
    }
}

fn header(from: IpAddr, to: IpAddr, hops: u8) -> PacketBuilderStep<IpHeaders> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), hops),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), hops),
        _ => panic!("{from} and {to} are of two families"),
    }
}

/// Who speaks in a packet, if it is of plain shape.
fn talk(packet: &[u8]) -> Option<Talk> {
    let six = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    let four = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let (protocol, from, to, start) = match packet.first()? >> 4 {
        4 => (packet[9], four(12)?, four(16)?, 20),
        6 => (packet[6], six(8)?, six(24)?, 40),
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(*packet.get(start + at..)?.first_chunk()?));
    let talk = Talk { protocol, from: (from, port(0)?).into(), to: (to, port(2)?).into() };
    (protocol == TCP || protocol == UDP).then_some(talk)
}
