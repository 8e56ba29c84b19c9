//! The edge's world on the host: tables in ordinary collections, a packet in a vector.

use std::boxed::Box;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Deref;
use std::vec::Vec;

use crate::abi::{
    Address, ClientKey, EdgeCounter, EdgeDevice, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    ListState, Member, ServerKey, Side, SlotKey, SourceKey, Stay, Target, Traffic,
};
use crate::datapath::Deed;
use crate::datapath::edge::header::Header;
use crate::datapath::edge::{
    Added, Frame, Hop, Step, Tables, Verdict, Way, again, back, checksum, egress, error, fragment, ingress,
    open, recall, send,
};

/// Settings of a family of which nothing is known.
pub const NO_SIDE: Side = Side { pods: [0; 4], pods_mask: [0; 4], first_port: 0, ports: 0, forwarding: 0 };
/// What an array of lists holds where nobody has written.
const NO_LIST: ListState = ListState { generation: 0, slots: 0, timeout: 0, service: 0 };

/// Tables in memory.
#[derive(Clone, Debug)]
pub struct EdgeTables {
    /// What becomes of new flows, by address.
    pub frontends: BTreeMap<FrontendKey, Frontend>,
    /// Where lists stand.
    pub lists: BTreeMap<u32, ListState>,
    /// Endpoint lists.
    pub targets: BTreeMap<SlotKey, Target>,
    /// Who serves.
    pub servers: BTreeMap<ServerKey, Member>,
    /// Ranges of sources that are let in.
    pub sources: BTreeSet<SourceKey>,
    /// Addresses of the node.
    pub own: BTreeMap<Address, u32>,
    /// Devices with our programs.
    pub devices: BTreeMap<u32, EdgeDevice>,
    /// Endpoints on the node whose answers come in by a device with our program for them.
    pub backed: BTreeSet<Address>,
    /// What is the same for all flows, by family.
    pub sides: [Side; 2],
    /// The routes' epoch.
    pub epoch: Cell<u32>,
    /// Flows, both directions.
    pub flows: RefCell<BTreeMap<FlowKey, Flow>>,
    /// Flows that have not been brought over yet.
    pub flows_before: RefCell<BTreeMap<FlowKey, Flow>>,
    /// How many entries there is room for in [`EdgeTables::flows`].
    pub room: Cell<usize>,
    /// Packets whose first fragment has been seen.
    pub fragments: RefCell<BTreeMap<FragmentKey, Fragment>>,
    /// What clients got.
    pub stays: RefCell<BTreeMap<ClientKey, Stay>>,
    /// What the clock shows.
    pub seconds: Cell<u32>,
    /// What the next choice of a port draws.
    pub random: Cell<u32>,
    /// Events counted so far.
    pub counted: RefCell<BTreeMap<EdgeCounter, u64>>,
    /// What became of new flows, by number of the service port.
    pub traffic: RefCell<BTreeMap<u32, Traffic>>,
}

impl Default for EdgeTables {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            lists: BTreeMap::new(),
            targets: BTreeMap::new(),
            servers: BTreeMap::new(),
            sources: BTreeSet::new(),
            own: BTreeMap::new(),
            devices: BTreeMap::new(),
            backed: BTreeSet::new(),
            sides: [NO_SIDE; 2],
            epoch: Cell::new(1),
            flows: RefCell::default(),
            flows_before: RefCell::default(),
            room: Cell::new(usize::MAX),
            fragments: RefCell::default(),
            stays: RefCell::default(),
            seconds: Cell::new(1),
            random: Cell::new(0),
            counted: RefCell::default(),
            traffic: RefCell::default(),
        }
    }
}

impl EdgeTables {
    /// A packet comes into the node: all steps, as the programs go through them.
    pub fn come_in(&self, packet: &mut HostPacket, at: usize) -> Verdict {
        let mut step = ingress(packet, self, at);
        loop {
            step = match step {
                Step::Done(verdict) => return verdict,
                Step::Recall => recall(packet, self, at),
                Step::Begin => ingress(packet, self, at),
                Step::Again => again(packet, self, at),
                Step::Open => open(packet, self, at),
                Step::Send => return send(packet, self, at),
                Step::Error => return error::incoming(packet, self, at),
                Step::Fragment => return fragment::incoming(packet, self, at),
            }
        }
    }

