//! What this layer does not do, and leaves as it is.

use dataplane_ebpf::abi::{Frontend, FrontendKey};
use dataplane_ebpf::datapath::edge::Verdict;

use crate::packet::{
    ACK, ETHERNET, ICMP, SCTP, SYN, TCP, UDP, errors, framed, icmp, ip, put, seal, tcp, udp, word,
};
use crate::world::Who::{Client, Here, There, Vip};
use crate::world::{KINDS, Kind, SERVICE, World};

/// A world in which the flow from port 4000 is there, so that a packet is not left for want of one; from 4001 it is not.
fn flowing(kind: Kind) -> World {
    let world = World::new(kind, &[Here]);
    world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
    world
}

/// Left where it comes in and where it leaves, whether its flow is there or not.
#[track_caller]
fn check(kind: Kind, change: impl Fn(Vec<u8>) -> Vec<u8>) {
    let world = flowing(kind);
    for port in [4000, 4001] {
        for bits in [SYN, ACK] {
            let forth = change(kind.packet((Client, port), (Vip, 80), bits));
            let back = change(kind.packet((Here, 8080), (Client, port), bits));
            assert_eq!(world.come_in(&forth), (Verdict::Left, forth), "{kind:?}");
            assert_eq!(world.go_out(&back), (Verdict::Left, back), "{kind:?}");
        }
    }
    assert_eq!(world.entries(), 2);
}

fn fours() -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(|kind| !kind.v6)
}

fn sixes() -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(|kind| kind.v6)
}

#[test]
fn fragments_without_the_first_one_are_left() {
    for kind in fours() {
        for fragment in [0x2001, 0x0001, 0x1fff, 0x0100] {
            check(kind, |mut ip| {
                put(&mut ip, 6, fragment);
                seal(&mut ip);
                ip
            });
        }
    }
}

#[test]
fn that_a_packet_may_not_be_cut_does_not_matter() {
    for kind in fours() {
        let world = flowing(kind);
        for flags in [0, 0x4000] {
            let mut ip = kind.next((Client, 4000), (Vip, 80));
            put(&mut ip, 6, flags);
            seal(&mut ip);
            world.check_in(&ip, "sent Client:4000 > Here:8080");
        }
    }
}

#[test]
fn options_are_left() {
    for kind in fours() {
        check(kind, |ip| {
            let mut ip = [&ip[..20], &[1, 1, 1, 1], &ip[20..]].concat();
            ip[0] = 0x46;
            let length = word(&ip, 2) + 4;
            put(&mut ip, 2, length);
            seal(&mut ip);
            ip
        });
    }
}

#[test]
fn extension_headers_are_left() {
    for kind in sixes() {
        // Hop-by-hop, routing, destination, authentication.
        for header in [0, 43, 60, 51] {
            check(kind, |ip| {
                let mut ip = [&ip[..40], &[kind.protocol, 0, 0, 0, 0, 0, 0, 0], &ip[40..]].concat();
                ip[6] = header;
                let length = word(&ip, 4) + 8;
                put(&mut ip, 4, length);
                ip
            });
        }
    }
}

#[test]
fn other_protocols_are_left() {
    for kind in KINDS {
        for protocol in [SCTP, 47, 50, if kind.v6 { ICMP } else { 58 }] {
            let mut world = flowing(kind);
            let frontend = Frontend { outside: 1, pod: 1, sources: 0, rules: 5, service: SERVICE };
            let port = crate::world::network(80);
            let key = FrontendKey { address: kind.address(Vip), port, protocol: protocol.into() };
            world.tables.frontends.insert(key, frontend);
            let segment = &kind.first((Client, 4000), (Vip, 80))[if kind.v6 { 40 } else { 20 }..];
            let forth = ip(kind.ip(Client), kind.ip(Vip), protocol, segment);
            assert_eq!(world.come_in(&forth), (Verdict::Left, forth.clone()));
            assert_eq!(world.go_out(&forth), (Verdict::Left, forth));
        }
    }
}

