//! The hash by which flows are spread is the packet filter's: `jhash` over source address and port in registers.

use dataplane_ebpf::datapath::edge::hash::{SEED, sender};
use dataplane_ebpf::datapath::edge::header;
use dataplane_ebpf::host_edge::HostPacket;
use proptest::prelude::*;

use crate::packet::{UDP, ends};
use crate::world::Kind;

/// Bob Jenkins' `hashlittle` (lookup3.c, May 2006), over bytes, for a start value that already holds the seed. The kernel's
/// `jhash` is the same on machines that are little-endian.
fn jhash(mut key: &[u8], seed: u32) -> u32 {
    let length = u32::try_from(key.len()).expect("a short key");
    let start = 0xdead_beef_u32.wrapping_add(length).wrapping_add(seed);
    let mut state = [start; 3];
    while key.len() > 12 {
        add(&mut state, &key[..12]);
        // Places: the one that changes, the one that is taken away or added, by how many bits it is turned.
        for (to, from, more, turn) in
            [(0, 2, 1, 4), (1, 0, 2, 6), (2, 1, 0, 8), (0, 2, 1, 16), (1, 0, 2, 19), (2, 1, 0, 4)]
        {
            state[to] = state[to].wrapping_sub(state[from]) ^ state[from].rotate_left(turn);
            state[from] = state[from].wrapping_add(state[more]);
        }
        key = &key[12..];
    }
    if key.is_empty() {
        return state[2];
    }
    add(&mut state, key);
    for (to, from, turn) in
        [(2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24)]
    {
        state[to] = (state[to] ^ state[from]).wrapping_sub(state[from].rotate_left(turn));
    }
    state[2]
}

fn add(state: &mut [u32; 3], bytes: &[u8]) {
    for (at, byte) in bytes.iter().enumerate() {
        let more = u32::from(*byte) << (8 * (at % 4));
        state[at / 4] = state[at / 4].wrapping_add(more);
    }
}

#[test]
fn the_hash_of_this_test_is_the_published_one() {
    // From driver5 of lookup3.c.
    let score = b"Four score and seven years ago";
    assert_eq!((jhash(b"", 0), jhash(b"", 0xdead_beef)), (0xdead_beef, 0xbd5b_7dde));
    assert_eq!((jhash(score, 0), jhash(score, 1)), (0x1777_0551, 0xcd62_8161));
}

fn hash(kind: Kind, from: std::net::SocketAddr) -> u32 {
    let to = kind.at(crate::world::Who::Vip, 80);
    let packet = HostPacket::new(crate::packet::udp(from, to, b""));
    let header = header::read(&packet, 0, true).expect("a plain packet");
    assert_eq!(ends(&packet.bytes).0, from);
    sender(&header)
}

proptest! {
    #[test]
    fn ipv4_senders_have_the_packet_filters_hash(ip in any::<[u8; 4]>(), port in any::<u16>()) {
        let [a, b] = port.to_be_bytes();
        let key = [ip.as_slice(), &[a, b, 0, 0]].concat();
        prop_assert_eq!(hash(Kind { v6: false, protocol: UDP }, (ip, port).into()), jhash(&key, SEED));
    }

    #[test]
    fn ipv6_senders_have_the_packet_filters_hash(ip in any::<[u8; 16]>(), port in any::<u16>()) {
        let [a, b] = port.to_be_bytes();
        let key = [ip.as_slice(), &[a, b, 0, 0]].concat();
        prop_assert_eq!(hash(Kind { v6: true, protocol: UDP }, (ip, port).into()), jhash(&key, SEED));
    }
}
