//! How long a flow stays with its endpoint: TCP until it has ended, datagrams as long as the endpoint serves.

use dataplane_ebpf::abi::{EdgeCounter, Frontend};

use crate::packet::{ACK, FIN, RST, SYN, TCP, UDP};
use crate::world::Who::{Client, Far, Here, Near, Node, There, Vip};
use crate::world::{KINDS, Kind, SERVICE, World};

fn of(protocol: u8) -> impl Iterator<Item = Kind> {
    KINDS.into_iter().filter(move |kind| kind.protocol == protocol)
}

#[test]
fn a_connection_stays_with_an_endpoint_that_has_gone() {
    for kind in of(TCP) {
        let mut world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.list(2, &[There], &[]);
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.tables.frontends.clear();
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
    }
}

#[test]
fn who_asks_anew_after_both_have_ended_is_given_an_endpoint_anew() {
    for kind in of(TCP) {
        let mut world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.packet((Client, 4000), (Vip, 80), FIN | ACK), "sent Client:4000 > Here:8080");
        world.list(2, &[There], &[]);
        // One side alone has ended.
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_out(&kind.packet((Here, 8080), (Client, 4000), FIN | ACK), "passed Vip:80 > Client:4000");
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        assert_eq!((world.entries(), world.count(EdgeCounter::Opened)), (2, 2));
    }
}

#[test]
fn a_reset_by_either_side_ends_a_connection() {
    for kind in of(TCP) {
        for by_endpoint in [false, true] {
            let mut world = World::new(kind, &[There]);
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
            if by_endpoint {
                world.check_in(&kind.packet((There, 8080), (Node, 50_000), RST), "sent Vip:80 > Client:4000");
            } else {
                world.check_in(&kind.packet((Client, 4000), (Vip, 80), RST), "sent Node:50000 > There:8080");
            }
            world.list(2, &[Here], &[]);
            world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
            assert_eq!(world.entries(), 2, "the masquerade's port is free again");
        }
    }
}

#[test]
fn a_connection_that_is_asked_for_again_under_way_stays_what_it_is() {
    for kind in of(TCP) {
        let mut world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.list(2, &[There], &[]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Opened), 1);
    }
}

#[test]
fn datagrams_stay_with_their_endpoint_as_long_as_it_is_listed_or_kept_and_move_when_it_has_gone() {
    for kind in of(UDP) {
        let mut world = World::new(kind, &[Here]);
        let one = kind.first((Client, 4000), (Vip, 80));
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.list(2, &[There, Near, Far, Here], &[]);
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.list(3, &[There], &[Here]);
        world.check_in(&one, "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Moved), 0);
        world.list(4, &[There], &[]);
        world.check_in(&one, "sent Node:50000 > There:8080");
        assert_eq!((world.count(EdgeCounter::Moved), world.entries()), (1, 2));
        world.list(5, &[Here], &[]);
        world.check_in(&one, "sent Client:4000 > Here:8080");
        assert_eq!((world.count(EdgeCounter::Moved), world.entries()), (2, 2));
    }
}

#[test]
fn that_an_endpoint_still_serves_is_written_down() {
    for kind in of(UDP) {
        let mut world = World::new(kind, &[Here]);
        let one = kind.first((Client, 4000), (Vip, 80));
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.list(2, &[Here], &[]);
        world.check_in(&one, "sent Client:4000 > Here:8080");
        // From now on it is not asked for.
        world.tables.servers.clear();
        world.check_in(&one, "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Moved), 0);
    }
}

#[test]
fn datagrams_to_an_address_that_has_gone_end_their_flow() {
    for kind in of(UDP) {
        let mut world = World::new(kind, &[Here]);
        let one = kind.first((Client, 4000), (Vip, 80));
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.tables.frontends.clear();
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.list(2, &[], &[]);
        world.check_in(&one, "left");
        assert_eq!(world.entries(), 0);
    }
}

#[test]
fn datagrams_of_an_earlier_daemons_list_are_asked_for_in_that_of_the_address() {
    for kind in of(UDP) {
        let mut world = World::new(kind, &[Here]);
        let one = kind.first((Client, 4000), (Vip, 80));
        world.check_in(&one, "sent Client:4000 > Here:8080");
        for flow in world.tables.flows.borrow_mut().values_mut() {
            (flow.list, flow.generation) = (40, 400);
        }
        world.check_in(&one, "sent Client:4000 > Here:8080");
        world.put(Vip, 80, Frontend { outside: 3, pod: 3, sources: 0, rules: 1, service: SERVICE });
        world.list(2, &[Here], &[]);
        world.check_in(&one, "left");
        assert_eq!(world.count(EdgeCounter::Moved), 1);
    }
}

#[test]
fn answers_of_an_endpoint_that_has_gone_are_still_translated() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4001), (Vip, 80)), "sent Client:4001 > Here:8080");
        world.list(2, &[], &[]);
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
        let mut world = World::new(kind, &[There]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        world.list(2, &[], &[]);
        world.check_in(&kind.next((There, 8080), (Node, 50_000)), "sent Vip:80 > Client:4000");
    }
}

#[test]
fn the_time_is_written_with_every_second_and_an_answer_is_told_to_the_other_direction() {
    use dataplane_ebpf::abi::{ANSWERED, REPLY};
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        let seen = || {
            let flows = world.tables.flows.borrow();
            let mut all: Vec<_> =
                flows.values().map(|flow| (flow.marks & (REPLY | ANSWERED), flow.seen)).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(seen(), [(0, 1), (REPLY, 1)]);
        world.tables.seconds.set(5);
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        assert_eq!(seen(), [(0, 5), (REPLY, 1)]);
        world.tables.seconds.set(6);
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
        assert_eq!(seen(), [(ANSWERED, 5), (REPLY | ANSWERED, 6)]);
    }
}

#[test]
fn what_belongs_to_nobody_and_opens_nothing_is_left() {
    for kind in of(TCP) {
        let world = World::new(kind, &[Here]);
        for bits in [0, ACK, SYN | ACK, SYN | FIN, SYN | RST, RST, FIN | ACK] {
            world.check_in(&kind.packet((Client, 4000), (Vip, 80), bits), "left");
        }
        assert_eq!((world.entries(), world.counted()), (0, vec![]));
    }
}
