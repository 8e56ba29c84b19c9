//! The maps, and the answers they give. Capacities are the smallest; the daemon sets its own when it loads.

use core::ops::Deref;
use core::ptr::addr_of_mut;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use dataplane_ebpf::abi::{
    Address, ClientKey, EdgeCounter, EdgeDevice, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    ListState, Member, NO_EPOCH, STEP_PROGRAMS, ServerKey, Side, SlotKey, SourceKey, Stay, Target, Traffic,
};
use dataplane_ebpf::datapath::Deed;
use dataplane_ebpf::datapath::edge::frame::{Added, Hop, Tables};

use crate::tally::{ON_DEMAND, entry, traffic};

/// `-EEXIST`.
const EXISTS: i32 = -17;

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, Frontend, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static LISTS: Array<ListState, 1> = Array::new();
#[btf_map]
static TARGETS: HashMap<SlotKey, Target, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static SERVERS: HashMap<ServerKey, Member, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static SOURCES: LpmTrie<[u32; 5], u32, 1> = LpmTrie::new();
#[btf_map]
static OWN_ADDRESSES: HashMap<Address, u32, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static DEVICES: HashMap<u32, EdgeDevice, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static BACKED: HashMap<Address, u32, 1, ON_DEMAND> = HashMap::new();
#[btf_map]
static SIDES: Array<Side, 2> = Array::new();
#[btf_map]
static EPOCH: Array<u32, 1> = Array::new();
/// The time as it was last asked for: the kernel's tick then, and seconds above it.
#[btf_map]
static CLOCK: Array<u64, 1> = Array::new();
/// All of it is there from the beginning: memory that is asked for with a flow's first packet takes a third of its time.
#[btf_map]
static FLOWS: HashMap<FlowKey, Flow, 1> = HashMap::new();
#[btf_map]
static FLOWS_BEFORE: HashMap<FlowKey, Flow, 1> = HashMap::new();
#[btf_map]
static STAYS: LruHashMap<ClientKey, Stay, 1> = LruHashMap::new();
#[btf_map]
static FRAGMENTS: LruHashMap<FragmentKey, Fragment, 1> = LruHashMap::new();
#[btf_map]
static EDGE_COUNTERS: PerCpuArray<u64, { EdgeCounter::ALL.len() }> = PerCpuArray::new();
#[btf_map]
static EDGE_TRAFFIC: HashMap<u32, Traffic, 1, ON_DEMAND> = HashMap::new();
/// Programs that others go on with.
#[btf_map]
pub(crate) static STEPS: ProgramArray<{ STEP_PROGRAMS.len() }> = ProgramArray::new();

pub(crate) struct Maps;

/// Flags of a device; nothing if it has none of our programs.
#[inline(always)]
pub(crate) fn device(index: u32) -> u32 {
    // SAFETY: as for FRONTENDS.
    unsafe { DEVICES.get(index) }.map_or(0, |device| device.flags)
}

