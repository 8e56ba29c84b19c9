//! bpf(2), where aya 0.14 has no call for it: batch operations, links by pin.
//!
//! Command numbers and attribute layouts are those of `enum bpf_cmd` and `union bpf_attr` in include/uapi/linux/bpf.h;
//! both are frozen kernel interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

const MAP_LOOKUP_ELEM: u32 = 1;
const MAP_UPDATE_ELEM: u32 = 2;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_TEST_RUN: u32 = 10;
const PROG_GET_FD_BY_ID: u32 = 13;
const OBJ_GET_INFO_BY_FD: u32 = 15;
const PROG_QUERY: u32 = 16;
const MAP_LOOKUP_BATCH: u32 = 24;
const MAP_UPDATE_BATCH: u32 = 26;
const MAP_DELETE_BATCH: u32 = 27;
const LINK_CREATE: u32 = 28;
const LINK_UPDATE: u32 = 29;

#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgramIdAttr {
    id: u32,
    next_id: u32,
    flags: u32,
}

/// The head of `struct bpf_prog_info`, as far as the name.
#[repr(C)]
#[derive(Default)]
struct ProgramInfo {
    kind: u32,
    id: u32,
    tag: [u8; 8],
    lengths: [u32; 2],
    instructions: [u64; 2],
    load_time: u64,
    created_by: u32,
    maps: u32,
    map_ids: u64,
    name: [u8; 16],
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// The head of `struct bpf_link_info`, with the member for cgroup links.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::backend) struct LinkInfo {
    /// Kind of link.
    pub(in crate::backend) kind: u32,
    /// Id of the link.
    pub(in crate::backend) id: u32,
    /// Id of the program behind it.
    pub(in crate::backend) program: u32,
    pad: u32,
    /// Id of the cgroup; zero once that cgroup is gone.
    pub(in crate::backend) cgroup: u64,
    attach_type: u32,
    reserved: u32,
}

fn bpf<T>(command: u32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: every attribute structure above is laid out as the kernel defines it for its command, and the pointers
    // in it come from slices that outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    i32::try_from(result).ok().filter(|code| *code >= 0).ok_or_else(io::Error::last_os_error)
}

fn owned(fd: i32) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Reads one entry; whether it is there.
pub(in crate::backend) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = ElementAttr {
        map_fd: raw(map),
        pad: 0,
        key: key.as_ptr() as u64,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match bpf(MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes entries; keys and values lie one after the other. Stops at the first failure.
pub(in crate::backend) fn update_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    values: &[u8],
    count: u32,
) -> io::Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    bpf(MAP_UPDATE_BATCH, &mut attr).map(|_| ())
}

/// Writes one entry, unless there is one with its key; whether it was written.
pub(in crate::backend) fn insert(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<bool> {
    /// `BPF_NOEXIST`.
    const NEW: u64 = 1;
    let (key, value) = (key.as_ptr() as u64, value.as_ptr() as u64);
    let mut attr = ElementAttr { map_fd: raw(map), pad: 0, key, value, flags: NEW };
    match bpf(MAP_UPDATE_ELEM, &mut attr) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Removes entries. Returns how many were removed before the first key that is not there, and whether there was one.
pub(in crate::backend) fn delete_batch(
    map: BorrowedFd<'_>,
    keys: &[u8],
    count: u32,
) -> io::Result<(u32, bool)> {
    let mut attr = BatchAttr { keys: keys.as_ptr() as u64, count, map_fd: raw(map), ..BatchAttr::default() };
    match bpf(MAP_DELETE_BATCH, &mut attr) {
        Ok(_) => Ok((attr.count, false)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok((attr.count, true)),
        Err(error) => Err(error),
    }
}

/// Reads entries from where `cursor` stands (`None`: the start) into the buffers, and moves it. Returns how many were
/// read, and whether the end is reached.
pub(in crate::backend) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Option<u32>,
    keys: &mut [u8],
    values: &mut [u8],
    room: u32,
) -> io::Result<(u32, bool)> {
    let mut next = 0_u32;
    let mut attr = BatchAttr {
        in_batch: cursor.as_ref().map_or(0, |at| std::ptr::from_ref(at) as u64),
        out_batch: std::ptr::from_mut(&mut next) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: room,
        map_fd: raw(map),
        ..BatchAttr::default()
    };
    let end = match bpf(MAP_LOOKUP_BATCH, &mut attr) {
        Ok(_) => false,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
        Err(error) => return Err(error),
    };
    *cursor = Some(next);
    Ok((attr.count, end))
}

/// Gives an object a name in the bpf file system.
pub(in crate::backend) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = text(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(object), ..ObjAttr::default() };
    bpf(OBJ_PIN, &mut attr).map(|_| ())
}

/// Opens a pinned object.
pub(in crate::backend) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = text(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, ..ObjAttr::default() };
    bpf(OBJ_GET, &mut attr).map(owned)
}

