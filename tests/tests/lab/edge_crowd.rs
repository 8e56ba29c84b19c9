//! Very many flows at once, and more than there are ports for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use aya::maps::{HashMap as KernelMap, Map, MapData};
use dataplane_ebpf::abi::{EDGE_VERSION, FLOWS, Flow, FlowKey};
use lab::agent::Echo;
use lab::link::batch;
use lab::manifest::State;
use lab::{Node, Pod, wait};
use nix::errno::Errno;
use nix::sys::socket::sockopt::RcvBufForce;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, setsockopt, socket,
};

use crate::stage::PORT;
use crate::stream::Stream;
use crate::town::{FAMILIES, NODE_PORT, PATIENCE, Town, count, edge, node_port, own};

/// So many flows are alive at once.
const FLOW_COUNT: u32 = 100_000;
/// So many of their datagrams are on their way at once: less than a server's socket takes.
const WINDOW: usize = 96;
/// Addresses of clients: so many, from here, behind the node that asks.
const CLIENTS: u32 = u32::from_be_bytes([172, 20, 0, 0]);
const CLIENT_COUNT: u32 = 1024;
const FIRST_PORT: u16 = 2000;

/// Clients without number, none of whom is really there: their datagrams are put into the node that asks, and what comes for
/// them is seen there.
pub(crate) struct Crowd {
    mouth: OwnedFd,
    ears: OwnedFd,
    to: SocketAddrV4,
}

impl Crowd {
    pub(crate) fn new(town: &Town) -> Self {
        let via = format!("route add 172.20.0.0/16 via {} dev n3\n", town.asker.v4());
        batch(town.stage.lab.wire().netns(), &via).unwrap();
        batch(town.asker.netns(), "route add blackhole 172.20.0.0/16\n").unwrap();
        let open = || -> Result<(OwnedFd, OwnedFd)> {
            let kind = (SockType::Raw, SockFlag::SOCK_CLOEXEC);
            let mouth = socket(AddressFamily::Inet, kind.0, kind.1, SockProtocol::Raw)?;
            let ears = socket(AddressFamily::Packet, kind.0, kind.1, SockProtocol::EthAll)?;
            setsockopt(&ears, RcvBufForce, &(64 << 20))?;
            Ok((mouth, ears))
        };
        let (mouth, ears) = town.asker.netns().run(open).unwrap();
        Self { mouth, ears, to: SocketAddrV4::new(town.node.v4(), NODE_PORT) }
    }

    /// Who answers each flow. A datagram that is lost is sent again.
    pub(crate) fn ask(&self, flows: impl Iterator<Item = u32>) -> BTreeMap<u32, String> {
        let all: Vec<u32> = flows.collect();
        let mut answers = BTreeMap::new();
        for window in all.chunks(WINDOW) {
            for _ in 0..5 {
                let missing: Vec<u32> =
                    window.iter().copied().filter(|flow| !answers.contains_key(flow)).collect();
                if missing.is_empty() {
                    break;
                }
                missing.iter().for_each(|flow| self.send(*flow));
                self.read(&mut answers, missing.len());
            }
        }
        answers
    }

    fn send(&self, flow: u32) {
        let client = (CLIENTS + flow % CLIENT_COUNT).to_be_bytes();
        let port = FIRST_PORT + u16::try_from(flow / CLIENT_COUNT).unwrap();
        // The kernel fills in what is zero of the IP header: number and checksum. UDP without a checksum.
        let head = [0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0];
        let [ports, lengths] = [[port, self.to.port()], [9, 0]].map(|two| two.map(u16::to_be_bytes).concat());
        let packet = [&head[..], &client, &self.to.ip().octets(), &ports, &lengths, b"?"].concat();
        sendto(self.mouth.as_raw_fd(), &packet, &SockaddrIn::from(self.to), MsgFlags::empty()).unwrap();
    }