impl Tables for Maps {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey) -> Option<Frontend> {
        // SAFETY: no program writes to this map. The element may be used again by the daemon while it is copied; its
        // bytes are plain, and whatever list they name is compared afterwards.
        unsafe { FRONTENDS.get(key) }.copied()
    }

    #[inline(always)]
    fn list(&self, list: u32) -> Option<ListState> {
        let place = LISTS.get_ptr(list)?.cast::<u64>();
        // SAFETY: an array's place is there for as long as the map, and a multiple of eight. Generation and length are of
        // one write.
        let (first, second) = unsafe { (place.read_volatile(), place.add(1).read_volatile()) };
        let [a, b, c, d, e, f, g, h] = first.to_ne_bytes();
        let [i, j, k, l, m, n, o, p] = second.to_ne_bytes();
        Some(ListState {
            generation: u32::from_ne_bytes([a, b, c, d]),
            slots: u32::from_ne_bytes([e, f, g, h]),
            timeout: u32::from_ne_bytes([i, j, k, l]),
            service: u32::from_ne_bytes([m, n, o, p]),
        })
    }

    #[inline(always)]
    fn target(&self, key: &SlotKey) -> Option<Target> {
        // SAFETY: as for FRONTENDS.
        unsafe { TARGETS.get(key) }.copied()
    }

    #[inline(always)]
    fn server(&self, key: &ServerKey) -> Option<Member> {
        // SAFETY: as for FRONTENDS.
        unsafe { SERVERS.get(key) }.copied()
    }

    #[inline(always)]
    fn admits(&self, key: &SourceKey) -> bool {
        let SourceKey { bits, sources, address: [a, b, c, d] } = *key;
        SOURCES.get(&Key::new(bits, [sources, a, b, c, d])).is_some()
    }

    #[inline(always)]
    fn own(&self, address: &Address) -> Option<u32> {
        // SAFETY: as for FRONTENDS.
        unsafe { OWN_ADDRESSES.get(address) }.copied()
    }

    #[inline(always)]
    fn device(&self, index: u32) -> Option<&EdgeDevice> {
        // SAFETY: as for FRONTENDS. The daemon puts another element in its place, and never writes to this one.
        unsafe { DEVICES.get(index) }
    }

    #[inline(always)]
    fn backed(&self, address: &Address) -> bool {
        // SAFETY: as for FRONTENDS.
        unsafe { BACKED.get(address) }.is_some()
    }

    #[inline(always)]
    fn side(&self, place: u32) -> Option<&Side> {
        // SAFETY: an array's place is there for as long as the map. What is read of two writes lasts for one packet.
        SIDES.get_ptr(place).map(|place| unsafe { &*place })
    }

    #[inline(always)]
    fn epoch(&self) -> u32 {
        // SAFETY: an array's place is there for as long as the map.
        EPOCH.get_ptr(0).map_or(NO_EPOCH, |place| unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        // SAFETY: what other processors write meanwhile is either of: time, marks, next hop. Each is whole. The element is
        // not freed before the program ends; if it is used again at once, this packet goes where the next flow's go.
        unsafe { FLOWS.get(key) }
    }

    #[inline(always)]
    fn flow_before(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        // SAFETY: nothing is written to this map any more. The element is not freed before the program ends.
        unsafe { FLOWS_BEFORE.get(key) }
    }

    #[inline(always)]
    fn forget_before(&self, key: &FlowKey) {
        // What is not there is as good as removed.
        let _ = FLOWS_BEFORE.remove(key);
    }

    #[inline(always)]
    fn add(&self, key: &FlowKey, flow: &Flow) -> Added {
        match FLOWS.insert(key, flow, BPF_NOEXIST as u64) {
            Ok(()) => Added::Yes,
            Err(EXISTS) => Added::Taken,
            Err(_) => Added::Full,
        }
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        // What is not there is as good as removed.
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn touch(&self, key: &FlowKey, seen: u32, marks: u32) {
        if let Some(flow) = FLOWS.get_ptr_mut(key) {
            // In place: a replaced element is missing for an instant, and a packet of the flow would be nobody's.
            // SAFETY: the element is not freed before the program ends; words are written whole. A mark that is lost because
            // two processors write at once is written with the next packet.
            unsafe {
                if seen != 0 {
                    addr_of_mut!((*flow).seen).write_volatile(seen);
                }
                let place = addr_of_mut!((*flow).marks);
                place.write_volatile(place.read_volatile() | marks);
            }
        }
    }

    #[inline(always)]
    fn confirm(&self, key: &FlowKey, list: u32, generation: u32) {
        if let Some(flow) = FLOWS.get_ptr_mut(key) {
            // SAFETY: as for `touch`. Of two writes mixed, the flow is asked about once more.
            unsafe {
                addr_of_mut!((*flow).list).write_volatile(list);
                addr_of_mut!((*flow).generation).write_volatile(generation);
            }
        }
    }

    #[inline(always)]
    fn keep(&self, key: &FlowKey, hop: &Hop, epoch: u32) {
        if let Some(flow) = FLOWS.get_ptr_mut(key) {
            // The epoch comes last: it says that the rest counts.
            // SAFETY: as for `touch`.
            unsafe {
                addr_of_mut!((*flow).epoch).write_volatile(NO_EPOCH);
                addr_of_mut!((*flow).addresses).write_volatile(hop.addresses);
                addr_of_mut!((*flow).device).write_volatile(hop.device);
                addr_of_mut!((*flow).epoch).write_volatile(epoch);
            }
        }
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<Fragment> {
        // SAFETY: the element may be given to another packet while it is copied. A mixture is no flow's, and no host's.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey, fragment: &Fragment) {
        // A full map gives up its oldest record; if even that fails, the rest of this packet is nobody's.
        let _ = FRAGMENTS.insert(key, fragment, 0);
    }

    #[inline(always)]
    fn stay(&self, key: &ClientKey) -> Option<Stay> {
        // SAFETY: the element may be given to another client while it is copied. Its bytes are plain, and whatever they name
        // counts only as a member of the list in force.
        unsafe { STAYS.get(key) }.copied()
    }

    #[inline(always)]
    fn set_stay(&self, key: &ClientKey, stay: &Stay) {
        // A full map gives up its oldest record; if even that fails, this client is not remembered.
        let _ = STAYS.insert(key, stay, 0);
    }

    #[inline(always)]
    fn seconds(&self) -> u32 {
        // SAFETY: the helper takes nothing and always returns a number (since 5.11).
        (unsafe { bpf_ktime_get_coarse_ns() } / 1_000_000_000) as u32
    }

    #[inline(always)]
    fn recent_seconds(&self) -> u32 {
        let Some(clock) = CLOCK.get_ptr_mut(0) else { return self.seconds() };
        // The clock's helper is a call and a division; this one is a load where the kernel compiles programs.
        // SAFETY: the helper takes nothing and always returns a number. An array's place is there for as long as the map,
        // and is read and written whole.
        let (tick, last) = unsafe { (bpf_jiffies64() as u32, clock.read_volatile()) };
        if last as u32 == tick {
            return (last >> 32) as u32;
        }
        let seconds = self.seconds();
        // SAFETY: as above. An older tick, written by a processor that was slower, is nobody's tick any more.
        unsafe { clock.write_volatile((seconds as u64) << 32 | tick as u64) };
        seconds
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper takes nothing and always returns a number.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn count(&self, counter: EdgeCounter) {
        if let Some(count) = EDGE_COUNTERS.get_ptr_mut(counter as u32) {
            // SAFETY: the pointer is this CPU's entry, and programs of this type do not interrupt each other on it
            // often enough to matter: at worst one event is lost.
            unsafe { *count += 1 };
        }
    }

    #[inline(always)]
    fn tally(&self, service: u32, deed: Deed) {
        // Without room nothing is counted for this one; the flow goes on all the same.
        if let Some(place) = entry(&EDGE_TRAFFIC, service, || Traffic::NONE) {
            // SAFETY: the entry is there for this run, whoever removes it; it is a multiple of eight.
            unsafe { traffic(place, deed) };
        }
    }
}
