//! Error messages: each side hears of the packets that it sent, in the words that it knows.

use dataplane_ebpf::abi::{EdgeCounter, FORWARD, MASQUERADE, TRUSTS_STACK};
use dataplane_ebpf::datapath::edge::{self, Verdict};

use crate::packet::{addresses, errors, header_bytes, icmp, is_right, put, seal, udp, with_hops, word};
use crate::world::Who::{Client, Here, Node, Quiet, Router, Stranger, There, Vip};
use crate::world::{HOP, KINDS, Kind, Who, World};

/// Kinds of messages: cannot be reached (by each code that matters), hops ran out, bad header; over IPv6 also: too big.
fn kinds(kind: Kind) -> &'static [(u8, u8)] {
    if kind.v6 {
        &[(1, 0), (1, 4), (2, 0), (3, 0), (4, 0)]
    } else {
        &[(3, 0), (3, 1), (3, 3), (3, 4), (11, 0), (12, 0)]
    }
}

/// Which way a message goes.
#[derive(Clone, Copy)]
enum Way {
    In,
    /// In by the device of endpoints here.
    Back,
    Out,
}

/// A flow from outside with its endpoint here, and one with its endpoint elsewhere.
fn flows(kind: Kind) -> [World; 2] {
    let direct = World::new(kind, &[Here]);
    direct.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
    let masqueraded = World::new(kind, &[There]);
    masqueraded.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
    [direct, masqueraded]
}

/// What becomes of a message, also of one that quotes little: who reports to whom, and about what.
#[track_caller]
fn check(world: &World, way: Way, ends: (Who, Who), about: &[u8], expected: &str) {
    let kind = world.kind;
    let start = header_bytes(about);
    for (icmp_kind, code) in kinds(kind) {
        for quoted in [8, 9, 12, 16, 18, 20, about.len() - start] {
            let quoted = &about[..(start + quoted).min(about.len())];
            let message = icmp(kind.ip(ends.0), kind.ip(ends.1), *icmp_kind, *code, quoted);
            assert!(is_right(&message));
            let ((verdict, new), right) = match way {
                Way::In => (world.come_in(&message), Verdict::Passed),
                Way::Back => (world.come_back(&message), Verdict::Redirected),
                Way::Out => (world.go_out(&message), Verdict::Passed),
            };
            assert_eq!(verdict, right, "{kind:?} {expected}");
            assert_eq!(told(kind, &new), expected, "{kind:?}");
            check_bytes(&message, &new, about.len());
        }
    }
}

fn told(kind: Kind, message: &[u8]) -> String {
    let (from, to) = addresses(message);
    format!("{} to {}: {}", kind.name(from), kind.name(to), kind.told(&message[header_bytes(message) + 8..]))
}

/// All checksums are right, also of what is quoted, as far as it is; type, code and the rest of the message are as before.
fn check_bytes(old: &[u8], new: &[u8], whole: usize) {
    assert!(is_right(new), "{new:02x?}");
    let start = header_bytes(new);
    assert_eq!(
        (&old[start..start + 2], &old[start + 4..start + 8]),
        (&new[start..start + 2], &new[start + 4..start + 8])
    );
    let [before, after] = [old, new].map(|message| &message[start + 8..]);
    assert_eq!(errors(after)[0].unwrap_or(0), 0, "the quoted header");
    if after.len() == whole {
        assert_eq!(errors(after), errors(before), "all that is quoted\n{after:02x?}");
    }
}

#[test]
fn a_client_hears_of_what_it_sent_to_an_endpoint_here() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Client, 4000), (Here, 8080));
        for way in [Way::Out, Way::Back] {
            check(&direct, way, (Here, Client), &about, "Vip to Client: Client:4000 > Vip:80");
        }
        for reporter in [Node, Quiet, Router] {
            let expected = format!("{reporter:?} to Client: Client:4000 > Vip:80");
            check(&direct, Way::Out, (reporter, Client), &about, &expected);
        }
    }
}

