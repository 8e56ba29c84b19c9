//! The door to a packet: `struct __sk_buff`.

use core::ptr::{addr_of_mut, null_mut};

use aya_ebpf::bindings::{
    __sk_buff, BPF_CSUM_LEVEL_DEC, BPF_CSUM_LEVEL_INC, BPF_CSUM_LEVEL_QUERY, bpf_fib_lookup as Params,
    bpf_fib_lookup__bindgen_ty_1 as Length, bpf_fib_lookup__bindgen_ty_2 as Service,
    bpf_fib_lookup__bindgen_ty_3 as Source, bpf_fib_lookup__bindgen_ty_4 as Target,
    bpf_fib_lookup__bindgen_ty_5 as Table,
};
use aya_ebpf::helpers::generated::{
    bpf_check_mtu, bpf_csum_level, bpf_csum_update, bpf_fib_lookup, bpf_l4_csum_replace, bpf_redirect,
    bpf_redirect_neigh, bpf_skb_pull_data,
};
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::abi::Address;
use dataplane_ebpf::datapath::edge::checksum;
use dataplane_ebpf::datapath::edge::frame::{Frame, Hop, Way};
use dataplane_ebpf::datapath::edge::header::{Header, Version};

/// What may have to be looked at of a packet: all headers, and those that an error message quotes.
const LOOKED_AT: u32 = 14 + 40 + 8 + 40 + 20;

/// `PACKET_HOST`: not for another host, nor for several.
const FOR_US: u32 = 0;
/// `AF_INET`.
const INET: u8 = 2;
/// `AF_INET6`.
const INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_SUCCESS`.
const FOUND: i64 = 0;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`: the device is known, the neighbour's address is not.
const NO_NEIGHBOUR: i64 = 7;
/// `BPF_F_PSEUDO_HDR`: what changed is in the addresses that the checksum covers besides its own packet.
const ADDRESSES: u64 = 0x10;
/// `BPF_F_IPV6`, which kernels know since 6.16 (commit ead7f9b8de65, with stable ones before): the sum over a whole packet that some
/// cards bring along changes with an address of IPv6, whose header has no checksum that would even it out.
const IS_V6: u64 = 0x80;
/// `ETH_P_IPV6` as `__sk_buff` has it: in network order.
const PROTOCOL_V6: u32 = 0x86dd_u16.to_be() as u32;
/// What a sum over the header changes by, as a sum of words in network order: the hops are the second byte of one.
const ONE_HOP_LESS: u32 = !1_u16.to_be() as u32;
/// `BPF_F_MARK_MANGLED_0`: zero means that there is no checksum.
const ZERO_IS_NONE: u64 = 0x20;

/// Every device carries so much (the least that IPv6 asks for, RFC 8200 section 5), and hardware addresses.
const FITS_ANYWHERE: u32 = 1280 + 14;
/// `BPF_MTU_CHK_SEGS`.
const EACH_SEGMENT: u64 = 1;
/// A mark in a field that classifiers of this kind of hook share and that the stack leaves alone; it stays with the packet from
/// one device to the next. 16 bits.
const DONE: u32 = 0x51ce;

/// A packet.
pub(crate) struct Skb<'a> {
    ctx: &'a TcContext,
    /// Hardware addresses stand before it.
    is_framed: bool,
}

impl<'a> Skb<'a> {
    /// Whether a packet that leaves has been dealt with where it came in.
    #[inline(always)]
    pub(crate) fn is_done(ctx: &TcContext) -> bool {
        // SAFETY: the context is valid for the whole run.
        unsafe { (*ctx.skb.skb).tc_index == DONE }
    }

    /// Has the headers brought together, where a device spread them.
    #[inline(always)]
    pub(crate) fn new(ctx: &'a TcContext, at: usize) -> Self {
        let skb = Self { ctx, is_framed: at != 0 };
        let length = skb.ctx.len();
        if skb.ctx.data() + at + 40 + 20 > skb.ctx.data_end() {
            let wanted = if length < LOOKED_AT { length } else { LOOKED_AT };
            // SAFETY: the helper takes the context of this run; what it cannot bring together is left as it was.
            unsafe { bpf_skb_pull_data(skb.raw(), wanted) };
        }
        skb
    }

