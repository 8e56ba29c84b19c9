//! The edge of the node on the host: the very functions that run in the kernel, over packets and tables in memory.

mod any;
mod back;
mod error;
mod express;
mod fragment;
mod fuzz;
mod grow;
mod hash;
mod hop;
mod left;
mod life;
mod mutate;
mod open;
mod packet;
mod race;
mod room;
mod stay;
mod world;
