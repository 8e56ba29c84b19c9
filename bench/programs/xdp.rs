//! One function a place: the generator, the far end, and where frames come back.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS};
use aya_ebpf::btf_maps::Array;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use frames::{Count, Course, Head, is_datagram, turn_round, write};

#[btf_map]
static COURSE: Array<Course, 1> = Array::new();
#[btf_map]
static COUNTS: Array<u64, { Count::ALL }> = Array::new();

/// Makes the next frame, whole: the page it is written to has been to the far end before.
#[xdp]
fn generate(mut ctx: XdpContext) -> u32 {
    let (Some(head), Some(course)) = (head(&mut ctx), course()) else { return XDP_ABORTED };
    let flow = course.next;
    course.next = if flow + 1 < course.flows { flow + 1 } else { 0 };
    write(course, flow, head);
    count(Count::Sent);
    put(course.link)
}

/// Takes what arrives, or sends it back. Who asks for an address is answered by the stack.
#[xdp]
fn far_end(mut ctx: XdpContext) -> u32 {
    let (Some(head), Some(course)) = (head(&mut ctx), course()) else { return XDP_PASS };
    if !is_datagram(head) {
        return XDP_PASS;
    }
    count(Count::Arrived);
    if course.reflects == 0 {
        return XDP_DROP;
    }
    turn_round(head);
    // Not XDP_TX: a cable wakes its other end for that only if there is a program, too (6.18).
    put(ctx.ingress_ifindex() as u32)
}

/// Takes what comes back.
#[xdp]
fn near_end(mut ctx: XdpContext) -> u32 {
    match head(&mut ctx) {
        Some(head) if is_datagram(head) => {
            count(Count::Returned);
            XDP_DROP
        }
        Some(_) | None => XDP_PASS,
    }
}

/// Into a link, as if it had sent the frame.
#[inline(always)]
fn put(link: u32) -> u32 {
    // SAFETY: the helper takes plain numbers.
    unsafe { bpf_redirect(link, 0) as u32 }
}

#[inline(always)]
fn head(ctx: &mut XdpContext) -> Option<&mut Head> {
    let (begin, end) = (ctx.data(), ctx.data_end());
    if begin + size_of::<Head>() > end {
        return None;
    }
    // SAFETY: the frame is that long, and nobody else has it while the program runs.
    Some(unsafe { &mut *(begin as *mut Head) })
}

#[inline(always)]
fn course() -> Option<&'static mut Course> {
    let place = COURSE.get_ptr_mut(0)?;
    // SAFETY: an array's place is there for as long as the map. All programs run on one core, one after the other, and
    // the bench writes only while none runs.
    Some(unsafe { &mut *place })
}

#[inline(always)]
fn count(what: Count) {
    if let Some(count) = COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: as for the course.
        unsafe { *count += 1 };
    }
}
