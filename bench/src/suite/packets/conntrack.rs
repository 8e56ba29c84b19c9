//! The kernel's table of flows.

use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, Result, ensure};
use lab::Node;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// How many flows it has room for.
const ROOM: &str = "/proc/sys/net/netfilter/nf_conntrack_max";

/// Forgets every flow of one node.
pub(super) fn forget(node: &Node) -> Result<()> {
    node.netns().run(|| {
        let flags = SockFlag::SOCK_CLOEXEC;
        let door = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
        ask(&door).context("could not forget flows")
    })
}

/// How many flows the kernel tracks at most; the same number holds for every namespace.
pub(super) fn room() -> Result<u32> {
    let text = std::fs::read_to_string(ROOM).with_context(|| format!("could not read {ROOM}"))?;
    text.trim().parse().with_context(|| format!("{ROOM} says {text}"))
}

/// IPCTNL_MSG_CT_DELETE of NFNL_SUBSYS_CTNETLINK, include/uapi/linux/netfilter/nfnetlink_conntrack.h.
const DELETE: u16 = 1 << 8 | 2;
/// NLM_F_REQUEST and NLM_F_ACK.
const FLAGS: u16 = 1 | 4;
/// Of `struct nlmsghdr` and `struct nfgenmsg`.
const LENGTH: usize = 16 + 4;

/// A deletion that names no flow deletes all.
fn ask(door: &OwnedFd) -> Result<()> {
    let mut request = [0; LENGTH];
    request[..4].copy_from_slice(&(LENGTH as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&FLAGS.to_ne_bytes());
    sendto(door.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 128];
    let length = recv(door.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    ensure!(length >= 20, "the kernel's answer is short");
    // After the header: an error number below zero, or zero.
    let error = i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    ensure!(error == 0, std::io::Error::from_raw_os_error(-error));
    Ok(())
}
