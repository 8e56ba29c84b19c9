//! New flows, and what is answered to them.

use dataplane_ebpf::abi::{
    ANSWERS, COVERED, DROP_FLOW, EdgeCounter, EdgeDevice, FORWARD, Frontend, MASQUERADE, POD_RULES, Traffic,
};

use crate::packet::ACK;
use crate::world::Who::{Client, Far, Here, Node, Quiet, Router, Stranger, There, Twin, Vip};
use crate::world::{KINDS, SERVICE, Who, World};

const BOTH: u32 = FORWARD | MASQUERADE;

#[test]
fn a_local_endpoint_sees_the_client_and_its_answer_bears_the_services_address_where_it_leaves() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_out(&kind.packet((Here, 8080), (Client, 4000), 0x12), "passed Vip:80 > Client:4000");
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        assert_eq!(world.count(EdgeCounter::Opened), 1);
    }
}

#[test]
fn a_distant_endpoint_sees_the_node_and_its_answer_is_translated_where_it_comes_in() {
    for kind in KINDS {
        let world = World::new(kind, &[There]);
        world.tables.random.set(u32::MAX);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50099 > There:8080");
        world.check_in(&kind.packet((There, 8080), (Node, 50_099), 0x12), "sent Vip:80 > Client:4000");
        world.check_in(&kind.next((Client, 4000), (Vip, 80)), "sent Node:50099 > There:8080");
    }
}

#[test]
fn a_port_that_is_taken_is_passed_over_and_after_the_last_comes_the_first() {
    for kind in KINDS {
        let world = World::new(kind, &[There]);
        world.tables.random.set(u32::MAX);
        for (client, port) in [(4000, 50_099), (4001, 50_000), (4002, 50_001)] {
            let expected = format!("sent Node:{port} > There:8080");
            world.check_in(&kind.first((Client, client), (Vip, 80)), &expected);
            let expected = format!("sent Vip:80 > Client:{client}");
            world.check_in(&kind.next((There, 8080), (Node, port)), &expected);
        }
    }
}

