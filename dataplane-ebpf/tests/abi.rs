//! What the kernel and the daemon agree on does not change by accident.
//!
//! `UPDATE=1 cargo test -p dataplane-ebpf --test abi` writes the file anew, after `VERSION` has been raised.

use std::fmt::Write as _;
use std::fs;

use dataplane_ebpf::abi::{
    Affinity, AffinityKey, Backend, Counter, DATAGRAM_PEERS, DROP, Datagrams, Endpoint, Extent, Holds,
    INSIDE, MAPS, MapShape, Member, MemberKey, NAME_BYTES, Name, OUTSIDE, Peer, Service, ServiceKey, Slot,
    SlotKey, State, Traffic, Uses, VERSION,
};

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/abi.golden.txt");

/// A structure: its name, its size, and the name, offset and size of each field.
type Layout = (&'static str, usize, &'static [(&'static str, usize, usize)]);

const LAYOUTS: [Layout; 18] = [
    ("Endpoint", size_of::<Endpoint>(), Endpoint::LAYOUT),
    ("Backend", size_of::<Backend>(), Backend::LAYOUT),
    ("ServiceKey", size_of::<ServiceKey>(), ServiceKey::LAYOUT),
    ("Service", size_of::<Service>(), Service::LAYOUT),
    ("Extent", size_of::<Extent>(), Extent::LAYOUT),
    ("State", size_of::<State>(), State::LAYOUT),
    ("SlotKey", size_of::<SlotKey>(), SlotKey::LAYOUT),
    ("Slot", size_of::<Slot>(), Slot::LAYOUT),
    ("MemberKey", size_of::<MemberKey>(), MemberKey::LAYOUT),
    ("Member", size_of::<Member>(), Member::LAYOUT),
    ("AffinityKey", size_of::<AffinityKey>(), AffinityKey::LAYOUT),
    ("Affinity", size_of::<Affinity>(), Affinity::LAYOUT),
    ("Name", size_of::<Name>(), Name::LAYOUT),
    ("Peer", size_of::<Peer>(), Peer::LAYOUT),
    ("Datagrams", size_of::<Datagrams>(), Datagrams::LAYOUT),
    ("Traffic", size_of::<Traffic>(), Traffic::LAYOUT),
    ("Uses", size_of::<Uses>(), Uses::LAYOUT),
    ("Holds", size_of::<Holds>(), Holds::LAYOUT),
];

#[test]
fn a_layout_does_not_change_without_a_new_version() {
    let stated = render();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(GOLDEN, &stated).expect("the golden file can be written");
    }
    let golden = fs::read_to_string(GOLDEN).unwrap_or_default();
    let changed = lines_of_one(&golden, &stated);
    assert!(
        changed.is_empty(),
        "the ABI is not the one in tests/abi.golden.txt:\n{changed}\n\
         A daemon would misread the maps of its predecessor. \
         Raise VERSION in src/abi/mod.rs (it is {VERSION}), then write the file anew with UPDATE=1."
    );
}

#[test]
fn fields_follow_each_other_without_a_gap() {
    for (name, size, fields) in LAYOUTS {
        let end = fields.iter().fold(0, |at, (field, offset, bytes)| {
            assert_eq!(at, *offset, "{name}.{field}");
            offset + bytes
        });
        assert_eq!(end, size, "{name}");
    }
}

#[test]
fn names_of_maps_and_counters_are_unique_and_maps_fit_the_kernel() {
    let mut maps = MAPS.map(|MapShape { name, key_size: _, value_size: _ }| name);
    assert!(maps.iter().all(|name| name.len() <= 15), "{maps:?}");
    maps.sort_unstable();
    assert!(maps.windows(2).all(|pair| pair[0] != pair[1]), "{maps:?}");
    let mut counters = Counter::ALL.map(Counter::name);
    counters.sort_unstable();
    assert!(counters.windows(2).all(|pair| pair[0] != pair[1]), "{counters:?}");
}

#[test]
fn every_counter_stands_at_its_own_index() {
    for (index, counter) in Counter::ALL.into_iter().enumerate() {
        assert_eq!(counter as usize, index, "{counter:?}");
    }
}

fn render() -> String {
    let mut text = format!("version {VERSION}\n");
    for (name, size, fields) in LAYOUTS {
        line(&mut text, format_args!("\nstruct {name} {size}"));
        for (field, offset, bytes) in fields {
            line(&mut text, format_args!("  {field} at {offset} size {bytes}"));
        }
    }
    line(&mut text, format_args!("\nmaps"));
    for MapShape { name, key_size, value_size } in MAPS {
        line(&mut text, format_args!("  {name} key {key_size} value {value_size}"));
    }
    line(&mut text, format_args!("\ncounters"));
    for counter in Counter::ALL {
        line(&mut text, format_args!("  {} {}", counter as u32, counter.name()));
    }
    line(
        &mut text,
        format_args!(
            "\nconstants\n  NAME_BYTES {NAME_BYTES}\n  DATAGRAM_PEERS {DATAGRAM_PEERS}\n  DROP {DROP}\n  \
             INSIDE {INSIDE}\n  OUTSIDE {OUTSIDE}"
        ),
    );
    text
}

fn line(text: &mut String, content: std::fmt::Arguments<'_>) {
    writeln!(text, "{content}").expect("a string takes everything");
}

/// The lines that only one of two texts has.
fn lines_of_one(golden: &str, stated: &str) -> String {
    let only = |mark: char, here: &str, there: &str| -> String {
        let missing = here.lines().filter(|line| there.lines().all(|other| other != *line));
        missing.map(|line| format!("{mark} {line}\n")).collect()
    };
    let lines = only('-', golden, stated) + &only('+', stated, golden);
    if lines.is_empty() && golden != stated { "the same lines in another order".to_owned() } else { lines }
}
