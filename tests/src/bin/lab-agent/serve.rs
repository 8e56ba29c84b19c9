//! Echo servers.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use lab::agent::Echo;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{Shutdown, shutdown};

#[derive(clap::Args)]
pub(crate) struct Serve {
    /// What to answer with.
    #[arg(long)]
    name: String,
    /// Where to accept connections.
    #[arg(long)]
    tcp: Vec<SocketAddr>,
    /// Where to receive datagrams.
    #[arg(long)]
    udp: Vec<SocketAddr>,
    /// Seconds that open connections, and datagrams, are still served after SIGTERM.
    #[arg(long, default_value_t = 0.0)]
    grace: f64,
}

/// What every connection needs to know.
struct House {
    name: String,
    guests: AtomicUsize,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        // Blocked before the first thread starts, so that only the wait below ever sees it.
        let term = SigSet::from_iter([Signal::SIGTERM]);
        term.thread_block()?;
        let house = Arc::new(House { name: self.name, guests: AtomicUsize::new(0) });
        let listeners = self.tcp.iter().map(|at| listen(*at, &house)).collect::<Result<Vec<_>>>()?;
        let datagrams = self.udp.iter().map(|at| receive(*at, &house)).collect::<Result<Vec<_>>>()?;
        println!("ready");
        term.wait()?;
        for listener in &listeners {
            // Wakes accept() and refuses newcomers, which closing the descriptor alone would not.
            shutdown(listener.as_raw_fd(), Shutdown::Both)?;
        }
        drain(&house, Duration::from_secs_f64(self.grace), datagrams.is_empty());
        Ok(())
    }
}

/// Waits until the guests have left; datagrams come without a sign of their end, so for them the whole grace is due.
fn drain(house: &House, grace: Duration, may_end_early: bool) {
    let end = Instant::now() + grace;
    while Instant::now() < end && !(may_end_early && house.guests.load(Ordering::Relaxed) == 0) {
        thread::sleep(Duration::from_millis(5));
    }
}

fn listen(at: SocketAddr, house: &Arc<House>) -> Result<TcpListener> {
    let listener = TcpListener::bind(at).with_context(|| format!("could not listen on {at}"))?;
    let (door, house) = (listener.try_clone()?, Arc::clone(house));
    thread::spawn(move || {
        for guest in door.incoming() {
            let Ok(guest) = guest else { return };
            house.guests.fetch_add(1, Ordering::Relaxed);
            let house = Arc::clone(&house);
            thread::spawn(move || {
                // The guest hears of an error by the end of the connection.
                let _ = entertain(&guest, &house);
                house.guests.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(listener)
}

fn entertain(guest: &TcpStream, house: &House) -> std::io::Result<()> {
    guest.set_nodelay(true)?;
    let source = guest.peer_addr()?;
    let mut lines = BufReader::new(guest).lines();
    let mut answer = guest;
    while let Some(line) = lines.next().transpose()? {
        let is_http = line.starts_with("GET ");
        let stays = !is_http || stays(&mut lines)?;
        let echo = house.echo(source, line);
        let text = if is_http { http(&echo) } else { format!("{echo}\n") };
        answer.write_all(text.as_bytes())?;
        if !stays {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads the rest of a request's head; whether the connection stays open after the answer.
fn stays(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> std::io::Result<bool> {
    let mut stays = true;
    loop {
        match lines.next().transpose()?.as_deref().map(str::trim) {
            Some("") => return Ok(stays),
            Some(header) => stays &= !header.eq_ignore_ascii_case("connection: close"),
            None => return Err(ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn http(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn receive(at: SocketAddr, house: &Arc<House>) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at).with_context(|| format!("could not receive on {at}"))?;
    let (door, house) = (socket.try_clone()?, Arc::clone(house));
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        // An error is an ICMP answer to one of ours; it is of no interest.
        loop {
            if let Ok((length, source)) = door.recv_from(&mut buffer) {
                let said = String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned();
                let _ = door.send_to(house.echo(source, said).as_bytes(), source);
            }
        }
    });
    Ok(socket)
}

impl House {
    fn echo(&self, source: SocketAddr, said: String) -> String {
        let source = SocketAddr::new(source.ip().to_canonical(), source.port()).to_string();
        let echo = Echo { name: self.name.clone(), source, said };
        serde_json::to_string(&echo).unwrap_or_default()
    }
}
