//! What the edge's program does with the first packet of a flow, found out by running it over one without sending it
//! (`BPF_PROG_TEST_RUN`). What a run writes is taken back, but for the counts.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use aya::maps::MapData;
use dataplane_ebpf::abi::{ClientKey, Flow, FlowKey, MASQUERADED, STAYS, Stay};
use dataplane_ebpf::datapath::edge::header::{pair, split};
use dataplane_ebpf::datapath::edge::life;
use etherparse::PacketBuilder;
use nix::ifaddrs::getifaddrs;

use super::super::ebpf::sys;
use super::super::ebpf::table::Table;
use super::hooks::{self, Direction};
use super::network::{self, Device};
use super::object::{broken, home};
use super::{books::service_number, flows, image};
use crate::backend::BackendError;
use crate::model::{Protocol, ServicePortName};

/// Whose flow, and to whom.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The client.
    pub client: IpAddr,
    /// Whom it names.
    pub address: SocketAddr,
    /// Over what: TCP or UDP.
    pub protocol: Protocol,
    /// The service port that is meant.
    pub service: ServicePortName,
}

/// What became of the packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// The device that they seemed to come in by.
    pub device: String,
    /// The program's id.
    pub program: u32,
    /// How many packets, each of a flow of its own, came to what.
    pub outcomes: BTreeMap<Outcome, u32>,
}

/// What can become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It goes to an endpoint, as if from this address of the node where one is named.
    Forward(SocketAddr, Option<IpAddr>),
    /// It vanishes.
    Drop,
    /// It goes on as it came: nftables has it.
    Left,
}

/// So many flows are tried, to see more than one endpoint.
const FLOWS: u16 = 16;
/// Their clients' ports begin here.
const FIRST_PORT: u16 = 61_000;
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;
/// Where `struct __sk_buff` has the index of the device.
const IFINDEX_AT: usize = 40;
/// What the kernel takes of it.
const CONTEXT: usize = 192;

/// Tries it. Without a program that can be tried: why.
pub fn run(pin_dir: &Path, trial: &Trial) -> Result<Result<Tried, String>, BackendError> {
    let home = home(pin_dir);
    let there = hooks::devices(&home)?;
    if there.is_empty() {
        return Ok(Err("there is no edge layer".to_owned()));
    }
    let network = network::read().map_err(BackendError::Network)?;
    let ours = |device: &&Device| there.contains(&device.index) && device.has_hardware_addresses;
    let Some((device, id)) =
        network.devices.iter().filter(ours).find_map(|device| Some((device, program(&home, device)?)))
    else {
        return Ok(Err(
            "its programs are on no device of this network namespace with hardware addresses".into()
        ));
    };
    let failed = |source| BackendError::Device { device: device.name.clone(), source };
    let rig = Rig {
        program: sys::program_by_id(id).map_err(failed)?,
        hardware: hardware_address(&device.name).map_err(failed)?,
        device: device.index,
        flows: flows::open(&home)?,
        stays: stays(&home)?,
    };
    let outcomes = rig.outcomes(trial).map_err(failed)?;
    Ok(Ok(Tried { device: device.name.clone(), program: id, outcomes }))
}

/// What a client got lately under session affinity, and how many seconds ago that counted last.
pub fn stay(
    pin_dir: &Path,
    client: IpAddr,
    service: &ServicePortName,
) -> Result<Option<(SocketAddr, u32)>, BackendError> {
    let home = home(pin_dir);
    if !home.join(STAYS).exists() {
        return Ok(None);
    }
    let stay = stays(&home)?.get(&client_key(client, service))?;
    let at = |stay: Stay| SocketAddr::new(image::ip(&stay.address), u16::from_be(stay.port as u16));
    Ok(stay.map(|stay| (at(stay), flows::now().saturating_sub(stay.used))))
}

fn program(home: &Path, device: &Device) -> Option<u32> {
    hooks::order(home, device.index, Direction::In).into_iter().find(|hung| hung.ours)?.program
}

fn stays(home: &Path) -> Result<Table<ClientKey, Stay>, BackendError> {
    let data = MapData::from_pin(home.join(STAYS)).map_err(|error| broken(STAYS, "open", error))?;
    Table::new(STAYS, data)
}

