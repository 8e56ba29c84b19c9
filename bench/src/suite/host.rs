//! The pure parts, in a plain loop: what a regression there would cost.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context as _, Result};
use dataplane_ebpf::abi::{Backend, Endpoint, INSIDE, Service, ServiceKey, Slot, SlotKey, State};
use dataplane_ebpf::datapath::choose::choose;
use dataplane_ebpf::datapath::socket::connect;
use dataplane_ebpf::host::{HostSocket, HostTables};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use sluice::desired::{self, Context};
use sluice::model::{Applied, Change, Cluster, Kind, ServiceName, parse};

use super::{Bench, size};
use crate::report::Title;
use crate::shapes::{self, ENDPOINTS};

const SUITE: &str = "host";
/// Calls of the datapath in one round.
const CALLS: u32 = 200_000;
/// Next of two calls' services: far away, so that no cache remembers.
const STRIDE: u32 = 7919;

pub(crate) fn run(bench: &mut Bench) -> Result<()> {
    let (services, rounds) = if bench.quick { (1_000, 5) } else { (10_000, 11) };
    let size = size(services);
    let tables = tables(services);
    let caller = HostSocket::new(6, Endpoint::from(shapes::address(0)));
    let objects = (0..services).map(objects).collect::<Result<Vec<_>>>()?;
    let mut cluster = Cluster::default();
    objects.iter().for_each(|pair| take(&mut cluster, pair));
    let mut add = |case: &str, unit, deed: &mut dyn FnMut() -> f64| {
        let figures: Vec<f64> = (0..rounds).map(|_| deed()).collect();
        let title = Title { suite: SUITE, case: format!("{case} {size}"), subject: "host", unit };
        bench.report.add(title.alone(&figures));
    };
    add("choose", "ns", &mut || {
        per_call(services, |key| _ = black_box(choose(&caller, &tables, &endpoint(key))))
    });
    add("connect", "ns", &mut || per_call(services, |key| _ = black_box(connected(&tables, key))));
    add("parse and take", "ms", &mut || millis(|| parse_all(&objects)));
    add("desired", "ms", &mut || millis(|| desired_all(&cluster)));
    add("desired, one service", "us", &mut || millis(|| desired_all(&cluster)) * 1e3 / f64::from(services));
    Ok(())
}

fn key(number: u32) -> ServiceKey {
    ServiceKey::new(&Endpoint::from(shapes::address(number)), 6)
}

/// What the kernel would hold.
fn tables(services: u32) -> HostTables {
    let mut tables = HostTables::default();
    for number in 0..services {
        tables.services.insert(key(number), Service { id: number, side: INSIDE });
        tables.states.insert(number, State { generation: 1, slots: ENDPOINTS, ..State::NONE });
        for index in 0..ENDPOINTS {
            let backend = number * ENDPOINTS + index + 1;
            let [_, a, b, c] = backend.to_be_bytes();
            let endpoint = Endpoint::v4([10, a, b, c], [0x1f, 0x90]);
            tables.slots.insert(SlotKey { service: number, generation: 1, index }, Slot { backend });
            tables.backends.insert(backend, Backend { endpoint, zero: [0; 2], service: number });
        }
    }
    tables
}

fn endpoint(key: ServiceKey) -> Endpoint {
    Endpoint { address: key.address, port: key.port }
}

fn connected(tables: &HostTables, key: ServiceKey) -> HostSocket {
    let mut socket = HostSocket::new(key.protocol, endpoint(key));
    let _verdict = connect(&mut socket, tables);
    socket
}

/// Nanoseconds of one call on one of the services.
fn per_call(services: u32, deed: impl Fn(ServiceKey)) -> f64 {
    let keys: Vec<ServiceKey> = (0..services).map(|turn| key(turn * STRIDE % services)).collect();
    let begin = Instant::now();
    keys.iter().cycle().take(CALLS as usize).for_each(|key| deed(*key));
    begin.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn millis<T>(deed: impl FnOnce() -> T) -> f64 {
    let begin = Instant::now();
    black_box(deed());
    begin.elapsed().as_secs_f64() * 1e3
}

type Objects = (v1::Service, EndpointSlice);

fn objects(number: u32) -> Result<Objects> {
    let service = serde_json::from_value(shapes::service(number)).context("no Service")?;
    Ok((service, serde_json::from_value(shapes::slice(number, ENDPOINTS)).context("no EndpointSlice")?))
}

fn take(cluster: &mut Cluster, (service, slice): &Objects) {
    let object = parse::reference(Kind::Service, &service.metadata);
    let (value, problems) = parse::service(service);
    cluster.take(Change::Service(Applied { object, value, problems }));
    let object = parse::reference(Kind::EndpointSlice, &slice.metadata);
    let (value, problems) = parse::slice(slice);
    cluster.take(Change::Slice(Applied { object, value, problems }));
}

fn parse_all(objects: &[Objects]) -> Cluster {
    let mut cluster = Cluster::default();
    objects.iter().for_each(|pair| take(&mut cluster, pair));
    cluster
}

fn desired_all(cluster: &Cluster) -> usize {
    let names: Vec<ServiceName> = cluster.names().cloned().collect();
    let context = Context::default();
    names.iter().map(|name| desired::of_service(cluster, &context, name).ports.len()).sum()
}
