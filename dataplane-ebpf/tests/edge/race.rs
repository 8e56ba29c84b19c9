//! Two processors with two packets of one new flow.

use std::cell::Cell;
use std::ops::Deref;

use dataplane_ebpf::abi::{
    Address, ClientKey, EdgeCounter, EdgeDevice, Flow, FlowKey, Fragment, FragmentKey, Frontend, FrontendKey,
    ListState, Member, REPLY, ServerKey, Side, SlotKey, SourceKey, Stay, Target,
};
use dataplane_ebpf::datapath::Deed;
use dataplane_ebpf::datapath::edge::{Added, Hop, Step, Tables, open};
use dataplane_ebpf::host_edge::EdgeTables;

use crate::world::Who::{Client, Here, There, Vip};
use crate::world::{KINDS, World};

/// Tables in which the other processor has come as far as it can when this one has written its first entry.
struct Beaten<'a> {
    world: &'a World,
    other: Cell<Option<Vec<u8>>>,
}

impl Beaten<'_> {
    fn tables(&self) -> &EdgeTables {
        &self.world.tables
    }
}

/// What goes through unchanged.
macro_rules! through {
    ($(fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)+) => {
        $(fn $name(&self, $($argument: $type),*) $(-> $result)? { self.tables().$name($($argument),*) })+
    };
}

impl Tables for Beaten<'_> {
    fn add(&self, key: &FlowKey, flow: &Flow) -> Added {
        let added = self.tables().add(key, flow);
        if let Some(packet) = self.other.take() {
            self.tables().random.set(1 << 31);
            let _ = self.world.come_in(&packet);
        }
        added
    }

    fn flow(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        self.tables().flow(key)
    }

    fn flow_before(&self, key: &FlowKey) -> Option<impl Deref<Target = Flow>> {
        self.tables().flow_before(key)
    }

    fn side(&self, place: u32) -> Option<&Side> {
        self.tables().side(place)
    }

    through! {
        fn frontend(key: &FrontendKey) -> Option<Frontend>;
        fn list(list: u32) -> Option<ListState>;
        fn target(key: &SlotKey) -> Option<Target>;
        fn server(key: &ServerKey) -> Option<Member>;
        fn admits(key: &SourceKey) -> bool;
        fn own(address: &Address) -> Option<u32>;
        fn device(index: u32) -> Option<&EdgeDevice>;
        fn backed(address: &Address) -> bool;
        fn epoch() -> u32;
        fn remove(key: &FlowKey);
        fn forget_before(key: &FlowKey);
        fn touch(key: &FlowKey, seen: u32, marks: u32);
        fn confirm(key: &FlowKey, list: u32, generation: u32);
        fn keep(key: &FlowKey, hop: &Hop, epoch: u32);
        fn fragment(key: &FragmentKey) -> Option<Fragment>;
        fn set_fragment(key: &FragmentKey, fragment: &Fragment);
        fn stay(key: &ClientKey) -> Option<Stay>;
        fn set_stay(key: &ClientKey, stay: &Stay);
        fn seconds() -> u32;
        fn recent_seconds() -> u32;
        fn random() -> u32;
        fn count(counter: EdgeCounter);
        fn tally(service: u32, deed: Deed);
    }
}

#[test]
fn the_flow_of_the_faster_one_counts_and_the_slower_one_leaves_nothing_behind() {
    for kind in KINDS {
        for (endpoint, line) in
            [(There, "sent Node:50050 > There:8080"), (Here, "sent Client:4000 > Here:8080")]
        {
            let world = World::new(kind, &[endpoint]);
            let ip = kind.first((Client, 4000), (Vip, 80));
            let beaten = Beaten { world: &world, other: Cell::new(Some(ip.clone())) };
            assert_eq!(open(&world.wrapped(&ip), &beaten, world.at), Step::Send);
            assert_eq!((world.entries(), world.count(EdgeCounter::Opened)), (2, 1), "{endpoint:?}");
            let replies = world.tables.flows.borrow().values().filter(|flow| flow.marks & REPLY != 0).count();
            assert_eq!(replies, 1);
            world.check_in(&ip, line);
        }
    }
}
