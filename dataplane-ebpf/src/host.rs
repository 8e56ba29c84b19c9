//! The datapath's world on the host: tables in ordinary collections, a socket in a structure.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::abi::{Backend, Counter, Datagrams, Endpoint, Peer, Service, ServiceKey, Slot, SlotKey, State};
use crate::datapath::{Socket, Tables};

/// Tables in memory. `random` is what the next choice gets.
#[derive(Clone, Debug, Default)]
pub struct HostTables {
    /// Services by address.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Where the lists stand, by service id.
    pub states: BTreeMap<u32, State>,
    /// Endpoint lists.
    pub slots: BTreeMap<SlotKey, Slot>,
    /// Endpoints by id.
    pub backends: BTreeMap<u32, Backend>,
    /// What the next choice draws.
    pub random: Cell<u32>,
    /// Events counted so far.
    pub counted: RefCell<BTreeMap<Counter, u64>>,
}

impl Tables for HostTables {
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        self.services.get(key).copied()
    }

    fn state(&self, service: u32) -> Option<State> {
        self.states.get(&service).copied()
    }

    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        self.slots.get(key).copied()
    }

    fn backend(&self, id: u32) -> Option<Backend> {
        self.backends.get(&id).copied()
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn count(&self, counter: Counter) {
        *self.counted.borrow_mut().entry(counter).or_default() += 1;
    }
}

/// One socket and the call made on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSocket {
    /// IP protocol number.
    pub protocol: u8,
    /// The address the call is about.
    pub remote: Endpoint,
    /// What it remembers while connected.
    pub connected: Option<Peer>,
    /// What it remembers of sends without a connection.
    pub datagrams: Option<Datagrams>,
}

impl HostSocket {
    /// A socket without memory, and a call about `remote`.
    pub fn new(protocol: u8, remote: Endpoint) -> Self {
        Self { protocol, remote, connected: None, datagrams: None }
    }
}

impl Socket for HostSocket {
    fn protocol(&self) -> u8 {
        self.protocol
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
}
