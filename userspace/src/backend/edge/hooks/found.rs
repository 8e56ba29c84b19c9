//! Qdiscs and filters as the kernel lists them: what others hang on a device may be of kinds, and have attributes, that a typed
//! reading refuses.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NetlinkBuffer, NlasIterator};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::TcHeader;

use crate::backend::edge::rtnl::{connect, exchange};

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
    exchange(&connect()?, message, flags | NLM_F_ACK, &mut |_| Ok(()))
}

/// Everything that fits a question.
pub(super) fn list(question: RouteNetlinkMessage) -> io::Result<Vec<Found>> {
    let mut all = Vec::new();
    exchange(&connect()?, question, NLM_F_DUMP, &mut |message| {
        let message = NetlinkBuffer::new_checked(message).map_err(io::Error::other)?;
        let payload = message.payload();
        if let (Ok(header), Some(rest)) = (TcHeader::parse(payload), payload.get(HEADER..)) {
            all.push(Found { header, attributes: rest.to_vec() });
        }
        Ok(())
    })?;
    Ok(all)
}
