//! The Internet checksum (RFC 1071), and how it changes with what it covers (RFC 1624). Sums are in the machine's byte order,
//! which the sum does not care about.

/// What to add to a sum in which these old words become these new ones. Each word is subtracted by adding its complement.
#[inline(always)]
pub fn difference<const N: usize>(old: &[u32; N], new: &[u32; N]) -> u32 {
    let mut total = 0_u64;
    for (old, new) in old.iter().zip(new) {
        total += *new as u64 + !*old as u64;
    }
    narrow(total)
}

/// Both together.
#[inline(always)]
pub fn plus(a: u32, b: u32) -> u32 {
    narrow(a as u64 + b as u64)
}

/// The checksum that follows from another by a difference of what it covers.
#[inline(always)]
pub fn mend(checksum: u16, difference: u32) -> u16 {
    !fold(!checksum as u64 + difference as u64)
}

/// The same where a checksum may be missing, which UDP says by a zero: then it stays missing, and never becomes so.
#[inline(always)]
pub fn mend_or_none(checksum: u16, difference: u32) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match mend(checksum, difference) {
        0 => u16::MAX,
        mended => mended,
    }
}

/// The checksum of some bytes, of which a missing last one is zero.
pub fn of(bytes: &[u8]) -> u16 {
    let pair = |pair: &[u8]| {
        let [first, second] = [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or(0));
        u16::from_ne_bytes([first, second]) as u64
    };
    !fold(bytes.chunks(2).map(pair).sum())
}

/// The same sum in fewer bits.
#[inline(always)]
pub(super) fn narrow(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    ((once & 0xffff_ffff) + (once >> 32)) as u32
}

#[inline(always)]
fn fold(sum: u64) -> u16 {
    let once = (sum & 0xffff) + ((sum >> 16) & 0xffff) + ((sum >> 32) & 0xffff) + (sum >> 48);
    let twice = (once & 0xffff) + (once >> 16);
    ((twice & 0xffff) + (twice >> 16)) as u16
}