    /// A packet comes in by a device behind which endpoints are.
    pub fn come_back(&self, packet: &mut HostPacket, at: usize) -> Verdict {
        let mut step = back(packet, self, at);
        loop {
            step = match step {
                Step::Done(verdict) => return verdict,
                Step::Recall => recall(packet, self, at),
                Step::Begin => back(packet, self, at),
                Step::Error => return error::answering(packet, self, at),
                Step::Fragment => return fragment::incoming(packet, self, at),
                // Flows are opened where clients come in.
                Step::Again | Step::Open | Step::Send => return Verdict::Left,
            }
        }
    }

    /// A packet leaves the node.
    pub fn go_out(&self, packet: &mut HostPacket, at: usize) -> Verdict {
        let mut step = egress(packet, self, at);
        loop {
            step = match step {
                Step::Done(verdict) => return verdict,
                Step::Recall => recall(packet, self, at),
                Step::Begin => egress(packet, self, at),
                Step::Error => return error::outgoing(packet, self, at),
                Step::Fragment => return fragment::outgoing(packet, self, at),
                Step::Again | Step::Open | Step::Send => return Verdict::Left,
            }
        }
    }

    /// Changes a flow in place, if it is there.
    fn change(&self, key: &FlowKey, deed: impl FnOnce(&mut Flow)) {
        if let Some(flow) = self.flows.borrow_mut().get_mut(key) {
            deed(flow);
        }
    }
}

impl Tables for EdgeTables {
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }

    fn list(&self, list: u32) -> Option<ListState> {
        Some(self.lists.get(&list).copied().unwrap_or(NO_LIST))
    }

    fn target(&self, key: &SlotKey) -> Option<Target> {
        self.targets.get(key).copied()
    }

    fn server(&self, key: &ServerKey) -> Option<Member> {
        self.servers.get(key).copied()
    }

    fn admits(&self, key: &SourceKey) -> bool {
        self.sources.iter().any(|range| contains(range, key))
    }

    fn own(&self, address: &Address) -> Option<u32> {
        self.own.get(address).copied()
    }

    fn device(&self, index: u32) -> Option<&EdgeDevice> {
        self.devices.get(&index)
    }

    fn backed(&self, address: &Address) -> bool {
        self.backed.contains(address)
    }

    fn side(&self, place: u32) -> Option<&Side> {
        self.sides.get(place as usize)
    }

    fn epoch(&self) -> u32 {
        self.epoch.get()
    }

    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        // A copy: whoever looks at it may change the table meanwhile.
        self.flows.borrow().get(key).map(|flow| Box::new(*flow))
    }

    fn flow_before(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        self.flows_before.borrow().get(key).map(|flow| Box::new(*flow))
    }

    fn forget_before(&self, key: &FlowKey) {
        self.flows_before.borrow_mut().remove(key);
    }

    fn add(&self, key: &FlowKey, flow: &Flow) -> Added {
        let mut flows = self.flows.borrow_mut();
        if flows.contains_key(key) {
            return Added::Taken;
        }
        if flows.len() >= self.room.get() {
            return Added::Full;
        }
        flows.insert(*key, *flow);
        Added::Yes
    }

    fn remove(&self, key: &FlowKey) {
        self.flows.borrow_mut().remove(key);
    }

    fn touch(&self, key: &FlowKey, seen: u32, marks: u32) {
        self.change(key, |flow| {
            flow.marks |= marks;
            if seen != 0 {
                flow.seen = seen;
            }
        });
    }

    fn confirm(&self, key: &FlowKey, list: u32, generation: u32) {
        self.change(key, |flow| (flow.list, flow.generation) = (list, generation));
    }

    fn keep(&self, key: &FlowKey, hop: &Hop, epoch: u32) {
        self.change(key, |flow| {
            (flow.device, flow.addresses, flow.epoch) = (hop.device, hop.addresses, epoch);
        });
    }

    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        self.fragments.borrow().get(key).copied()
    }

    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        self.fragments.borrow_mut().insert(*key, *fragment);
    }

    fn stay(&self, key: &ClientKey) -> Option<Stay> {
        self.stays.borrow().get(key).copied()
    }

    fn set_stay(&self, key: &ClientKey, stay: &Stay) {
        self.stays.borrow_mut().insert(*key, *stay);
    }

    fn seconds(&self) -> u32 {
        self.seconds.get()
    }

    fn recent_seconds(&self) -> u32 {
        self.seconds.get()
    }

    fn random(&self) -> u32 {
        self.random.get()
    }

    fn count(&self, counter: EdgeCounter) {
        *self.counted.borrow_mut().entry(counter).or_default() += 1;
    }

    fn tally(&self, service: u32, deed: Deed) {
        self.traffic.borrow_mut().entry(service).or_insert(Traffic::NONE).add(deed);
    }
}

