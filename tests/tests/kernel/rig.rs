//! The programs, loaded and attached, with a process that makes calls under them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{Array, HashMap};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr};
use aya::{Ebpf, EbpfLoader};
use dataplane_ebpf::abi::{self, Affinity, AffinityKey, State, Traffic, Uses};
use dataplane_ebpf::host::{HostSocket, HostTables};
use lab::cgroup::Cgroup;
use lab::link::batch;
use lab::netns::Netns;
use lab::process::{Place, Process};
use lab::server::agent;

use crate::wire::Wire;

pub(crate) const HOOKS: [&str; 8] =
    ["connect4", "connect6", "sendmsg4", "sendmsg6", "recvmsg4", "recvmsg6", "getpeername4", "getpeername6"];
/// The hook at a socket's end.
pub(crate) const RELEASE: &str = "sock_release";

/// Reads the object that the daemon carries.
pub(crate) fn object() -> Ebpf {
    object_on(0)
}

/// The same for a node in the network namespace with this cookie.
fn object_on(node: u64) -> Ebpf {
    let path = std::env::var("SLUICE_EBPF_OBJECT").expect("SLUICE_EBPF_OBJECT names the built programs");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let mut loader = EbpfLoader::new();
    let tables = [abi::SERVICES, abi::STATES, abi::SLOTS, abi::MEMBERS, abi::BACKENDS, abi::NAMES];
    for name in tables.into_iter().chain([abi::AFFINITY, abi::NODE_ADDRESSES, abi::TRAFFIC, abi::USES]) {
        loader.map_max_entries(name, 4096);
    }
    loader.override_global(abi::NODE_NETNS, &node, true);
    loader.load(&bytes).expect("the object loads")
}

/// How much endpoints are used, by id.
type Users = BTreeMap<u32, Uses>;
/// What became of new connections, by service id.
type Traffics = BTreeMap<u32, Traffic>;

/// Programs under which one process makes calls.
pub(crate) struct Rig {
    ebpf: Ebpf,
    cgroup: Arc<Cgroup>,
    caller: Process,
    asked: usize,
    pub(crate) wire: Wire,
    pub(crate) is_node: bool,
    /// The socket that the caller has open, and what is counted by now, as the host sees both.
    pub(crate) host: Option<(HostSocket, Users, Traffics)>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::of(false)
    }

    /// The caller is in a pod, or in the node's own network namespace.
    pub(crate) fn of(is_node: bool) -> Self {
        let cgroup = Arc::new(Cgroup::new().expect("a control group"));
        let (caller, wire, cookie) = caller(&cgroup);
        let ebpf = attached(&cgroup, if is_node { cookie } else { cookie + 1 });
        Self { ebpf, cgroup, caller, asked: 1, wire, is_node, host: None }
    }

    /// Lets a process in another namespace make the calls from now on.
    pub(crate) fn move_out(&mut self) {
        (self.caller, self.wire, _) = caller(&self.cgroup);
        (self.asked, self.host) = (1, None);
        self.forget_counts();
    }

    /// Writes the tables of the host into the kernel, whole; what clients got is kept there.
    pub(crate) fn fill(&mut self, tables: &HostTables) {
        let HostTables {
            services,
            node_addresses,
            states,
            slots,
            members,
            backends,
            affinities: _,
            now: _,
            random: _,
            counted: _,
            traffic: _,
            uses: _,
        } = tables;
        refill(&mut self.ebpf, abi::SERVICES, services);
        refill(&mut self.ebpf, abi::NODE_ADDRESSES, node_addresses);
        restate(&mut self.ebpf, states);
        refill(&mut self.ebpf, abi::SLOTS, slots);
        refill(&mut self.ebpf, abi::MEMBERS, members);
        refill(&mut self.ebpf, abi::BACKENDS, backends);
    }

    /// What clients got.
    pub(crate) fn records(&mut self) -> BTreeMap<AffinityKey, Affinity> {
        entries(&mut self.ebpf, abi::AFFINITY)
    }

    /// Makes what clients got so many seconds older.
    pub(crate) fn age(&mut self, seconds: u64) {
        let mut records = self.records();
        records.values_mut().for_each(|record| record.used -= seconds * 1_000_000_000);
        refill(&mut self.ebpf, abi::AFFINITY, &records);
    }

    /// Forgets what clients got.
    pub(crate) fn forget_clients(&mut self) {
        refill::<AffinityKey, Affinity>(&mut self.ebpf, abi::AFFINITY, &BTreeMap::new());
    }

    /// How much endpoints and service ports are used.
    pub(crate) fn counts(&mut self) -> (Users, Traffics) {
        (entries(&mut self.ebpf, abi::USES), entries(&mut self.ebpf, abi::TRAFFIC))
    }

    /// Forgets it.
    fn forget_counts(&mut self) {
        refill::<u32, Uses>(&mut self.ebpf, abi::USES, &BTreeMap::new());
        refill::<u32, Traffic>(&mut self.ebpf, abi::TRAFFIC, &BTreeMap::new());
    }

    /// Has the caller do something, and returns its word for the outcome.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.caller.tell(line).expect("the caller hears");
        let at = self.asked;
        self.asked += 1;
        let answer = self.caller.out.wait(Duration::from_secs(10), |lines| lines.get(at).cloned());
        answer.unwrap_or_else(|| panic!("no answer to {line}\n{}", self.caller.err))
    }

    /// Has the caller connect or send, and returns the outcome with where the packet went, if one did.
    pub(crate) fn watch(&mut self, line: &str) -> (String, Option<SocketAddr>) {
        self.wire.forget();
        let word = self.ask(line);
        (word, self.wire.first())
    }
}

