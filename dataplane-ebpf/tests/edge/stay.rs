//! Session affinity: a client gets the endpoint it had.

use dataplane_ebpf::abi::Frontend;

use crate::world::Who::{Client, Far, Here, Near, Stranger, There, Twin, Vip};
use crate::world::{KINDS, Kind, SERVICE, Who, World};

const TIMEOUT: u32 = 10;

/// Clients stay, and whoever gets an endpoint keeps its own address.
fn sticky(kind: Kind, endpoints: &[Who]) -> World {
    let mut world = World::new(kind, endpoints);
    world.stick(TIMEOUT);
    world.way = dataplane_ebpf::datapath::edge::Way::Ask(crate::world::HOP.device);
    world
}

/// Which endpoint a flow from this port gets.
fn ask(world: &World, from: (Who, u16), to: Who) -> String {
    world.tables.random.set(u32::from(from.1).wrapping_mul(0x9e37_79b9));
    let line = world.line(world.come_in(&world.kind.first(from, (to, 80))));
    let (_, target) = line.rsplit_once("> ").unwrap_or_else(|| panic!("{line}"));
    target.to_owned()
}

/// Those that so many flows get.
fn asked(world: &World, who: Who, to: Who, ports: std::ops::Range<u16>) -> Vec<String> {
    let mut got: Vec<_> = ports.map(|port| ask(world, (who, port), to)).collect();
    got.sort_unstable();
    got.dedup();
    got
}

const MANY: [Who; 4] = [Here, Near, There, Far];

#[test]
fn a_client_keeps_its_endpoint_by_every_address_of_the_service_port() {
    for kind in KINDS {
        let world = sticky(kind, &MANY);
        let first = asked(&world, Client, Vip, 3000..3001);
        assert_eq!(asked(&world, Client, Vip, 3001..3020), first);
        assert_eq!(asked(&world, Client, Twin, 3020..3040), first);
        assert_eq!(world.tables.stays.borrow().len(), 1);
    }
}

#[test]
fn a_client_keeps_its_endpoint_by_another_list_of_the_service_port() {
    for kind in KINDS {
        let mut world = sticky(kind, &MANY);
        let first = asked(&world, Client, Vip, 3000..3001);
        let state = world.tables.lists[&1];
        world.tables.lists.insert(2, state);
        for (mut key, target) in world.tables.targets.clone() {
            key.service = 2;
            world.tables.targets.insert(key, target);
        }
        for (mut key, member) in world.tables.servers.clone() {
            key.list = 2;
            world.tables.servers.insert(key, member);
        }
        world.put(Twin, 80, Frontend { outside: 2, pod: 2, sources: 0, rules: 5, service: SERVICE });
        assert_eq!(asked(&world, Client, Twin, 3020..3040), first);
    }
}

#[test]
fn without_affinity_nothing_is_remembered() {
    for kind in KINDS {
        let world = World::new(kind, &MANY);
        assert!(asked(&world, Client, Vip, 3000..3060).len() > 1);
        assert!(world.tables.stays.borrow().is_empty());
    }
}

#[test]
fn clients_are_told_apart() {
    for kind in KINDS {
        let world = sticky(kind, &MANY);
        let first = asked(&world, Client, Vip, 3000..3010);
        let mut others = std::collections::BTreeSet::new();
        for port in 3000..3030 {
            world.tables.stays.borrow_mut().retain(|key, _| key.address == kind.address(Client));
            others.insert(ask(&world, (Stranger, port), Vip));
        }
        assert!(first.len() == 1 && others.len() > 1, "{first:?} {others:?}");
    }
}

#[test]
fn a_client_that_comes_in_time_keeps_its_endpoint_and_one_that_comes_late_does_not() {
    for kind in KINDS {
        let world = sticky(kind, &MANY);
        let first = asked(&world, Client, Vip, 3000..3001);
        let seconds = &world.tables.seconds;
        for port in 3001..3020 {
            seconds.set(seconds.get() + TIMEOUT - 1);
            assert_eq!(asked(&world, Client, Vip, port..port + 1), first);
        }
        let mut late = std::collections::BTreeSet::new();
        for port in 3020..3050 {
            seconds.set(seconds.get() + TIMEOUT);
            late.insert(ask(&world, (Client, port), Vip));
        }
        assert!(late.len() > 1, "{late:?}");
    }
}

#[test]
fn a_client_whose_endpoint_left_the_list_gets_another_and_keeps_that() {
    for kind in KINDS {
        let mut world = sticky(kind, &[Here]);
        assert_eq!(asked(&world, Client, Vip, 3000..3002), ["Here:8080"]);
        world.list(2, &[Near, There, Far], &[Here]);
        let second = asked(&world, Client, Vip, 3002..3030);
        assert!(second.len() == 1 && second != ["Here:8080"], "{second:?}");
    }
}

#[test]
fn a_client_keeps_an_endpoint_that_has_another_place_in_the_list() {
    for kind in KINDS {
        let mut world = sticky(kind, &[Here]);
        assert_eq!(asked(&world, Client, Vip, 3000..3001), ["Here:8080"]);
        world.list(2, &[Near, There, Far, Here], &[]);
        assert_eq!(asked(&world, Client, Vip, 3001..3020), ["Here:8080"]);
    }
}
