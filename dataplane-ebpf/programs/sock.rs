//! The door to `struct bpf_sock`, the context of the hook at a socket's end.

use core::ptr::null_mut;

use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use aya_ebpf::programs::SockContext;
use dataplane_ebpf::abi::Holds;
use dataplane_ebpf::datapath::Holder;

use crate::maps::HOLDS;

/// A socket that ends.
pub(crate) struct Sock<'a> {
    ctx: &'a SockContext,
}

impl<'a> Sock<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a SockContext) -> Self {
        Self { ctx }
    }
}

impl Holder for Sock<'_> {
    #[inline(always)]
    fn holds(&mut self) -> Option<&mut Holds> {
        let map = (&raw const HOLDS).cast_mut().cast();
        // SAFETY: the helper takes the context of this run (for programs of this type since 5.9), and makes nothing. Nobody
        // has the socket any more, so nothing else writes to what it returns.
        unsafe { bpf_sk_storage_get(map, self.ctx.sock.cast(), null_mut(), 0).cast::<Holds>().as_mut() }
    }
}
