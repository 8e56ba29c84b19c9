//! Other addresses in a packet, with every checksum that covers them.

use super::checksum::{difference, mend, plus};
use super::frame::Frame;
use super::header::{Header, ICMPV6, TCP, UDP, Version};

/// Offset of the checksum in the header of TCP, UDP and ICMP.
pub(super) const fn checksum_at(protocol: u32) -> usize {
    match protocol {
        TCP => 16,
        UDP => 6,
        _ => 2,
    }
}

/// What has changed, as sums.
struct Change {
    addresses: u32,
    ports: u32,
}

/// Source, target and hops of the packet whose IP header is at `at` become those of `new`. `None`: it is shorter than its
/// header said, and nothing has been changed.
#[inline(always)]
pub fn rewrite(frame: &mut impl Frame, at: usize, new: &Header) -> Option<()> {
    let change = addresses(frame, at, new)?;
    let start = at + new.version.bytes();
    // An offset that is known when the program is made, each.
    if new.protocol == TCP {
        frame.mend(start + checksum_at(TCP), change.addresses, change.ports, false);
    } else {
        // Over IPv6, too: who receives a zero there must throw the packet away (RFC 8200 section 8.1).
        frame.mend(start + checksum_at(UDP), change.addresses, change.ports, true);
    }
    Some(())
}

#[inline(always)]
fn addresses(frame: &mut impl Frame, at: usize, new: &Header) -> Option<Change> {
    match new.version {
        Version::V4 => v4(frame, at, new).map(|(change, _)| change),
        Version::V6 => v6(frame, at, new),
    }
}

/// Also: by how much the sum of all that was written has changed.
#[inline(always)]
fn v4(frame: &mut impl Frame, at: usize, new: &Header) -> Option<(Change, u32)> {
    let [kind, source, target, ports] = frame.words::<4>(at + 8)?;
    let to = [new.source[3], new.target[3]];
    let addresses = difference(&[source, target], &to);
    let [hops, protocol, c, d] = kind.to_ne_bytes();
    let new_hops = new.hops as u8;
    let rest = difference(
        &[u32::from_ne_bytes([hops, protocol, 0, 0])],
        &[u32::from_ne_bytes([new_hops, protocol, 0, 0])],
    );
    let [c, d] = mend(u16::from_ne_bytes([c, d]), plus(addresses, rest)).to_ne_bytes();
    let new_kind = u32::from_ne_bytes([new_hops, protocol, c, d]);
    frame.put(at + 8, &[new_kind, to[0], to[1], new.ports]);
    let ports = difference(&[ports], &[new.ports]);
    let all = plus(plus(addresses, ports), difference(&[kind], &[new_kind]));
    Some((Change { addresses, ports }, all))
}

#[inline(always)]
fn v6(frame: &mut impl Frame, at: usize, new: &Header) -> Option<Change> {
    let [kind, a, b, c, d, e, f, g, h, ports] = frame.words::<10>(at + 4)?;
    let [length, more, next, _] = kind.to_ne_bytes();
    let [i, j, k, l] = new.source;
    let [m, n, o, p] = new.target;
    let new_kind = u32::from_ne_bytes([length, more, next, new.hops as u8]);
    frame.put(at + 4, &[new_kind, i, j, k, l, m, n, o, p, new.ports]);
    let addresses = difference(&[a, b, c, d, e, f, g, h], &[i, j, k, l, m, n, o, p]);
    Some(Change { addresses, ports: difference(&[ports], &[new.ports]) })
}

/// The same for a fragment. `first`: where what it carries begins, in the first one, which alone bears ports and a checksum. It
/// is known to be there.
#[inline(always)]
pub fn rewrite_fragment(frame: &mut impl Frame, at: usize, new: &Header, first: Option<usize>) -> Option<()> {
    let addresses = match new.version {
        Version::V4 => fragment_v4(frame, at, new)?,
        Version::V6 => fragment_v6(frame, at, new)?,
    };
    if let Some(start) = first
        && let Some([ports]) = frame.words::<1>(start)
    {
        frame.put(start, &[new.ports]);
        let ports = difference(&[ports], &[new.ports]);
        let is_tcp = new.protocol == TCP;
        frame.mend(start + checksum_at(if is_tcp { TCP } else { UDP }), addresses, ports, !is_tcp);
    }
    Some(())
}

