//! A policy about `bpf(2)` that changes its mind while a process lives: as a security module or a sandbox would refuse it, or a
//! kernel that has run out of something. A seccomp filter asks us about each call (`SECCOMP_RET_USER_NOTIF`, Linux 5.5); we let
//! it go on, or answer in the kernel's place.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

/// `BPF_MAP_UPDATE_ELEM`.
const UPDATE: u32 = 2;
/// `BPF_MAP_UPDATE_BATCH`.
const UPDATE_BATCH: u32 = 26;
/// Under this number the process inherits what we are asked through.
const DOOR: RawFd = 200;

const SET_MODE_FILTER: libc::c_ulong = 1;
const NEW_LISTENER: libc::c_ulong = 1 << 3;
const ALLOW: u32 = 0x7fff_0000;
const ASK: u32 = 0x7fc0_0000;
/// `SECCOMP_USER_NOTIF_FLAG_CONTINUE`.
const CONTINUE: u32 = 1;
/// `SECCOMP_IOCTL_NOTIF_RECV`.
const RECEIVE: libc::c_ulong = 0xc050_2100;
/// `SECCOMP_IOCTL_NOTIF_SEND`.
const SEND: libc::c_ulong = 0xc018_2101;

/// `struct seccomp_notif` and the `struct seccomp_data` in it.
#[repr(C)]
#[derive(Default)]
struct Question {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    arch: u32,
    instruction: u64,
    arguments: [u64; 6],
}

/// `struct seccomp_notif_resp`.
#[repr(C)]
struct Reply {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

/// Which calls of `bpf(2)` are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Calls {
    /// All.
    All,
    /// Those that write entries of maps.
    Writes,
}

/// The policy. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Mandate(Arc<Rules>);

#[derive(Debug, Default)]
struct Rules {
    /// Error number of what is refused; zero: nothing is.
    error: AtomicI32,
    calls: AtomicU32,
    refused: AtomicU64,
    /// How long each write takes longer, in milliseconds.
    delay: AtomicU64,
}

impl Mandate {
    /// From now on these calls fail with an error number.
    pub fn refuse(&self, calls: Calls, error: i32) {
        self.0.calls.store(calls as u32, Ordering::SeqCst);
        self.0.error.store(error, Ordering::SeqCst);
    }

    /// From now on all may be done.
    pub fn relent(&self) {
        self.0.error.store(0, Ordering::SeqCst);
    }

    /// From now on each call that writes entries takes so much longer.
    pub fn delay(&self, time: Duration) {
        self.0.delay.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// How many calls have been refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::SeqCst)
    }

    /// Has a command bring the filter along.
    pub(crate) fn bind(command: &mut Command) {
        // SAFETY: the closure only makes system calls.
        unsafe { command.pre_exec(install) };
    }

    /// Answers for the process from now on, until it ends.
    pub(crate) fn keep(&self, pid: Pid) -> Result<()> {
        let door = door_of(pid).context("could not get at the policy's listener")?;
        let this = self.clone();
        thread::spawn(move || while this.answer(&door) {});
        Ok(())
    }

    /// False once nobody can ask any more.
    fn answer(&self, door: &OwnedFd) -> bool {
        let mut question = Question::default();
        // SAFETY: the kernel fills the structure, which is as large as the request's number says.
        if unsafe { libc::ioctl(door.as_raw_fd(), RECEIVE, &raw mut question) } != 0 {
            // Whoever asked may have been killed before we heard it.
            return io::Error::last_os_error().raw_os_error() == Some(libc::EINTR);
        }
        let error = self.verdict(&question);
        let flags = if error == 0 { CONTINUE } else { 0 };
        let reply = Reply { id: question.id, value: 0, error: -error, flags };
        // SAFETY: as above. Who has been killed meanwhile needs no answer.
        unsafe { libc::ioctl(door.as_raw_fd(), SEND, &raw const reply) };
        true
    }

    fn verdict(&self, question: &Question) -> i32 {
        let command = u32::try_from(question.arguments[0]).unwrap_or(u32::MAX);
        let is_write = [UPDATE, UPDATE_BATCH].contains(&command);
        if is_write {
            thread::sleep(Duration::from_millis(self.0.delay.load(Ordering::SeqCst)));
        }
        let error = self.0.error.load(Ordering::SeqCst);
        if error == 0 || self.0.calls.load(Ordering::SeqCst) == Calls::Writes as u32 && !is_write {
            return 0;
        }
        self.0.refused.fetch_add(1, Ordering::SeqCst);
        error
    }
}

/// Between fork and exec.
fn install() -> io::Result<()> {
    let bpf = u32::try_from(libc::SYS_bpf).unwrap_or(u32::MAX);
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        // The number of the call comes first in what is judged.
        step(0x20, 0, 0, 0),
        step(0x15, 0, 1, bpf),
        step(0x06, 0, 0, ASK),
        step(0x06, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: the program outlives the call.
    let door = unsafe { libc::syscall(libc::SYS_seccomp, SET_MODE_FILTER, NEW_LISTENER, &raw const program) };
    let door = RawFd::try_from(door).ok().filter(|door| *door >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: takes plain numbers; the new one, unlike the old one, stays open.
    if unsafe { libc::dup2(door, DOOR) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn door_of(pid: Pid) -> Result<OwnedFd> {
    let open = |number: libc::c_long| -> Result<OwnedFd> {
        let number = RawFd::try_from(number)?;
        ensure!(number >= 0, "{}", io::Error::last_os_error());
        // SAFETY: a new descriptor, which is nobody else's.
        Ok(unsafe { OwnedFd::from_raw_fd(number) })
    };
    // SAFETY: takes plain numbers.
    let process = open(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: takes plain numbers.
    open(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), DOOR, 0) })
}
