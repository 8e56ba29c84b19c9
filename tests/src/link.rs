//! Links, addresses and routes, by the `ip` command run inside a namespace; and what devices do with frames.

use std::io::Write as _;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::netns::Netns;
use crate::process::Place;

/// Runs the lines of `script` as one batch of `ip`, all or an error.
pub fn batch(netns: &Netns, script: &str) -> Result<()> {
    let mut ip = Place::new(netns).command("ip");
    ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = ip.spawn().context("could not run ip (package iproute2)")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip refused:\n{script}\n{complaint}");
    Ok(())
}

/// One end of a virtual cable.
pub struct End<'a> {
    /// Where it is.
    pub netns: &'a Netns,
    /// What it is called there.
    pub name: &'a str,
}

/// Lays a virtual cable between two namespaces; both ends are up afterwards.
pub fn cable(left: &End<'_>, right: &End<'_>) -> Result<()> {
    let (a, b, far) = (left.name, right.name, right.netns.path());
    batch(left.netns, &format!("link add {a} type veth peer name {b} netns {far}\nlink set dev {a} up\n"))?;
    batch(right.netns, &format!("link set dev {b} up\n"))
}

/// What a device leaves to others, or to a later moment.
#[derive(Clone, Copy, Debug)]
pub enum Offload {
    /// Packets that come in are bundled; a virtual cable then takes frames, too.
    Bundles,
    /// Checksums of what leaves are added up by hardware; a virtual cable has none, and leaves them undone.
    Checksums,
}

/// Switches one on or off, as `ethtool -K` does (ETHTOOL_SGRO and ETHTOOL_STXCSUM of linux/ethtool.h).
pub fn offload(netns: &Netns, device: &str, which: Offload, on: bool) -> Result<()> {
    let command = match which {
        Offload::Bundles => 0x2c,
        Offload::Checksums => 0x17,
    };
    netns.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let mut value = [command, u32::from(on)];
        // SAFETY: all its bytes may be zero.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (place, byte) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(device.bytes()) {
            *place = byte.cast_signed();
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the structure is the one that this request takes, and what it points to outlives the call.
        let done = unsafe { libc::ioctl(socket.as_raw_fd(), 0x8946, &raw mut request) };
        ensure!(done == 0, "{device} does not take {which:?}: {}", std::io::Error::last_os_error());
        Ok(())
    })
}

/// A program for frames (XDP) that lets all pass. It is on its device until this is dropped.
#[derive(Debug)]
pub struct Foreign {
    _link: OwnedFd,
}

/// Part of `union bpf_attr` for BPF_PROG_LOAD.
#[repr(C)]
struct LoadAttr {
    kind: u32,
    instructions: u32,
    at: u64,
    licence: u64,
    log: [u64; 2],
    rest: [u32; 8],
}

impl Foreign {
    /// Puts one on a device.
    pub fn on(netns: &Netns, device: &str) -> Result<Self> {
        const LOAD: i64 = 5;
        const LINK: i64 = 28;
        const XDP: (u32, u32) = (6, 37);
        const BY_DRIVER: u32 = 1 << 2;
        // r0 = XDP_PASS; exit
        let program = [0x0000_0002_0000_00b7_u64, 0x95];
        let mut load = LoadAttr {
            kind: XDP.0,
            instructions: 2,
            at: program.as_ptr() as u64,
            licence: c"GPL".as_ptr() as u64,
            log: [0; 2],
            rest: [0; 8],
        };
        netns.run(|| {
            let program = bpf(LOAD, &mut load)?;
            let index = nix::net::if_::if_nametoindex(device)?;
            let mut link = [program.as_raw_fd().cast_unsigned(), index, XDP.1, BY_DRIVER];
            Ok(Self { _link: bpf(LINK, &mut link)? })
        })
    }
}

fn bpf<T>(command: i64, attr: &mut T) -> Result<OwnedFd> {
    // SAFETY: both attributes are laid out as the kernel wants them for their commands, and point to what is alive.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0);
    let fd = fd.with_context(|| format!("bpf({command}): {}", std::io::Error::last_os_error()))?;
    // SAFETY: the kernel has just returned it; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
