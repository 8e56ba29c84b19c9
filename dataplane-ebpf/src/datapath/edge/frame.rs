//! What the datapath may ask of a packet and of the node it is on, and change.

use core::ops::Deref;

use super::header::Header;
use crate::abi::{
    Address, ClientKey, EdgeCounter, EdgeDevice, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    ListState, Member, ServerKey, Side, SlotKey, SourceKey, Stay, Target,
};
use crate::datapath::Deed;

/// A packet, from its first byte.
pub trait Frame {
    /// Words at an offset, as the machine loads them; `None` if it ends before.
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]>;
    /// Puts others in their place; only where they have been read before.
    fn put<const N: usize>(&mut self, at: usize, words: &[u32; N]);
    /// Mends the checksum of TCP, UDP or ICMPv6: by what changed in the addresses that it covers, and by what changed behind
    /// it. They are told apart because a device may still have to add up the latter. `zero_is_none`: UDP's rule.
    fn mend(&mut self, at: usize, addresses: u32, rest: u32, zero_is_none: bool);
    /// Whether it is none for this host alone: it is for another one or for several, or has the tag of a virtual network.
    fn is_foreign(&self) -> bool;
    /// The way on for what bears this header now.
    fn way(&self, header: &Header) -> Way;
    /// Whether a device can carry it whole. The way on has been asked for with another packet.
    fn fits(&self, device: u32) -> bool;
    /// Has it leave by a device at once. `known`: its hardware addresses are those of the next hop; else that must be asked for
    /// them.
    fn leave(&mut self, device: u32, known: bool);
    /// Index of the device by which a packet of this family and protocol between these two would leave.
    fn leads(&self, header: &Header, from: &Address, to: &Address) -> Option<u32>;
}

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To a neighbour whose hardware address is known.
    To(Hop),
    /// Out of the device with this index, to a neighbour who must be asked first.
    Ask(u32),
    /// That is not known here, or not so simple.
    Stack,
}

/// A next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Index of the device.
    pub device: u32,
    /// The neighbour's hardware address and the device's, as a frame begins.
    pub addresses: [u32; 3],
}

/// Outcome of writing a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Added {
    /// It is there.
    Yes,
    /// Another is there already.
    Taken,
    /// There is no room.
    Full,
}

/// The tables.
pub trait Tables {
    /// What becomes of new flows to an address.
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend>;
    /// Where a list stands.
    fn list(&self, list: u32) -> Option<ListState>;
    /// One place of a list.
    fn target(&self, key: &SlotKey) -> Option<Target>;
    /// Whether an endpoint serves, and its place.
    fn server(&self, key: &ServerKey) -> Option<Member>;
    /// Whether a source is let in.
    fn admits(&self, key: &SourceKey) -> bool;
    /// What an address of this node is used for.
    fn own(&self, address: &Address) -> Option<u32>;
    /// A device with our programs.
    fn device(&self, index: u32) -> Option<&EdgeDevice>;
    /// Whether answers of an endpoint on this node come in by a device with our program for them.
    fn backed(&self, address: &Address) -> bool;
    /// What is the same for all flows of a family.
    fn side(&self, place: u32) -> Option<&Side>;
    /// The routes' epoch.
    fn epoch(&self) -> u32;
    /// A flow.
    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>>;
    /// A flow that has not been brought to this table yet.
    fn flow_before(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>>;
    /// Takes one away from where such flows are.
    fn forget_before(&self, key: &FlowKey);
    /// Writes a new flow.
    fn add(&self, key: &FlowKey, flow: &Flow) -> Added;
    /// Ends one.
    fn remove(&self, key: &FlowKey);
    /// Writes down when a flow was seen, and adds to its marks.
    fn touch(&self, key: &FlowKey, seen: u32, marks: u32);
    /// Writes down that a flow's endpoint still served in this generation of this list.
    fn confirm(&self, key: &FlowKey, list: u32, generation: u32);
    /// Writes down a flow's next hop.
    fn keep(&self, key: &FlowKey, hop: &Hop, epoch: u32);
    /// What fragments of a packet bear, whose first one has been seen.
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment>;
    /// Writes that down.
    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment);
    /// What a client got.
    fn stay(&self, key: &ClientKey) -> Option<Stay>;
    /// Writes that down.
    fn set_stay(&self, key: &ClientKey, stay: &Stay);
    /// The time: seconds of a clock that never goes back.
    fn seconds(&self) -> u32;
    /// The same for who asks with every packet: it may be late by one tick of the kernel's.
    fn recent_seconds(&self) -> u32;
    /// A random number, uniform over all values.
    fn random(&self) -> u32;
    /// Counts an event.
    fn count(&self, counter: EdgeCounter);
    /// Counts what became of a new flow for a service port, by its number.
    fn tally(&self, service: u32, deed: Deed);
}
