//! After how long without a packet the kernel forgets a flow: what a packet sets a flow's timer to.

use std::fs;

/// Of the calling thread's network namespace, in seconds; those that could not be read are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, by the number of the state.
    pub(super) tcp: [Option<u32>; 9],
    /// TCP, while packets are sent again and again, or the receiver takes none.
    pub(super) tcp_retransmitted: Option<u32>,
    /// TCP, while what was sent is not acknowledged.
    pub(super) tcp_unacknowledged: Option<u32>,
    /// UDP.
    pub(super) udp: Option<u32>,
    /// UDP, when both have spoken for a while.
    pub(super) udp_stream: Option<u32>,
}

/// By the number of the state; no flow stays in the first.
const TCP: [&str; 9] =
    ["", "syn_sent", "syn_recv", "established", "fin_wait", "close_wait", "last_ack", "time_wait", "close"];

impl Timeouts {
    /// Asks the kernel.
    pub fn read() -> Self {
        Self {
            tcp: TCP.map(|state| seconds(&format!("tcp_timeout_{state}"))),
            tcp_retransmitted: seconds("tcp_timeout_max_retrans"),
            tcp_unacknowledged: seconds("tcp_timeout_unacknowledged"),
            udp: seconds("udp_timeout"),
            udp_stream: seconds("udp_timeout_stream"),
        }
    }
}

fn seconds(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/netfilter/nf_conntrack_{name}")).ok()?;
    text.trim_end().parse().ok()
}