    #[inline(always)]
    fn raw(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Where some words are, if the packet has them.
    #[inline(always)]
    fn place<const N: usize>(&self, at: usize) -> Option<*mut u32> {
        let start = self.ctx.data() + at;
        if start + N * 4 > self.ctx.data_end() {
            return None;
        }
        Some(start as *mut u32)
    }

    /// Whether the checksum in the packet is the sum of all that it covers, and no other is kept beside it. A device may still have to
    /// add up a packet that was made here, and one that came in may have brought a sum of its own; both are the kernel's
    /// secret. But it counts how many checksums of a packet have been looked at, and lets us add one and ask (since 5.8): it knows
    /// a number then for what has been looked at (`CHECKSUM_UNNECESSARY`) and what nobody has (`CHECKSUM_NONE`), and none for those two.
    #[inline(always)]
    fn is_summed(&self) -> bool {
        // SAFETY: the context is valid for the whole run, and the helper takes it and plain numbers. What it is told in the
        // first call is taken back in the last.
        unsafe {
            if (*self.raw()).gso_size != 0 {
                return false;
            }
            bpf_csum_level(self.raw(), BPF_CSUM_LEVEL_INC.into());
            let summed = bpf_csum_level(self.raw(), BPF_CSUM_LEVEL_QUERY.into()) >= 0;
            if summed {
                bpf_csum_level(self.raw(), BPF_CSUM_LEVEL_DEC.into());
            }
            summed
        }
    }

    #[inline(always)]
    fn mend_here(&self, at: usize, difference: u32, zero_is_none: bool) {
        let start = self.ctx.data() + at;
        if start + 2 > self.ctx.data_end() {
            return;
        }
        let place = start as *mut u16;
        // SAFETY: compared with the packet's end; unaligned as in `words`.
        let old = unsafe { place.read_volatile() };
        if zero_is_none && old == 0 {
            return;
        }
        let new = match checksum::mend(old, difference) {
            0 if zero_is_none => u16::MAX,
            new => new,
        };
        // SAFETY: as above.
        unsafe { place.write_volatile(new) };
    }
}

/// Asks the routing table, as if a packet between these two had come in here.
#[inline(always)]
fn route(
    skb: *mut __sk_buff,
    version: Version,
    protocol: u32,
    from: &Address,
    to: &Address,
) -> (i64, Params) {
    // All words are named: clearing them would be a loop over bytes.
    let (family, source, target) = match version {
        Version::V4 => (INET, [from[3], 0, 0, 0], [to[3], 0, 0, 0]),
        Version::V6 => (INET6, *from, *to),
    };
    let mut params = Params {
        family,
        l4_protocol: protocol as u8,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: Length { tot_len: 0 },
        // SAFETY: the context is valid for the whole run.
        ifindex: unsafe { (*skb).ifindex },
        __bindgen_anon_2: Service { flowinfo: 0 },
        __bindgen_anon_3: Source { ipv6_src: source },
        __bindgen_anon_4: Target { ipv6_dst: target },
        __bindgen_anon_5: Table { tbid: 0 },
        smac: [0; 6],
        dmac: [0; 6],
    };
    // SAFETY: the context of this run, and a structure of the size that is said.
    let found = unsafe { bpf_fib_lookup(skb.cast(), &raw mut params, size_of::<Params>() as i32, 0) };
    (found, params)
}

impl Frame for Skb<'_> {
    #[inline(always)]
    fn words<const N: usize>(&self, at: usize) -> Option<[u32; N]> {
        let place = self.place::<N>(at)?;
        let mut words = [0; N];
        let mut index = 0;
        while index < N {
            // Packets need not be aligned; the kernel lets programs read words wherever the processor can.
            // SAFETY: `place` has compared with the packet's end.
            words[index] = unsafe { place.add(index).read_volatile() };
            index += 1;
        }
        Some(words)
    }