#[test]
fn tagged_frames_are_left() {
    for kind in KINDS {
        let world = flowing(kind);
        let mut packet = world.wrapped(&kind.first((Client, 4000), (Vip, 80)));
        packet.tagged = true;
        let before = packet.clone();
        assert_eq!((world.tables.come_in(&mut packet, ETHERNET), packet), (Verdict::Left, before));
        // With the tag still in it.
        let frame = framed(&kind.first((Client, 4000), (Vip, 80)));
        let inside = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        let mut packet = dataplane_ebpf::host_edge::HostPacket::new(inside.clone());
        assert_eq!((world.tables.come_in(&mut packet, ETHERNET), packet.bytes), (Verdict::Left, inside));
    }
}

#[test]
fn headers_that_are_cut_short_are_left() {
    for kind in KINDS {
        let start = if kind.v6 { 40 } else { 20 };
        let whole = start + if kind.protocol == TCP { 20 } else { 8 };
        for length in 0..whole {
            check(kind, |ip| ip[..length].to_vec());
        }
    }
}

#[test]
fn another_version_is_left() {
    for kind in KINDS {
        for version in [0, 5, 7, 15] {
            check(kind, |mut ip| {
                ip[0] = version << 4 | 5;
                ip
            });
        }
    }
}

#[test]
fn echo_is_left() {
    for kind in KINDS {
        let world = flowing(kind);
        for echo in if kind.v6 { [128, 129] } else { [8, 0] } {
            let ping = icmp(kind.ip(Client), kind.ip(Vip), echo, 0, &[0; 40]);
            assert_eq!(world.come_in(&ping), (Verdict::Left, ping.clone()));
            assert_eq!(world.go_out(&ping), (Verdict::Left, ping));
        }
    }
}

#[test]
fn what_is_between_others_is_left() {
    for kind in KINDS {
        let world = flowing(kind);
        for (from, to) in
            [((Client, 4000), (There, 80)), ((Client, 4000), (Vip, 81)), ((There, 4000), (Client, 80))]
        {
            world.check_in(&kind.first(from, to), "left");
            world.check_out(&kind.first(from, to), "left");
        }
    }
}

#[test]
fn a_datagram_without_checksum_stays_one_over_ipv4_and_over_ipv6_where_that_is_wrong() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == UDP) {
        for endpoint in [Here, There] {
            let world = World::new(kind, &[endpoint]);
            let mut ip = kind.first((Client, 4000), (Vip, 80));
            let at = if kind.v6 { 46 } else { 26 };
            put(&mut ip, at, 0);
            // That it has not changed is checked with every packet.
            let mut packet = world.wrapped(&ip);
            assert!(matches!(world.tables.come_in(&mut packet, ETHERNET), Verdict::Redirected));
            assert_eq!(word(&packet.bytes, ETHERNET + at), 0);
        }
    }
}

#[test]
fn a_checksum_that_comes_to_zero_is_not_taken_for_none() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == UDP) {
        let world = World::new(kind, &[Here]);
        let (from, to) = (kind.at(Client, 4000), kind.at(Vip, 80));
        let start = if kind.v6 { 40 } else { 20 };
        // Of all payloads of two bytes one makes the sum zero after the translation.
        let mut zeroes = 0;
        for payload in 0..=u16::MAX {
            let ip = udp(from, to, &payload.to_be_bytes());
            let mut packet = world.wrapped(&ip);
            assert!(matches!(world.tables.come_in(&mut packet, ETHERNET), Verdict::Redirected));
            let new = &packet.bytes[ETHERNET..];
            assert_eq!(errors(new)[1], Some(0), "{new:x?}");
            assert_ne!(word(new, start + 6), 0, "{payload}");
            zeroes += u32::from(word(new, start + 6) == u16::MAX);
        }
        assert_ne!(zeroes, 0);
    }
}

#[test]
fn wrong_checksums_stay_wrong() {
    for kind in KINDS {
        let world = flowing(kind);
        let mut ip = kind.next((Client, 4000), (Vip, 80));
        *ip.last_mut().expect("a payload") ^= 0x55;
        // By as much as before: that is checked with every packet.
        world.check_in(&ip, "sent Client:4000 > Here:8080");
        let mut ip = tcp(kind.at(Client, 4000), kind.at(Vip, 80), ACK, b"");
        ip[1] ^= 0x10;
        let world = flowing(Kind { protocol: TCP, ..kind });
        world.check_in(&ip, "sent Client:4000 > Here:8080");
    }
}
