//! The kernel's table of flows as another implementation of ctnetlink writes and reads it.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{
    DefaultNla, Emitable as _, NLA_F_NESTED, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple,
};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr as Port};

const ZONE: u16 = 18;
const ZONE_OF_TUPLE: u16 = 3;
/// Seconds; longer than any test.
const TIMEOUT: u32 = 600;
/// Flows that are made at once; the answers to so many fit into the socket.
const BATCH: usize = 100;

/// One flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// IP protocol number.
    pub(crate) protocol: u8,
    pub(crate) client: SocketAddr,
    /// Whom the client asked.
    pub(crate) asked: SocketAddr,
    /// Who answers.
    pub(crate) answers: SocketAddr,
    pub(crate) zone: Zone,
}

/// Which of several overlapping tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Zone {
    None,
    /// In both directions.
    Both(u16),
    /// As the client sends.
    Original(u16),
    /// As the answer comes.
    Reply(u16),
}

/// The table of the namespace in which it was opened.
pub(crate) struct Table(Socket);

type Message = NetlinkMessage<NetfilterMessage>;

impl Table {
    pub(crate) fn open() -> Self {
        let mut socket = Socket::new(NETLINK_NETFILTER).unwrap();
        socket.bind_auto().unwrap();
        socket.connect(&Port::new(0, 0)).unwrap();
        Self(socket)
    }

    /// Adds flows.
    pub(crate) fn put(&self, flows: &[Flow]) {
        for batch in flows.chunks(BATCH) {
            let requests: Vec<u8> = batch.iter().flat_map(creation).collect();
            self.0.send(&requests, 0).unwrap();
            for flow in batch {
                let [NetlinkMessage { payload: NetlinkPayload::Error(answer), .. }] = &self.read()[..] else {
                    panic!("{flow:?}: no answer");
                };
                assert_eq!(answer.code, None, "{flow:?}: {answer:?}");
            }
        }
    }

    /// All there are.
    pub(crate) fn flows(&self) -> BTreeSet<Flow> {
        let request = ConntrackMessage::Get(vec![]);
        self.0.send(&bytes(NetfilterProtoFamily::Unspec, NLM_F_DUMP, request), 0).unwrap();
        let mut found = BTreeSet::new();
        loop {
            for message in self.read() {
                match message.payload {
                    NetlinkPayload::InnerMessage(message) => found.extend(flow(&message)),
                    NetlinkPayload::Done(_) => return found,
                    NetlinkPayload::Error(error) => panic!("{error:?}"),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
            }
        }
    }

    /// The messages of one reading.
    fn read(&self) -> Vec<Message> {
        let (bytes, _) = self.0.recv_from_full().unwrap();
        let mut rest = &bytes[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let message = Message::deserialize(rest).unwrap();
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            found.push(message);
        }
        found
    }
}

fn creation(flow: &Flow) -> Vec<u8> {
    let Flow { protocol, client, asked, answers, zone } = *flow;
    let (mut original, mut reply) = (tuple(protocol, client, asked), tuple(protocol, answers, client));
    let mut both = None;
    let of_tuple = |zone: u16| Tuple::Other(DefaultNla::new(ZONE_OF_TUPLE, zone.to_be_bytes().into()));
    match zone {
        Zone::None => {}
        Zone::Both(zone) => both = Some(DefaultNla::new(ZONE, zone.to_be_bytes().into())),
        Zone::Original(zone) => original.push(of_tuple(zone)),
        Zone::Reply(zone) => reply.push(of_tuple(zone)),
    }
    let mut attributes = vec![
        ConntrackAttribute::CtaTupleOrig(original),
        ConntrackAttribute::CtaTupleReply(reply),
        ConntrackAttribute::CtaTimeout(TIMEOUT),
    ];
    attributes.extend(both.map(ConntrackAttribute::Other));
    let family = match client.ip() {
        IpAddr::V4(_) => NetfilterProtoFamily::IPv4,
        IpAddr::V6(_) => NetfilterProtoFamily::IPv6,
    };
    bytes(family, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, ConntrackMessage::New(attributes))
}

fn tuple(protocol: u8, source: SocketAddr, destination: SocketAddr) -> Vec<Tuple> {
    vec![
        Tuple::Ip(vec![IPTuple::SourceAddress(source.ip()), IPTuple::DestinationAddress(destination.ip())]),
        Tuple::Proto(vec![
            ProtoTuple::Protocol(Protocol::from(protocol)),
            ProtoTuple::SourcePort(source.port()),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ]
}

fn bytes(family: NetfilterProtoFamily, flags: u16, message: ConntrackMessage) -> Vec<u8> {
    let message = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message);
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn flow(message: &NetfilterMessage) -> Option<Flow> {
    let NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) = &message.inner else {
        return None;
    };
    let (mut original, mut reply, mut zone) = (None, None, Zone::None);
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = Some(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = Some(parts),
            ConntrackAttribute::Other(other) if other.kind() == ZONE => zone = Zone::Both(number(other)),
            ConntrackAttribute::CtaProtoInfo(_)
            | ConntrackAttribute::CtaStatus(_)
            | ConntrackAttribute::CtaTimeout(_)
            | ConntrackAttribute::CtaMark(_)
            | ConntrackAttribute::Other(_)
            | _ => {}
        }
    }
    let (protocol, client, asked, of_original) = ends(original?)?;
    let (_, answers, _, of_reply) = ends(reply?)?;
    let zone = of_original.map(Zone::Original).or(of_reply.map(Zone::Reply)).unwrap_or(zone);
    Some(Flow { protocol, client, asked, answers, zone })
}

/// Protocol, source, destination and zone.
fn ends(parts: &[Tuple]) -> Option<(u8, SocketAddr, SocketAddr, Option<u16>)> {
    let mut zone = None;
    let (mut addresses, mut transport) = (&[][..], &[][..]);
    for part in parts {
        match part {
            Tuple::Ip(parts) => addresses = parts,
            Tuple::Proto(parts) => transport = parts,
            Tuple::Other(other) if other.kind() == ZONE_OF_TUPLE => zone = Some(number(other)),
            Tuple::Other(_) | _ => {}
        }
    }
    let [IPTuple::SourceAddress(source), IPTuple::DestinationAddress(destination)] = addresses else {
        return None;
    };
    let [ProtoTuple::Protocol(protocol), ProtoTuple::SourcePort(from), ProtoTuple::DestinationPort(to)] =
        transport
    else {
        return None;
    };
    let ends = (SocketAddr::new(*source, *from), SocketAddr::new(*destination, *to));
    Some((u8::from(*protocol), ends.0, ends.1, zone))
}

fn number(attribute: &DefaultNla) -> u16 {
    assert_eq!(attribute.kind() & NLA_F_NESTED, 0);
    let mut bytes = vec![0; attribute.buffer_len()];
    attribute.emit(&mut bytes);
    u16::from_be_bytes([bytes[4], bytes[5]])
}
