//! The door to a frame before it is a packet: `struct xdp_md`. And the one program that goes through it.

use core::cell::Cell;

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_redirect};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use dataplane_ebpf::abi::{Address, FRAMES, FRAMES_BACK};
use dataplane_ebpf::datapath::edge::checksum::{mend, mend_or_none, plus};
use dataplane_ebpf::datapath::edge::frame::{Frame, Way};
use dataplane_ebpf::datapath::edge::header::Header;
use dataplane_ebpf::datapath::edge::{self, Verdict};

use crate::maps::{Maps, device};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Every device carries so much (RFC 8200 section 5), and hardware addresses.
const FITS_ANYWHERE: usize = 1280 + ETHERNET;
/// The first byte of an Ethernet header has this bit where the frame is for more than one.
const GROUP: u8 = 1;

#[xdp]
fn edge_express(ctx: XdpContext) -> u32 {
    let mut frame = Xdp { ctx, flags: Cell::new(0), back: false };
    match edge::express(&mut frame, &Maps, ETHERNET) {
        Verdict::Redirected if frame.back => XDP_TX,
        Verdict::Redirected => XDP_REDIRECT,
        Verdict::Left | Verdict::Passed | Verdict::Dropped => XDP_PASS,
    }
}

/// A frame as a device's driver holds it.
struct Xdp {
    ctx: XdpContext,
    /// What holds of the device by which it is to leave.
    flags: Cell<u32>,
    /// It leaves by the device by which it came.
    back: bool,
}

impl Xdp {
    #[inline(always)]
    fn device(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// Where some bytes are, if the frame has them.
    #[inline(always)]
    fn place<T>(&self, at: usize, bytes: usize) -> Option<*mut T> {
        let start = self.ctx.data() + at;
        if start + bytes > self.ctx.data_end() {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Frame for Xdp {
    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let place = self.place::<u32>(at, N * 4)?;
        let mut words = [0; N];
        let mut index = 0;
        while index < N {
            // SAFETY: `place` has compared with the frame's end. It need not be aligned, as for packets.
            words[index] = unsafe { place.add(index).read_volatile() };
            index += 1;
        }
        Some(words)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, words: &[u32; N]) {
        if let Some(place) = self.place::<u32>(at, N * 4) {
            let mut index = 0;
            while index < N {
                // SAFETY: as for `words`.
                unsafe { place.add(index).write_volatile(words[index]) };
                index += 1;
            }
        }
    }

    /// By arithmetic on the field alone: no device is left to add anything up.
    #[inline(always)]
    fn mend(&mut self, at: usize, addresses: u32, rest: u32, zero_is_none: bool) {
        if let Some(place) = self.place::<u16>(at, 2) {
            let difference = plus(addresses, rest);
            // SAFETY: as for `words`.
            unsafe {
                let old = place.read_volatile();
                let new = if zero_is_none { mend_or_none(old, difference) } else { mend(old, difference) };
                place.write_volatile(new);
            }
        }
    }

    /// Tags are still in the frame, where the kind of packet would be. What is for a group of hosts is no business of a short
    /// cut, either.
    #[inline(always)]
    fn is_foreign(&self) -> bool {
        let Some([first, _, _, kind]) = self.words::<4>(0) else { return true };
        let [a, b, _, _] = kind.to_ne_bytes();
        let is_ip = matches!([a, b], [0x08, 0x00] | [0x86, 0xdd]);
        !is_ip || first.to_ne_bytes()[0] & GROUP != 0
    }

    #[inline(always)]
    fn way(&self, _: &Header) -> Way {
        Way::Stack
    }

    /// Also whether that device takes frames that never were packets: one that does not loses them without a word.
    #[inline(always)]
    fn fits(&self, to: u32) -> bool {
        let flags = device(to);
        self.flags.set(flags);
        let wanted = if to == self.device() { FRAMES_BACK | FRAMES } else { FRAMES };
        if flags & wanted == 0 {
            return false;
        }
        if self.ctx.data_end() - self.ctx.data() <= FITS_ANYWHERE {
            return true;
        }
        let mut unused = 0;
        // SAFETY: the context of this run, and a number of the helper's width.
        unsafe { bpf_check_mtu(self.ctx.ctx.cast(), to, &raw mut unused, 0, 0) == 0 }
    }

    #[inline(always)]
    fn leave(&mut self, to: u32, _: bool) {
        self.back = to == self.device() && self.flags.get() & FRAMES_BACK != 0;
        if !self.back {
            // SAFETY: the helper takes plain numbers.
            unsafe { bpf_redirect(to, 0) };
        }
    }

    #[inline(always)]
    fn leads(&self, _: &Header, _: &Address, _: &Address) -> Option<u32> {
        None
    }
}
