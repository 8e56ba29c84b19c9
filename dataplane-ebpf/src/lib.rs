//! The datapath of Sluice: what happens to one `connect()`, one datagram, one packet.
//!
//! The library is `no_std`, has no I/O and no clock, and compiles for the host and for the kernel alike. The kernel's
//! half is the binary in `programs/`: maps, contexts, and one small function a hook. [`host`] is the other half: the
//! same tables in ordinary collections, for tests and for explaining; [`host_edge`] the same for packets.

#![no_std]

#[cfg(not(target_arch = "bpf"))]
extern crate std;

pub mod abi;
pub mod datapath;
#[cfg(not(target_arch = "bpf"))]
pub mod host;
#[cfg(not(target_arch = "bpf"))]
pub mod host_edge;