/// The number of this process's network namespace (`SO_NETNS_COOKIE`, since 5.14), which no other has until the machine
/// is started anew.
pub(in crate::backend) fn netns_cookie() -> io::Result<u64> {
    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    let place = std::ptr::from_mut(&mut cookie).cast();
    // SAFETY: both pointers are to live values of the sizes stated, and the descriptor is open.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, place, &raw mut length)
    };
    if done == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// What a link is attached to.
pub(in crate::backend) fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: raw(link),
        info_len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The device that a TCX link is on; zero once it has gone.
pub(in crate::backend) fn device_of(link: BorrowedFd<'_>) -> io::Result<u32> {
    // For this kind of link the member behind the head is the device's index.
    link_info(link).map(|info| info.cgroup as u32)
}

/// `BPF_MPROG_MAX`: so many programs a hook of a device takes.
const MOST: usize = 64;

/// Programs on a hook of a device of this network namespace (TCX), in the order in which packets meet them: the id of each, and
/// of its link.
pub(in crate::backend) fn programs_on(device: u32, attach_type: u32) -> io::Result<Vec<(u32, u32)>> {
    let (mut programs, mut links) = ([0_u32; MOST], [0_u32; MOST]);
    let mut attr = QueryAttr {
        target: device,
        attach_type,
        prog_ids: programs.as_mut_ptr() as u64,
        count: MOST as u32,
        link_ids: links.as_mut_ptr() as u64,
        ..QueryAttr::default()
    };
    match bpf(PROG_QUERY, &mut attr) {
        Ok(_) => Ok(programs.into_iter().zip(links).take(attr.count as usize).collect()),
        // Nobody has ever hung there.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<ProgramInfo> {
    let mut info = ProgramInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: raw(program),
        info_len: size_of::<ProgramInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

/// The id of a program.
pub(in crate::backend) fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    program_info(program).map(|info| info.id)
}

/// The name of a program, cut off by the kernel after fifteen bytes.
pub(in crate::backend) fn program_name(id: u32) -> io::Result<String> {
    let program = program_by_id(id)?;
    let name = program_info(program.as_fd())?.name;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(name.get(..end).unwrap_or_default()).into_owned())
}

/// A handle to whichever program has this id.
pub(in crate::backend) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    let mut attr = ProgramIdAttr { id, ..ProgramIdAttr::default() };
    bpf(PROG_GET_FD_BY_ID, &mut attr).map(owned)
}

/// Runs a program over a packet that is not sent; what it returns.
pub(in crate::backend) fn test_run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    context: &[u8],
) -> io::Result<u32> {
    let mut attr = TestRunAttr {
        prog_fd: raw(program),
        data_size_in: packet.len() as u32,
        data_in: packet.as_ptr() as u64,
        repeat: 1,
        ctx_size_in: context.len() as u32,
        ctx_in: context.as_ptr() as u64,
        ..TestRunAttr::default()
    };
    bpf(PROG_TEST_RUN, &mut attr)?;
    Ok(attr.retval)
}

/// Attaches a program to a cgroup.
pub(in crate::backend) fn link_create(
    program: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    let mut attr = LinkCreateAttr { prog_fd: raw(program), target_fd: raw(cgroup), attach_type, flags: 0 };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Attaches a program to a device of this network namespace, before all others there (`BPF_F_BEFORE`).
pub(in crate::backend) fn link_device(
    program: BorrowedFd<'_>,
    device: u32,
    attach_type: u32,
) -> io::Result<OwnedFd> {
    const BEFORE: u32 = 1 << 3;
    let mut attr = LinkCreateAttr { prog_fd: raw(program), target_fd: device, attach_type, flags: BEFORE };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Has a device's driver run a program for frames (`BPF_XDP`, `XDP_FLAGS_DRV_MODE`), if it has none.
pub(in crate::backend) fn link_xdp(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    const XDP: u32 = 37;
    const BY_DRIVER: u32 = 1 << 2;
    let mut attr =
        LinkCreateAttr { prog_fd: raw(program), target_fd: device, attach_type: XDP, flags: BY_DRIVER };
    bpf(LINK_CREATE, &mut attr).map(owned)
}

/// Puts another program behind a link, atomically.
pub(in crate::backend) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr =
        LinkUpdateAttr { link_fd: raw(link), new_prog_fd: raw(program), ..LinkUpdateAttr::default() };
    bpf(LINK_UPDATE, &mut attr).map(|_| ())
}