#[test]
fn an_answer_that_leaves_the_node_is_not_translated_if_it_was_where_it_came_in() {
    for kind in KINDS {
        let world = World::new(kind, &[There]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Node:50000 > There:8080");
        world.check_out(&kind.next((There, 8080), (Node, 50_000)), "left");
        world.check_out(&kind.next((Client, 4000), (Vip, 80)), "left");
    }
}

#[test]
fn through_the_stack_local_endpoints_are_served_and_distant_ones_left_to_the_packet_filter() {
    for kind in KINDS {
        let world = World::stack(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "passed Client:4000 > Here:8080");
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
        let world = World::stack(kind, &[There]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        assert_eq!((world.entries(), world.counted()), (0, vec![(EdgeCounter::Left, 1)]));
    }
}

#[test]
fn on_a_device_without_hardware_addresses_packets_go_through_the_stack() {
    for kind in KINDS {
        let world = World { at: 0, ..World::new(kind, &[Here]) };
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "passed Client:4000 > Here:8080");
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Vip:80 > Client:4000");
    }
}

#[test]
fn an_endpoint_that_calls_itself_sees_the_node() {
    for kind in KINDS {
        for rules in [FORWARD, BOTH] {
            let mut world = World::new(kind, &[Here]);
            world.rules(Vip, rules);
            world.check_in(&kind.first((Here, 4000), (Vip, 80)), "sent Node:50000 > Here:8080");
            world.check_in(&kind.next((Here, 8080), (Node, 50_000)), "sent Vip:80 > Here:4000");
        }
    }
}

#[test]
fn an_endpoint_here_whose_answers_would_leave_where_nobody_translates_them_is_left_to_the_packet_filter() {
    for kind in KINDS {
        for way_back in [None, Some(8)] {
            let elsewhere = World { way_back, ..World::new(kind, &[There]) };
            elsewhere.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
            let world = World { way_back, ..World::new(kind, &[Here]) };
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
            assert_eq!((world.entries(), world.count(EdgeCounter::Left)), (0, 1));
        }
    }
}

/// A second network, or a tunnel: what endpoints answer comes in by it, and bears its own address of the node.
#[test]
fn a_flow_bears_the_address_of_the_device_by_which_it_leaves() {
    for kind in KINDS {
        for flags in [COVERED, ANSWERS] {
            let mut world = World { way_back: Some(8), ..World::new(kind, &[There]) };
            let [of_the_other, own] = [Far, Quiet].map(|who| kind.address(who));
            let (own_v4, own_v6) = if kind.v6 { (of_the_other, own) } else { (own, of_the_other) };
            world.tables.devices.insert(8, EdgeDevice { flags, own_v4, own_v6 });
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Quiet:50000 > There:8080");
            world.check_in(&kind.next((There, 8080), (Quiet, 50_000)), "sent Vip:80 > Client:4000");
        }
    }
}

/// Its answers come in by that device and are given to the client's. One here whose answers leave by it is another matter.
#[test]
fn a_device_with_the_program_for_answers_alone_is_none_by_which_they_may_leave() {
    for kind in KINDS {
        let own = kind.address(Node);
        let device = EdgeDevice { flags: ANSWERS, own_v4: own, own_v6: own };
        for (endpoint, told) in [(There, "sent Node:50000 > There:8080"), (Here, "left")] {
            let mut world = World { way_back: Some(8), ..World::new(kind, &[endpoint]) };
            world.tables.devices.insert(8, device);
            world.check_in(&kind.first((Client, 4000), (Vip, 80)), told);
        }
    }
}

#[test]
fn where_the_meaning_forbids_another_source_a_distant_endpoint_is_left_to_the_packet_filter() {
    for kind in KINDS {
        let mut world = World::new(kind, &[There]);
        world.rules(Vip, FORWARD);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        assert_eq!(world.entries(), 0);
    }
}

#[test]
fn pods_have_rules_and_a_list_of_their_own() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]).with_pods();
        world.check_in(&kind.first((There, 4000), (Vip, 80)), "dropped");
        let pods = Frontend {
            outside: 9,
            pod: 1,
            sources: 0,
            rules: DROP_FLOW | BOTH << POD_RULES,
            service: SERVICE,
        };
        world.put(Vip, 80, pods);
        world.check_in(&kind.first((There, 4000), (Vip, 80)), "sent There:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "dropped");
        let expected = Traffic { opened: 1, refused: 0, left: 2 };
        assert_eq!(world.tables.traffic.borrow().get(&SERVICE), Some(&expected), "by service port, too");
    }
}

#[test]
fn without_a_range_of_pods_everybody_is_outside() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((There, 4000), (Vip, 80)), "sent There:4000 > Here:8080");
    }
}

#[test]
fn only_sources_in_a_range_are_let_in_where_there_are_ranges() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.put(Vip, 80, Frontend { outside: 1, pod: 1, sources: 5, rules: BOTH, service: SERVICE });
        world.let_in(5, Client, if kind.v6 { 64 } else { 24 });
        // Somebody else's ranges.
        world.let_in(4, Stranger, 0);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Router, 4000), (Vip, 80)), "sent Router:4000 > Here:8080");
        world.check_in(&kind.first((Stranger, 4000), (Vip, 80)), "dropped");
        assert_eq!(world.count(EdgeCounter::SourceRefused), 1);
        let expected = Traffic { opened: 2, refused: 1, left: 0 };
        assert_eq!(world.tables.traffic.borrow().get(&SERVICE), Some(&expected), "by service port, too");
        world.let_in(5, Stranger, if kind.v6 { 128 } else { 32 });
        world.check_in(&kind.first((Stranger, 4000), (Vip, 80)), "sent Stranger:4000 > Here:8080");
    }
}

#[test]
fn node_ports_answer_at_the_nodes_own_addresses_that_are_meant_and_at_no_other() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.rules(Node, BOTH);
        world.check_in(&kind.first((Client, 4000), (Node, 80)), "sent Client:4000 > Here:8080");
        world.check_out(&kind.next((Here, 8080), (Client, 4000)), "passed Node:80 > Client:4000");
        for who in [Quiet, Stranger, There] {
            world.check_in(&kind.first((Client, 4000), (who, 80)), "left");
        }
        world.check_in(&kind.first((Client, 4000), (Node, 81)), "left");
    }
}

