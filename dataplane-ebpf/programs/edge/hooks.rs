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

/// Places in [`STEPS`], as `abi::STEP_PROGRAMS` has them.
struct Places {
    again: u32,
    open: u32,
    send: u32,
    error: u32,
    recall: u32,
    begin: u32,
    fragment: u32,
}

/// A place that nobody has.
const NONE: u32 = u32::MAX;
const IN: Places = Places { again: 0, open: 9, send: 2, error: 4, recall: 11, begin: 16, fragment: 21 };
const IN_BARE: Places = Places { again: 1, open: 10, send: 3, error: 5, recall: 12, begin: 17, fragment: 22 };
const OUT: Places =
    Places { again: NONE, open: NONE, send: NONE, error: 6, recall: 13, begin: 18, fragment: 23 };
const OUT_BARE: Places = Places { error: 7, recall: 14, begin: 19, fragment: 24, ..OUT };
const BACK: Places = Places { error: 8, recall: 15, begin: 20, fragment: 21, ..OUT };

#[classifier]
fn edge_in(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx, ETHERNET);
    go_on(&ctx, edge::ingress(&mut skb, &Maps, ETHERNET), IN)
}

#[classifier]
fn edge_in_bare(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx, 0);
    go_on(&ctx, edge::ingress(&mut skb, &Maps, 0), IN_BARE)
}

#[classifier]
fn edge_out(ctx: TcContext) -> i32 {
    if Skb::is_done(&ctx) {
        return NEXT;
    }
    let mut skb = Skb::new(&ctx, ETHERNET);
    go_on(&ctx, edge::egress(&mut skb, &Maps, ETHERNET), OUT)
}

#[classifier]
fn edge_out_bare(ctx: TcContext) -> i32 {
    if Skb::is_done(&ctx) {
        return NEXT;
    }
    let mut skb = Skb::new(&ctx, 0);
    go_on(&ctx, edge::egress(&mut skb, &Maps, 0), OUT_BARE)
}

/// Where endpoints on this node send, on devices with hardware addresses.
#[classifier]
fn edge_back(ctx: TcContext) -> i32 {
    let mut skb = Skb::new(&ctx, ETHERNET);
    go_on(&ctx, edge::back(&mut skb, &Maps, ETHERNET), BACK)
}

#[classifier]
fn edge_error_back(ctx: TcContext) -> i32 {
    answer(edge::error::answering(&mut Skb::new(&ctx, ETHERNET), &Maps, ETHERNET))
}

#[classifier]
fn edge_recall_in(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::recall(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), IN)
}

#[classifier]
fn edge_recall_in_bare(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::recall(&Skb::new(&ctx, 0), &Maps, 0), IN_BARE)
}

#[classifier]
fn edge_recall_out(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::recall(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), OUT)
}

#[classifier]
fn edge_recall_out_bare(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::recall(&Skb::new(&ctx, 0), &Maps, 0), OUT_BARE)
}

#[classifier]
fn edge_recall_back(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::recall(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), BACK)
}

#[classifier]
fn edge_again(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::again(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), IN)
}

#[classifier]
fn edge_again_bare(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::again(&Skb::new(&ctx, 0), &Maps, 0), IN_BARE)
}

#[classifier]
fn edge_open(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::open(&Skb::new(&ctx, ETHERNET), &Maps, ETHERNET), IN)
}

#[classifier]
fn edge_open_bare(ctx: TcContext) -> i32 {
    go_on(&ctx, edge::open(&Skb::new(&ctx, 0), &Maps, 0), IN_BARE)
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
fn go_on(ctx: &TcContext, step: Step, places: Places) -> i32 {
    let place = match step {
        Step::Done(verdict) => return answer(verdict),
        Step::Recall => places.recall,
        Step::Begin => places.begin,
        Step::Again => places.again,
        Step::Open => places.open,
        Step::Send => places.send,
        Step::Error => places.error,
        Step::Fragment => places.fragment,
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
