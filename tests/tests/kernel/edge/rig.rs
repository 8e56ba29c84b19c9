//! The edge's programs, loaded, in a namespace with one device; packets are run through them without being sent.

use std::collections::BTreeMap;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use dataplane_ebpf::abi::{
    self, EdgeCounter, EdgeDevice, FRAMES, FRAMES_BACK, Flow, FlowKey, ListState, SIDE_V4, SIDE_V6,
    SourceKey, Traffic,
};
use dataplane_ebpf::datapath::edge::Hop;
use dataplane_ebpf::host_edge::EdgeTables;
use lab::link::batch;
use lab::netns::Netns;

use crate::rig::refill;

/// Programs that hang on devices: in, out, in by the device of endpoints here. Each for devices with and without hardware addresses,
/// but that the last does nothing on the latter and is not there.
pub(crate) const HOOKED: [[&str; 2]; 3] =
    [["edge_in", "edge_in_bare"], ["edge_out", "edge_out_bare"], ["edge_back", "edge_back"]];

/// The program before the stack.
const EXPRESS: &str = "edge_express";
/// The device by which frames come that nobody sent.
pub(crate) const LOOPBACK: u32 = 1;

/// Every address is reached by this hop, and so every caller.
pub(crate) const HOP: Hop = Hop { device: 7, addresses: words([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]) };
const ROUTES: &str = "\
link add edge0 index 7 address 02:00:00:00:00:01 type veth peer name edge1
link set dev edge1 up
link set dev edge0 up
addr add 10.9.0.1/24 dev edge0
addr add fd00:9::1/64 dev edge0 nodad
neigh replace 10.9.0.2 lladdr 02:00:00:00:00:02 nud permanent dev edge0
neigh replace fd00:9::2 lladdr 02:00:00:00:00:02 nud permanent dev edge0
route add default via 10.9.0.2 dev edge0
route add default via fd00:9::2 dev edge0
";
/// Room in the maps that a daemon fills.
const ROOM: u32 = 64;
/// Where `struct __sk_buff` has the index of the device.
const IFINDEX_AT: usize = 40;
/// Where it has the size of the parts that a bundle of packets is cut into.
const GSO_SIZE_AT: usize = 176;

const fn words(bytes: [u8; 12]) -> [u32; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = bytes;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])]
}

pub(crate) struct EdgeRig {
    ebpf: Ebpf,
    netns: Netns,
    /// Whether the next packet is a bundle: its checksum is mended by the kernel's helpers, that of others by the program.
    bundle: bool,
}

