//! Questions and orders to the kernel by rtnetlink (RFC 3549; rtnetlink(7)). Answers are handed on in bytes: not everything can be
//! read by types that know some of what there may be.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Largest piece of a listing.
const PIECE: usize = 1 << 16;
/// `NLMSG_ERROR`, also an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;

/// Takes one message of an answer, with its header.
pub(super) type Take<'a> = &'a mut dyn FnMut(&[u8]) -> io::Result<()>;

/// A way to the kernel, in this network namespace.
pub(super) fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

/// Sends a question or an order, and reads answers until the kernel says that it was the last. `flags` are besides
/// `NLM_F_REQUEST`; they must ask for an acknowledgement or a listing.
pub(super) fn exchange(
    socket: &Socket,
    message: RouteNetlinkMessage,
    flags: u16,
    take: Take<'_>,
) -> io::Result<()> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        if read(buffer.get(..length).unwrap_or_default(), take)? {
            return Ok(());
        }
    }
}

/// Takes the messages of one piece; whether the last one was among them.
fn read(mut rest: &[u8], take: Take<'_>) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        let length = message.length() as usize;
        match message.message_type() {
            DONE => return Ok(true),
            ERROR => return outcome(message.payload()).map(|()| true),
            _ => take(rest.get(..length).unwrap_or_default())?,
        }
        rest = rest.get(length.next_multiple_of(4).max(1)..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct nlmsgerr` begins with a negative error number, or zero.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(-libc::EPROTO, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
}
