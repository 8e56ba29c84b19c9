//! What happens when something runs out: ports, room for flows.

use dataplane_ebpf::abi::{COVERED, EdgeCounter, EdgeDevice};

use crate::world::Who::{Client, Here, There, Vip};
use crate::world::{KINDS, OUTSIDE, World};

#[test]
fn without_a_free_port_a_flow_is_left_to_the_packet_filter() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        world.side().ports = 2;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        world.check_in(&kind.first((Client, 4001), (Vip, 80)), "sent Node:50001 > There:8080");
        world.check_in(&kind.first((Client, 4002), (Vip, 80)), "left");
        assert_eq!((world.entries(), world.count(EdgeCounter::NoPort)), (4, 1));
    }
}

#[test]
fn a_port_serves_once_for_each_endpoint() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        world.side().ports = 1;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        world.list(2, &[crate::world::Who::Far], &[There]);
        world.check_in(&kind.first((Client, 4001), (Vip, 80)), "sent Node:50000 > Far:8080");
    }
}

#[test]
fn a_node_without_address_or_ports_masquerades_nothing() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        world.side().ports = 0;
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        world.side().ports = 9;
        let nameless = EdgeDevice { flags: COVERED, own_v4: [0; 4], own_v6: [0; 4] };
        world.tables.devices.insert(OUTSIDE, nameless);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        assert_eq!((world.entries(), world.count(EdgeCounter::NoPort)), (0, 2));
    }
}

#[test]
fn the_last_port_of_all_is_given_out() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        (world.side().first_port, world.side().ports) = (65_535, 1);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:65535 > There:8080");
    }
}

#[test]
fn a_full_table_leaves_the_flow_to_the_packet_filter_and_nothing_behind() {
    for kind in KINDS {
        for endpoint in [Here, There] {
            for room in [0, 1] {
                let world = World::new(kind, &[endpoint]);
                world.tables.room.set(room);
                world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
                assert_eq!(
                    (world.entries(), world.counted()),
                    (0, vec![(EdgeCounter::TableFull, 1)]),
                    "{endpoint:?}, room for {room}"
                );
            }
        }
    }
}

#[test]
fn flows_that_are_there_go_on_when_the_table_is_full() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.tables.room.set(2);
        world.check_in(&kind.first((Client, 4001), (Vip, 80)), "left");
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
    }
}
