//! A counted number of requests, each answer on a line of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::exchange::{Protocol, Target};

pub(crate) fn run(
    protocol: Protocol,
    address: SocketAddr,
    count: u64,
    timeout: Duration,
    keep: bool,
) -> Result<()> {
    let target = Target { protocol, address, timeout };
    let mut kept = None;
    for number in 0..count {
        println!("{}", serde_json::to_string(&target.ask(&mut kept, keep, number))?);
    }
    Ok(())
}
