//! The door to `struct bpf_sock_addr`, the context of the cgroup hooks.

use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use dataplane_ebpf::abi::{Datagrams, Endpoint, Holds, Peer};
use dataplane_ebpf::datapath::{Holder, Socket};

use crate::maps::{CONNECTED, DATAGRAMS, HOLDS, node_netns};

/// Which of the two address fields the hook fills.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A call on a socket.
pub(crate) struct SockAddr<'a> {
    ctx: &'a SockAddrContext,
    family: Family,
}

impl<'a> SockAddr<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SockAddrContext, family: Family) -> Self {
        Self { ctx, family }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The port, network order: the kernel keeps it in the low half of a 32-bit field.
    #[inline(always)]
    fn port(&self) -> [u8; 2] {
        // SAFETY: the context is valid for the whole run; volatile keeps the access at the width the verifier allows.
        let port = unsafe { addr_of!((*self.raw()).user_port).read_volatile() };
        (port as u16).to_ne_bytes()
    }

    #[inline(always)]
    fn address_v6(&self) -> [u8; 16] {
        // SAFETY: as for `port`.
        let words = unsafe {
            let field = addr_of!((*self.raw()).user_ip6).cast::<u32>();
            [
                field.read_volatile(),
                field.add(1).read_volatile(),
                field.add(2).read_volatile(),
                field.add(3).read_volatile(),
            ]
        };
        let [a, b, c, d] = words.map(u32::to_ne_bytes);
        let mut address = [0; 16];
        address[0..4].copy_from_slice(&a);
        address[4..8].copy_from_slice(&b);
        address[8..12].copy_from_slice(&c);
        address[12..16].copy_from_slice(&d);
        address
    }
}

impl Holder for SockAddr<'_> {
    #[inline(always)]
    fn holds(&mut self) -> Option<&mut Holds> {
        // SAFETY: as for `connected`.
        unsafe { HOLDS.get_ptr_mut(self.ctx).as_mut() }
    }
}

impl Socket for SockAddr<'_> {
    #[inline(always)]
    fn protocol(&self) -> u8 {
        // SAFETY: as for `port`.
        unsafe { addr_of!((*self.raw()).protocol).read_volatile() as u8 }
    }

    #[inline(always)]
    fn client(&self) -> u64 {
        // SAFETY: the helper takes the context of this run (for programs of this type since 5.7).
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }

    #[inline(always)]
    fn is_node(&self) -> bool {
        self.client() == node_netns()
    }

    #[inline(always)]
    fn remote(&self) -> Endpoint {
        match self.family {
            Family::V4 => {
                // SAFETY: as for `port`.
                let address = unsafe { addr_of!((*self.raw()).user_ip4).read_volatile() };
                Endpoint::v4(address.to_ne_bytes(), self.port())
            }
            Family::V6 => Endpoint::v6(self.address_v6(), self.port()),
        }
    }

    #[inline(always)]
    fn set_remote(&mut self, to: &Endpoint) {
        let Endpoint { address, port } = to;
        let word =
            |at: usize| u32::from_ne_bytes([address[at], address[at + 1], address[at + 2], address[at + 3]]);
        // SAFETY: these fields may be written by programs of this type; as for `port`.
        unsafe {
            match self.family {
                Family::V4 => addr_of_mut!((*self.raw()).user_ip4).write_volatile(word(12)),
                Family::V6 => {
                    let field = addr_of_mut!((*self.raw()).user_ip6).cast::<u32>();
                    field.write_volatile(word(0));
                    field.add(1).write_volatile(word(4));
                    field.add(2).write_volatile(word(8));
                    field.add(3).write_volatile(word(12));
                }
            }
            addr_of_mut!((*self.raw()).user_port).write_volatile(u16::from_ne_bytes(*port) as u32);
        }
    }

    #[inline(always)]
    fn connected(&self) -> Option<Peer> {
        // SAFETY: the socket outlives the run, and its lock is held.
        unsafe { CONNECTED.get_ptr_mut(self.ctx).as_ref() }.copied()
    }

    #[inline(always)]
    fn remember_connected(&mut self, peer: &Peer) -> bool {
        let mut peer = *peer;
        // SAFETY: as for `connected`.
        let place = unsafe { CONNECTED.get_or_insert_ptr_mut(self.ctx, Some(&mut peer)) };
        if place.is_null() {
            return false;
        }
        // An entry that was there already is not overwritten by the helper.
        // SAFETY: checked above; as for `connected`.
        unsafe { *place = peer };
        true
    }

    #[inline(always)]
    fn forget_connected(&mut self) {
        // SAFETY: as for `connected`; deleting what is not there is no harm.
        let _ = unsafe { CONNECTED.delete((*self.raw()).__bindgen_anon_1.sk) };
    }

    #[inline(always)]
    fn datagrams(&self) -> Option<&Datagrams> {
        // SAFETY: as for `connected`.
        unsafe { DATAGRAMS.get_ptr_mut(self.ctx).as_ref() }
    }

    #[inline(always)]
    fn datagrams_mut(&mut self) -> Option<&mut Datagrams> {
        // SAFETY: as for `connected`; a fresh entry is zero-filled by the kernel, which is `Datagrams::NONE`.
        unsafe { DATAGRAMS.get_or_insert_ptr_mut(self.ctx, None).as_mut() }
    }

    #[inline(always)]
    fn holds_mut(&mut self) -> Option<&mut Holds> {
        // SAFETY: as for `connected`; a fresh entry is zero-filled by the kernel, which is `Holds::NONE`.
        unsafe { HOLDS.get_or_insert_ptr_mut(self.ctx, None).as_mut() }
    }
}