#[inline(always)]
fn fragment_v4(frame: &mut impl Frame, at: usize, new: &Header) -> Option<u32> {
    let [kind, source, target] = frame.words::<3>(at + 8)?;
    let to = [new.source[3], new.target[3]];
    let addresses = difference(&[source, target], &to);
    let [hops, protocol, c, d] = kind.to_ne_bytes();
    let new_hops = new.hops as u8;
    let old_pair = u32::from_ne_bytes([hops, protocol, 0, 0]);
    let new_pair = u32::from_ne_bytes([new_hops, protocol, 0, 0]);
    let all = plus(addresses, difference(&[old_pair], &[new_pair]));
    let [c, d] = mend(u16::from_ne_bytes([c, d]), all).to_ne_bytes();
    frame.put(at + 8, &[u32::from_ne_bytes([new_hops, protocol, c, d]), to[0], to[1]]);
    Some(addresses)
}

#[inline(always)]
fn fragment_v6(frame: &mut impl Frame, at: usize, new: &Header) -> Option<u32> {
    let [kind, a, b, c, d, e, f, g, h] = frame.words::<9>(at + 4)?;
    let [length, more, next, _] = kind.to_ne_bytes();
    let [i, j, k, l] = new.source;
    let [m, n, o, p] = new.target;
    let new_kind = u32::from_ne_bytes([length, more, next, new.hops as u8]);
    frame.put(at + 4, &[new_kind, i, j, k, l, m, n, o, p]);
    Some(difference(&[a, b, c, d, e, f, g, h], &[i, j, k, l, m, n, o, p]))
}

/// The packet at `at`, which ends at `end`, is an error message about the one whose header is at `about`: both get other
/// addresses. The ports of `outer` are type, code and checksum, and stay.
#[inline(always)]
pub fn rewrite_error(
    frame: &mut impl Frame,
    at: usize,
    about: usize,
    end: usize,
    outer: &Header,
    inner: &Header,
) -> Option<()> {
    match outer.version {
        Version::V4 => {
            let (change, all) = v4(frame, about, inner)?;
            let quoted = plus(all, quoted_checksum(frame, about + 20, end, inner.protocol, &change));
            v4(frame, at, outer)?;
            let [kind] = frame.words::<1>(at + 20)?;
            let [a, b, c, d] = kind.to_ne_bytes();
            let [c, d] = mend(u16::from_ne_bytes([c, d]), quoted).to_ne_bytes();
            frame.put(at + 20, &[u32::from_ne_bytes([a, b, c, d])]);
        }
        Version::V6 => {
            let change = v6(frame, about, inner)?;
            let own = quoted_checksum(frame, about + 40, end, inner.protocol, &change);
            // The hops it had left have not changed.
            let quoted = plus(plus(change.addresses, change.ports), own);
            let change = v6(frame, at, outer)?;
            frame.mend(at + 40 + checksum_at(ICMPV6), change.addresses, quoted, false);
        }
    }
    Some(())
}

/// The quoted packet's own checksum, where enough is quoted. UDP's zero says that there is none.
#[inline(always)]
fn quoted_checksum(frame: &mut impl Frame, at: usize, end: usize, protocol: u32, change: &Change) -> u32 {
    // The word that the checksum is in begins two bytes before UDP's, and with TCP's.
    match protocol {
        UDP => match frame.words::<1>(at + 4) {
            None => 0,
            Some([old]) => {
                let [a, b, c, d] = old.to_ne_bytes();
                let checksum = u16::from_ne_bytes([c, d]);
                if checksum == 0 {
                    return 0;
                }
                let mended = mend(checksum, plus(change.addresses, change.ports));
                let [c, d] = (if mended == 0 { u16::MAX } else { mended }).to_ne_bytes();
                let new = u32::from_ne_bytes([a, b, c, d]);
                frame.put(at + 4, &[new]);
                difference(&[old], &[new])
            }
        },
        // Behind the message there may be more bytes, which its checksum does not cover.
        TCP if at + 20 <= end => match frame.words::<1>(at + 16) {
            None => 0,
            Some([old]) => {
                let [a, b, c, d] = old.to_ne_bytes();
                let [a, b] =
                    mend(u16::from_ne_bytes([a, b]), plus(change.addresses, change.ports)).to_ne_bytes();
                let new = u32::from_ne_bytes([a, b, c, d]);
                frame.put(at + 16, &[new]);
                difference(&[old], &[new])
            }
        },
        _ => 0,
    }
}