impl EdgeRig {
    /// With room for so many entries of flows.
    pub(crate) fn new(flows: u32) -> Self {
        let netns = Netns::new().expect("a namespace");
        batch(&netns, ROUTES).expect("a device and routes");
        let mut ebpf = object(flows);
        for name in abi::STEP_PROGRAMS {
            program(&mut ebpf, name).load().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        express(&mut ebpf).load().unwrap_or_else(|error| panic!("{EXPRESS}: {error}"));
        let fds = abi::STEP_PROGRAMS.map(|name| {
            let fd = program(&mut ebpf, name).fd().expect("a loaded program");
            fd.try_clone().expect("a handle to it")
        });
        let mut steps =
            ProgramArray::try_from(ebpf.map_mut(abi::STEPS).expect("a map")).expect("of programs");
        for (place, fd) in (0..).zip(&fds) {
            steps.set(place, fd, 0).expect("a place");
        }
        Self { ebpf, netns, bundle: false }
    }

    /// Writes the tables of the host into the kernel, whole; flows, counts and what clients got are kept there.
    pub(crate) fn fill(&mut self, tables: &EdgeTables) {
        let EdgeTables {
            frontends,
            lists,
            targets,
            servers,
            sources,
            own,
            devices,
            backed,
            sides,
            epoch,
            flows: _,
            flows_before: _,
            room: _,
            fragments: _,
            stays: _,
            seconds: _,
            random: _,
            counted: _,
            traffic: _,
        } = tables;
        let ebpf = &mut self.ebpf;
        refill(ebpf, abi::FRONTENDS, frontends);
        refill(ebpf, abi::TARGETS, targets);
        refill(ebpf, abi::SERVERS, servers);
        refill(ebpf, abi::OWN_ADDRESSES, own);
        let all = FRAMES | FRAMES_BACK;
        let devices = devices
            .iter()
            .map(|(index, device)| (*index, EdgeDevice { flags: device.flags | all, ..*device }));
        refill(ebpf, abi::DEVICES, &devices.collect());
        refill(ebpf, abi::BACKED, &backed.iter().map(|address| (*address, 1_u32)).collect());
        let none = ListState { generation: 0, slots: 0, timeout: 0, service: 0 };
        for list in 0..ROOM {
            set(ebpf, abi::LISTS, list, lists.get(&list).copied().unwrap_or(none));
        }
        for place in [SIDE_V4, SIDE_V6] {
            set(ebpf, abi::SIDES, place, sides[place as usize]);
        }
        set(ebpf, abi::EPOCH, 0, epoch.get());
        let trie = ebpf.map_mut(abi::SOURCES).expect("a map of sources");
        let mut trie: LpmTrie<_, [u32; 5], u32> = trie.try_into().expect("a trie");
        for SourceKey { bits, sources, address: [a, b, c, d] } in sources {
            trie.insert(&Key::new(*bits, [*sources, *a, *b, *c, *d]), 1, 0).expect("room");
        }
    }

    /// Runs a program over a packet that came by the device: what it returns, and the packet then.
    pub(crate) fn run(&mut self, name: &str, packet: &[u8]) -> (i32, Vec<u8>) {
        let Self { ebpf, netns, bundle } = self;
        let program = program(ebpf, name);
        let mut context = [0; 192];
        context[IFINDEX_AT..IFINDEX_AT + 4].copy_from_slice(&HOP.device.to_ne_bytes());
        context[GSO_SIZE_AT..GSO_SIZE_AT + 4].copy_from_slice(&u32::from(*bundle).to_ne_bytes());
        *bundle = !*bundle;
        let mut out = vec![0; packet.len() + 64];
        let result = netns.run(|| {
            let options = TestRunOptions {
                data_in: Some(packet),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..TestRunOptions::new()
            };
            Ok(program.test_run(options)?)
        });
        let result = result.unwrap_or_else(|error| panic!("{name} over {packet:02x?}: {error:#}"));
        out.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), out)
    }

    /// Runs the program before the stack over a frame that came by the loopback: what it returns, and the frame then.
    pub(crate) fn run_frame(&mut self, frame: &[u8]) -> (i32, Vec<u8>) {
        let Self { ebpf, netns, bundle: _ } = self;
        let program = express(ebpf);
        let mut out = vec![0; frame.len() + 64];
        let result = netns.run(|| {
            let options =
                TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::new() };
            Ok(program.test_run(options)?)
        });
        let result = result.unwrap_or_else(|error| panic!("{EXPRESS} over {frame:02x?}: {error:#}"));
        out.truncate(result.data_size_out as usize);
        (result.return_value.cast_signed(), out)
    }

    /// Says what holds of devices.
    pub(crate) fn set_devices(&mut self, devices: &[(u32, u32)]) {
        let device = |flags| EdgeDevice { flags, own_v4: [0; 4], own_v6: [0; 4] };
        let devices = devices.iter().map(|(index, flags)| (*index, device(*flags)));
        refill(&mut self.ebpf, abi::DEVICES, &devices.collect());
    }

    /// Has every flow remember this device.
    pub(crate) fn lead_flows_to(&mut self, device: u32) {
        let map = self.ebpf.map_mut(abi::FLOWS).expect("a map of flows");
        let mut map: HashMap<_, FlowKey, Flow> = map.try_into().expect("a hash map");
        let entries: Vec<_> = map.iter().collect::<Result<_, _>>().expect("its entries");
        for (key, flow) in entries {
            map.insert(key, Flow { device, ..flow }, 0).expect("room");
        }
    }

    /// All flows, without when they were seen.
    pub(crate) fn flows(&mut self) -> BTreeMap<FlowKey, Flow> {
        let map = self.ebpf.map_mut(abi::FLOWS).expect("a map of flows");
        let map: HashMap<_, FlowKey, Flow> = map.try_into().expect("a hash map");
        let entries = map.iter().map(|entry| entry.map(|(key, flow)| (key, Flow { seen: 0, ..flow })));
        entries.collect::<Result<_, _>>().expect("its entries")
    }

    /// What became of new flows, by service port.
    pub(crate) fn traffic(&mut self) -> BTreeMap<u32, Traffic> {
        let map = self.ebpf.map_mut(abi::EDGE_TRAFFIC).expect("a map of counts");
        let map: HashMap<_, u32, Traffic> = map.try_into().expect("a hash map");
        map.iter().collect::<Result<_, _>>().expect("its entries")
    }

    /// All counts that are not zero.
    pub(crate) fn counted(&mut self) -> BTreeMap<EdgeCounter, u64> {
        let map = self.ebpf.map_mut(abi::EDGE_COUNTERS).expect("a map of counts");
        let map: PerCpuArray<_, u64> = map.try_into().expect("an array");
        let count = |counter| map.get(&(counter as u32), 0).expect("a count").iter().sum();
        let all = EdgeCounter::ALL.into_iter().map(|counter| (counter, count(counter)));
        all.filter(|(_, count)| *count != 0).collect()
    }
}

/// The edge's object lies beside the other.
fn object(flows: u32) -> Ebpf {
    let path = std::env::var("SLUICE_EBPF_OBJECT").expect("SLUICE_EBPF_OBJECT names the built programs");
    let path = Path::new(&path).with_file_name("edge");
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut loader = EbpfLoader::new();
    for map in [
        abi::FRONTENDS,
        abi::LISTS,
        abi::TARGETS,
        abi::SERVERS,
        abi::SOURCES,
        abi::OWN_ADDRESSES,
        abi::DEVICES,
        abi::BACKED,
        abi::STAYS,
        abi::FRAGMENTS,
        abi::EDGE_TRAFFIC,
    ] {
        loader.map_max_entries(map, ROOM);
    }
    loader.map_max_entries(abi::FLOWS, flows);
    loader.load(&bytes).expect("the object loads")
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).unwrap_or_else(|| panic!("no program {name}"));
    program.try_into().expect("its type")
}

fn express(ebpf: &mut Ebpf) -> &mut Xdp {
    ebpf.program_mut(EXPRESS).expect("the program before the stack").try_into().expect("its type")
}

fn set<V: Pod>(ebpf: &mut Ebpf, name: &str, place: u32, value: V) {
    let map = ebpf.map_mut(name).unwrap_or_else(|| panic!("no map {name}"));
    let mut map: Array<&mut MapData, V> = map.try_into().expect("an array");
    map.set(place, value, 0).expect("a place");
}