#[test]
fn an_address_of_a_service_counts_before_a_node_port() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.rules(Node, DROP_FLOW);
        let key = dataplane_ebpf::abi::FrontendKey {
            address: kind.address(Node),
            port: crate::world::network(80),
            protocol: kind.protocol.into(),
        };
        let frontend = Frontend { outside: 1, pod: 0, sources: 0, rules: BOTH, service: SERVICE };
        world.tables.frontends.insert(key, frontend);
        world.check_in(&kind.first((Client, 4000), (Node, 80)), "sent Client:4000 > Here:8080");
    }
}

#[test]
fn what_is_to_be_dropped_vanishes_and_what_is_to_be_refused_is_left() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.rules(Vip, DROP_FLOW);
        world.rules(Twin, 0);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "dropped");
        world.check_in(&kind.first((Client, 4000), (Twin, 80)), "left");
        assert_eq!((world.entries(), world.counted()), (0, vec![(EdgeCounter::NoLocalEndpoint, 1)]));
    }
}

#[test]
fn what_claims_to_come_from_the_node_is_left() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.rules(Twin, DROP_FLOW);
        for (from, to) in [(Node, Vip), (Quiet, Vip), (Node, Twin)] {
            world.check_in(&kind.first((from, 4000), (to, 80)), "left");
        }
        assert_eq!(world.counted(), []);
    }
}

#[test]
fn a_list_without_endpoints_or_with_holes_is_left_to_the_packet_filter() {
    for kind in KINDS {
        let mut world = World::new(kind, &[]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        world.list(2, &[Here], &[]);
        world.tables.targets.clear();
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "left");
        assert_eq!((world.entries(), world.count(EdgeCounter::Left)), (0, 2));
    }
}

#[test]
fn flows_are_spread_over_all_endpoints() {
    for kind in KINDS {
        let all = [Here, Who::Near, There, Who::Far];
        let mut world = World::new(kind, &all);
        world.side().ports = 10_000;
        let mut got = [0; 4];
        for port in 2000..2400 {
            world.tables.random.set(u32::from(port).wrapping_mul(0x9e37_79b9));
            let line = world.line(world.come_in(&kind.first((Client, port), (Vip, 80))));
            for (times, who) in got.iter_mut().zip(all) {
                *times += u32::from(line.ends_with(&format!("> {who:?}:8080")));
            }
        }
        assert_eq!(got.iter().sum::<u32>(), 400);
        assert!(got.iter().all(|times| *times > 60), "{got:?}");
    }
}

#[test]
fn one_client_port_reaches_one_endpoint_by_two_addresses_of_the_service() {
    for kind in KINDS {
        // Answers to the second would bear the first's address, or the other way round.
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4000), (Twin, 80)), "left");
        world.check_out(&kind.packet((Here, 8080), (Client, 4000), ACK), "passed Vip:80 > Client:4000");
        assert_eq!((world.entries(), world.count(EdgeCounter::NoPort)), (2, 1));
    }
}

#[test]
fn one_client_port_that_reaches_one_endpoint_by_two_ports_of_an_address_does_not_lose_the_first() {
    for kind in KINDS {
        let mut world = World::new(kind, &[Here]);
        world.put(Vip, 81, Frontend { outside: 1, pod: 1, sources: 0, rules: BOTH, service: SERVICE });
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.check_in(&kind.first((Client, 4000), (Vip, 81)), "left");
        world.check_out(&kind.packet((Here, 8080), (Client, 4000), ACK), "passed Vip:80 > Client:4000");
    }
}

#[test]
fn what_an_earlier_flow_between_the_same_ends_left_behind_is_taken_over() {
    for kind in KINDS {
        let world = World::new(kind, &[Here]);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        world.tables.flows.borrow_mut().retain(|_, flow| flow.marks & dataplane_ebpf::abi::REPLY != 0);
        world.check_in(&kind.first((Client, 4000), (Vip, 80)), "sent Client:4000 > Here:8080");
        assert_eq!(world.entries(), 2);
    }
}
