//! Ring 2: the daemon on nodes of the laboratory, and what clients in their pods experience.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails: a panic has a stack")]

mod affinity;
mod bad_input;
mod change;
mod cleanup;
mod clusterip;
mod config;
mod demo;
mod edge;
mod edge_devices;
mod flows;
mod folder;
mod full;
mod grow;
mod hints;
mod neighbours;
mod nftables;
mod outside;
mod plan;
mod policy;
mod ports;
mod privilege;
mod probe;
mod restart;
mod stage;
mod stories;
mod two_nodes;
mod udp;
mod upgrade;
