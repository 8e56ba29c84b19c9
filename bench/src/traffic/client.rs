//! The client: one order a line on standard input, one figure a line on standard output.

use std::io::{Read as _, Write as _, stdin};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{CLIENT_CORE, anywhere, stay_on};

/// Bytes of one write.
const CHUNK: usize = 256 * 1024;

pub(super) fn run() -> Result<()> {
    stay_on(CLIENT_CORE)?;
    for line in stdin().lines() {
        println!("{}", obey(&line?)?);
    }
    Ok(())
}

fn obey(order: &str) -> Result<f64> {
    if let Some(group) = order.strip_prefix("enter ") {
        std::fs::write(Path::new(group).join("cgroup.procs"), "0")
            .context("could not change the control group")?;
        return Ok(0.0);
    }
    let [deed, to, amount] = order.split(' ').collect::<Vec<_>>()[..] else { bail!("no order: {order}") };
    let to: SocketAddr = to.parse()?;
    let amount: u32 = amount.parse()?;
    let time = Duration::from_millis(amount.into());
    match deed {
        "rate" => rate(to, time),
        "bulk" => bulk(to, time),
        "datagram" => datagram(to, amount),
        "fresh" => fresh(to, amount),
        _ => bail!("no such deed: {deed}"),
    }
}

fn rate(to: SocketAddr, time: Duration) -> Result<f64> {
    let begin = Instant::now();
    let mut done = 0_u32;
    while begin.elapsed() < time {
        let mut stream = TcpStream::connect(to).with_context(|| format!("could not connect to {to}"))?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0])?;
        done += 1;
    }
    Ok(f64::from(done) / begin.elapsed().as_secs_f64())
}

/// Over when the server has taken the last byte.
fn bulk(to: SocketAddr, time: Duration) -> Result<f64> {
    let mut stream = TcpStream::connect(to).with_context(|| format!("could not connect to {to}"))?;
    let chunk = vec![0; CHUNK];
    let begin = Instant::now();
    let mut sent = 0_u64;
    while begin.elapsed() < time {
        stream.write_all(&chunk)?;
        sent += CHUNK as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    stream.read_to_end(&mut Vec::new())?;
    Ok(sent as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
}

fn datagram(to: SocketAddr, calls: u32) -> Result<f64> {
    let socket = UdpSocket::bind(anywhere(0))?;
    let begin = Instant::now();
    for _ in 0..calls {
        socket.connect(to)?;
    }
    Ok(begin.elapsed().as_nanos() as f64 / f64::from(calls))
}

fn fresh(to: SocketAddr, sockets: u32) -> Result<f64> {
    let begin = Instant::now();
    for _ in 0..sockets {
        UdpSocket::bind(anywhere(0))?.connect(to)?;
    }
    Ok(begin.elapsed().as_nanos() as f64 / f64::from(sockets))
}
