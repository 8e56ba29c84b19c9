//! Ring 1: the programs in the kernel, and the same functions on the host.
//!
//! Programs at sockets cannot be test-run, so they are attached to a control group of the test's own; a process in
//! it makes real calls in a namespace where every address is local, and a packet socket sees where they went.

mod affinity;
mod edge;
mod load;
mod parity;
mod rig;
mod twin;
mod wire;
