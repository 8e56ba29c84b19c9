//! The next hop: asked for once, remembered with the flow, and forgotten when a route may have changed.

use dataplane_ebpf::abi::EdgeCounter;
use dataplane_ebpf::datapath::edge::{Hop, Verdict, Way};

use crate::packet::{ETHERNET, framed, with_hops};
use crate::world::Who::{Client, Here, Node, There, Vip};
use crate::world::{HOP, KINDS, World};

/// How often the way on is asked for when such a packet comes in.
fn asked(world: &World, ip: &[u8]) -> u32 {
    let mut packet = world.wrapped(ip);
    let verdict = world.tables.come_in(&mut packet, world.at);
    assert_eq!(verdict, Verdict::Redirected);
    packet.asked.get()
}

#[test]
fn a_next_hop_is_asked_for_once_in_each_direction_until_routes_change() {
    for kind in KINDS {
        let world = World::new(kind, &[There]);
        let (forth, back) = (kind.next((Client, 4000), (Vip, 80)), kind.next((There, 8080), (Node, 50_000)));
        assert_eq!(asked(&world, &kind.first((Client, 4000), (Vip, 80))), 1);
        assert_eq!(
            [asked(&world, &forth), asked(&world, &forth), asked(&world, &back), asked(&world, &back)],
            [0, 0, 1, 0]
        );
        world.tables.epoch.set(2);
        assert_eq!(
            [asked(&world, &forth), asked(&world, &forth), asked(&world, &back), asked(&world, &back)],
            [1, 0, 1, 0]
        );
        assert_eq!(world.count(EdgeCounter::Redirected), 9);
    }
}

#[test]
fn a_frame_bears_the_hardware_addresses_of_the_next_hop_also_of_a_remembered_one() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        for hop in [HOP, Hop { device: 1, addresses: [5; 3] }] {
            let mut packet = world.wrapped(&kind.first((Client, 4000), (Vip, 80)));
            world.way = Way::To(hop);
            assert_eq!(world.tables.come_in(&mut packet, ETHERNET), Verdict::Redirected);
            assert_eq!(packet.bytes[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
            let kept = framed(&packet.bytes[ETHERNET..]);
            assert_eq!(packet.bytes[12..], kept[12..]);
        }
    }
}

#[test]
fn a_neighbour_who_must_be_asked_is_not_remembered() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.way = Way::Ask(HOP.device);
        let ip = kind.first((Client, 4000), (Vip, 80));
        world.check_in(&ip, "asked Client:4000 > Here:8080");
        world.way = Way::To(HOP);
        assert_eq!([asked(&world, &ip), asked(&world, &ip)], [1, 0]);
    }
}

#[test]
fn what_has_no_next_hop_is_left_to_the_stack() {
    for kind in KINDS {
        let world = World { way: Way::Stack, ..World::new(kind, &[Here]) };
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
    }
}

#[test]
fn each_packet_past_the_stack_has_a_hop_less_and_the_last_hop_is_left() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        let hops = |ip: &[u8]| if kind.v6 { ip[7] } else { ip[8] };
        let ip = kind.first((Client, 4000), (Vip, 80));
        for (before, after) in [(255, Some(254)), (2, Some(1)), (1, None), (0, None)] {
            let (verdict, new) = world.come_in(&with_hops(ip.clone(), before));
            let expected = if after.is_some() { Verdict::Redirected } else { Verdict::Left };
            assert_eq!((verdict, hops(&new)), (expected, after.unwrap_or(before)));
        }
    }
}

#[test]
fn what_goes_through_the_stack_keeps_its_hops() {
    for kind in KINDS {
        let world = World::stack(kind, &[Here]);
        let hops = |ip: &[u8]| if kind.v6 { ip[7] } else { ip[8] };
        for before in [255, 1] {
            let (verdict, new) = world.come_in(&with_hops(kind.first((Client, 4000), (Vip, 80)), before));
            assert_eq!((verdict, hops(&new)), (Verdict::Passed, before));
            let (verdict, new) = world.go_out(&with_hops(kind.next((Here, 8080), (Client, 4000)), before));
            assert_eq!((verdict, hops(&new)), (Verdict::Passed, before));
        }
    }
}

#[test]
fn what_is_too_big_for_a_remembered_next_hop_is_left_as_it_came() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        let ip = kind.first((Client, 4000), (Vip, 80));
        assert_eq!([asked(&world, &ip), asked(&world, &ip)], [1, 0]);
        let mut packet = world.wrapped(&ip);
        packet.fits = false;
        let before = packet.bytes.clone();
        assert_eq!(world.tables.come_in(&mut packet, ETHERNET), Verdict::Left);
        assert_eq!(packet.bytes, before);
    }
}
