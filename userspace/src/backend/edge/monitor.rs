//! Listens to the kernel: when routes, neighbours or devices change, next hops that flows remember may be wrong. They are
//! forgotten at once, by raising one number; whatever else follows from it is the loop's to do.

use std::collections::BTreeMap;
use std::io;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use aya::maps::{Array, MapData};
use dataplane_ebpf::abi::NO_EPOCH;
use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tracing::warn;

/// `RTMGRP_LINK`, `RTMGRP_NEIGH`, and addresses and routes of both families.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;
/// `RTMGRP_TC`.
const FILTERS: u32 = 0x8;
/// `RTM_NEWQDISC` to `RTM_GETTFILTER`, and of chains.
const OF_FILTERS: [RangeInclusive<u16>; 2] = [36..=46, 100..=102];
/// Largest message.
const PIECE: usize = 1 << 16;
/// Room for what is not read yet.
const ROOM: u32 = 1 << 20;

/// A thread that listens, in the network namespace in which it was started.
pub(super) struct Monitor {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    devices: AtomicBool,
    routes: AtomicBool,
    filters: AtomicBool,
    ended: AtomicBool,
    /// Kept open where nobody listens any more: its number is in the programs' instructions.
    epoch: OnceLock<Array<MapData, u32>>,
}

/// What a message means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    hops: bool,
    routes: bool,
    /// Devices or addresses may have changed.
    devices: bool,
    /// What hangs on devices as filters may have changed.
    filters: bool,
}

impl News {
    /// What a message means that cannot be read, or was lost.
    const ALL: Self = Self { hops: true, routes: true, devices: true, filters: true };

    fn and(self, other: Self) -> Self {
        Self {
            hops: self.hops || other.hops,
            routes: self.routes || other.routes,
            devices: self.devices || other.devices,
            filters: self.filters || other.filters,
        }
    }
}

/// Hardware addresses, by device and neighbour.
#[derive(Debug, Default)]
struct Neighbours(BTreeMap<(u32, String), Vec<u8>>);

impl Monitor {
    /// Begins to listen, also to changes of filters if that is asked for. From then on nothing is missed. The first epoch is none that
    /// flows may remember from an earlier daemon: nobody has listened in between.
    pub(super) fn start(mut epoch: Array<MapData, u32>, first: u32, filters: bool) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, if filters { GROUPS | FILTERS } else { GROUPS }))?;
        socket.set_rx_buf_sz(ROOM)?;
        let shared = Arc::new(Shared::default());
        begin(&mut epoch, first);
        let own = Arc::clone(&shared);
        thread::Builder::new().name("sluice-routes".to_owned()).spawn(move || {
            listen(&socket, &mut epoch, &own);
            let _ = own.epoch.set(epoch);
        })?;
        Ok(Self { shared })
    }

    /// Whether devices or addresses may have changed since the last time this was asked.
    pub(super) fn take_devices(&self) -> bool {
        self.shared.devices.swap(false, Ordering::Relaxed)
    }

    /// The same of routes.
    pub(super) fn take_routes(&self) -> bool {
        self.shared.routes.swap(false, Ordering::Relaxed)
    }

    /// The same of what hangs on devices as filters.
    pub(super) fn take_filters(&self) -> bool {
        self.shared.filters.swap(false, Ordering::Relaxed)
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It ends with the next message; until then it harms nobody.
        self.shared.ended.store(true, Ordering::Relaxed);
    }
}

fn listen(socket: &Socket, epoch: &mut Array<MapData, u32>, shared: &Shared) {
    let mut buffer = vec![0; PIECE];
    let mut neighbours = Neighbours::default();
    while !shared.ended.load(Ordering::Relaxed) {
        let news = match socket.recv(&mut &mut buffer[..], 0) {
            Ok(length) => read(buffer.get(..length).unwrap_or_default(), &mut neighbours),
            // More happened than there was room for.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => News::ALL,
            Err(error) => {
                warn!(%error, "cannot listen to changes of routes any more; next hops are looked up anew each time");
                let _ = epoch.set(0, NO_EPOCH, 0);
                return;
            }
        };
        if news.hops {
            raise(epoch);
        }
        if news.routes {
            shared.routes.store(true, Ordering::Relaxed);
        }
        if news.devices {
            shared.devices.store(true, Ordering::Relaxed);
        }
        if news.filters {
            shared.filters.store(true, Ordering::Relaxed);
        }
    }
}

fn raise(epoch: &mut Array<MapData, u32>) {
    let next = epoch.get(&0, 0).unwrap_or(NO_EPOCH).wrapping_add(1);
    begin(epoch, next);
}

fn begin(epoch: &mut Array<MapData, u32>, next: u32) {
    let next = if next == NO_EPOCH { next + 1 } else { next };
    if let Err(error) = epoch.set(0, next, 0) {
        warn!(%error, "could not make flows forget their next hops");
    }
}

fn read(mut bytes: &[u8], neighbours: &mut Neighbours) -> News {
    let mut all = News::default();
    while !bytes.is_empty() {
        let Ok(message) = NetlinkBuffer::new_checked(bytes) else { return News::ALL };
        all = all.and(if OF_FILTERS.iter().any(|range| range.contains(&message.message_type())) {
            News { filters: true, ..News::default() }
        } else {
            neighbours.told(bytes)
        });
        let used = (message.length() as usize).next_multiple_of(4).max(1);
        bytes = bytes.get(used..).unwrap_or_default();
    }
    all
}

impl Neighbours {
    fn told(&mut self, bytes: &[u8]) -> News {
        let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes) else { return News::ALL };
        // Nobody has asked anything, so there is nothing else.
        let NetlinkPayload::InnerMessage(inner) = &message.payload else { return News::default() };
        self.news(inner)
    }

    fn news(&mut self, message: &RouteNetlinkMessage) -> News {
        if let RouteNetlinkMessage::NewNeighbour(neighbour) = message {
            return News { hops: self.learn(neighbour), ..News::default() };
        }
        if let RouteNetlinkMessage::DelNeighbour(neighbour) = message {
            self.0.remove(&key(neighbour));
            return News { hops: true, ..News::default() };
        }
        if let RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) = message {
            // Where routes come and go by the thousand, only those to everywhere say anything about devices.
            let devices = route.header.destination_prefix_length == 0;
            return News { devices, filters: false, ..News::ALL };
        }
        News { filters: false, ..News::ALL }
    }

    /// Whether a neighbour has another address than before, or none. That one has been heard of again is no news.
    fn learn(&mut self, neighbour: &NeighbourMessage) -> bool {
        let hardware = neighbour.attributes.iter().find_map(|attribute| {
            let NeighbourAttribute::LinkLayerAddress(address) = attribute else { return None };
            Some(address.clone())
        });
        match hardware {
            Some(hardware) if neighbour.header.state != NeighbourState::Failed => {
                self.0.insert(key(neighbour), hardware.clone()) != Some(hardware)
            }
            _ => self.0.remove(&key(neighbour)).is_some(),
        }
    }
}

fn key(neighbour: &NeighbourMessage) -> (u32, String) {
    let address = neighbour.attributes.iter().find_map(|attribute| {
        let NeighbourAttribute::Destination(address) = attribute else { return None };
        Some(format!("{address:?}"))
    });
    (neighbour.header.ifindex, address.unwrap_or_default())
}
