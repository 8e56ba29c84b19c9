//! What the kernel says that devices can do with frames: the generic netlink family `netdev`
//! (Documentation/netlink/specs/netdev.yaml, since Linux 6.3).

use std::collections::BTreeMap;
use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, NetlinkBuffer, NlasIterator,
};
use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

/// `NETDEV_XDP_ACT_BASIC`, `NETDEV_XDP_ACT_REDIRECT`: a program on it can do all it may ask for.
pub(super) const RECEIVES: u64 = 1 | 2;
/// `NETDEV_XDP_ACT_NDO_XMIT`: frames may be sent to it. With many drivers only while it has a program.
pub(super) const SENDS: u64 = 4;

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_ID`, `CTRL_ATTR_FAMILY_NAME`.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `NETDEV_CMD_DEV_GET`, `NETDEV_A_DEV_IFINDEX`, `NETDEV_A_DEV_XDP_FEATURES`.
const GET_DEVICE: u8 = 1;
const INDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// Bytes of a message's header, and of the generic one behind it.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// Largest piece of a listing.
const PIECE: usize = 1 << 16;

/// What devices of this network namespace can do, by index; nothing if the kernel does not tell.
pub(super) fn read() -> io::Result<Option<BTreeMap<u32, u64>>> {
    let mut socket = Socket::new(NETLINK_GENERIC)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let name = [&(4 + 7_u16).to_ne_bytes()[..], &FAMILY_NAME.to_ne_bytes(), b"netdev\0\0"].concat();
    let mut family = None;
    let asked = ask(&socket, &request(CONTROL, NLM_F_REQUEST, GET_FAMILY, &name), false, |attributes| {
        family = attributes.get(&FAMILY_ID).and_then(|value| Some(u16::from_ne_bytes(*value.first_chunk()?)));
    });
    match (asked, family) {
        (Err(error), _) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        (Err(error), _) => Err(error),
        (Ok(()), None) => Ok(None),
        (Ok(()), Some(family)) => list(&socket, family).map(Some),
    }
}

fn list(socket: &Socket, family: u16) -> io::Result<BTreeMap<u32, u64>> {
    let mut devices = BTreeMap::new();
    ask(socket, &request(family, NLM_F_REQUEST | NLM_F_DUMP, GET_DEVICE, &[]), true, |attributes| {
        let index = attributes.get(&INDEX).and_then(|value| value.first_chunk());
        let features = attributes.get(&XDP_FEATURES).and_then(|value| value.first_chunk());
        if let (Some(index), Some(features)) = (index, features) {
            devices.insert(u32::from_ne_bytes(*index), u64::from_ne_bytes(*features));
        }
    })?;
    Ok(devices)
}

fn request(kind: u16, flags: u16, command: u8, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; HEADER];
    bytes.extend([command, 1, 0, 0]);
    bytes.extend(attributes);
    let length = u32::try_from(bytes.len()).unwrap_or(0);
    let mut header = NetlinkBuffer::new(&mut bytes);
    header.set_length(length);
    header.set_message_type(kind);
    header.set_flags(flags);
    bytes
}

/// Attributes of a message, by kind.
type Attributes = BTreeMap<u16, Vec<u8>>;

/// Hands over the attributes of every answer. `many`: until the kernel says that it has been the last.
fn ask(socket: &Socket, request: &[u8], many: bool, mut take: impl FnMut(Attributes)) -> io::Result<()> {
    socket.send(request, 0)?;
    let mut buffer = vec![0; PIECE];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            match message.message_type() {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return refused(message.payload()),
                _ => take(attributes(message.payload()).map_err(io::Error::other)?),
            }
            let used = (message.length() as usize).next_multiple_of(4).max(1);
            rest = rest.get(used..).unwrap_or_default();
        }
        if !many {
            return Ok(());
        }
    }
}

fn refused(payload: &[u8]) -> io::Result<()> {
    match payload.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn attributes(payload: &[u8]) -> Result<Attributes, DecodeError> {
    let bytes = payload.get(GENERIC..).unwrap_or_default();
    let all = NlasIterator::new(bytes).map(|attribute| {
        let attribute = attribute?;
        Ok((attribute.kind(), attribute.value().to_vec()))
    });
    all.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Kernels before 6.3 tell nothing.
    #[test]
    fn the_loopback_runs_no_program() {
        if let Some(devices) = read().unwrap() {
            assert_eq!(devices.get(&1), Some(&0), "{devices:?}");
        }
    }
}