    /// Reads so many answers, or until none has come for a while.
    fn read(&self, answers: &mut BTreeMap<u32, String>, count: usize) {
        let (mut frame, mut left) = ([0; 2048], count);
        let mut quiet = Instant::now();
        while left > 0 && quiet.elapsed() < Duration::from_millis(300) {
            match recv(self.ears.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => {
                    if let Some((flow, name)) = self.answer(&frame[..length]) {
                        answers.insert(flow, name);
                        left -= 1;
                        quiet = Instant::now();
                    }
                }
                Err(Errno::EAGAIN) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Which flow a frame answers, and who sent it.
    fn answer(&self, frame: &[u8]) -> Option<(u32, String)> {
        let ip = frame.get(14..)?;
        let four = |at: usize| ip.get(at..).and_then(|rest| rest.first_chunk::<4>()).copied();
        let port = |at: usize| {
            ip.get(at..).and_then(|rest| rest.first_chunk::<2>()).map(|two| u16::from_be_bytes(*two))
        };
        let client =
            u32::from_be_bytes(four(16)?).checked_sub(CLIENTS).filter(|client| *client < CLIENT_COUNT)?;
        let is_ours = frame.get(12..14)? == [8, 0] && *ip.get(9)? == 17 && port(20)? == self.to.port();
        let from = Ipv4Addr::from(four(12)?);
        let number = port(22)?.checked_sub(FIRST_PORT).filter(|_| is_ours && from == *self.to.ip())?;
        let echo: Echo = serde_json::from_slice(ip.get(28..)?).ok()?;
        Some((client + u32::from(number) * CLIENT_COUNT, echo.name))
    }
}

/// Makes every flow of a node as old as this.
fn age(node: &Node, seconds: u32) {
    let pin = node.pin_dir().join(format!("edge-v{EDGE_VERSION}")).join(FLOWS);
    let map = Map::HashMap(MapData::from_pin(pin).unwrap());
    let mut map: KernelMap<_, FlowKey, Flow> = map.try_into().unwrap();
    let all: Vec<(FlowKey, Flow)> = map.iter().filter_map(Result::ok).collect();
    for (key, flow) in all {
        let older = Flow { seen: flow.seen.saturating_sub(seconds), ..flow };
        // One that has gone meanwhile is not put back.
        let _ = map.insert(key, older, EXIST);
    }
}

/// `BPF_EXIST`.
const EXIST: u64 = 2;

/// Lines of `sluice flows`, and how long it took.
fn listed(node: &Node) -> (usize, Duration) {
    let began = Instant::now();
    let output = node.sluice(&["flows"]).unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.iter().filter(|byte| **byte == b'\n').count();
    (lines, began.elapsed())
}

#[test]
fn a_hundred_thousand_flows_keep_their_endpoints_are_listed_and_go_in_time() {
    let town = Town::new();
    let mut daemon = town.daemon(&town.node, &["--edge-flows=120000", "--snat-ports=1024-62000"]);
    // So many that there are ports enough for those of the one elsewhere.
    let more = town.stage.backends(&["a", "b", "c", "d", "e", "f"]);
    let mut endpoints: Vec<&Pod> =
        more.iter().map(|backend| &backend.pod).chain([&town.here, &town.there]).collect();
    town.web(&endpoints);
    let crowd = Crowd::new(&town);
    // The edge's maps are written after the socket layer's, which was waited for.
    wait::until("the edge to serve", PATIENCE, || {
        crowd.ask(0..1);
        ensure!(count(&town.node, "opened") == 1, "{}", edge(&town.node));
        Ok(())
    })
    .unwrap();
    let began = Instant::now();
    let before = crowd.ask(0..FLOW_COUNT);
    let asked = began.elapsed();
    assert_eq!(before.len(), FLOW_COUNT as usize, "{}", edge(&town.node));
    assert_eq!(count(&town.node, "opened"), u64::from(FLOW_COUNT), "{}", edge(&town.node));

    let late = town.node.pod("late").unwrap();
    let _server = late.serve(PORT).unwrap();
    daemon.kill9().unwrap();
    endpoints.insert(0, &late);
    let state = |pod: &&Pod| if pod.name() == "there" { State::Draining } else { State::Ready };
    let changed: Vec<(&Pod, State)> = endpoints.iter().map(|pod| (*pod, state(pod))).collect();
    town.put(&changed, |_| {});
    daemon.restart().unwrap();
    town.wait(&town.node, 8);
    let after = crowd.ask(0..FLOW_COUNT);
    assert!(after == before, "each has the endpoint that it had");
    assert_eq!((count(&town.node, "moved"), count(&town.node, "opened")), (0, u64::from(FLOW_COUNT)));

    let (lines, took) = listed(&town.node);
    assert_eq!(lines, FLOW_COUNT as usize + 1, "and a line above them");
    // A second, were it not for other tests and a build without optimization.
    assert!(took < 3 * PATIENCE, "{took:?}");

    // Conversations go on while the others are swept out.
    let stream = Stream::start(&town.asker, &FAMILIES.map(|v6| node_port(&town.node, v6)), 400);
    age(&town.node, 200);
    let began = Instant::now();
    wait::until("the flows to be removed", 2 * PATIENCE, || {
        let entries = edge(&town.node)["flowEntries"].as_u64();
        ensure!(entries == Some(4), "{entries:?} entries");
        Ok(())
    })
    .unwrap();
    eprintln!("asked in {asked:?}, listed in {took:?}, gone after {:?}", began.elapsed());
    for lane in stream.stop() {
        assert_eq!(lane.lost(), 0, "{:?} of {}", lane.gaps(), lane.sent());
    }
    daemon.no_errors().unwrap();
}

/// A conversation of datagrams with a node's port.
fn converse(town: &Town, to: SocketAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let open = || -> Result<UdpSocket> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        Ok(socket)
    };
    town.asker.netns().run(open).unwrap()
}

/// Whom the endpoint sees.
fn source(socket: &UdpSocket) -> SocketAddr {
    let mut answer = [0; 1024];
    socket.send(b"?").unwrap();
    let length = socket.recv(&mut answer).unwrap();
    serde_json::from_slice::<Echo>(&answer[..length]).unwrap().source.parse().unwrap()
}

#[test]
fn a_flow_for_which_no_port_is_left_is_served_by_nftables_and_the_others_go_on() {
    let town = Town::new();
    let daemon = town.daemon(&town.node, &["--snat-ports=2000-2003"]);
    town.web(&[&town.there]);
    let ports = 2000..=2003;
    for v6 in FAMILIES {
        let (to, node) = (node_port(&town.node, v6), own(&town.node, v6));
        let all: Vec<UdpSocket> = (0..4).map(|_| converse(&town, to)).collect();
        let sources: Vec<SocketAddr> = all.iter().map(source).collect();
        assert!(sources.iter().all(|at| at.ip() == node && ports.contains(&at.port())), "{sources:?}");
        assert_eq!(count(&town.node, "noPort"), if v6 { 1 } else { 0 });

        let fifth = converse(&town, to);
        let other = source(&fifth);
        assert!(
            other.ip() == node && !ports.contains(&other.port()),
            "nftables has ports of its own: {other}"
        );
        assert_eq!(count(&town.node, "noPort"), if v6 { 2 } else { 1 }, "{}", edge(&town.node));
        assert_eq!(all.iter().map(source).collect::<Vec<_>>(), sources, "the others go on");
        assert_eq!(count(&town.node, "opened"), if v6 { 8 } else { 4 });
    }
    daemon.no_errors().unwrap();
}
