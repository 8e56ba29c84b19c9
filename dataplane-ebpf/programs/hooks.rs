//! One function a hook.

use aya_ebpf::helpers::generated::bpf_set_retval;
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use dataplane_ebpf::datapath::{Verdict, holds, socket};

use crate::maps::Maps;
use crate::sock::Sock;
use crate::sock_addr::{Family, SockAddr};

/// Lets the call go on.
const PROCEED: i32 = 1;
/// Makes the call fail with the error set by `bpf_set_retval`.
const FAIL: i32 = 0;
/// `ECONNREFUSED` as a return value.
const REFUSED: i32 = -111;

#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    answer(socket::connect(&mut SockAddr::new(&ctx, Family::V4), &Maps))
}

#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    answer(socket::connect(&mut SockAddr::new(&ctx, Family::V6), &Maps))
}

#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    answer(socket::send(&mut SockAddr::new(&ctx, Family::V4), &Maps))
}

#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    answer(socket::send(&mut SockAddr::new(&ctx, Family::V6), &Maps))
}

#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::receive(&mut SockAddr::new(&ctx, Family::V4));
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::receive(&mut SockAddr::new(&ctx, Family::V6));
    PROCEED
}

#[cgroup_sock_addr(getpeername4)]
fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::peer_name(&mut SockAddr::new(&ctx, Family::V4));
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::peer_name(&mut SockAddr::new(&ctx, Family::V6));
    PROCEED
}

#[cgroup_sock(sock_release)]
fn sock_release(ctx: SockContext) -> i32 {
    holds::release(&mut Sock::new(&ctx), &Maps);
    PROCEED
}

#[inline(always)]
fn answer(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::NotOurs | Verdict::Left | Verdict::Translated => PROCEED,
        Verdict::Refused(_) => {
            // SAFETY: the helper takes a plain number; without it the caller would see EPERM.
            unsafe { bpf_set_retval(REFUSED) };
            FAIL
        }
    }
}
