//! What a link leaves to its other end, or to whoever receives.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// ETHTOOL_STXCSUM and ETHTOOL_SGRO of include/uapi/linux/ethtool.h.
const SET_CHECKSUMS: u32 = 0x17;
const SET_RECEIVE: u32 = 0x2c;

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Turns generic receive offload on for a link of the calling thread's namespace.
pub(super) fn receive(link: &str) -> Result<()> {
    set(link, Value { command: SET_RECEIVE, data: 1 })
}

/// Has the stack sum up what leaves by a link, as if nobody behind it could.
pub(super) fn sum_up(link: &str) -> Result<()> {
    set(link, Value { command: SET_CHECKSUMS, data: 0 })
}

fn set(link: &str, mut value: Value) -> Result<()> {
    let door = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all bytes may be zero: plain numbers and a pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    ensure!(link.len() < request.ifr_name.len(), "{link} is too long for a link");
    for (place, byte) in request.ifr_name.iter_mut().zip(link.bytes()) {
        *place = byte.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request has a name that ends with a zero, and points to a value that lives until afterwards.
    let answer = unsafe { libc::ioctl(door.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    nix::errno::Errno::result(answer).with_context(|| format!("could not set the offload of {link}"))?;
    Ok(())
}
