//! The language of the kernel's packet filter: netlink messages. Nothing here knows what the tables mean.
//!
//! Written by hand, because what is needed is small (a few attributes of thirteen kinds of expression), has to be fast for
//! a hundred thousand elements, and must be exactly what `nft` would send, so that `nft list` shows it well.

pub(crate) mod attribute;
pub(crate) mod batch;
pub(crate) mod expression;
pub(crate) mod socket;
pub(crate) mod uapi;

pub(crate) use attribute::Reader;
pub(crate) use batch::{Batch, Data, Element, Hook, Place, SetShape, Tables, read_comment, request};
pub(crate) use expression::{Base, Expression, Meta, Side};
pub use socket::Refused;
pub(crate) use socket::Socket;
