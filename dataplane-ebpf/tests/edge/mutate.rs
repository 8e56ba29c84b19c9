//! Packets made worse, by a generator that always throws the same. The kernel's tests of the edge read this file, too, so that
//! the programs meet what the host's functions met.

/// A generator of numbers (xorshift64*, by Sebastiano Vigna, in the public domain).
#[derive(Clone, Debug)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below the bound; zero if there is none.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 33) as usize % bound.max(1)
    }

    pub(crate) fn pick<'a, T>(&mut self, some: &'a [T]) -> &'a T {
        &some[self.below(some.len())]
    }

    fn byte(&mut self) -> u8 {
        let any = (self.next() >> 40) as u8;
        *self.pick(&[any, any, any, 0, 1, 0x7f, 0x80, 0xff])
    }
}

/// Makes a packet worse in one way, whatever it is. `other`: a packet from which something may be taken.
pub(crate) fn mutate(dice: &mut Dice, packet: &mut Vec<u8>, other: &[u8]) {
    let (at, length) = (dice.below(packet.len()), packet.len());
    match dice.below(13) {
        0 => packet.truncate(at),
        1 => packet.extend(vec![dice.byte(); dice.below(40)]),
        2 => change(packet, at, |byte| byte ^ (1 << dice.below(8))),
        3 => change(packet, at, |_| dice.byte()),
        // Where headers are, more often than anywhere.
        4 | 5 => change(packet, dice.below(64), |_| dice.byte()),
        6 => change_header(dice, packet),
        7 => splice(dice, packet, other),
        8 => drop(packet.drain(at..(at + dice.below(24)).min(length))),
        9 => {
            let inserted = vec![dice.byte(); 4 * dice.below(4)];
            packet.splice(at..at, inserted);
        }
        10 => turn(packet),
        11 => cut(dice, packet),
        _ => quote(dice, packet),
    }
}

fn change(packet: &mut [u8], at: usize, deed: impl FnOnce(u8) -> u8) {
    if let Some(byte) = packet.get_mut(at) {
        *byte = deed(*byte);
    }
}

/// A field that decides: version and length of the header, class, length, fragment, hops, protocol; of each version.
fn change_header(dice: &mut Dice, packet: &mut [u8]) {
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let v4: [(usize, &[u8]); 7] = [
        (0, &[0x40, 0x44, 0x46, 0x4f, 0x65, 0x55]),
        (1, &[0, 3, 0xb8, 0xff]),
        (2, &[0, 1, 0xff]),
        (3, &[0, 19, 20, 27, 28, 39, 40, 0xff]),
        (6, &[0x20, 0x40, 0x80, 0x1f]),
        (7, &[1, 2, 0xff]),
        (9, &[0, 1, 4, 6, 17, 41, 58, 132, 255]),
    ];
    let v6: [(usize, &[u8]); 5] = [
        (0, &[0x40, 0x45, 0x6f, 0x70]),
        (4, &[0, 1, 0xff]),
        (5, &[0, 7, 8, 19, 20, 0xff]),
        (6, &[0, 1, 6, 17, 43, 44, 51, 58, 59, 60, 135, 255]),
        (7, &[0, 1, 2, 255]),
    ];
    let (at, values) = if is_v6 { *dice.pick(&v6) } else { *dice.pick(&v4) };
    let value = *dice.pick(values);
    change(packet, at, |_| value);
}

/// A fragment, with one of few numbers.
fn cut(dice: &mut Dice, packet: &mut Vec<u8>) {
    let (number, place) =
        (dice.below(3) as u8, *dice.pick(&[[0x20, 0], [0x20, 1], [0, 1], [0, 0], [0x1f, 0xff]]));
    match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => packet[4..8].copy_from_slice(&[0, number, place[0], place[1]]),
        Some(6) if packet.len() >= 40 => {
            let [high, low] = (u16::from_be_bytes(place) << 3 | u16::from(place[0] >> 5)).to_be_bytes();
            let next = std::mem::replace(&mut packet[6], 44);
            drop(packet.splice(40..40, [next, 0, high, low, 0, 0, 0, number]));
        }
        _ => {}
    }
}

/// The end of another one behind its own beginning.
fn splice(dice: &mut Dice, packet: &mut Vec<u8>, other: &[u8]) {
    let (mine, others) = (dice.below(packet.len()), dice.below(other.len()));
    packet.truncate(mine);
    packet.extend_from_slice(&other[others..]);
}

/// Sender and receiver change places.
fn turn(packet: &mut [u8]) {
    let (at, bytes) = if packet.first().is_some_and(|first| first >> 4 == 6) { (8, 16) } else { (12, 4) };
    if let Some(place) = packet.get_mut(at..at + 2 * bytes) {
        place.rotate_left(bytes);
    }
    if let Some(ports) = packet.get_mut(at + 2 * bytes..at + 2 * bytes + 4) {
        ports.rotate_left(2);
    }
}

/// The packet becomes what an error message quotes, addressed to its sender, if it is of plain length.
fn quote(dice: &mut Dice, packet: &mut Vec<u8>) {
    let is_v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let (start, at, bytes) = if is_v6 { (40, 8, 16) } else { (20, 12, 4) };
    if packet.len() < start {
        return;
    }
    let mut outer = packet[..start].to_vec();
    outer[at..at + 2 * bytes].rotate_left(bytes);
    let kind = if is_v6 { *dice.pick(&[1, 2, 3, 4, 128]) } else { *dice.pick(&[3, 11, 12, 8, 5]) };
    outer[if is_v6 { 6 } else { 9 }] = if is_v6 { 58 } else { 1 };
    outer.extend([kind, dice.byte(), 0, 0, 0, 0, dice.byte(), dice.byte()]);
    outer.extend_from_slice(packet);
    *packet = outer;
}

/// Makes lengths and checksums of a packet of plain shape right, as far as it has any.
pub(crate) fn mend(packet: &mut [u8]) {
    let Some(first) = packet.first().copied() else { return };
    let (start, protocol, pseudo) = match first {
        0x45 if packet.len() >= 20 => {
            put(packet, 2, packet.len());
            put(packet, 10, 0);
            let sum = sum_of_words(&packet[..20]);
            put(packet, 10, complement(sum));
            (20, packet[9], sum_of_words(&packet[12..20]))
        }
        first if first >> 4 == 6 && packet.len() >= 40 => {
            put(packet, 4, packet.len() - 40);
            (40, packet[6], sum_of_words(&packet[8..40]))
        }
        _ => return,
    };
    let length = packet.len() - start;
    let (at, covers) = match protocol {
        6 if length >= 20 => (16, true),
        17 if length >= 8 => (6, true),
        1 if length >= 8 && start == 20 => (2, false),
        58 if length >= 8 && start == 40 => (2, true),
        _ => return,
    };
    if protocol == 17 {
        put(packet, start + 4, length);
    }
    put(packet, start + at, 0);
    let head = if covers { pseudo + u64::from(protocol) + length as u64 } else { 0 };
    let sum = complement(head + sum_of_words(&packet[start..]));
    put(packet, start + at, if protocol == 17 && sum == 0 { 0xffff } else { sum });
}

fn put(packet: &mut [u8], at: usize, value: usize) {
    packet[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

fn sum_of_words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |last| u64::from(*last))).sum()
}

fn complement(mut sum: u64) -> usize {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    0xffff - sum as usize
}
