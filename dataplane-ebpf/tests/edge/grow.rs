//! Flows that are brought to a bigger table while packets come.

use dataplane_ebpf::abi::{EdgeCounter, MOVES};
use dataplane_ebpf::datapath::edge::Verdict;

use crate::packet::{ACK, FIN, SYN, TCP};
use crate::world::Who::{Client, Here, Near, Node, Stranger, There, Vip};
use crate::world::{KINDS, Kind, Who, World};

/// A flow is in the table of before; nothing is in the new one.
fn moving(kind: Kind, endpoint: Who) -> World {
    let mut world = World::new(kind, &[endpoint]);
    world.tables.backed.insert(kind.address(Here));
    let (verdict, _) = world.come_in(&kind.first((Client, 4000), (Vip, 80)));
    assert_eq!(verdict, Verdict::Redirected);
    world.tables.flows_before = world.tables.flows.clone();
    world.tables.flows.borrow_mut().clear();
    world.side().forwarding |= MOVES;
    world
}

#[test]
fn a_packet_finds_its_flow_in_the_table_of_before_and_brings_both_directions_over() {
    for kind in KINDS {
        let world = moving(kind, There);
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        assert_eq!(world.entries(), 2);
        let world = moving(kind, There);
        world.check_in(&kind.next((There, 8080), (Node, 50_000)), "sent Vip:80 > Client:4000");
        assert_eq!(world.entries(), 2);
        assert_eq!(world.count(EdgeCounter::Opened), 1);
    }
}

#[test]
fn an_answer_of_an_endpoint_here_finds_it_too() {
    for kind in KINDS {
        let world = moving(kind, Here);
        world.check_back(&kind.next((Here, 8080), (Client, 4000)), "sent Vip:80 > Client:4000");
        assert_eq!(world.entries(), 2);
        let world = moving(kind, Here);
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
        assert_eq!(world.entries(), 2);
    }
}

#[test]
fn what_is_no_flow_of_before_is_what_it_would_have_been() {
    for kind in KINDS {
        let world = moving(kind, Here);
        world.check_in(&kind.first((Stranger, 4000), (Vip, 80)), "sent Stranger:4000 > Here:8080");
        let unknown = kind.next((Near, 8080), (Client, 4000));
        world.check_back(&unknown, "left");
        world.check_out(&unknown, "left");
        assert_eq!(world.entries(), 2);
    }
}

#[test]
fn a_port_that_a_flow_of_before_has_is_given_to_nobody_else() {
    for kind in KINDS {
        let world = moving(kind, There);
        world.check_in(&kind.first((Stranger, 4000), (Vip, 80)), "sent Node:50001 > There:8080");
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
    }
}

#[test]
fn a_connection_of_before_that_has_ended_makes_way_for_a_new_one() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol == TCP) {
        let world = moving(kind, Here);
        let _ = world.come_in(&kind.packet((Client, 4000), (Vip, 80), ACK | FIN));
        let _ = world.come_back(&kind.packet((Here, 8080), (Client, 4000), ACK | FIN));
        world.check_in(&kind.packet((Client, 4000), (Vip, 80), SYN), "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Opened), 2);
    }
}

#[test]
fn a_datagram_flow_of_before_whose_endpoint_has_gone_gets_another() {
    for kind in KINDS.into_iter().filter(|kind| kind.protocol != TCP) {
        let mut world = moving(kind, There);
        world.list(2, &[Here], &[]);
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Moved), 1);
    }
}

#[test]
fn where_there_is_no_room_a_packet_of_before_is_left() {
    for kind in KINDS {
        let world = moving(kind, There);
        world.tables.room.set(0);
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "left");
    }
}
