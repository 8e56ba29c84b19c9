//! The laboratory: a small network of nodes and pods on one machine, real clients and servers in it, the daemon as a
//! process, and, for those who ask, a real control plane.
//!
//! Nothing outlives the processes: namespaces have no name and are held open only by this process, mounts live in a
//! private mount namespace, children die with the thread that started them. Only control groups have a name in a
//! shared place; they carry the process id, and whoever comes next sweeps those whose process is gone.
//!
//! Set-up returns errors; it does not panic, because the demonstration uses it too. Tests unwrap.

pub mod agent;
pub mod cgroup;
pub mod client;
pub mod container;
pub mod control_plane;
pub mod crowd;
pub mod daemon;
pub mod demo;
pub mod deploy;
pub mod docs;
pub mod http;
pub mod keeper;
pub mod kube_proxy;
pub mod kubelet;
pub mod link;
pub mod mandate;
pub mod manifest;
pub mod netns;
pub mod objects;
pub mod prober;
pub mod process;
pub mod relay;
pub mod sandbox;
pub mod server;
pub mod story;
pub mod topology;
pub mod torrent;
pub mod wait;

pub use client::{Load, Pace, Protocol};
pub use daemon::{Daemon, Settings, Source, become_nobody};
pub use mandate::Mandate;
pub use manifest::Manifests;
pub use server::{Ports, Server};
pub use topology::{Lab, Node, Pod};
