//! Session affinity in the kernel: the same tables, the same calls and the same time on the host.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use dataplane_ebpf::host::HostTables;

use crate::rig::Rig;
use crate::twin::{Builder, TCP, Twin, UDP, kinds, pod, vip};

/// Seconds that a client keeps its endpoint.
const TIMEOUT: u32 = 10;
const SECOND: u64 = 1_000_000_000;

/// One service for each protocol, with so many endpoints that chance alone does not find one twice.
fn affine(is_v6: bool, endpoints: std::ops::RangeInclusive<u8>) -> HostTables {
    // Ids that no other range has.
    let mut builder = Builder { next_backend: u32::from(*endpoints.start()) * 100, ..Builder::default() };
    let many: Vec<_> = endpoints.map(|number| pod(number, 7000, is_v6)).collect();
    for (id, protocol) in [(1, TCP), (2, UDP)] {
        builder.service(id, vip(1, is_v6), protocol, &many);
        builder.stick(id, TIMEOUT);
    }
    builder.tables
}

/// Connections of new sockets, one after the other.
fn connect(rig: &mut Rig, tables: &HostTables, times: usize) -> BTreeSet<SocketAddr> {
    let to = vip(1, false);
    (0..times).filter_map(|_| Twin::open(rig, tables, TCP, false).connect(to)).collect()
}

fn age(rig: &mut Rig, tables: &HostTables, seconds: u64) {
    rig.age(seconds);
    tables.now.set(tables.now.get() + seconds * SECOND);
}

fn check_kinds(is_v6: bool) {
    let (mut rig, tables) = (Rig::new(), affine(is_v6, 1..=32));
    for (protocol, socket_v6) in kinds(is_v6) {
        let mut went = BTreeSet::new();
        for _ in 0..4 {
            let mut twin = Twin::open(&mut rig, &tables, protocol, socket_v6);
            went.extend(twin.connect(vip(1, is_v6)));
        }
        if protocol == UDP {
            went.extend(Twin::open(&mut rig, &tables, protocol, socket_v6).send(vip(1, is_v6)));
        }
        assert_eq!(went.len(), 1, "{protocol} {socket_v6}: {went:?}");
    }
    assert_eq!(rig.records().len(), 2, "one record for each service port");
}

#[test]
fn a_client_gets_the_endpoint_it_had_by_every_kind_of_socket() {
    check_kinds(false);
    check_kinds(true);
}

#[test]
fn a_client_that_comes_in_time_keeps_its_endpoint_and_one_that_comes_late_does_not() {
    let (mut rig, tables) = (Rig::new(), affine(false, 1..=32));
    let first = connect(&mut rig, &tables, 1);
    for _ in 0..3 {
        age(&mut rig, &tables, u64::from(TIMEOUT) - 1);
        assert_eq!(connect(&mut rig, &tables, 1), first);
    }
    let mut late = BTreeSet::new();
    for _ in 0..8 {
        age(&mut rig, &tables, u64::from(TIMEOUT) + 1);
        late.extend(connect(&mut rig, &tables, 1));
    }
    assert!(late.len() > 1, "{late:?}");
}

#[test]
fn a_client_whose_endpoint_left_the_list_gets_another_and_keeps_that() {
    let (mut rig, tables) = (Rig::new(), affine(false, 1..=8));
    let first = connect(&mut rig, &tables, 4);
    let others = affine(false, 11..=42);
    let second = connect(&mut rig, &others, 4);
    assert!(second.len() == 1 && second.is_disjoint(&first), "{first:?} {second:?}");
}

#[test]
fn only_the_first_datagram_of_a_socket_begins_the_time_anew() {
    let (mut rig, tables) = (Rig::new(), affine(false, 1..=32));
    let mut twin = Twin::open(&mut rig, &tables, UDP, false);
    let first = twin.send(vip(1, false));
    let records = twin.rig.records();
    // Longer than the clock's tick, at most 10 ms.
    std::thread::sleep(Duration::from_millis(25));
    assert_eq!((twin.send(vip(1, false)), twin.rig.records()), (first, records.clone()));
    let mut twin = Twin::open(&mut rig, &tables, UDP, false);
    assert_eq!(twin.send(vip(1, false)), first);
    assert_ne!(twin.rig.records(), records);
}

#[test]
fn another_namespace_is_another_client() {
    let (mut rig, tables) = (Rig::new(), affine(false, 1..=32));
    connect(&mut rig, &tables, 2);
    assert_eq!(rig.records().len(), 1);
    rig.move_out();
    let mut went = BTreeSet::new();
    for _ in 0..4 {
        let mut twin = Twin::open(&mut rig, &tables, TCP, false);
        twin.host.client = 2;
        went.extend(twin.connect(vip(1, false)));
    }
    assert_eq!((went.len(), rig.records().len()), (1, 2));
}
