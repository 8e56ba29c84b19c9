//! Answers in fragments: what the first one says holds for all.

use dataplane_ebpf::datapath::edge::{Verdict, Way};

use crate::packet::{ACK, UDP, addresses, fragments, header_bytes, is_right, joined, tcp, udp, with_hops};
use crate::world::Who::{Client, Here, Node, Stranger, There, Vip};
use crate::world::{HOP, KINDS, Kind, Who, World};

const NUMBER: u16 = 0x1234;
/// More than two fragments, the last of which carries less than four bytes.
const PAYLOAD: usize = 2 * 64 + 41;

/// An answer in fragments of 64 bytes.
fn answer(kind: Kind, from: (Who, u16), to: (Who, u16), number: u16) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..PAYLOAD).map(|at| at as u8).collect();
    let (from, to) = (kind.at(from.0, from.1), kind.at(to.0, to.1));
    // The last fragment carries as little for both.
    let ip = if kind.protocol == UDP {
        udp(from, to, &payload[..PAYLOAD - 48])
    } else {
        tcp(from, to, ACK, &payload[..PAYLOAD - 60])
    };
    let parts = fragments(&ip, 64, number);
    assert!(parts.len() > 1 && parts.last().is_some_and(|last| last.len() < 40 + 8 + 4), "{parts:?}");
    parts
}

/// A flow with an endpoint here, or elsewhere.
fn flow(kind: Kind, endpoint: Who, stack: bool) -> World {
    let world = (if stack { World::stack } else { World::new })(kind, &[endpoint]);
    let line = match (endpoint, stack) {
        (Here, true) => "passed Client:4000 > Here:8080",
        (Here, false) => "sent Client:4000 > Here:8080",
        _ => "sent Node:50000 > There:8080",
    };
    world.check_in(&kind.first((Client, 4000), (Vip, 80)), line);
    world
}

/// All parts fare alike, and make the packet that this line says.
#[track_caller]
fn check(world: &World, verdict: Verdict, after: &[(Verdict, Vec<u8>)], line: &str) {
    assert!(after.iter().all(|(found, _)| *found == verdict), "{:?} {after:02x?}", world.kind);
    let parts: Vec<Vec<u8>> = after.iter().map(|(_, part)| part.clone()).collect();
    let whole = joined(&parts);
    assert!(is_right(&whole), "{:?} {whole:02x?}", world.kind);
    assert_eq!(world.kind.told(&whole), line);
}

#[test]
fn an_answer_of_an_endpoint_here_bears_the_services_address_in_all_fragments() {
    for (kind, stack) in KINDS.into_iter().flat_map(|kind| [(kind, false), (kind, true)]) {
        let world = flow(kind, Here, stack);
        let parts = answer(kind, (Here, 8080), (Client, 4000), NUMBER);
        let after: Vec<_> = parts.iter().map(|part| world.go_out(part)).collect();
        check(&world, Verdict::Passed, &after, "Vip:80 > Client:4000");
        // It came in by a device of ours, as answers of another one do.
        let world = flow(kind, Here, stack);
        let after: Vec<_> = parts.iter().map(|part| world.come_in(part)).collect();
        let verdict = if stack { Verdict::Passed } else { Verdict::Redirected };
        check(&world, verdict, &after, "Vip:80 > Client:4000");
    }
}

#[test]
fn an_answer_of_an_endpoint_elsewhere_is_sent_to_the_client_in_all_fragments() {
    for kind in KINDS {
        for (way, leaves) in [(Way::To(HOP), true), (Way::Ask(HOP.device), false)] {
            let world = World { way, ..flow(kind, There, false) };
            let parts = answer(kind, (There, 8080), (Node, 50_000), NUMBER);
            let sent = |part: &Vec<u8>| {
                let after = world.come_in(part);
                assert_eq!(world.leaves.get(), Some((HOP.device, leaves)));
                let hops = |ip: &[u8]| if kind.v6 { ip[7] } else { ip[8] };
                assert_eq!(hops(&after.1), hops(part) - 1);
                after
            };
            let after: Vec<_> = parts.iter().map(sent).collect();
            check(&world, Verdict::Redirected, &after, "Vip:80 > Client:4000");
        }
    }
}

#[test]
fn fragments_that_follow_no_first_one_are_left() {
    for kind in KINDS {
        let parts = answer(kind, (Here, 8080), (Client, 4000), NUMBER);
        let [first, rest @ ..] = parts.as_slice() else { panic!("no parts") };
        let left = |world: &World, part: &Vec<u8>| {
            assert_eq!(world.go_out(part), (Verdict::Left, part.clone()), "{kind:?}");
        };
        let world = flow(kind, Here, false);
        rest.iter().for_each(|part| left(&world, part));
        assert_eq!(world.go_out(first).0, Verdict::Passed);
        // Of another packet, or to somebody else.
        answer(kind, (Here, 8080), (Client, 4000), NUMBER + 1)[1..]
            .iter()
            .for_each(|part| left(&world, part));
        answer(kind, (Here, 8080), (Stranger, 4000), NUMBER).iter().for_each(|part| left(&world, part));
        rest.iter().for_each(|part| assert_eq!(addresses(&world.go_out(part).1).0, kind.ip(Vip)));
        // A first one with less than a header.
        let bytes = header_bytes(first) + if kind.v6 { 8 } else { 0 };
        for length in 0..if kind.protocol == UDP { 8 } else { 20 } {
            left(&world, &first[..bytes + length].to_vec());
        }
    }
}

#[test]
fn questions_in_fragments_are_left_whether_their_flow_is_known_or_not() {
    for kind in KINDS {
        for port in [4000, 4001] {
            let world = flow(kind, Here, false);
            for part in answer(kind, (Client, port), (Vip, 80), NUMBER) {
                assert_eq!(world.come_in(&part), (Verdict::Left, part.clone()), "{kind:?}");
                assert_eq!(world.go_out(&part), (Verdict::Left, part));
            }
            assert_eq!(world.entries(), 2);
        }
    }
}

#[test]
fn answers_in_fragments_that_can_not_go_on_are_left() {
    for kind in KINDS {
        let parts = answer(kind, (There, 8080), (Node, 50_000), NUMBER);
        let world = World { way: Way::Stack, ..flow(kind, There, false) };
        for part in &parts {
            assert_eq!(world.come_in(part), (Verdict::Left, part.clone()), "there is no way");
        }
        let world = flow(kind, There, false);
        for part in parts {
            let last = with_hops(part, 1);
            assert_eq!(world.come_in(&last), (Verdict::Left, last), "no hop is left");
        }
    }
}
