//! What the object contains.

use std::collections::BTreeSet;

use aya::maps::MapInfo;
use aya::programs::{CgroupSock, CgroupSockAddr};
use dataplane_ebpf::abi::MAPS;
use lab::sandbox::Sandbox;

use crate::rig::{HOOKS, RELEASE, object};

#[test]
fn every_program_passes_the_verifier() {
    let mut ebpf = object();
    let names: BTreeSet<_> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    let all = HOOKS.into_iter().chain([RELEASE]).map(str::to_owned);
    assert_eq!(names, all.collect(), "the programs that the daemon attaches");
    for name in HOOKS {
        let program: &mut CgroupSockAddr = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let program: &mut CgroupSock = ebpf.program_mut(RELEASE).unwrap().try_into().unwrap();
    program.load().unwrap_or_else(|error| panic!("{RELEASE}: {error}"));
}

#[test]
fn every_map_has_the_shape_that_the_abi_says() {
    let ebpf = object();
    // Only a pin leads from a map to what the kernel says of it.
    let folder = Sandbox::enter().unwrap().pins().to_owned();
    std::fs::create_dir(&folder).unwrap();
    for shape in MAPS {
        let pin = folder.join(shape.name);
        ebpf.map(shape.name).unwrap().pin(&pin).unwrap();
        let info = MapInfo::from_pin(&pin).unwrap();
        assert_eq!(
            (info.key_size(), info.value_size()),
            (shape.key_size, shape.value_size),
            "{}",
            shape.name
        );
    }
    let known: BTreeSet<_> = MAPS.iter().map(|shape| shape.name).collect();
    let found: BTreeSet<_> =
        ebpf.maps().map(|(name, _)| name).filter(|name| !name.starts_with('.')).collect();
    assert_eq!(found, known);
}