/// The number of this thread's network namespace.
fn netns_cookie() -> std::io::Result<u64> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, 8);
    let place = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: both pointers are to live values, the first of eight bytes as stated, and the descriptor is open.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, place, &raw mut length)
    };
    if done == 0 { Ok(cookie) } else { Err(std::io::Error::last_os_error()) }
}

/// A process in a namespace of its own, what goes over the wire there, and the namespace's cookie.
fn caller(cgroup: &Arc<Cgroup>) -> (Process, Wire, u64) {
    let netns = Netns::new().expect("a namespace");
    let cookie = netns.run(|| Ok(netns_cookie()?)).expect("a cookie");
    // Every address is here, nobody listens on any, and the caller may send from each.
    batch(&netns, "route add local 10.0.0.0/8 dev lo\nroute add local fd00::/16 dev lo\n").expect("routes");
    netns.run(|| Ok(std::fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1")?)).expect("a setting");
    let place = Place::within(&netns, cgroup);
    let mut command = place.command(agent().expect("the agent is built"));
    command.arg("probe").stdin(Stdio::piped());
    let mut caller = place.start(command).expect("a caller");
    caller.line(Duration::from_secs(10), |line| line == "ready").expect("a ready caller");
    (caller, Wire::listen(&netns), cookie)
}

fn attached(cgroup: &Cgroup, node: u64) -> Ebpf {
    let mut ebpf = object_on(node);
    let directory = cgroup.open().expect("the control group");
    for hook in HOOKS {
        let program: &mut CgroupSockAddr = ebpf
            .program_mut(hook)
            .unwrap_or_else(|| panic!("no program {hook}"))
            .try_into()
            .expect("its type");
        program.load().unwrap_or_else(|error| panic!("{hook} does not load: {error}"));
        program
            .attach(&directory, CgroupAttachMode::Single)
            .unwrap_or_else(|error| panic!("{hook}: {error}"));
    }
    let program: &mut CgroupSock =
        ebpf.program_mut(RELEASE).expect("a program").try_into().expect("its type");
    program.load().unwrap_or_else(|error| panic!("{RELEASE} does not load: {error}"));
    program.attach(&directory, CgroupAttachMode::Single).expect("the hook takes it");
    ebpf
}

fn entries<K: aya::Pod + Ord, V: aya::Pod>(ebpf: &mut Ebpf, name: &str) -> BTreeMap<K, V> {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}"));
    let map: HashMap<_, K, V> = map.try_into().expect("a hash map");
    map.iter().collect::<Result<_, _>>().expect("its entries")
}

/// Writes every place of the array: those without a state have an empty list.
fn restate(ebpf: &mut Ebpf, wanted: &BTreeMap<u32, State>) {
    let map = ebpf.map_mut(abi::STATES).expect("a map of states");
    let mut map: Array<_, State> = map.try_into().expect("an array");
    for id in 0..map.len() {
        let state = wanted.get(&id).copied().unwrap_or(State::NONE);
        map.set(id, state, 0).expect("a place");
    }
}

pub(crate) fn refill<K: aya::Pod + Ord, V: aya::Pod>(ebpf: &mut Ebpf, name: &str, wanted: &BTreeMap<K, V>) {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}"));
    let mut map: HashMap<_, K, V> = map.try_into().expect("a hash map");
    let old: Vec<K> = map.keys().collect::<Result<_, _>>().expect("its keys");
    for key in old.iter().filter(|key| !wanted.contains_key(key)) {
        map.remove(key).expect("a key that was there");
    }
    for (key, value) in wanted {
        map.insert(key, value, 0).expect("room");
    }
}
