//! One function a hook: where packets come in and where they leave, on devices with hardware addresses and on those without.

use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;
use dataplane_ebpf::datapath::edge::{self, Step, Verdict};

use crate::frame::Skb;
use crate::maps::{Maps, STEPS};

/// `TCX_NEXT`, and `TC_ACT_UNSPEC` for the older hook: whoever else hangs there sees the packet next.
const NEXT: i32 = -1;
/// `TCX_REDIRECT`, `TC_ACT_REDIRECT`: where to, a helper has been told.
const REDIRECT: i32 = 7;
/// `TCX_DROP`, `TC_ACT_SHOT`.
const DROP: i32 = 2;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Places in [`STEPS`], as `abi::STEP_PROGRAMS` has them: what an ingress or egress program goes on with.
const FIRST: u32 = 0;
const FIRST_BARE: u32 = 1;
const SEND: u32 = 2;
const SEND_BARE: u32 = 3;
const ERROR_IN: u32 = 4;
const ERROR_IN_BARE: u32 = 5;
const ERROR_OUT: u32 = 6;
const ERROR_OUT_BARE: u32 = 7;
const FRAGMENT_IN: u32 = 8;
const FRAGMENT_IN_BARE: u32 = 9;
const FRAGMENT_OUT: u32 = 10;
const FRAGMENT_OUT_BARE: u32 = 11;

#[classifier]
fn edge_in(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx, ETHERNET);
    go_on(&ctx, edge::ingress(&mut skb, &Maps, ETHERNET), [FIRST, SEND, ERROR_IN, FRAGMENT_IN])
}

#[classifier]
fn edge_in_bare(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx, 0);
    go_on(&ctx, edge::ingress(&mut skb, &Maps, 0), [FIRST_BARE, SEND_BARE, ERROR_IN_BARE, FRAGMENT_IN_BARE])
}

#[classifier]
fn edge_out(ctx: TcContext) -> i32 {
    if Skb::is_done(&ctx) {
        return NEXT;
    }
    let mut skb = Skb::new(&ctx, ETHERNET);
    go_on(&ctx, edge::egress(&mut skb, &Maps, ETHERNET), [FIRST, SEND, ERROR_OUT, FRAGMENT_OUT])
}

#[classifier]
fn edge_out_bare(ctx: TcContext) -> i32 {
    if Skb::is_done(&ctx) {
        return NEXT;
    }
    let mut skb = Skb::new(&ctx, 0);
    go_on(&ctx, edge::egress(&mut skb, &Maps, 0), [FIRST_BARE, SEND_BARE, ERROR_OUT_BARE, FRAGMENT_OUT_BARE])
}

#[classifier]
fn edge_first(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::first(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), [FIRST, SEND, ERROR_IN, FRAGMENT_IN])
}

#[classifier]
fn edge_first_bare(ctx: TcContext) -> i32 {
    go_on(
        &ctx,
        edge::first(&Skb::new(&ctx, 0), &Maps, 0),
        [FIRST_BARE, SEND_BARE, ERROR_IN_BARE, FRAGMENT_IN_BARE],
    )
}

#[classifier]
fn edge_send(ctx: TcContext) -> i32 {
    answer(edge::send(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_send_bare(ctx: TcContext) -> i32 {
    answer(edge::send(&mut Skb::new(&ctx, 0), &Maps, 0))
}

#[classifier]
fn edge_error_in(ctx: TcContext) -> i32 {
    answer(edge::error::incoming(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_error_in_bare(ctx: TcContext) -> i32 {
    answer(edge::error::incoming(&mut Skb::new(&ctx, 0), &Maps, 0))
}

#[classifier]
fn edge_error_out(ctx: TcContext) -> i32 {
    answer(edge::error::outgoing(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_error_out_bare(ctx: TcContext) -> i32 {
    answer(edge::error::outgoing(&mut Skb::new(&ctx, 0), &Maps, 0))
}

#[classifier]
fn edge_fragment_in(ctx: TcContext) -> i32 {
    answer(edge::fragment::incoming(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_fragment_in_bare(ctx: TcContext) -> i32 {
    answer(edge::fragment::incoming(&mut Skb::new(&ctx, 0), &Maps, 0))
}

#[classifier]
fn edge_fragment_out(ctx: TcContext) -> i32 {
    answer(edge::fragment::outgoing(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_fragment_out_bare(ctx: TcContext) -> i32 {
    answer(edge::fragment::outgoing(&mut Skb::new(&ctx, 0), &Maps, 0))
}

/// Goes on with another program, if there is more to do. Where that is not in its place, the packet is left alone.
#[inline(always)]
fn go_on(ctx: &TcContext, step: Step, [first, send, error, fragment]: [u32; 4]) -> i32 {
    let place = match step {
        Step::Done(verdict) => return answer(verdict),
        Step::First => first,
        Step::Send => send,
        Step::Error => error,
        Step::Fragment => fragment,
    };
    // SAFETY: a program of the same type, or none.
    unsafe { STEPS.tail_call(ctx, place) };
    NEXT
}

#[inline(always)]
fn answer(verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Left | Verdict::Passed => NEXT,
        Verdict::Dropped => DROP,
        Verdict::Redirected => REDIRECT,
    }
}
