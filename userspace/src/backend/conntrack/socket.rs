//! The socket over which ctnetlink is spoken to.
//!
//! The kernel carries out a request while it is being sent, and makes the next part of a listing while one is being
//! read. So an answer that is not there will not come, and nothing ever waits.

use std::io;

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket as Netlink, SocketAddr};

use super::conversation::{Deleted, Listed, Quality};
use super::entry::Key;
use super::message::{self, Listing};
use crate::model::Family;

/// The kernel fills at most 32 KiB at a time, and as much only for a reader that has shown to take as much.
const READ: usize = 1 << 16;
/// Room for answers that are not read yet. More than the system's limit is cut down silently.
const ROOM: u32 = 1 << 20;
/// Removals that are asked for at once. Each answer takes less than 1 KiB of room, of which there are 208 KiB by default.
const BATCH: usize = 64;

/// A socket in the network namespace in which it was opened. After an error a listing may still be going on in it, and
/// the kernel begins no other beside that.
pub(super) struct Socket {
    netlink: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(super) fn open() -> io::Result<Self> {
        let mut netlink = Netlink::new(NETLINK_NETFILTER)?;
        netlink.bind_auto()?;
        // Only the kernel may send to it.
        netlink.connect(&SocketAddr::new(0, 0))?;
        netlink.set_non_blocking(true)?;
        netlink.set_rx_buf_sz(ROOM)?;
        // Answers do not repeat the request.
        netlink.set_cap_ack(true)?;
        Ok(Self { netlink, sequence: 0, buffer: vec![0; READ] })
    }

    /// Hands over the attributes of every entry.
    pub(super) fn list(
        &mut self,
        family: Family,
        listing: Listing,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<Quality> {
        let sequence = self.next();
        self.send(&message::list(family, sequence, listing))?;
        let mut listed = Listed::new(sequence);
        loop {
            if let Some(end) = listed.hear(self.read()?, &mut take) {
                return end.map_err(io::Error::from_raw_os_error);
            }
        }
    }

    /// Removes entries, and says how many; those that are gone already are fine. One that cannot be removed does not
    /// hold up the others.
    pub(super) fn delete(&mut self, family: Family, keys: &[Key]) -> io::Result<usize> {
        let mut deleted = Ok(0);
        for batch in keys.chunks(BATCH) {
            let one = self.delete_batch(family, batch)?;
            deleted = deleted.and_then(|sum| Ok(sum + one?));
        }
        deleted.map_err(io::Error::from_raw_os_error)
    }

    /// The inner error is that of an entry, the outer one of the conversation.
    fn delete_batch(&mut self, family: Family, keys: &[Key]) -> io::Result<Result<usize, i32>> {
        let mut requests = Vec::new();
        let mut waiting = Vec::new();
        for key in keys {
            let sequence = self.next();
            waiting.push(sequence);
            requests.extend(message::delete(family, sequence, key));
        }
        self.send(&requests)?;
        let mut deleted = Deleted::new(waiting);
        loop {
            if let Some(end) = deleted.hear(self.read()?) {
                return Ok(end);
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = self.netlink.send(bytes, 0)?;
        if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    fn read(&mut self) -> io::Result<&[u8]> {
        let length = match self.netlink.recv(&mut &mut self.buffer[..], libc::MSG_TRUNC) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the kernel did not answer"));
            }
            other => other?,
        };
        let too_long = || io::Error::new(io::ErrorKind::InvalidData, "an answer is longer than expected");
        self.buffer.get(..length).ok_or_else(too_long)
    }
}
