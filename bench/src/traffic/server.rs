//! The server: answers short connections one after the other, and swallows streams.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use anyhow::{Context as _, Result};

use super::{SHORT, STREAM, anywhere, stay_on};

pub(super) fn run(core: usize) -> Result<()> {
    stay_on(core)?;
    let (short, stream) = (listen(SHORT)?, listen(STREAM)?);
    println!("ready");
    thread::spawn(move || stream.incoming().flatten().for_each(|client| drop(swallow(client))));
    // A client that ends early is its own problem, and sees it.
    short.incoming().flatten().for_each(|client| drop(answer(client)));
    Ok(())
}

fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(anywhere(port)).with_context(|| format!("could not listen on port {port}"))
}

/// The client closes first.
fn answer(mut client: TcpStream) -> std::io::Result<()> {
    let mut byte = [0];
    client.read_exact(&mut byte)?;
    client.write_all(&byte)?;
    client.read(&mut byte).map(drop)
}

fn swallow(mut client: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    while client.read(&mut buffer)? > 0 {}
    Ok(())
}