#[test]
fn an_endpoint_here_hears_of_what_it_answered() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Vip, 80), (Client, 4000));
        check(&direct, Way::In, (Client, Vip), &about, "Client to Here: Here:8080 > Client:4000");
        check(&direct, Way::In, (Router, Vip), &about, "Router to Here: Here:8080 > Client:4000");
    }
}

#[test]
fn a_client_hears_of_what_it_sent_to_an_endpoint_elsewhere() {
    for kind in KINDS {
        let [_, masqueraded] = flows(kind);
        let about = kind.next((Node, 50_000), (There, 8080));
        check(&masqueraded, Way::In, (There, Node), &about, "Vip to Client: Client:4000 > Vip:80");
        check(&masqueraded, Way::In, (Router, Node), &about, "Router to Client: Client:4000 > Vip:80");
    }
}

#[test]
fn an_endpoint_elsewhere_hears_of_what_it_answered() {
    for kind in KINDS {
        let [_, masqueraded] = flows(kind);
        let about = kind.next((Vip, 80), (Client, 4000));
        check(&masqueraded, Way::In, (Client, Vip), &about, "Client to There: There:8080 > Node:50000");
        check(&masqueraded, Way::In, (Router, Vip), &about, "Router to There: There:8080 > Node:50000");
    }
}

#[test]
fn a_message_that_comes_in_never_bears_the_nodes_own_address() {
    for kind in KINDS {
        for (endpoint, about, reader) in [(There, (Node, 50_000), Node), (Here, (Client, 4000), Client)] {
            let mut world = World::new(kind, &[endpoint]);
            world.rules(Node, FORWARD | MASQUERADE);
            let (verdict, _) = world.come_in(&kind.first((Client, 4000), (Node, 80)));
            assert_eq!(verdict, Verdict::Redirected);
            let about = kind.next(about, (endpoint, 8080));
            let expected = format!("{endpoint:?} to Client: Client:4000 > Node:80");
            check(&world, Way::In, (endpoint, reader), &about, &expected);
            if endpoint == Here {
                check(&world, Way::Out, (Here, Client), &about, "Node to Client: Client:4000 > Node:80");
            }
        }
    }
}

#[test]
fn messages_are_counted_and_open_no_flow() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Client, 4000), (Here, 8080));
        let (code, message) = kinds(kind)[0];
        let message = icmp(kind.ip(Here), kind.ip(Client), code, message, &about);
        assert_eq!(direct.go_out(&message).0, Verdict::Passed);
        assert_eq!((direct.count(EdgeCounter::Errors), direct.entries()), (1, 2));
    }
}

#[test]
fn a_quoted_datagram_without_checksum_gets_none() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == crate::packet::UDP) {
        let [direct, _] = flows(kind);
        let mut about = kind.next((Client, 4000), (Here, 8080));
        let at = header_bytes(&about) + 6;
        put(&mut about, at, 0);
        let message = icmp(kind.ip(Here), kind.ip(Client), kinds(kind)[0].0, 1, &about);
        let (verdict, new) = direct.go_out(&message);
        assert_eq!((verdict, word(&new, header_bytes(&new) + 8 + at)), (Verdict::Passed, 0));
        assert!(is_right(&new));
    }
}

#[test]
fn a_quoted_checksum_that_comes_to_zero_is_not_taken_for_none() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == crate::packet::UDP) {
        let [direct, _] = flows(kind);
        for payload in 0..=u16::MAX {
            let about = udp(kind.at(Client, 4000), kind.at(Here, 8080), &payload.to_be_bytes());
            let message = icmp(kind.ip(Here), kind.ip(Client), kinds(kind)[0].0, 1, &about);
            let (_, new) = direct.go_out(&message);
            assert_eq!(errors(&new[header_bytes(&new) + 8..])[1], Some(0), "{payload}");
        }
    }
}

#[test]
fn bytes_behind_the_message_are_not_taken_for_a_part_of_it() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Client, 4000), (Here, 8080));
        let start = header_bytes(&about);
        let quoted = &about[..start + 8];
        let message = icmp(kind.ip(Here), kind.ip(Client), kinds(kind)[0].0, 1, quoted);
        let trailed = [message, vec![0x5a; 32]].concat();
        let (verdict, new) = direct.go_out(&trailed);
        assert_eq!(verdict, Verdict::Passed);
        assert!(is_right(&new), "{kind:?}");
        assert_eq!(new[new.len() - 32..], [0x5a; 32]);
    }
}

