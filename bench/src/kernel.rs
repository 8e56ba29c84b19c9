//! What the kernel has, as cheaply as it can be asked: one look into a pinned map, one wait for a commit of nftables.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData};
use dataplane_ebpf::abi::{self, Endpoint, Service, ServiceKey, State};
use lab::Node;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// IP protocol number of what all shapes use.
const TCP: u8 = 6;

/// The services of one node's daemon, and where their lists stand.
pub(crate) struct Services {
    services: HashMap<MapData, ServiceKey, Service>,
    states: Array<MapData, State>,
}

impl Services {
    /// Opens the pinned maps.
    pub(crate) fn open(node: &Node) -> Result<Self> {
        let set = newest_set(node.pin_dir())?;
        let open = |name: &str| {
            let path = set.join(name);
            MapData::from_pin(&path).with_context(|| format!("could not open {}", path.display()))
        };
        let services = HashMap::try_from(Map::HashMap(open(abi::SERVICES)?))?;
        Ok(Self { services, states: Array::try_from(Map::Array(open(abi::STATES)?))? })
    }

    /// Where the list of a TCP service stands.
    pub(crate) fn get(&self, address: SocketAddr) -> Result<State> {
        let key = ServiceKey::new(&Endpoint::from(address), TCP);
        let found = self.services.get(&key, 0);
        let Service { id, side: _ } = found.with_context(|| format!("{address} is not in the kernel"))?;
        Ok(self.states.get(&id, 0)?)
    }

    /// Looks again and again until another list of `slots` endpoints is in force, and says when it was. `pause` keeps
    /// a core free where others need it.
    pub(crate) fn changed(
        &self,
        address: SocketAddr,
        before: State,
        slots: u32,
        pause: Option<Duration>,
    ) -> Result<Instant> {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let state = self.get(address)?;
            let seen = Instant::now();
            if state.generation != before.generation && state.slots == slots {
                return Ok(seen);
            }
            if seen > end {
                bail!("{address} still has {state:?}");
            }
            pause.into_iter().for_each(std::thread::sleep);
        }
    }
}

fn newest_set(pins: &Path) -> Result<PathBuf> {
    let home = pins.join(format!("v{}", abi::VERSION));
    let entries = std::fs::read_dir(&home).with_context(|| format!("could not read {}", home.display()))?;
    let number = |name: &str| name.strip_prefix("maps-")?.parse::<u32>().ok();
    let sets = entries.flatten().filter_map(|entry| number(&entry.file_name().to_string_lossy()));
    let newest = sets.max().with_context(|| format!("no maps in {}", home.display()))?;
    Ok(home.join(format!("maps-{newest}")))
}

/// NFNLGRP_NFTABLES of include/uapi/linux/netfilter/nfnetlink.h, as a bit.
const NFTABLES_GROUP: u32 = 1 << 6;

/// The kernel's announcements of nftables commits in one namespace; it makes them when a commit is done.
pub(crate) struct Commits(OwnedFd);

impl Commits {
    /// Listens in a node's namespace.
    pub(crate) fn of(node: &Node) -> Result<Self> {
        node.netns().run(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let listener =
                socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
            bind(listener.as_raw_fd(), &NetlinkAddr::new(0, NFTABLES_GROUP))
                .context("could not listen to nftables")?;
            Ok(Self(listener))
        })
    }

    /// Forgets what was announced before.
    pub(crate) fn forget(&self) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error).context("could not listen to nftables"),
            }
        }
    }

    /// Waits for the next one, and says when it came.
    pub(crate) fn next(&self, limit: Duration) -> Result<Instant> {
        setsockopt(&self.0, sockopt::ReceiveTimeout, &TimeVal::new(limit.as_secs() as i64, 0))?;
        let mut buffer = [0; 4096];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(_) | Err(Errno::ENOBUFS) => Ok(Instant::now()),
            Err(error) => Err(error).context("no commit of nftables was announced"),
        }
    }
}
