//! A program of somebody else's on a device's hook: it counts the packets that it sees, and lets them go on.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use lab::Node;

/// `enum bpf_cmd`.
const MAP_CREATE: u32 = 0;
const MAP_LOOKUP_ELEM: u32 = 1;
const PROG_LOAD: u32 = 5;
const OBJ_PIN: u32 = 6;
const OBJ_GET: u32 = 7;
const PROG_GET_FD_BY_ID: u32 = 13;
const LINK_CREATE: u32 = 28;
const LINK_DETACH: u32 = 34;

/// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
pub(crate) const INGRESS: u32 = 46;
pub(crate) const EGRESS: u32 = 47;
/// `BPF_F_BEFORE`, without saying before whom: before all.
const BEFORE: u32 = 1 << 3;

/// Attributes in words of four bytes, as many as the commands here take.
type Words = [u32; 20];

fn bpf(command: u32, mut words: Words) -> io::Result<i32> {
    // SAFETY: the attributes are laid out as include/uapi/linux/bpf.h has them for each command, what is not named is zero,
    // and what they point at outlives the call.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, words.as_mut_ptr(), size_of::<Words>()) };
    i32::try_from(code).ok().filter(|code| *code >= 0).ok_or_else(io::Error::last_os_error)
}

fn attributes<const N: usize>(first: [u32; N]) -> Words {
    let mut words = [0; 20];
    words[..N].copy_from_slice(&first);
    words
}

/// A pointer as two words.
fn halves<T>(place: *const T) -> [u32; 2] {
    let address = place as u64;
    [address as u32, (address >> 32) as u32]
}

fn made(outcome: io::Result<i32>) -> OwnedFd {
    // SAFETY: the kernel has just returned this descriptor; nobody else owns it.
    unsafe { OwnedFd::from_raw_fd(outcome.unwrap()) }
}

fn number(fd: &OwnedFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The program, and its count.
pub(crate) struct Spy {
    program: OwnedFd,
    count: OwnedFd,
}

impl Spy {
    pub(crate) fn new() -> Self {
        // An array with one place of eight bytes.
        let count = made(bpf(MAP_CREATE, attributes([2, 4, 8, 1])));
        let program = load(&code(number(&count)));
        Self { program, count }
    }

    /// How many packets it has seen.
    pub(crate) fn seen(&self) -> u64 {
        let (key, value) = (0_u32, 0_u64);
        let ([key_low, key_high], [low, high]) = (halves(&raw const key), halves(&raw const value));
        bpf(MAP_LOOKUP_ELEM, attributes([number(&self.count), 0, key_low, key_high, low, high])).unwrap();
        // SAFETY: a plain number, which the kernel has written.
        unsafe { (&raw const value).read_volatile() }
    }

    /// Puts it before everything on a hook of a device, for as long as the link is held.
    pub(crate) fn hang(&self, node: &Node, device: &str, hook: u32) -> OwnedFd {
        let attach = || {
            let index = nix::net::if_::if_nametoindex(device)?;
            Ok(made(bpf(LINK_CREATE, attributes([number(&self.program), index, hook, BEFORE]))))
        };
        node.netns().run(attach).unwrap()
    }

    /// Gives it a name that `tc` can find.
    pub(crate) fn pin(&self, path: &Path) {
        pin(&self.program, path);
    }
}

/// Gives a program a name that `tc` can find.
pub(crate) fn pin_program(id: u32, path: &Path) {
    pin(&made(bpf(PROG_GET_FD_BY_ID, attributes([id]))), path);
}

/// What `bpftool link detach` does.
pub(crate) fn detach(pinned: &Path) {
    let path = text(pinned);
    let [low, high] = halves(path.as_ptr());
    detach_link(made(bpf(OBJ_GET, attributes([low, high]))));
}

/// Takes a program off its hook at once: whoever holds the link, be it for a moment, would keep it there.
pub(crate) fn detach_link(link: OwnedFd) {
    bpf(LINK_DETACH, attributes([number(&link)])).unwrap();
    drop(link);
}

fn pin(object: &OwnedFd, path: &Path) {
    let path = text(path);
    let [low, high] = halves(path.as_ptr());
    bpf(OBJ_PIN, attributes([low, high, number(object)])).unwrap();
}

fn text(path: &Path) -> CString {
    CString::new(path.to_str().unwrap()).unwrap()
}

/// `struct bpf_insn`: operation, registers (target low, source high), offset, number.
type Instruction = (u8, u8, i16, i32);

/// Adds one to the only place of an array, and ends with `TCX_NEXT`.
fn code(count: u32) -> [Instruction; 11] {
    [
        // *(u32 *)(r10 - 4) = 0
        (0x62, 0x0a, -4, 0),
        // r2 = r10 - 4
        (0xbf, 0xa2, 0, 0),
        (0x07, 0x02, 0, -4),
        // r1 = the array
        (0x18, 0x11, 0, count.cast_signed()),
        (0, 0, 0, 0),
        // r0 = bpf_map_lookup_elem(r1, r2)
        (0x85, 0, 0, 1),
        // without a place, to the end
        (0x15, 0, 2, 0),
        // r1 = 1; lock *(u64 *)r0 += r1
        (0xb7, 0x01, 0, 1),
        (0xdb, 0x10, 0, 0),
        // return -1
        (0xb4, 0, 0, -1),
        (0x95, 0, 0, 0),
    ]
}

fn load(code: &[Instruction]) -> OwnedFd {
    let bytes: Vec<u8> = code
        .iter()
        .flat_map(|(operation, registers, offset, number)| {
            let head = [*operation, *registers].into_iter();
            head.chain(offset.to_ne_bytes()).chain(number.to_ne_bytes())
        })
        .collect();
    let [code_low, code_high] = halves(bytes.as_ptr());
    let [licence_low, licence_high] = halves(c"GPL".as_ptr());
    let length = u32::try_from(code.len()).unwrap();
    let mut words = attributes([3, length, code_low, code_high, licence_low, licence_high]);
    // Its name, in the thirteenth word.
    words[12] = u32::from_ne_bytes(*b"spy\0");
    made(bpf(PROG_LOAD, words))
}
