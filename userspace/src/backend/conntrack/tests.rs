//! Tests: bytes as another implementation reads and writes them, and what is made of a listing with holes.

use std::cell::Cell;
use std::net::SocketAddr;

use netlink_packet_core::{
    DefaultNla, DoneMessage, NLA_F_NESTED, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{
    ConntrackAttribute, ConntrackMessage, IPTuple, ProtoTuple, Protocol, Tuple as Part,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};

use super::conversation::{Deleted, Listed, Quality};
use super::entry::{Entry, ID, Key, Tuple, ZONE};
use super::message::{Answer, Content, Listing, answers, delete, list};
use super::*;

const CLIENT: &str = "10.0.0.9:40000";
const SERVICE: &str = "10.96.0.10:53";
const ENDPOINT: &str = "10.1.0.1:5353";

#[test]
fn an_entry_says_who_was_asked_and_who_answers() {
    check_entry(CLIENT, SERVICE, ENDPOINT);
    check_entry("[fd00:1::9]:40000", "[fd00:96::a]:53", "[fd00:1::1]:5353");
}

#[test]
fn what_has_no_ports_or_no_answer_is_no_entry() {
    let original = ConntrackAttribute::CtaTupleOrig(parts(CLIENT, SERVICE));
    let reply = ConntrackAttribute::CtaTupleReply(parts(ENDPOINT, CLIENT));
    assert!(read(&[original.clone(), reply.clone()]).is_some());
    assert_eq!(read(std::slice::from_ref(&original)), None);
    assert_eq!(read(&[reply]), None);
    let without_ports = Part::Proto(vec![ProtoTuple::Protocol(Protocol::Icmp)]);
    let portless = vec![parts(ENDPOINT, CLIENT).swap_remove(0), without_ports];
    assert_eq!(read(&[original, ConntrackAttribute::CtaTupleReply(portless)]), None);
}

#[test]
fn a_removal_names_the_flow_its_zone_and_its_identity_and_nothing_else() {
    let original = ConntrackAttribute::CtaTupleOrig(parts(CLIENT, SERVICE));
    let zone = other(ZONE, &7_u16.to_be_bytes());
    let id = other(ID, &9_u32.to_be_bytes());
    let entry = [
        original.clone(),
        ConntrackAttribute::CtaTupleReply(parts(ENDPOINT, CLIENT)),
        ConntrackAttribute::CtaTimeout(30),
        zone.clone(),
        id.clone(),
    ];
    let key = Key::of(&attributes(&entry)).unwrap();
    let request = typed(&delete(Family::V4, 3, &key));
    assert_eq!(request.header.sequence_number, 3);
    assert_eq!(message(request), ConntrackMessage::Delete(vec![original, zone, id]));
}

#[test]
fn without_a_tuple_there_is_no_removal() {
    // The kernel would empty the table.
    assert_eq!(Key::of(&attributes(&[other(ID, &[0, 0, 0, 9])])), None);
    assert_eq!(Key::of(&[]), None);
}

#[test]
fn the_kernel_is_asked_for_udp_or_for_everything() {
    let everything = typed(&list(Family::V6, 1, Listing::Everything));
    assert_eq!(message(everything), ConntrackMessage::Get(vec![]));
    let filter = [8, 0, 1, 0].into_iter().chain(8_u32.to_ne_bytes());
    let udp = vec![Part::Proto(vec![ProtoTuple::Protocol(Protocol::Udp)])];
    assert_eq!(
        message(typed(&list(Family::V4, 1, Listing::Udp))),
        ConntrackMessage::Get(vec![
            ConntrackAttribute::CtaTupleOrig(udp),
            other(25 | NLA_F_NESTED, &filter.collect::<Vec<_>>()),
        ])
    );
}

#[test]
fn answers_are_told_apart() {
    let reading = [answer(4, NLM_F_MULTIPART), end(4, 0), end(5, -libc::ENOENT)].concat();
    let found: Vec<Answer<'_>> = answers(&reading).collect();
    assert!(matches!(found[0], Answer { sequence: 4, interrupted: false, content: Content::Entry([]) }));
    assert_eq!(found[1].content, Content::End(0));
    assert_eq!(found[2], Answer { sequence: 5, interrupted: false, content: Content::End(libc::ENOENT) });
    assert_eq!(found.len(), 3);
}

#[test]
fn a_listing_with_holes_says_so() {
    let reading = answer(4, NLM_F_MULTIPART | NLM_F_DUMP_INTR);
    assert!(answers(&reading).all(|answer| answer.interrupted));
}

#[test]
fn bytes_that_make_no_sense_end_the_reading() {
    let whole = [answer(4, 0), end(4, 0)].concat();
    for length in 0..whole.len() {
        assert!(answers(&whole[..length]).count() <= 1, "{length}");
    }
    for at in 0..whole.len() {
        let mut broken = whole.clone();
        broken[at] = 0xff;
        for answer in answers(&broken) {
            if let Content::Entry(attributes) = answer.content {
                assert_eq!((Entry::read(attributes), Key::of(attributes)), (None, None));
            }
        }
    }
}

#[test]
fn a_listing_with_holes_is_begun_anew_but_not_for_ever() {
    check_looks(&[Quality::Whole], 1);
    check_looks(&[Quality::Interrupted, Quality::Interrupted, Quality::Whole], 3);
    check_looks(&[Quality::Interrupted; 9], LOOKS);
}

#[test]
fn a_listing_that_fails_is_not_begun_anew() {
    let looks = Cell::new(0);
    let found = undisturbed(|| -> io::Result<((), Quality)> {
        looks.set(looks.get() + 1);
        Err(io::Error::from_raw_os_error(libc::EPERM))
    });
    assert_eq!((found.unwrap_err().raw_os_error(), looks.get()), (Some(libc::EPERM), 1));
}

#[test]
fn a_listing_ends_with_its_own_end() {
    let mut listed = Listed::new(4);
    let mut entries = 0;
    let mut hear = |reading: &[Vec<u8>]| listed.hear(&reading.concat(), |_| entries += 1);
    assert_eq!(hear(&[answer(3, 0), end(3, -libc::EPERM), answer(4, 0), answer(4, 0)]), None);
    assert_eq!(hear(&[answer(4, 0), end(5, 0)]), None);
    assert_eq!(hear(&[end(4, 0)]), Some(Ok(Quality::Whole)));
    assert_eq!(entries, 3);
    assert_eq!(Listed::new(4).hear(&end(4, -libc::EPERM), |_| {}), Some(Err(libc::EPERM)));
}

#[test]
fn one_hole_makes_a_listing_one_with_holes() {
    let mut listed = Listed::new(4);
    assert_eq!(listed.hear(&answer(4, NLM_F_MULTIPART | NLM_F_DUMP_INTR), |_| {}), None);
    assert_eq!(listed.hear(&answer(4, NLM_F_MULTIPART), |_| {}), None);
    assert_eq!(listed.hear(&end(4, 0), |_| {}), Some(Ok(Quality::Interrupted)));
}

#[test]
fn an_entry_that_is_gone_already_is_not_counted_and_no_failure() {
    let mut deleted = Deleted::new(vec![4, 5, 6]);
    assert_eq!(deleted.hear(&[end(3, -libc::EPERM), end(5, -libc::ENOENT), end(4, 0)].concat()), None);
    assert_eq!(deleted.hear(&end(4, 0)), None, "answered already");
    assert_eq!(deleted.hear(&end(6, 0)), Some(Ok(2)));
}

#[test]
fn an_entry_that_cannot_be_removed_does_not_hold_up_the_others() {
    let mut deleted = Deleted::new(vec![4, 5, 6]);
    assert_eq!(deleted.hear(&[end(4, -libc::EBUSY), end(5, -libc::EPERM)].concat()), None);
    assert_eq!(deleted.hear(&end(6, 0)), Some(Err(libc::EBUSY)));
}

#[test]
fn a_kernel_that_refuses_the_filter_is_asked_for_everything_from_then_on() {
    let mut listing = Listing::Udp;
    for asked in [&[Listing::Udp, Listing::Everything][..], &[Listing::Everything]] {
        let mut heard = Vec::new();
        narrowed(&mut listing, |listing| {
            heard.push(listing);
            let refusal = || io::Error::from_raw_os_error(libc::EOPNOTSUPP);
            if listing == Listing::Udp { Err(refusal()) } else { Ok(()) }
        })
        .unwrap();
        assert_eq!(heard, asked);
    }
    let failed = narrowed(&mut Listing::Udp, |_| Err::<(), _>(io::Error::from_raw_os_error(libc::EPERM)));
    assert_eq!(failed.unwrap_err().raw_os_error(), Some(libc::EPERM));
}

fn check_looks(qualities: &[Quality], expected: usize) {
    let mut qualities = qualities.iter();
    let mut looks = 0;
    let found = undisturbed(|| {
        looks += 1;
        Ok((looks, *qualities.next().unwrap()))
    });
    assert_eq!(found.unwrap(), expected);
}

#[track_caller]
fn check_entry(client: &str, asked: &str, answers: &str) {
    let found = read(&[
        ConntrackAttribute::CtaTupleOrig(parts(client, asked)),
        ConntrackAttribute::CtaTupleReply(parts(answers, client)),
        ConntrackAttribute::CtaTimeout(30),
    ]);
    let [client, asked, answers] = [client, asked, answers].map(|address| address.parse().unwrap());
    let original = Tuple { source: client, destination: asked };
    let reply = Tuple { source: answers, destination: client };
    assert_eq!(found, Some(Entry { protocol: 17, original, reply }));
}

fn read(all: &[ConntrackAttribute]) -> Option<Entry> {
    Entry::read(&attributes(all))
}

fn attributes(all: &[ConntrackAttribute]) -> Vec<u8> {
    let mut bytes = vec![0; netlink_packet_core::Emitable::buffer_len(&all)];
    netlink_packet_core::Emitable::emit(&all, &mut bytes);
    bytes
}

fn parts(source: &str, destination: &str) -> Vec<Part> {
    let [source, destination] = [source, destination].map(|address| address.parse::<SocketAddr>().unwrap());
    vec![
        Part::Ip(vec![IPTuple::SourceAddress(source.ip()), IPTuple::DestinationAddress(destination.ip())]),
        Part::Proto(vec![
            ProtoTuple::Protocol(Protocol::Udp),
            ProtoTuple::SourcePort(source.port()),
            ProtoTuple::DestinationPort(destination.port()),
        ]),
    ]
}

fn other(kind: u16, value: &[u8]) -> ConntrackAttribute {
    ConntrackAttribute::Other(DefaultNla::new(kind, value.to_vec()))
}

type Typed = NetlinkMessage<NetfilterMessage>;

fn typed(bytes: &[u8]) -> Typed {
    let message = Typed::deserialize(bytes).unwrap();
    assert_eq!(message.header.length as usize, bytes.len());
    message
}

fn message(typed: Typed) -> ConntrackMessage {
    let NetlinkPayload::InnerMessage(NetfilterMessage { inner, .. }) = typed.payload else {
        panic!("{typed:?}");
    };
    let netlink_packet_netfilter::NetfilterMessageInner::Conntrack(message) = inner else {
        panic!("{inner:?}");
    };
    message
}

fn answer(sequence: u32, flags: u16) -> Vec<u8> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let message = NetfilterMessage::new(header, ConntrackMessage::New(vec![]));
    serialized(sequence, flags, message.into())
}

fn end(sequence: u32, code: i32) -> Vec<u8> {
    let mut done = DoneMessage::default();
    done.code = code;
    serialized(sequence, 0, NetlinkPayload::Done(done))
}

fn serialized(sequence: u32, flags: u16, payload: NetlinkPayload<NetfilterMessage>) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    (header.sequence_number, header.flags) = (sequence, flags);
    let mut message = NetlinkMessage::new(header, payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}