fn client_key(client: IpAddr, service: &ServicePortName) -> ClientKey {
    ClientKey { address: image::address(client), service: service_number(service) }
}

fn hardware_address(device: &str) -> io::Result<[u8; 6]> {
    let ours = getifaddrs()?.filter(|found| found.interface_name == device);
    let mut links = ours.filter_map(|found| found.address?.as_link_addr()?.addr());
    links.next().ok_or_else(|| io::ErrorKind::NotFound.into())
}

struct Rig {
    program: OwnedFd,
    hardware: [u8; 6],
    device: u32,
    flows: Table<FlowKey, Flow>,
    stays: Table<ClientKey, Stay>,
}

impl Rig {
    fn outcomes(&self, trial: &Trial) -> io::Result<BTreeMap<Outcome, u32>> {
        let mut outcomes = BTreeMap::new();
        for port in FIRST_PORT..FIRST_PORT + FLOWS {
            if let Some(outcome) = self.outcome(trial, port)? {
                *outcomes.entry(outcome).or_default() += 1;
            }
        }
        Ok(outcomes)
    }

    /// Nothing if there is such a flow already, which is not ours to touch.
    fn outcome(&self, trial: &Trial, port: u16) -> io::Result<Option<Outcome>> {
        let key = flow_key(trial, port);
        let client = client_key(trial.client, &trial.service);
        if self.flows.get(&key).map_err(io::Error::other)?.is_some() {
            return Ok(None);
        }
        let stay = self.stays.get(&client).map_err(io::Error::other)?;
        let mut context = [0; CONTEXT];
        context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&self.device.to_ne_bytes());
        let packet = packet(trial, port, self.hardware)?;
        let verdict = sys::test_run(self.program.as_fd(), &packet, &context)?;
        let flow = self.flows.get(&key).map_err(io::Error::other)?;
        if let Some(flow) = &flow {
            self.flows.remove(&[key, life::sibling(&key, flow)]).map_err(io::Error::other)?;
        }
        match stay {
            Some(stay) => self.stays.put(&[(client, stay)]).map_err(io::Error::other)?,
            None => self.stays.remove(&[client]).map_err(io::Error::other)?,
        }
        Ok(Some(match flow {
            Some(flow) => forwarded(&flow),
            None if verdict == SHOT => Outcome::Drop,
            None => Outcome::Left,
        }))
    }
}

fn forwarded(flow: &Flow) -> Outcome {
    let [_, to] = split(flow.ports).map(|port| u16::from_be(port as u16));
    let source = image::ip(&flow.source);
    let is_masqueraded = flow.marks & MASQUERADED != 0;
    Outcome::Forward(SocketAddr::new(image::ip(&flow.target), to), is_masqueraded.then_some(source))
}

fn flow_key(trial: &Trial, port: u16) -> FlowKey {
    FlowKey {
        source: image::address(trial.client),
        target: image::address(trial.address.ip()),
        ports: pair(image::network(port), image::network(trial.address.port())),
        protocol: u32::from(trial.protocol.number()),
    }
}

/// The first packet of a flow, as a frame.
fn packet(trial: &Trial, port: u16, to: [u8; 6]) -> io::Result<Vec<u8>> {
    const HOPS: u8 = 64;
    /// Administered locally, so nobody's.
    const FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];
    let frame = PacketBuilder::ethernet2(FROM, to);
    let ip = match (trial.client, trial.address.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => frame.ipv4(from.octets(), to.octets(), HOPS),
        (IpAddr::V6(from), IpAddr::V6(to)) => frame.ipv6(from.octets(), to.octets(), HOPS),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "client and address are of two families",
            ));
        }
    };
    let mut bytes = Vec::new();
    let written = match trial.protocol {
        Protocol::Udp => ip.udp(port, trial.address.port()).write(&mut bytes, b"sluice"),
        Protocol::Tcp | Protocol::Sctp => {
            ip.tcp(port, trial.address.port(), 1, u16::MAX).syn().write(&mut bytes, b"")
        }
    };
    written.map_err(io::Error::other)?;
    Ok(bytes)
}
