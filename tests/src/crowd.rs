//! A crowd of flows in a node's connection tracking, so many that it is full. Only the table of that namespace is: the
//! kernel counts each namespace for itself, and the limit, which is everybody's, is only read.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
};

use crate::topology::{Node, Pod};

/// Where nobody is (RFC 2544): 65,536 addresses from here.
const NOWHERE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
/// Stands for the client's address in a message that is not finished. It is none of those above.
const BLANK: [u8; 4] = [198, 19, 255, 255];
/// Requests that are sent at once.
const BATCH: usize = 256;
/// Ports of the flows that count as answered.
const PORTS: [u16; 2] = [7, 9];

/// How full the table of a node is, and how much it takes.
pub fn fill(node: &Node) -> Result<(u64, u64)> {
    node.netns().run(|| Ok((number("nf_conntrack_count")?, number("nf_conntrack_max")?)))
}

fn number(name: &str) -> Result<u64> {
    let path = format!("/proc/sys/net/netfilter/{name}");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    text.trim_end().parse().context(path)
}

/// Sends datagrams of so many different flows through the pod's node, to where nobody answers. The kernel may drop any
/// of these flows for another one when its table is full.
pub fn flood(pod: &Pod, flows: u32) -> Result<()> {
    pod.netns().run(|| {
        let socket = UdpSocket::bind(("0.0.0.0", 0)).context("could not make a socket")?;
        for number in 0..flows {
            let [high, low] = u16::try_from(number & 0xffff)?.to_be_bytes();
            let address = Ipv4Addr::from(NOWHERE | u32::from_be_bytes([0, 0, high, low]));
            let port = 10_000 + u16::try_from(number >> 16)?;
            socket.send_to(b"?", SocketAddr::new(IpAddr::V4(address), port)).context("could not send")?;
        }
        Ok(())
    })
}

/// Flows that count as answered, put into a node's table: the kernel keeps these when there is no room for others. It is
/// not asked how many it took.
#[derive(Debug)]
pub struct Crowd {
    node: Node,
    flows: u32,
}

impl Crowd {
    /// So many of them.
    pub fn at(node: &Node, flows: u32) -> Result<Self> {
        let crowd = Self { node: node.clone(), flows };
        crowd.ask_for_each(&message(NEW, CREATE | EXCLUSIVE, &creation()))?;
        Ok(crowd)
    }

    /// Removes them.
    pub fn leave(self) -> Result<()> {
        self.ask_for_each(&message(DELETE, 0, &nest(TUPLE_ORIGINAL, &tuple(BLANK, SERVER, PORTS))))
    }

    /// Sends a request for each flow; the kernel answers what it refuses, and nobody listens.
    fn ask_for_each(&self, request: &[u8]) -> Result<()> {
        let blanks: Vec<usize> = (0..request.len()).filter(|at| request[*at..].starts_with(&BLANK)).collect();
        self.node.netns().run(|| {
            let socket = netlink()?;
            let numbers: Vec<u32> = (0..self.flows).collect();
            for batch in numbers.chunks(BATCH) {
                let mut bytes = request.repeat(batch.len());
                for (number, message) in batch.iter().zip(bytes.chunks_exact_mut(request.len())) {
                    let client = (CLIENTS + number).to_be_bytes();
                    blanks.iter().for_each(|at| message[*at..*at + client.len()].copy_from_slice(&client));
                }
                sendto(socket.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())
                    .context("could not speak to connection tracking")?;
            }
            Ok(())
        })
    }
}

fn netlink() -> Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkNetFilter;
    socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)
        .context("could not make a socket to connection tracking")
}

/// Of the flows of a [`Crowd`]: the first client, and whom all of them asked.
const CLIENTS: u32 = u32::from_be_bytes([172, 16, 0, 0]);
const SERVER: [u8; 4] = [192, 0, 2, 1];
/// Seconds; longer than any test.
const TIMEOUT: u32 = 600;

/// `IPCTNL_MSG_CT_*` of `NFNL_SUBSYS_CTNETLINK`, `CTA_*`, `NLM_F_*` and `IPS_*`.
const NEW: u16 = 0x100;
const DELETE: u16 = 0x102;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const TIMEOUT_LEFT: u16 = 7;
const REQUEST: u16 = 1;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const SEEN_REPLY: u32 = 1 << 1;
const ASSURED: u32 = 1 << 2;
const CONFIRMED: u32 = 1 << 3;
const NESTED: u16 = 0x8000;
const UDP: u8 = 17;
const IPV4: u8 = 2;

fn creation() -> Vec<u8> {
    let [from, to] = PORTS;
    [
        nest(TUPLE_ORIGINAL, &tuple(BLANK, SERVER, PORTS)),
        nest(TUPLE_REPLY, &tuple(SERVER, BLANK, [to, from])),
        attribute(STATUS, &(SEEN_REPLY | ASSURED | CONFIRMED).to_be_bytes()),
        attribute(TIMEOUT_LEFT, &TIMEOUT.to_be_bytes()),
    ]
    .concat()
}

fn tuple(source: [u8; 4], destination: [u8; 4], [from, to]: [u16; 2]) -> Vec<u8> {
    let addresses = [attribute(1, &source), attribute(2, &destination)].concat();
    let ports = [attribute(2, &from.to_be_bytes()), attribute(3, &to.to_be_bytes())].concat();
    [nest(1, &addresses), nest(2, &[attribute(1, &[UDP]), ports].concat())].concat()
}

fn nest(kind: u16, inside: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, inside)
}

/// An attribute of netlink: its length, its kind, and what it says, padded.
fn attribute(kind: u16, what: &[u8]) -> Vec<u8> {
    let length = u16::try_from(what.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [&length.to_ne_bytes(), &kind.to_ne_bytes(), what].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// A request: netlink's header, netfilter's, and attributes.
fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let ([a, b], [c, d]) = (kind.to_ne_bytes(), (REQUEST | flags).to_ne_bytes());
    let head = [length.to_ne_bytes(), [a, b, c, d], [0; 4], [0; 4], [IPV4, 0, 0, 0]];
    [&head.concat(), attributes].concat()
}
