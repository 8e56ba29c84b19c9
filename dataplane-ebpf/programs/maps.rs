//! The maps, and the answers they give. Capacities are the smallest; the daemon sets its own when it loads.

use core::ptr::{addr_of, addr_of_mut, read_volatile};

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Counter, Datagrams, Holds, Member, MemberKey, Name, Peer, Service,
    ServiceKey, Slot, SlotKey, State, Traffic, Uses,
};
use dataplane_ebpf::datapath::{Deed, List, Tables, Way};

use crate::tally::{ON_DEMAND, add, entry, traffic};

#[btf_map]
static SERVICES: HashMap<ServiceKey, Service, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static NODE_ADDRESSES: HashMap<[u8; 16], u32, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static STATES: Array<State, 1> = Array::new();
#[btf_map]
static SLOTS: HashMap<SlotKey, Slot, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static MEMBERS: HashMap<MemberKey, Member, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static BACKENDS: HashMap<u32, Backend, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static NAMES: HashMap<u32, Name, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static META: Array<u32, 2> = Array::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { Counter::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static AFFINITY: LruHashMap<AffinityKey, Affinity, 1> = LruHashMap::new();
#[btf_map]
pub(crate) static CONNECTED: SkStorage<Peer> = SkStorage::new();
#[btf_map]
pub(crate) static DATAGRAMS: SkStorage<Datagrams> = SkStorage::new();
#[btf_map]
static TRAFFIC: HashMap<u32, Traffic, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static USES: HashMap<u32, Uses, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
pub(crate) static HOLDS: SkStorage<Holds> = SkStorage::new();

#[unsafe(no_mangle)]
static NODE_NETNS: u64 = 0;

/// The cookie of the node's own network namespace, which the loader has written into the object; zero: none.
#[inline(always)]
pub(crate) fn node_netns() -> u64 {
    // SAFETY: a plain number that nobody writes any more; volatile, because the one in the source is not the one here.
    unsafe { read_volatile(&raw const NODE_NETNS) }
}

pub(crate) struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<Service> {
        // SAFETY: no program writes to this map. The element may be used again by the daemon while it is copied; its
        // bytes are plain, and `choose` compares afterwards.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn node_address(&self, address: &[u8; 16]) -> Option<u8> {
        // SAFETY: as for SERVICES; an address that goes at this moment may get a node port once more, or none.
        unsafe { NODE_ADDRESSES.get(address) }.map(|node| *node as u8)
    }

    #[inline(always)]
    fn list(&self, service: u32, way: Way) -> Option<List> {
        let place = STATES.get_ptr(service)?;
        // SAFETY: an array's place is there for as long as the map, and a multiple of eight; so is each pair in it. One
        // load: generation and length are of one write.
        let pair = unsafe {
            match way {
                Way::Inside => place.cast::<u64>().read_volatile(),
                Way::Pod => addr_of!((*place).pod).cast::<u64>().read_volatile(),
                Way::Node => addr_of!((*place).node).cast::<u64>().read_volatile(),
            }
        };
        // SAFETY: as above.
        let timeout = unsafe { addr_of!((*place).timeout).read_volatile() };
        let [a, b, c, d, e, f, g, h] = pair.to_ne_bytes();
        let (generation, slots) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
        Some(List { generation, slots, timeout })
    }

    #[inline(always)]
    fn slot(&self, key: &SlotKey) -> Option<Slot> {
        // SAFETY: as for SERVICES.
        unsafe { SLOTS.get(key) }.copied()
    }

    #[inline(always)]
    fn member(&self, key: &MemberKey) -> Option<Member> {
        // SAFETY: as for SERVICES.
        unsafe { MEMBERS.get(key) }.copied()
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend> {
        // SAFETY: as for SERVICES.
        unsafe { BACKENDS.get(id) }.copied()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<Affinity> {
        // SAFETY: the element may be given to another client while it is copied. Its bytes are plain, and whatever they
        // name counts only as a member of the list in force.
        unsafe { AFFINITY.get(key) }.copied()
    }

    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, value: &Affinity) {
        match AFFINITY.get_ptr_mut(key) {
            // In place: a replaced element is missing for an instant, and another flow of this client would be spread.
            // SAFETY: as for `affinity`; what another client may find there leads to a listed endpoint or to none.
            Some(place) => unsafe { place.write_volatile(*value) },
            // A full map gives up its oldest record; if even that fails, this client is not remembered.
            None => drop(AFFINITY.insert(key, value, 0)),
        }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // A tick of a few milliseconds is exact enough for timeouts in seconds.
        // SAFETY: the helper takes nothing and always returns a number (since 5.11).
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and always returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, counter: Counter) {
        if let Some(count) = COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the pointer is this CPU's entry, and programs of this type do not interrupt each other on it
            // often enough to matter: at worst one event is lost.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn tally(&self, service: u32, deed: Deed) {
        if service == 0 {
            return;
        }
        let Some(place) = entry(&TRAFFIC, service, || Traffic::NONE) else {
            return self.count(Counter::Uncounted);
        };
        // SAFETY: the entry is there for this run, whoever removes it; it is a multiple of eight.
        unsafe { traffic(place, deed) };
    }

    #[inline(always)]
    fn raise(&self, id: u32, backend: &Backend) -> bool {
        let Some(place) = entry(&USES, id, || Uses::none(*backend)) else { return false };
        // SAFETY: as for `tally`. Nobody removes the entry of an endpoint that is listed.
        unsafe {
            add(addr_of_mut!((*place).opened), 1);
            add(addr_of_mut!((*place).open), 1);
        }
        true
    }

    #[inline(always)]
    fn lower(&self, id: u32) {
        let Some(place) = USES.get_ptr_mut(id) else { return };
        // SAFETY: as for `tally`. Nobody removes the entry of an endpoint that is in use.
        unsafe {
            let open = addr_of_mut!((*place).open);
            if open.read_volatile() != 0 {
                add(open, u64::MAX);
            }
        }
    }
}
