//! The hash by which a flow's first packet chooses. It is the one that the packet filter's rules use, over the same bytes with the
//! same seed (`jhash` of linux/jhash.h, by Bob Jenkins, in the public domain): what this layer leaves to them gets the same
//! endpoint there.

use super::header::{Header, Version};

/// The packet filter's rules bear the same.
pub const SEED: u32 = 0x51;

/// Hash of who sends: address and port, in the packet filter's registers of 32 bits.
#[inline(always)]
pub fn sender(header: &Header) -> u32 {
    let [a, b, _, _] = header.ports.to_ne_bytes();
    let port = u32::from_ne_bytes([a, b, 0, 0]);
    match header.version {
        Version::V4 => short(header.source[3], port),
        Version::V6 => long(header.source, port),
    }
}

/// Over eight bytes.
#[inline(always)]
fn short(address: u32, port: u32) -> u32 {
    let start = start(8);
    last(start.wrapping_add(address), start.wrapping_add(port), start)
}

/// Over twenty bytes.
#[inline(always)]
fn long(address: [u32; 4], port: u32) -> u32 {
    let start = start(20);
    let [a, b, c, d] = address;
    let (a, b, c) = mix(start.wrapping_add(a), start.wrapping_add(b), start.wrapping_add(c));
    last(a.wrapping_add(d), b.wrapping_add(port), c)
}

const fn start(length: u32) -> u32 {
    0xdead_beef_u32.wrapping_add(length).wrapping_add(SEED)
}

#[inline(always)]
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    a = a.wrapping_sub(c) ^ c.rotate_left(4);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(6);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(8);
    b = b.wrapping_add(a);
    a = a.wrapping_sub(c) ^ c.rotate_left(16);
    c = c.wrapping_add(b);
    b = b.wrapping_sub(a) ^ a.rotate_left(19);
    a = a.wrapping_add(c);
    c = c.wrapping_sub(b) ^ b.rotate_left(4);
    b = b.wrapping_add(a);
    (a, b, c)
}

#[inline(always)]
fn last(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    c = (c ^ b).wrapping_sub(b.rotate_left(14));
    a = (a ^ c).wrapping_sub(c.rotate_left(11));
    b = (b ^ a).wrapping_sub(a.rotate_left(25));
    c = (c ^ b).wrapping_sub(b.rotate_left(16));
    a = (a ^ c).wrapping_sub(c.rotate_left(4));
    b = (b ^ a).wrapping_sub(a.rotate_left(14));
    (c ^ b).wrapping_sub(b.rotate_left(24))
}
