//! The socket to the kernel's packet filter, in the network namespace of the thread that opened it.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt,
    socket, sockopt,
};

use super::attribute::Reader;
use super::batch::Batch;

/// Netlink's header and netfilter's.
const HEADER: usize = 16;
const FAMILY_HEADER: usize = 4;
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_DUMP_INTR`: something changed meanwhile, and the answer may have gaps.
const INTERRUPTED: u16 = 0x10;
/// How often an interrupted dump is begun anew.
const TRIES: usize = 20;
/// Largest piece of an answer.
const PIECE: usize = 1 << 20;
/// Room for answers in the socket.
const RECEIVE_BYTES: usize = 4 << 20;
/// Room that the kernel's bookkeeping takes besides the bytes of a transaction.
const SEND_EXTRA: usize = 1 << 20;

/// A transaction that the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("could not {deed}")]
pub struct Refused {
    /// The first message that it did not like.
    pub deed: Cow<'static, str>,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The socket.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    /// A number that no message had yet.
    next: u32,
}

impl Socket {
    /// Opens one.
    pub(crate) fn open() -> io::Result<Self> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        // Forcing is for root of the first user namespace only; others have what the limits allow.
        setsockopt(&fd, sockopt::RcvBufForce, &RECEIVE_BYTES)
            .or_else(|_| setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BYTES))?;
        Ok(Self { fd, buffer: vec![0; PIECE], next: 1 })
    }

    /// Carries a transaction out.
    pub(crate) fn commit(&mut self, batch: Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        self.send_batch(batch.finish())
    }

    /// Asks whether the kernel would carry a transaction out. Nothing is ever in force; `nft --check` does the same.
    pub(crate) fn try_out(&mut self, batch: Batch) -> Result<(), Refused> {
        self.send_batch(batch.unfinished())
    }

    fn send_batch(&mut self, (mut bytes, deeds): (Vec<u8>, Vec<Cow<'static, str>>)) -> Result<(), Refused> {
        let whole = |source: io::Error| Refused { deed: "carry out a transaction".into(), source };
        // What a message carries is accounted for when it is sent, all at once.
        let room = bytes.len() * 2 + SEND_EXTRA;
        setsockopt(&self.fd, sockopt::SndBufForce, &room)
            .or_else(|_| setsockopt(&self.fd, sockopt::SndBuf, &room))
            .map_err(|errno| whole(errno.into()))?;
        let first = self.number(&mut bytes);
        self.send(&bytes).map_err(whole)?;
        self.verdict(first, &deeds)
    }

    /// Gives messages numbers that no message before had, so that no answer is taken for another's. Returns what was
    /// added.
    fn number(&mut self, bytes: &mut [u8]) -> u32 {
        let first = self.next;
        let mut place = 0;
        while let Some(message) = bytes.get_mut(place..)
            && let Some(length) = message.first_chunk::<4>().map(|length| u32::from_ne_bytes(*length))
            && let Some(number) = message.get_mut(8..12)
        {
            let own = number.first_chunk::<4>().map_or(0, |own| u32::from_ne_bytes(*own));
            number.copy_from_slice(&own.wrapping_add(first).to_ne_bytes());
            self.next = self.next.max(first.wrapping_add(own).wrapping_add(1));
            place += (length as usize).next_multiple_of(4).max(1);
        }
        first
    }

    /// The kernel has carried out or refused everything before sending returns; it answers only what it refuses.
    fn verdict(&mut self, numbered_from: u32, deeds: &[Cow<'static, str>]) -> Result<(), Refused> {
        let mut first = None;
        loop {
            let length = match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(Some(length)) => length,
                Ok(None) => break,
                // So many refusals that some were lost; the transaction has not been carried out.
                Err(source) => {
                    first = first.or(Some(Refused { deed: "carry out a transaction".into(), source }));
                    continue;
                }
            };
            for message in messages(self.buffer.get(..length).unwrap_or_default()) {
                first = first.or_else(|| refusal(&message, numbered_from, deeds));
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Asks for everything of a kind, and hands over each answer's attributes.
    pub(crate) fn dump(&mut self, question: &[u8], mut take: impl FnMut(Reader<'_>)) -> io::Result<()> {
        let mut question = question.to_vec();
        let number = self.number(&mut question).wrapping_add(1);
        self.send(&question)?;
        loop {
            let length = self.receive(MsgFlags::empty())?.unwrap_or(0);
            let answers = messages(self.buffer.get(..length).unwrap_or_default());
            for message in answers.filter(|message| message.number == number) {
                if message.flags & INTERRUPTED != 0 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                match message.kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(message.body),
                    _ => take(Reader(message.body.get(FAMILY_HEADER..).unwrap_or_default())),
                }
            }
        }
    }

    /// The same until nothing changes meanwhile: each try fills something fresh.
    pub(crate) fn collect<T: Default>(
        &mut self,
        question: &[u8],
        mut take: impl FnMut(&mut T, Reader<'_>),
    ) -> io::Result<T> {
        for _ in 0..TRIES {
            let mut all = T::default();
            match self.dump(question, |answer| take(&mut all, answer)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => *self = Self::open()?,
                outcome => return outcome.map(|()| all),
            }
        }
        Err(io::Error::new(io::ErrorKind::Interrupted, "it changes faster than it can be read"))
    }

    fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let kernel = NetlinkAddr::new(0, 0);
        loop {
            match sendto(self.fd.as_fd().as_raw_fd(), bytes, &kernel, MsgFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// `None` if there is nothing to hear, and it was asked not to wait.
    fn receive(&mut self, flags: MsgFlags) -> io::Result<Option<usize>> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, flags) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// One message of an answer.
struct Message<'a> {
    kind: u16,
    flags: u16,
    number: u32,
    body: &'a [u8],
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let message = Message {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
            number: u32::from_ne_bytes(bytes.get(8..12)?.try_into().ok()?),
            body: bytes.get(HEADER..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

fn refusal(message: &Message<'_>, numbered_from: u32, deeds: &[Cow<'static, str>]) -> Option<Refused> {
    if message.kind != ERROR {
        return None;
    }
    let source = outcome(message.body).err()?;
    let own = message.number.checked_sub(numbered_from).filter(|own| *own as usize <= deeds.len())?;
    let deed = (own as usize).checked_sub(1).and_then(|place| deeds.get(place)).cloned();
    Some(Refused { deed: deed.unwrap_or("carry out a transaction".into()), source })
}

/// An error message begins with the negative error number; zero is an acknowledgement.
fn outcome(body: &[u8]) -> io::Result<()> {
    let number = body.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
    match number {
        Some(0) => Ok(()),
        Some(number) => Err(io::Error::from_raw_os_error(-number)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