/// Whether a range holds an address, as a trie would say.
fn contains(range: &SourceKey, key: &SourceKey) -> bool {
    let bit = |key: &SourceKey, at: usize| {
        let [a, b, c, d] = key.address;
        let word = [key.sources, a, b, c, d][at / 32].to_ne_bytes();
        word[at / 8 % 4] >> (7 - at % 8) & 1
    };
    (0..range.bits as usize).all(|at| bit(range, at) == bit(key, at))
}

/// A packet, and what the node's routes say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPacket {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Whether a device took a tag out of it.
    pub tagged: bool,
    /// Its way on.
    pub way: Way,
    /// Where it, or its answers, would leave.
    pub way_back: Option<u32>,
    /// Whether devices carry it whole.
    pub fits: bool,
    /// How often somebody asked for its way on.
    pub asked: Cell<u32>,
    /// The device by which it leaves at once, and whether its hardware addresses are those of the next hop.
    pub leaves: Option<(u32, bool)>,
}

impl HostPacket {
    /// A packet in a node without routes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            tagged: false,
            way: Way::Stack,
            way_back: None,
            fits: true,
            asked: Cell::new(0),
            leaves: None,
        }
    }

    /// As the kernel does it, with a checksum that has been added up already.
    fn mend_by(&mut self, at: usize, difference: u32, zero_is_none: bool) {
        let Some([a, b]) = self.bytes.get_mut(at..at + 2).and_then(|place| place.first_chunk_mut::<2>())
        else {
            return;
        };
        let old = u16::from_ne_bytes([*a, *b]);
        let new = match difference {
            0 => old,
            _ if zero_is_none => checksum::mend_or_none(old, difference),
            _ => checksum::mend(old, difference),
        };
        [*a, *b] = new.to_ne_bytes();
    }
}

impl Frame for HostPacket {
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let place = self.bytes.get(at..at + N * 4)?;
        let mut words = [0; N];
        for (word, bytes) in words.iter_mut().zip(place.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Some(words)
    }

    fn put<const N: usize>(&mut self, at: usize, words: &[u32; N]) {
        if let Some(place) = self.bytes.get_mut(at..at + N * 4) {
            for (bytes, word) in place.as_chunks_mut::<4>().0.iter_mut().zip(words) {
                *bytes = word.to_ne_bytes();
            }
        }
    }

    fn mend(&mut self, at: usize, addresses: u32, rest: u32, zero_is_none: bool) {
        self.mend_by(at, addresses, zero_is_none);
        self.mend_by(at, rest, zero_is_none);
    }

    fn is_foreign(&self) -> bool {
        self.tagged
    }

    fn way(&self, _: &Header) -> Way {
        self.asked.set(self.asked.get() + 1);
        self.way
    }

    fn fits(&self, _: u32) -> bool {
        self.fits
    }

    fn leave(&mut self, device: u32, known: bool) {
        self.leaves = Some((device, known));
    }

    fn leads(&self, _: &Header, _: &Address, _: &Address) -> Option<u32> {
        self.way_back
    }
}
