//! The datapath's world on the host: tables in ordinary collections, a socket in a structure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::abi::{
    Affinity, AffinityKey, Backend, Counter, Datagrams, Endpoint, Holds, Member, MemberKey, Peer, Service,
    ServiceKey, Slot, SlotKey, State, Traffic, Uses,
};
use crate::datapath::{Deed, Holder, List, Socket, Tables, Way};

/// Tables in memory. `random` is what the next choice gets, and `now` when it is made.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// Services by address.
    pub services: BTreeMap<ServiceKey, Service>,
    /// The node's addresses where node ports answer.
    pub node_addresses: BTreeMap<[u8; 16], u32>,
    /// Where the lists stand, by service id.
    pub states: BTreeMap<u32, State>,
    /// Endpoint lists.
    pub slots: BTreeMap<SlotKey, Slot>,
    /// Who is in which list.
    pub members: BTreeMap<MemberKey, Member>,
    /// Endpoints by id.
    pub backends: BTreeMap<u32, Backend>,
    /// What clients got.
    pub affinities: RefCell<BTreeMap<AffinityKey, Affinity>>,
    /// What the clock shows, in nanoseconds.
    pub now: Cell<u64>,
    /// What the next choice draws.
    pub random: Cell<u32>,
    /// Events counted so far.
    pub counted: RefCell<BTreeMap<Counter, u64>>,
    /// What became of new connections, by service id.
    pub traffic: RefCell<BTreeMap<u32, Traffic>>,
    /// How much endpoints are used, by id.
    pub uses: RefCell<BTreeMap<u32, Uses>>,
}

impl Tables for HostTables {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn node_address(&self, address: &[u8; 16]) -> Option<u8> {
        self.node_addresses.get(address).map(|node| *node as u8)
    }

    fn list(&self, service: u32, way: Way) -> Option<List> {
        self.states.get(&service).map(|state| List::of(state, way))
    }

    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    fn member(&self, key: &MemberKey) -> Option<Member> {
        self.members.get(key).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(&id).copied()
    }

    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        self.affinities.borrow().get(key).copied()
    }

    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        self.affinities.borrow_mut().insert(*key, *value);
    }

    fn now(&self) -> u64 {
        self.now.get()
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn count(&self, counter: Counter) {
        *self.counted.borrow_mut().entry(counter).or_default() += 1;
    }

    fn tally(&self, service: u32, deed: Deed) {
        if service == 0 {
            return;
        }
        self.traffic.borrow_mut().entry(service).or_insert(Traffic::NONE).add(deed);
    }

    fn raise(&self, id: u32, backend: &Backend) -> bool {
        let mut uses = self.uses.borrow_mut();
        let Uses { opened, open, backend: _ } = uses.entry(id).or_insert(Uses::none(*backend));
        (*opened, *open) = (*opened + 1, *open + 1);
        true
    }

    fn lower(&self, id: u32) {
        if let Some(uses) = self.uses.borrow_mut().get_mut(&id) {
            uses.open = uses.open().saturating_sub(1);
        }
    }
}

/// One socket and the call made on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// IP protocol number.
    pub protocol: u8,
    /// Who calls.
    pub client: u64,
    /// Whether that is the node itself.
    pub is_node: bool,
    /// The address the call is about.
    pub remote: Endpoint,
    /// What it remembers while connected.
    pub connected: Option<Peer>,
    /// What it remembers of sends without a connection.
    pub datagrams: Option<Datagrams>,
    /// For which endpoints it counts.
    pub holds: Option<Holds>,
}

impl HostSocket {
    /// A socket of client 1, a pod, without memory, and a call about `remote`.
    pub fn new(protocol: u8, remote: Endpoint) -> Self {
        Self { protocol, client: 1, is_node: false, remote, connected: None, datagrams: None, holds: None }
    }
}

impl Holder for HostSocket {
    fn holds(&mut self) -> Option<&mut Holds> {
        self.holds.as_mut()
    }
}

impl Socket for HostSocket {
    fn protocol(&self) -> u8 {
        self.protocol
    }

    fn client(&self) -> u64 {
        self.client
    }

    fn is_node(&self) -> bool {
        self.is_node
    }

    fn remote(&self) -> Endpoint {
        self.remote
    }

    fn set_remote(&mut self, to: &Endpoint) {
        self.remote = *to;
    }

    fn connected(&self) -> Option<Peer> {
        self.connected
    }

    fn remember_connected(&mut self, peer: &Peer) -> bool {
        self.connected = Some(*peer);
        true
    }

    fn forget_connected(&mut self) {
        self.connected = None;
    }

    fn datagrams(&self) -> Option<&Datagrams> {
        self.datagrams.as_ref()
    }

    fn datagrams_mut(&mut self) -> Option<&mut Datagrams> {
        Some(self.datagrams.get_or_insert(Datagrams::NONE))
    }

    fn holds_mut(&mut self) -> Option<&mut Holds> {
        Some(self.holds.get_or_insert(Holds::NONE))
    }
}

impl Traffic {
    /// One more.
    pub(crate) fn add(&mut self, deed: Deed) {
        let Self { opened, refused, left } = self;
        match deed {
            Deed::Opened => *opened += 1,
            Deed::Refused => *refused += 1,
            Deed::Left => *left += 1,
        }
    }
}
