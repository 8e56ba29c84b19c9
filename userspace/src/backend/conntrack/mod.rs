//! The kernel's table of flows, of which stale ones are removed: those over UDP to an endpoint that does not serve any
//! more. All others are left to end by themselves; that is how a terminating endpoint finishes its connections. Whoever
//! wants to know how far it has come may look at all of them.

mod conversation;
mod entry;
mod message;
mod socket;
mod stale;
#[cfg(test)]
mod tests;
mod timeouts;
mod track;
mod usage;

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use self::conversation::Quality;
use self::entry::{Entry, Key};
use self::message::Listing;
use self::socket::Socket;
pub use self::stale::Cleanup;
use self::stale::Stale;
pub use self::timeouts::Timeouts;
pub use self::track::Track;
pub use self::usage::Usage;
use super::BackendError;
use crate::model::Family;

/// How often a listing with holes is begun anew before its holes are put up with.
const LOOKS: usize = 5;

/// The table of one network namespace.
pub struct Conntrack {
    socket: Socket,
    listing: Listing,
}

/// A flow, shown to whoever looks at all of them.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// IP protocol number.
    pub protocol: u8,
    /// Who asks.
    pub client: SocketAddr,
    /// Who was asked.
    pub asked: SocketAddr,
    /// Who answers.
    pub answers: SocketAddr,
    attributes: &'a [u8],
}

impl Shown<'_> {
    /// How far it has come: read for the few that matter.
    pub fn track(&self) -> Track {
        Track::read(self.attributes)
    }
}

impl Conntrack {
    /// Opens the table of the namespace that the calling thread is in. Needs CAP_NET_ADMIN.
    pub fn open() -> Result<Self, BackendError> {
        let socket = Socket::open().map_err(failed("open"))?;
        Ok(Self { socket, listing: Listing::Udp })
    }

    /// Removes stale flows, and says how many. `node` are the addresses at which node ports answer. New flows must
    /// already go where they should, or what is removed comes back. One listing a family serves all.
    ///
    /// After an error this value is of no more use: open another, and ask again for the same.
    pub fn clean(&mut self, cleanups: &[Cleanup], node: &BTreeSet<IpAddr>) -> Result<usize, BackendError> {
        let stale = Stale::new(cleanups, node);
        let mut removed = 0;
        for family in stale.families() {
            let keys = undisturbed(|| self.look(family, &stale)).map_err(failed("list"))?;
            removed += self.socket.delete(family, &keys).map_err(failed("remove stale flows from"))?;
        }
        Ok(removed)
    }

    /// Shows every flow of a family that has ports. False if the table changed its shape meanwhile, so that some may be
    /// missing. Of the table no more is held at a time than one reading.
    pub fn show(&mut self, family: Family, take: &mut dyn FnMut(&Shown<'_>)) -> Result<bool, BackendError> {
        let show = |attributes: &[u8]| {
            if let Some(Entry { protocol, original, reply }) = Entry::read(attributes) {
                let (client, asked) = (original.source, original.destination);
                take(&Shown { protocol, client, asked, answers: reply.source, attributes });
            }
        };
        let quality = self.socket.list(family, Listing::Everything, show).map_err(failed("list"))?;
        Ok(quality == Quality::Whole)
    }

    fn look(&mut self, family: Family, stale: &Stale<'_>) -> io::Result<(Vec<Key>, Quality)> {
        let mut keys = Vec::new();
        let mut take = |attributes: &[u8]| {
            if Entry::read(attributes).is_some_and(|entry| stale.holds(&entry)) {
                keys.extend(Key::of(attributes));
            }
        };
        let Self { socket, listing } = self;
        let quality = narrowed(listing, |listing| socket.list(family, listing, &mut take))?;
        Ok((keys, quality))
    }
}

/// The first listing without holes, else the last one.
fn undisturbed<T>(mut look: impl FnMut() -> io::Result<(T, Quality)>) -> io::Result<T> {
    let (mut found, mut quality) = look()?;
    for _ in 1..LOOKS {
        match quality {
            Quality::Whole => break,
            Quality::Interrupted => (found, quality) = look()?,
        }
    }
    Ok(found)
}

/// Lists as much as is asked for; all, from then on, if the kernel refuses to list by protocol.
fn narrowed<T>(listing: &mut Listing, mut list: impl FnMut(Listing) -> io::Result<T>) -> io::Result<T> {
    let refused = |error: &io::Error| matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP));
    match list(*listing) {
        Err(error) if *listing == Listing::Udp && refused(&error) => {
            *listing = Listing::Everything;
            list(*listing)
        }
        other => other,
    }
}

fn failed(deed: &'static str) -> impl Fn(io::Error) -> BackendError {
    move |source| BackendError::Conntrack { deed, source }
}
