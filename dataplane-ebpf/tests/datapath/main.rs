//! The datapath on the host: the very functions that run in the kernel, on tables in memory.

mod affinity;
mod choose;
mod endpoint;
mod holds;
mod outside;
mod socket;
mod world;