/// A message about this is left where it comes in and where it leaves.
#[track_caller]
fn check_left(world: &World, message: &[u8]) {
    assert_eq!(world.come_in(message), (Verdict::Left, message.to_vec()), "{:?}", world.kind);
    assert_eq!(world.go_out(message), (Verdict::Left, message.to_vec()), "{:?}", world.kind);
    assert_eq!(world.come_back(message), (Verdict::Left, message.to_vec()), "{:?}", world.kind);
}

#[test]
fn what_an_endpoint_here_reports_is_left_to_the_stack_where_it_cannot_leave_at_once() {
    for kind in KINDS {
        let (code, message) = kinds(kind)[0];
        let about = kind.next((Client, 4000), (Here, 8080));
        let message = icmp(kind.ip(Here), kind.ip(Client), code, message, &about);
        let left = (Verdict::Left, message.clone());
        let [mut direct, _] = flows(kind);
        assert_eq!(direct.come_back(&with_hops(message.clone(), 1)).0, Verdict::Left);
        direct.way = edge::Way::Stack;
        assert_eq!(direct.come_back(&message), left);
        direct.way = edge::Way::Ask(HOP.device);
        assert_eq!(direct.come_back(&message).0, Verdict::Redirected);
        direct.side().forwarding = TRUSTS_STACK;
        assert_eq!(direct.come_back(&message), left);
    }
}

#[test]
fn messages_about_others_or_for_others_are_left() {
    for kind in KINDS {
        let (code, _) = kinds(kind)[0];
        for world in flows(kind) {
            for (from, to) in
                [((Client, 4001), (Here, 8080)), ((Client, 4000), (Vip, 80)), ((Here, 8080), (Client, 4000))]
            {
                let about = kind.next(from, to);
                check_left(&world, &icmp(kind.ip(Router), kind.ip(from.0), code, 1, &about));
            }
        }
        // Whoever gets it has not sent what it quotes.
        let [direct, masqueraded] = flows(kind);
        for about in [kind.next((Client, 4000), (Here, 8080)), kind.next((Vip, 80), (Client, 4000))] {
            check_left(&direct, &icmp(kind.ip(Router), kind.ip(Stranger), code, 1, &about));
        }
        // That was translated where it came in, and is the node's own now.
        let about = kind.next((Node, 50_000), (There, 8080));
        let message = icmp(kind.ip(There), kind.ip(Node), code, 1, &about);
        assert_eq!(masqueraded.go_out(&message), (Verdict::Left, message));
    }
}

#[test]
fn messages_that_quote_too_little_or_what_is_not_plain_are_left() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Client, 4000), (Here, 8080));
        let (code, _) = kinds(kind)[0];
        let (from, to) = (kind.ip(Here), kind.ip(Client));
        for quoted in 0..header_bytes(&about) + 8 {
            check_left(&direct, &icmp(from, to, code, 1, &about[..quoted]));
            // Also if there are bytes behind it.
            check_left(
                &direct,
                &[icmp(from, to, code, 1, &about[..quoted]), about[quoted..].to_vec()].concat(),
            );
        }
        if !kind.v6 {
            let mut fragment = about.clone();
            put(&mut fragment, 6, 0x2000);
            seal(&mut fragment);
            check_left(&direct, &icmp(from, to, code, 1, &fragment));
        }
    }
}

#[test]
fn what_is_no_error_is_left_whatever_it_quotes() {
    for kind in KINDS {
        let [direct, _] = flows(kind);
        let about = kind.next((Client, 4000), (Here, 8080));
        for no_error in if kind.v6 { [0, 5, 100, 128, 129, 137] } else { [0, 4, 5, 8, 10, 13] } {
            check_left(&direct, &icmp(kind.ip(Here), kind.ip(Client), no_error, 0, &about));
        }
    }
}
