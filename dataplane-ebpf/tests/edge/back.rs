//! Answers of endpoints on the node, taken where they come in.

use dataplane_ebpf::abi::{FORWARD, TRUSTS_STACK};
use dataplane_ebpf::datapath::edge::{Verdict, Way};

use crate::packet::with_hops;
use crate::world::Who::{Client, Here, Near, Node, There, Vip};
use crate::world::{HOP, KINDS, Kind, World};

/// The endpoint's answers come in by our program; through the stack they would be given another source.
fn backed(kind: Kind) -> World {
    let mut world = World::new(kind, &[Here]);
    world.side().forwarding &= !TRUSTS_STACK;
    world.tables.backed.insert(kind.address(Here));
    world
}

#[test]
fn an_answer_leaves_at_once_and_bears_the_address_that_was_called() {
    for kind in KINDS {
        let world = backed(kind);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_back(&kind.next((Here, 8080), (Client, 4000)), "sent Vip:80 > Client:4000");
        let (_, ip) = world.come_back(&with_hops(kind.next((Here, 8080), (Client, 4000)), 17));
        assert_eq!(ip, with_hops(kind.next((Vip, 80), (Client, 4000)), 16));
    }
}

#[test]
fn it_does_so_wherever_the_way_back_leads() {
    for kind in KINDS {
        for way_back in [None, Some(8)] {
            let world = World { way_back, ..backed(kind) };
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        }
    }
}

#[test]
fn an_endpoint_that_is_not_backed_is_left_to_the_packet_filter_where_the_stack_is_not_trusted() {
    for kind in KINDS {
        let mut world = backed(kind);
        world.list(2, &[Near], &[]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        world.side().forwarding |= TRUSTS_STACK;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Near:8080");
    }
}

#[test]
fn that_an_endpoint_is_backed_counts_only_where_packets_leave_at_once() {
    for kind in KINDS {
        let mut world = World::stack(kind, &[Here]);
        world.tables.backed.insert(kind.address(Here));
        world.way_back = None;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        world.way_back = World::new(kind, &[]).way_back;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "passed Client:4000 > Here:8080");
        let answer = kind.next((Here, 8080), (Client, 4000));
        world.check_back(&answer, "left");
        world.check_out(&answer, "passed Vip:80 > Client:4000");
    }
}

#[test]
fn what_is_no_answer_goes_on_as_it_came() {
    for kind in KINDS {
        let world = backed(kind);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        for (from, to) in [
            ((Here, 8080), (Client, 4001)),
            ((Here, 4000), (Vip, 80)),
            ((Client, 4000), (Vip, 80)),
            ((There, 8080), (Client, 4000)),
        ] {
            world.check_back(&kind.first(from, to), "left");
            world.check_back(&kind.next(from, to), "left");
        }
        assert_eq!(world.entries(), 2);
    }
}

#[test]
fn an_answer_to_the_node_finds_its_client_too() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        world.rules(Vip, FORWARD | dataplane_ebpf::abi::MASQUERADE);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        world.check_back(&kind.next((There, 8080), (Node, 50_000)), "sent Vip:80 > Client:4000");
    }
}

#[test]
fn an_answer_for_which_there_is_no_way_and_one_without_hops_are_left_to_the_stack() {
    for kind in KINDS {
        let mut world = backed(kind);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        let answer = kind.next((Here, 8080), (Client, 4000));
        world.check_back(&with_hops(answer.clone(), 1), "left");
        world.way = Way::Stack;
        world.check_back(&answer, "left");
        world.way = Way::Ask(HOP.device);
        world.check_back(&answer, "asked Vip:80 > Client:4000");
    }
}

#[test]
fn a_tagged_frame_is_left() {
    for kind in KINDS {
        let world = backed(kind);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        let mut packet = world.wrapped(&kind.next((Here, 8080), (Client, 4000)));
        packet.tagged = true;
        assert_eq!(world.tables.come_back(&mut packet, world.at), Verdict::Left);
    }
}
