//! Flows of endpoints are counted by the way they came, in tables of any size.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice::backend::conntrack::Usage;
use sluice::backend::survey::{Finder, look};
use sluice::drain::{Asked, Flows, Subject, Tally};
use sluice::model::{Family, Protocol, ServiceName, ServicePortName};

use crate::flows::{Flow, Table, Zone};
use crate::netns::inside;

const TCP: u8 = 6;
const UDP: u8 = 17;

const SERVICE: &str = "10.96.0.10:80";
const AT_NODE: &str = "10.0.0.1:30080";
const ENDPOINT: &str = "10.1.0.1:8080";
const OTHER: &str = "10.1.0.2:8080";
const SERVICE6: &str = "[fd00:96::a]:80";
const ENDPOINT6: &str = "[fd00:1::1]:8080";

/// Flows in a table that is called large.
const MANY: u64 = 200_000;
/// For that many; ten times and more what it takes without optimization, so that only a cost that grows faster than the table
/// exceeds it.
const BOUND: Duration = Duration::from_secs(60);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn subject(family: Family, service: &str, endpoint: &str) -> Subject {
    let port = ServicePortName {
        service: ServiceName::new("default", "web"),
        port: "http".into(),
        protocol: Protocol::Tcp,
        family,
    };
    let asked = Asked { addresses: [at(service)].into(), node_port: Some(30_080) };
    Subject { port, endpoint: at(endpoint), asked: Arc::new(asked) }
}

fn flow(protocol: u8, port: u16, asked: &str, answers: &str) -> Flow {
    let (asked, answers) = (at(asked), at(answers));
    let client = match Family::of(asked.ip()) {
        Family::V4 => SocketAddr::from(([10, 0, 0, 9], port)),
        Family::V6 => SocketAddr::from(([0xfd00, 1, 0, 0, 0, 0, 0, 9], port)),
    };
    Flow { protocol, client, asked, answers, zone: Zone::None }
}

/// What is found of the endpoints, where nobody ever installed anything.
fn counted(subjects: &[Subject]) -> Vec<Flows> {
    let mut finder = Finder::of(subjects.iter().cloned());
    let look = look(Path::new("/nowhere"), &mut finder);
    look.counted(&finder, None).into_iter().map(|(_, _, flows)| flows).collect()
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn flows_are_counted_by_the_way_they_came() {
    let found = inside(|| {
        Table::open().put(&[
            flow(TCP, 1, SERVICE, ENDPOINT),
            flow(TCP, 2, SERVICE, ENDPOINT),
            flow(TCP, 3, AT_NODE, ENDPOINT),
            flow(TCP, 4, ENDPOINT, ENDPOINT),
            flow(TCP, 5, SERVICE, OTHER),
            flow(TCP, 6, "10.96.0.11:80", ENDPOINT),
            flow(UDP, 7, SERVICE, ENDPOINT),
            flow(TCP, 8, SERVICE6, ENDPOINT6),
        ]);
        counted(&[subject(Family::V4, SERVICE, ENDPOINT), subject(Family::V6, SERVICE6, ENDPOINT6)])
    });
    let four =
        Flows { socket: Tally::of(0), edge: Tally::of(0), nftables: Tally::of(3), direct: Tally::of(1) };
    let six = Flows { nftables: Tally::of(1), direct: Tally::of(0), ..four.clone() };
    assert_eq!(found, [four, six]);
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn the_oldest_is_known_where_the_kernel_keeps_times_and_only_of_flows_since() {
    let found = inside(|| {
        // Of the namespace that this thread is in, which ends with it.
        fs::write("/proc/sys/net/netfilter/nf_conntrack_timestamp", "1").unwrap();
        Table::open().put(&[flow(TCP, 1, SERVICE, ENDPOINT), flow(TCP, 2, SERVICE, ENDPOINT)]);
        let with = counted(&[subject(Family::V4, SERVICE, ENDPOINT)]);
        fs::write("/proc/sys/net/netfilter/nf_conntrack_timestamp", "0").unwrap();
        Table::open().put(&[flow(TCP, 3, SERVICE, ENDPOINT)]);
        [with, counted(&[subject(Family::V4, SERVICE, ENDPOINT)])].concat()
    });
    let oldest: Vec<Option<u64>> = found.iter().map(|flows| flows.nftables.oldest_seconds).collect();
    assert!(oldest[0].is_some_and(|seconds| seconds < 60), "{oldest:?}");
    assert_eq!(oldest[1], None, "one has no time: it may be the oldest");
}

#[test]
#[ignore = "needs root: cargo xtask test kernel"]
fn a_large_table_is_gone_through_in_bounded_time() {
    let max = inside(|| Usage::read().unwrap().max);
    let many = u32::try_from(MANY.min(max / 4 * 3)).unwrap();
    let numbered = |number: u32| {
        let client = SocketAddr::from((Ipv4Addr::from(0x0a00_1000 + number), 40_000));
        let answers = if number.is_multiple_of(1000) { ENDPOINT } else { OTHER };
        Flow { client, ..flow(TCP, 0, SERVICE, answers) }
    };
    let flows: Vec<Flow> = (0..many).map(numbered).collect();
    let (found, took) = inside(|| {
        Table::open().put(&flows);
        let began = Instant::now();
        (counted(&[subject(Family::V4, SERVICE, ENDPOINT)]), began.elapsed())
    });
    assert_eq!(found[0].nftables.flows, Some(u64::from(many.div_ceil(1000))));
    assert!(took < BOUND, "{took:?}");
}
