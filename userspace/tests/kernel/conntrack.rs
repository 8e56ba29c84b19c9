//! Stale flows are removed from the kernel's table, and no others.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use sluice::backend::conntrack::{Cleanup, Conntrack, Usage};
use sluice::model::Family;

use crate::flows::{Flow, Table, Zone};
use crate::netns::inside;

const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

const SERVICE: &str = "10.96.0.10:53";
const AT_NODE: &str = "10.0.0.1:30053";
const SERVING: &str = "10.1.0.1:5353";
const GONE: &str = "10.1.0.2:5353";

const SERVICE6: &str = "[fd00:96::a]:53";
const AT_NODE6: &str = "[fd00::1]:30053";
const SERVING6: &str = "[fd00:1::1]:5353";
const GONE6: &str = "[fd00:1::2]:5353";

/// Flows in a table that is called large.
const MANY: u64 = 100_000;
/// For that many; a hundred times what it takes, so that only a cost that grows faster than the table exceeds it.
const BOUND: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn stale_flows_over_udp_are_removed_and_no_others() {
    let stale = [
        flow(UDP, 1, SERVICE, GONE),
        flow(UDP, 2, SERVICE, SERVICE),
        flow(UDP, 3, AT_NODE, GONE),
        flow(UDP, 4, AT_NODE, AT_NODE),
        flow(UDP, 5, SERVICE6, GONE6),
        flow(UDP, 6, AT_NODE6, AT_NODE6),
    ];
    let others = [
        flow(UDP, 11, SERVICE, SERVING),
        flow(UDP, 12, AT_NODE, SERVING),
        flow(TCP, 1, SERVICE, GONE),
        flow(TCP, 3, AT_NODE, GONE),
        flow(SCTP, 1, SERVICE, GONE),
        flow(SCTP, 3, AT_NODE, GONE),
        flow(UDP, 13, "10.96.0.11:53", GONE),
        flow(UDP, 14, "10.96.0.10:54", GONE),
        flow(UDP, 15, "203.0.113.7:30053", "203.0.113.7:30053"),
        flow(UDP, 16, SERVICE6, SERVING6),
        flow(UDP, 17, "[fd00:96::b]:53", GONE6),
        flow(TCP, 5, SERVICE6, GONE6),
    ];
    check(&[four(), six()], &stale, &others);
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn a_family_without_a_service_is_not_looked_at() {
    let (in_four, in_six) = (flow(UDP, 1, SERVICE, GONE), flow(UDP, 1, SERVICE6, GONE6));
    check(&[four()], &[in_four], &[in_six]);
    check(&[six()], &[in_six], &[in_four]);
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn while_nobody_serves_nothing_is_removed() {
    let nobody = [four(), six()].map(|cleanup| Cleanup { endpoints: BTreeSet::new(), ..cleanup });
    check(&nobody, &[], &[flow(UDP, 1, SERVICE, GONE), flow(UDP, 1, AT_NODE6, GONE6)]);
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn a_flow_in_a_zone_is_told_from_the_same_flow_in_another() {
    let served = flow(UDP, 1, SERVICE, SERVING);
    let gone = flow(UDP, 1, SERVICE, GONE);
    let stale = [
        Flow { zone: Zone::Both(7), ..gone },
        Flow { zone: Zone::Original(8), ..gone },
        Flow { zone: Zone::Reply(9), ..flow(UDP, 2, SERVICE, GONE) },
    ];
    let others = [
        served,
        Flow { zone: Zone::Both(6), ..served },
        Flow { zone: Zone::Original(5), ..flow(UDP, 3, SERVICE, SERVING) },
        Flow { zone: Zone::Reply(9), ..flow(UDP, 4, SERVICE, SERVING) },
    ];
    check(&[four()], &stale, &others);
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn cleaning_twice_finds_nothing_the_second_time() {
    inside(|| {
        Table::open().put(&[flow(UDP, 1, SERVICE, GONE)]);
        let mut conntrack = Conntrack::open().unwrap();
        let counts = [(); 2].map(|()| conntrack.clean(&[four()], &node()).unwrap());
        assert_eq!(counts, [1, 0]);
    });
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn of_two_who_clean_at_once_each_flow_is_removed_by_one_and_neither_fails() {
    let flows: Vec<Flow> = (1..20_000).map(|port| flow(UDP, port, SERVICE, GONE)).collect();
    let counts = inside(|| {
        Table::open().put(&flows);
        let together = Barrier::new(2);
        let clean = || {
            let mut conntrack = Conntrack::open().unwrap();
            together.wait();
            conntrack.clean(&[four()], &node()).unwrap()
        };
        thread::scope(|scope| {
            let other = scope.spawn(clean);
            [clean(), other.join().unwrap()]
        })
    });
    assert_eq!(counts.iter().sum::<usize>(), flows.len(), "{counts:?}");
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn a_large_table_is_cleaned_in_bounded_time() {
    let max = inside(|| Usage::read().unwrap().max);
    let many = u32::try_from(MANY.min(max / 2)).unwrap();
    let numbered = |number: u32| {
        let client = SocketAddr::from((Ipv4Addr::from(0x0a00_1000 + number), 40_000));
        let (protocol, answers) = match number % 4 {
            0 => (UDP, GONE),
            1 => (UDP, SERVING),
            _ => (TCP, GONE),
        };
        Flow { client, ..flow(protocol, 0, SERVICE, answers) }
    };
    let flows: Vec<Flow> = (0..many).map(numbered).collect();
    let (stale, others): (Vec<_>, Vec<_>) =
        flows.into_iter().partition(|flow| flow.protocol == UDP && flow.answers == at(GONE));
    let began = Instant::now();
    check(&[four(), six()], &stale, &others);
    assert!(began.elapsed() < BOUND, "{:?}", began.elapsed());
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn the_table_says_how_full_it_is() {
    inside(|| {
        assert_eq!(Usage::read().unwrap().entries, 0);
        Table::open().put(&[flow(UDP, 1, SERVICE, GONE), flow(TCP, 1, SERVICE, GONE)]);
        let Usage { entries, max } = Usage::read().unwrap();
        assert_eq!(entries, 2);
        assert!(max > entries, "{max}");
    });
}

/// Of a table with both, only the stale flows are removed.
#[track_caller]
fn check(cleanups: &[Cleanup], stale: &[Flow], others: &[Flow]) {
    let (removed, left) = inside(|| {
        let table = Table::open();
        table.put(stale);
        table.put(others);
        assert_eq!(table.flows().len(), stale.len() + others.len());
        let removed = Conntrack::open().unwrap().clean(cleanups, &node()).unwrap();
        (removed, table.flows())
    });
    let expected: BTreeSet<Flow> = others.iter().copied().collect();
    let difference: Vec<&Flow> = left.symmetric_difference(&expected).take(10).collect();
    assert_eq!(difference, Vec::<&Flow>::new(), "left wrongly, or removed wrongly");
    assert_eq!(removed, stale.len());
}

fn four() -> Cleanup {
    Cleanup {
        family: Family::V4,
        frontends: [at(SERVICE)].into(),
        node_port: NonZeroU16::new(30_053),
        endpoints: [at(SERVING)].into(),
    }
}

fn six() -> Cleanup {
    Cleanup {
        family: Family::V6,
        frontends: [at(SERVICE6)].into(),
        endpoints: [at(SERVING6)].into(),
        ..four()
    }
}

fn node() -> BTreeSet<IpAddr> {
    [AT_NODE, AT_NODE6].map(|address| at(address).ip()).into()
}

/// A client's flow. Each has a port of its own, as answers are told apart by where they go.
fn flow(protocol: u8, port: u16, asked: &str, answers: &str) -> Flow {
    let (asked, answers) = (at(asked), at(answers));
    let client = match Family::of(asked.ip()) {
        Family::V4 => SocketAddr::from(([10, 0, 0, 9], port)),
        Family::V6 => SocketAddr::from(([0xfd00, 1, 0, 0, 0, 0, 0, 9], port)),
    };
    Flow { protocol, client, asked, answers, zone: Zone::None }
}

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}
