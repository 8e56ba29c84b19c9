//! Questions and orders to the kernel by rtnetlink, answered in bytes: what others hang on a device may be of kinds, and have
//! attributes, that a typed reading refuses.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcHeader;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

/// Largest piece of a listing.
const PIECE: usize = 1 << 16;
/// `NLMSG_ERROR`, also an acknowledgement.
const ERROR: u16 = 2;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `sizeof(struct tcmsg)`.
const HEADER: usize = 20;

/// A qdisc or a filter, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) header: TcHeader,
    attributes: Vec<u8>,
}

impl Found {
    /// An attribute's bytes.
    pub(super) fn attribute(&self, kind: u16) -> Option<Vec<u8>> {
        attribute(&self.attributes, kind)
    }
}

/// One of the attributes in these bytes.
pub(super) fn attribute(bytes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let mut all = NlasIterator::new(bytes).filter_map(Result::ok);
    all.find(|attribute| attribute.kind() == kind).map(|attribute| attribute.value().to_vec())
}

/// Carries an order out.
pub(super) fn order(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    exchange(message, flags | NLM_F_ACK, &mut |_| ())
}

/// Everything that fits a question.
pub(super) fn list(question: RouteNetlinkMessage) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    exchange(question, NLM_F_DUMP, &mut |payload| {
        if let (Ok(header), Some(rest)) = (TcHeader::parse(payload), payload.get(HEADER..)) {
            all.push(Found { header, attributes: rest.to_vec() });
        }
    })?;
    Ok(all)
}

fn exchange(message: RouteNetlinkMessage, flags: u16, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
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
fn read(mut rest: &[u8], take: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
        match message.message_type() {
            DONE => return Ok(true),
            ERROR => return outcome(message.payload()).map(|()| true),
            _ => take(message.payload()),
        }
        let used = (message.length() as usize).next_multiple_of(4).max(1);
        rest = rest.get(used..).unwrap_or_default();
    }
    Ok(false)
}

/// `struct nlmsgerr` begins with a negative error number, or zero.
fn outcome(payload: &[u8]) -> io::Result<()> {
    let code = payload.first_chunk().map_or(-libc::EPROTO, |bytes| i32::from_ne_bytes(*bytes));
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_neg())) }
}
