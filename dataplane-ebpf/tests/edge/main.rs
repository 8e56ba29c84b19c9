//! The edge of the node on the host: the very functions that run in the kernel, over packets and tables in memory.

mod any;
mod error;
mod express;
mod hash;
mod hop;
mod left;
mod life;
mod open;
mod packet;
mod race;
mod room;
mod stay;
mod world;
