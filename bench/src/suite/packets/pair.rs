//! Connections of real sockets: from a client outside, over the node, to a server, all on one core.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use lab::cgroup::Cgroup;
use lab::link::batch;
use lab::process::{Place, Process};
use lab::{Node, Pod};

use super::offload;
use super::rig::Turn;
use super::road::{self, LINK};
use crate::traffic::{self, CLIENT_CORE, Client, Deed, SHORT};

/// The client's address: outside, and not one that the generator uses.
const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// The server's.
pub(super) const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 2, 1, 1), SHORT);
/// Ethernet addresses: of the client, of the server, and of the node towards them.
const OWN: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 5], [2, 0, 0, 0, 0, 6]];
const NODE: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 7], [2, 0, 0, 0, 0, 8]];

/// A client and a server, each in a namespace of its own.
pub(super) struct Pair {
    client: Client,
    _server: Process,
}

impl Pair {
    /// Neither is in the node's control group: what happens to sockets there is not meant here.
    pub(super) fn settle(node: &Node) -> Result<Self> {
        let (client, server) = (node.pod("client")?, node.pod("server")?);
        for (place, address, own, port) in
            [(&client, CLIENT, OWN[0], NODE[0]), (&server, *SERVER.ip(), OWN[1], NODE[1])]
        {
            give(place, address)?;
            road::connect(place, own, port, &format!("{address}/32"))?;
        }
        let outside = Arc::new(Cgroup::new()?);
        let place = |pod: &Pod| Place::within(pod.netns(), &outside);
        let server = traffic::serve(&place(&server), CLIENT_CORE)?;
        Ok(Self { client: Client::start(&place(&client))?, _server: server })
    }

    /// Connections for a while, and how long each took.
    pub(super) fn turn(&mut self, target: SocketAddrV4, time: Duration) -> Result<Turn> {
        let rate = self.client.measure(Deed::Rate(time), target.into())?;
        let done = (rate * time.as_secs_f64()) as u64;
        Ok(Turn { nanoseconds: 1e9 / rate, sent: done, arrived: done, share: 1.0 })
    }
}

/// Another address, which its packets bear. They leave as they would on a wire: with checksums that are summed up. And they may
/// come from a program.
fn give(place: &Pod, address: Ipv4Addr) -> Result<()> {
    let gate = place.node().v4();
    batch(
        place.netns(),
        &format!(
            "addr add {address}/32 dev {LINK}\nroute replace default via {gate} dev {LINK} src {address}\n"
        ),
    )?;
    place.netns().run(|| {
        offload::receive(LINK)?;
        offload::sum_up(LINK)
    })
}
