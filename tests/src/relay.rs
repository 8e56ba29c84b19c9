//! Somebody between a client and its server who forwards bytes, badly where a test wants it: slowly, not at all, or only for a while.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Netns;

/// How it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// As they come.
    Well,
    /// A kilobyte, then a pause.
    Slow(Duration),
    /// Connections come about, and then nothing happens.
    Silent,
    /// A connection is cut after this time.
    Short(Duration),
}

/// The relay. It works until the process ends.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    mood: Mood,
    accepted: u32,
}

impl Relay {
    /// Listens on a namespace's loopback, and reaches `server` from there.
    pub fn start(netns: &Netns, server: SocketAddr, mood: Mood) -> Result<Self> {
        let listener =
            netns.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("could not listen"))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State { mood, accepted: 0 }));
        let (netns, shared) = (netns.clone(), Arc::clone(&state));
        thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = netns.run(|| Ok(TcpStream::connect(server)?));
                lock(&shared).accepted += 1;
                // Where there is no server, who asked is cut off.
                let Ok(far) = far else { continue };
                let both = [(near.try_clone(), far.try_clone()), (Ok(far), Ok(near))];
                for (from, to) in both {
                    let (Ok(from), Ok(to)) = (from, to) else { continue };
                    let shared = Arc::clone(&shared);
                    thread::spawn(move || forward(from, to, &shared));
                }
            }
        });
        Ok(Self { address, state })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How it forwards from now on, also for those who are connected.
    pub fn set(&self, mood: Mood) {
        lock(&self.state).mood = mood;
    }

    /// How many connections it has taken.
    pub fn accepted(&self) -> u32 {
        lock(&self.state).accepted
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One direction, until it ends or is cut.
fn forward(mut from: TcpStream, mut to: TcpStream, state: &Mutex<State>) {
    const TICK: Duration = Duration::from_millis(20);
    let begun = Instant::now();
    let mut buffer = vec![0; 64 << 10];
    // Without a timeout it would not hear of a change of mood.
    let _ = from.set_read_timeout(Some(TICK));
    loop {
        let room = match lock(state).mood {
            Mood::Well => buffer.len(),
            Mood::Slow(pause) => {
                thread::sleep(pause);
                1024
            }
            Mood::Silent => {
                thread::sleep(TICK);
                continue;
            }
            Mood::Short(limit) if begun.elapsed() >= limit => break,
            Mood::Short(_) => buffer.len(),
        };
        match from.read(&mut buffer[..room]) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            Err(error)
                if [std::io::ErrorKind::WouldBlock, std::io::ErrorKind::TimedOut].contains(&error.kind()) => {
            }
            Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
