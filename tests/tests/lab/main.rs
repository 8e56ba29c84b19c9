//! Ring 2: the daemon on nodes of the laboratory, and what clients in their pods experience.

#![expect(clippy::unwrap_used, reason = "a test panics where it fails: a panic has a stack")]

mod affinity;
mod bad_input;
mod calls;
mod change;
mod cleanup;
mod clusterip;
mod config;
mod demo;
mod edge;
mod edge_addresses;
mod edge_crowd;
mod edge_devices;
mod edge_frames;
mod edge_grow;
mod edge_hooks;
mod edge_long;
mod edge_nodes;
mod edge_outlets;
mod edge_roads;
mod edge_xdp;
mod flows;
mod folder;
mod full;
mod grow;
mod health;
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
mod spy;
mod stage;
mod stories;
mod stream;
mod town;
mod two_nodes;
mod udp;
mod upgrade;