    #[inline(always)]
    fn put<const N: usize>(&mut self, at: usize, words: &[u32; N]) {
        if let Some(place) = self.place::<N>(at) {
            let mut index = 0;
            while index < N {
                // SAFETY: as for `words`.
                unsafe { place.add(index).write_volatile(words[index]) };
                index += 1;
            }
        }
    }

    #[inline(always)]
    fn mend(&mut self, at: usize, addresses: u32, rest: u32, zero_is_none: bool) {
        if self.is_summed() {
            return self.mend_here(at, checksum::plus(addresses, rest), zero_is_none);
        }
        let zero = if zero_is_none { ZERO_IS_NONE } else { 0 };
        // SAFETY: the helper takes the context of this run and plain numbers. With a size of zero it adds a difference.
        unsafe {
            if addresses != 0 {
                let family = if (*self.raw()).protocol == PROTOCOL_V6 { IS_V6 } else { 0 };
                let (at, change, flags) = (at as u32, addresses as u64, ADDRESSES | zero);
                let told = bpf_l4_csum_replace(self.raw(), at, 0, change, flags | family);
                if told < 0 && family != 0 {
                    bpf_l4_csum_replace(self.raw(), at, 0, change, flags);
                }
            }
            if rest != 0 {
                bpf_l4_csum_replace(self.raw(), at as u32, 0, rest as u64, zero);
            }
        }
    }

    #[inline(always)]
    fn is_foreign(&self) -> bool {
        // SAFETY: as for `device`.
        unsafe { (*self.raw()).vlan_present != 0 || self.is_framed && (*self.raw()).pkt_type != FOR_US }
    }

    #[inline(always)]
    fn way(&self, header: &Header) -> Way {
        let (source, target) = (&header.source, &header.target);
        let (found, params) = route(self.raw(), header.version, header.protocol, source, target);
        match found {
            FOUND => Way::To(Hop { device: params.ifindex, addresses: hardware(&params) }),
            NO_NEIGHBOUR => Way::Ask(params.ifindex),
            _ => Way::Stack,
        }
    }

    #[inline(always)]
    fn fits(&self, device: u32) -> bool {
        if self.ctx.len() <= FITS_ANYWHERE {
            return true;
        }
        let mut unused = 0;
        // SAFETY: the context of this run, and a number of the helper's width. Of a bundle each segment is looked at.
        unsafe { bpf_check_mtu(self.raw().cast(), device, &raw mut unused, 0, EACH_SEGMENT) == 0 }
    }

    #[inline(always)]
    fn leave(&mut self, device: u32, known: bool) {
        // The same sum that a card brought along (see `mend`) changes with the hops, of which there is one less: IPv6's header
        // has no checksum that would even it out. Where there is no such sum, the helper does nothing.
        // SAFETY: the context is valid for the whole run, and the helper takes it and a plain number.
        unsafe {
            if (*self.raw()).protocol == PROTOCOL_V6 {
                bpf_csum_update(self.raw(), ONE_HOP_LESS);
            }
        }
        // Where it leaves, nothing is left to do.
        // SAFETY: the context is valid for the whole run, and this field may be written.
        unsafe { addr_of_mut!((*self.raw()).tc_index).write_volatile(DONE) };
        if known {
            // SAFETY: the helper takes plain numbers.
            unsafe { bpf_redirect(device, 0) };
        } else {
            // SAFETY: null with length zero is what the helper takes for "the packet's own target".
            unsafe { bpf_redirect_neigh(device, null_mut(), 0, 0) };
        }
    }

    #[inline(always)]
    fn leads(&self, header: &Header, from: &Address, to: &Address) -> Option<u32> {
        let (found, params) = route(self.raw(), header.version, header.protocol, from, to);
        (found == FOUND || found == NO_NEIGHBOUR).then_some(params.ifindex)
    }
}

/// Both hardware addresses, as a frame begins.
#[inline(always)]
fn hardware(params: &Params) -> [u32; 3] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (params.dmac, params.smac);
    [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes)
}
